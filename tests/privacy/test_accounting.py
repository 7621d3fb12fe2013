"""Epsilon is dp-accounting's own figure for ten settings, and the noise computed from it is the least that keeps it."""

import math
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld, rdp

from flow import PrivacyOptions, UserError
from flow.privacy import accounting
from flow.privacy.mechanism import made
from flow.privacy.options import resolve

# options, cohort, clients, rounds
SETTINGS: list[tuple[dict[str, Any], int, int, int]] = [
    ({"dp_noise": 1.0, "dp_delta": 1e-5}, 10, 1000, 100),
    ({"dp_noise": 0.8, "dp_delta": 1e-4}, 16, 600, 80),
    ({"dp_noise": 2.0, "dp_delta": 1e-6}, 50, 100, 20),
    ({"dp_noise": 4.0, "dp_delta": 1e-3}, 7, 7, 30),
    ({"dp_noise": 1.3}, 16, 494, 40),
    ({"dp_noise": 1.0, "dp_delta": 1e-5, "dp_quantile": 0.5}, 20, 2000, 60),
    ({"dp_noise": 1.5, "dp_delta": 1e-5, "dp_quantile": 0.8, "dp_count_noise": 3.0}, 100, 10_000, 50),
    ({"dp_noise": 4.0, "dp_delta": 1e-5, "dp_mechanism": "tree"}, 16, 494, 80),
    ({"dp_noise": 9.0, "dp_delta": 1e-6, "dp_mechanism": "tree"}, 10, 1000, 100),
    ({"dp_noise": 2.5, "dp_mechanism": "tree"}, 5, 18, 7),
]


def theirs(options: dict[str, Any], cohort: int, clients: int, rounds: int) -> float:
    """The accountant's own figure, round by round and pass by pass."""
    delta, noise = options.get("dp_delta", clients**-1.1), options["dp_noise"]
    own: Any
    if options.get("dp_mechanism") == "tree":
        own = rdp.RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_SPECIAL)
        left, steps = rounds, clients // cohort
        while left:
            own.compose(dp_accounting.SingleEpochTreeAggregationDpEvent(noise, min(left, steps)))
            left -= min(left, steps)
    else:
        own = pld.PLDAccountant()
        gaussian = dp_accounting.GaussianDpEvent(noise)
        own.compose(dp_accounting.PoissonSampledDpEvent(cohort / clients, gaussian), rounds)
    return float(own.get_epsilon(delta))


@pytest.mark.parametrize("setting", SETTINGS)
def test_epsilon_is_the_accountants_own_figure(setting: tuple[dict[str, Any], int, int, int]) -> None:
    options, cohort, clients, rounds = setting
    mechanism = made(resolve(PrivacyOptions(**options)), cohort, clients, rounds)
    epsilon = mechanism.epsilon(rounds)
    assert epsilon is not None
    assert abs(epsilon - theirs(options, cohort, clients, rounds)) <= 1e-6
    fewer = mechanism.epsilon(rounds - 1)
    assert fewer is not None and fewer <= epsilon


@pytest.mark.parametrize(
    ("options", "cohort", "clients", "rounds"),
    [({"dp_epsilon": 0.5, "dp_delta": 1e-5}, 5, 10, 1), ({"dp_epsilon": 6.0, "dp_mechanism": "tree"}, 10, 200, 50)],
)
def test_the_noise_is_the_least_that_keeps_epsilon(options: dict[str, Any], cohort: int, clients: int, rounds: int) -> None:
    mechanism = made(resolve(PrivacyOptions(**options)), cohort, clients, rounds)
    epsilon = mechanism.epsilon(rounds)
    assert epsilon is not None and options["dp_epsilon"] - 1e-3 < epsilon <= options["dp_epsilon"]
    less = accounting.epsilon(mechanism.setting._replace(noise=mechanism.noise - 2e-4), rounds, mechanism.delta)
    assert less > options["dp_epsilon"]
    again = made(resolve(PrivacyOptions(**options, dp_noise=mechanism.noise)), cohort, clients, rounds)
    assert again.noise == mechanism.noise, "as a run that goes on has it"
    with pytest.raises(UserError, match=r"dp_noise=.* over rounds=\d+ costs an epsilon of .*, more than dp_epsilon="):
        made(resolve(PrivacyOptions(**options, dp_noise=mechanism.noise)), cohort, clients, 2 * rounds)


def test_with_the_noise_on_the_count_a_round_costs_what_it_would_without() -> None:
    """Two Gaussian mechanisms at once: the sum of uploads with the clip as its sensitivity, the count with 1/2."""
    mechanism = made(resolve(PrivacyOptions(dp_noise=0.8, dp_quantile=0.5)), 20, 2000, 60)
    count = mechanism.options.dp_count_noise
    assert count == 1.0 and mechanism.noise_of_sum > 0.8
    both = [dp_accounting.GaussianDpEvent(mechanism.noise_of_sum), dp_accounting.GaussianDpEvent(count / 0.5)]
    costs = [
        rdp.RdpAccountant().compose(dp_accounting.PoissonSampledDpEvent(0.01, event), 60).rdp
        for event in (dp_accounting.ComposedDpEvent(both), dp_accounting.GaussianDpEvent(0.8))
    ]
    np.testing.assert_allclose(costs[0], costs[1], rtol=1e-12)


def test_no_noise_has_no_bound() -> None:
    mechanism = made(resolve(PrivacyOptions(dp_noise=0.0, dp_quantile=0.5)), 20, 2000, 60)
    assert mechanism.epsilon(1) is None and mechanism.noise_of_sum == 0 and mechanism.options.dp_count_noise == 0
    assert accounting.epsilon(mechanism.setting, 1, 1e-5) == math.inf and mechanism.epsilon(0) == 0


def test_what_cannot_be_kept_is_refused() -> None:
    for epsilon, message in ((1e-3, "needs more noise than can be computed"), (1e6, "is kept by less noise than the least")):
        with pytest.raises(UserError, match=message):
            made(resolve(PrivacyOptions(dp_epsilon=epsilon, dp_delta=1e-6, dp_mechanism="tree")), 2, 10, 10)
    with pytest.raises(UserError, match=r"dp_delta=0.2 must be below 1/10, for the 10 clients that may train"):
        made(resolve(PrivacyOptions(dp_noise=1.0, dp_delta=0.2)), 2, 10, 10)
    with pytest.raises(UserError, match=r"dp_delta=1e-30 is too small for dp-accounting to tell from 0; raise it"):
        made(resolve(PrivacyOptions(dp_noise=2.0, dp_delta=1e-30)), 2, 10, 10)
    with pytest.raises(UserError, match=r"dp_count_noise=0.4 must be above half of the noise multiplier, 1,"):
        made(resolve(PrivacyOptions(dp_noise=1.0, dp_quantile=0.5, dp_count_noise=0.4)), 2, 10, 10)


def test_a_missing_accountant_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("importlib.import_module", nothing)
    with pytest.raises(UserError, match=r"need the package dp-accounting .*; run: pip install 'flow-fl\[privacy\]'"):
        made(resolve(PrivacyOptions(dp_noise=1.0)), 2, 10, 10)
