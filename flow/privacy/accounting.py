"""What a run costs, in epsilon. Every number here is dp-accounting's; this file only tells it what a run does."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
from functools import lru_cache
from typing import Any, NamedTuple

from flow.errors import UserError
from flow.privacy.options import LEAST_NOISE, MechanismName

PACKAGE = "dp-accounting"
ACCOUNTANTS: dict[MechanismName, str] = {"gaussian": "PLD", "tree": "RDP"}
"""By mechanism, the accountant of dp-accounting that knows it: privacy loss distributions are the tighter ones, and of trees it
has Renyi divergences alone."""
MOST_NOISE = 2.0**20
COARSE = 1e-2
"""Grid of the quick bounds, where the accountant's own is 1e-4: they lie above what it says."""
TOLERANCE = 1e-4
"""Of the noise that is computed from an epsilon."""


class Setting(NamedTuple):
    """What the accountant is told of a run."""

    mechanism: MechanismName
    noise: float
    """Standard deviation of the noise over the sensitivity."""
    sampling: float = 1.0
    """Of the Gaussian mechanism: the chance with which each client takes part in a round, independently of all others."""
    steps: int = 1
    """Of the tree: rounds of a pass, in which each client takes part at most once, and after which a new tree begins."""


def library() -> Any:
    """The module dp_accounting.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("dp_accounting")
    except ImportError as error:
        raise UserError(
            f"dp_epsilon and dp_noise need the package {PACKAGE} ({error}); run: pip install 'flow-fl[privacy]'"
        ) from error


def version() -> str:
    """Of dp-accounting."""
    return importlib.metadata.version(PACKAGE)


def event(setting: Setting, rounds: int) -> Any:
    """The DpEvent of so many rounds, at least 1."""
    dp = library()
    if setting.mechanism == "gaussian":
        sampled = dp.PoissonSampledDpEvent(setting.sampling, dp.GaussianDpEvent(setting.noise))
        return dp.SelfComposedDpEvent(sampled, rounds)
    passes, rest = divmod(rounds, setting.steps)
    whole = dp.SelfComposedDpEvent(dp.SingleEpochTreeAggregationDpEvent(setting.noise, setting.steps), passes)
    begun = [dp.SingleEpochTreeAggregationDpEvent(setting.noise, rest)] if rest else []
    return dp.ComposedDpEvent([*([whole] if passes else []), *begun])


def accountant(mechanism: MechanismName, grid: float | None = None) -> Any:
    """A fresh accountant. Neighbours differ in one client, who is added or removed; of a tree, whose uploads are zero instead.

    grid: on which privacy losses are rounded up; None: the accountant's own.
    """
    dp = library()
    if mechanism == "gaussian":
        own = {} if grid is None else {"value_discretization_interval": grid}
        return dp.pld.PLDAccountant(dp.NeighboringRelation.ADD_OR_REMOVE_ONE, **own)
    return dp.rdp.RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_SPECIAL)


@lru_cache(maxsize=8)
def _distribution(noise: float, sampling: float) -> Any:
    """The privacy loss distribution of a round, of which a run's is composed; making it takes most of the accountant's time."""
    dp = library()
    return dp.pld.privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=noise,
        sampling_prob=sampling,
        neighboring_relation=dp.NeighboringRelation.ADD_OR_REMOVE_ONE,
    )


@lru_cache(maxsize=4096)
def epsilon(setting: Setting, rounds: int, delta: float) -> float:
    """What so many rounds cost; infinity without noise."""
    if not rounds:
        return 0.0
    if not setting.noise:
        return math.inf
    if setting.mechanism == "gaussian":  # what the accountant does with the event, without making the distribution anew
        identity = library().pld.privacy_loss_distribution.identity()
        composed = identity.compose(_distribution(setting.noise, setting.sampling).self_compose(rounds))
        return float(composed.get_epsilon_for_delta(delta))
    return float(accountant(setting.mechanism).compose(event(setting, rounds)).get_epsilon(delta))


@lru_cache(maxsize=256)
def least_noise(setting: Setting, rounds: int, target: float, delta: float) -> float:
    """The least noise with which so many rounds cost at most the target, to 1e-4; that of the setting does not count.

    Two ends between which it lies are taken from quick bounds, and dp-accounting calibrates between them.

    Raises:
        UserError: it lies outside of what can be computed.
    """
    dp = library()
    asked = f"dp_epsilon={target!r} at dp_delta={delta!r} over rounds={rounds}"

    def costs(noise: float, quick: bool = False) -> float:
        if not quick:
            return epsilon(setting._replace(noise=noise), rounds, delta)
        own = accountant(setting.mechanism, COARSE)
        return float(own.compose(event(setting._replace(noise=noise), rounds)).get_epsilon(delta))

    high = 1.0
    while costs(high, quick=True) > target:
        high *= 1.5
        if high > MOST_NOISE:
            raise UserError(f"{asked} needs more noise than can be computed; raise dp_epsilon or dp_delta")
    for factor in (1.5, 1.05, 1.005):
        while high > LEAST_NOISE and costs(high / factor, quick=True) <= target:
            high = max(high / factor, LEAST_NOISE)
    low = max(high / 1.02, LEAST_NOISE)
    while costs(low) <= target:
        if low == LEAST_NOISE:
            raise UserError(
                f"{asked} is kept by less noise than the least, {LEAST_NOISE} of the clip, which costs {costs(low):.4g}; lower "
                f"dp_epsilon, or give dp_noise={LEAST_NOISE}"
            )
        high, low = low, max(low / 1.1, LEAST_NOISE)
    return float(
        dp.calibrate_dp_mechanism(
            lambda: accountant(setting.mechanism),
            lambda noise: event(setting._replace(noise=noise), rounds),
            target,
            delta,
            dp.ExplicitBracketInterval(low, high),
            tol=TOLERANCE,
        )
    )
