"""Which algorithms can be private, on the page as in the registry; options that do not go together are refused."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import oracles
import pytest

from flow import Config, ModelOptions, PrivacyOptions, UserError, simulate
from flow.algorithms import NAMES, REGISTRY
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.ffgg import FFGGOptions
from flow.algorithms.interface import Algorithm
from flow.privacy.refusals import refusal
from flow.server.options import ServerOptions
from flow.training.messages import Visit

PAGE = Path(__file__).parents[2] / "docs" / "privacy.md"
BASE: Config[Any] = Config(
    algorithm=FedAvgOptions(batch_size=4),
    model=ModelOptions(embedding_dim=3, hidden_size=4),
    rounds=2,
    cohort=3,
    evaluate_every=0,
    validation_share=0.0,
    privacy=PrivacyOptions(dp_noise=1.0),
)


def test_the_page_has_every_algorithm_with_what_becomes_of_it() -> None:
    table = PAGE.read_text(encoding="utf-8").split("<!-- algorithms -->")[1].split("<!-- end -->")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    expected = []
    for name, known in NAMES.items():
        reason = refusal(known.algorithm, known.algorithm.options())
        expected.append([f"`{name}`", f"refused: {reason}" if reason else "private"])
    assert lines == expected and len(lines) == 28
    assert sum(line[1] == "private" for line in lines) == 23


@pytest.mark.parametrize("name", [name for name, algorithm in REGISTRY.items() if refusal(algorithm, algorithm.options())])
def test_an_algorithm_whose_server_learns_more_than_a_sum_is_refused(name: str) -> None:
    algorithm = REGISTRY[name]
    with pytest.raises(UserError, match=f"dp_noise=1.0 cannot be with {name}: .*; take another algorithm") as caught:
        simulate(dataclasses.replace(BASE, algorithm=algorithm.options()), population=oracles.population(), progress=False)
    assert refusal(algorithm, algorithm.options()) in str(caught.value)


def test_algorithms_of_ones_own_are_judged_by_what_their_server_does() -> None:
    own: Algorithm[Any] = dataclasses.replace(REGISTRY["fedavg"], server_step=lambda *arguments: ({}, {}))
    assert refusal(own, None) == "its server does more with the uploads than take their mean"
    assert "averages no uploads" in refusal(dataclasses.replace(own, averages=False), None)
    assert not refusal(REGISTRY["ffgg"], FFGGOptions()) and "a step of its own" in refusal(
        REGISTRY["ffgg"], FFGGOptions(asynchronous=True)
    )


def test_an_upload_that_the_servers_state_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from flow.algorithms import registry

    fedavg = REGISTRY["fedavg"]

    def local(options: Any, model: Any, visit: Visit) -> Any:
        upload = fedavg.local(options, model, visit)
        some = next(iter(upload.tensors.values()))
        return upload._replace(tensors={**upload.tensors, "secret": some})

    monkeypatch.setitem(registry.REGISTRY, "fedavg", dataclasses.replace(fedavg, local=local))
    with pytest.raises(UserError, match="clients upload 'secret'; leave it out of the upload"):
        simulate(BASE, population=oracles.population(), progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clock": "spread"}, "clock='spread' lets the clients' work decide"),
        ({"async_buffer": 2}, "async_buffer=2 lets the clients' work decide"),
        ({"server": ServerOptions(aggregator="median")}, "aggregator='median' needs every single upload"),
        ({"privacy": PrivacyOptions(dp_clip=2.0)}, "dp_clip=2.0 does nothing without dp_epsilon or dp_noise"),
        ({"privacy": PrivacyOptions(dp_mechanism="tree")}, "dp_mechanism='tree' does nothing without"),
        ({"privacy": PrivacyOptions(dp_epsilon=0.0)}, "dp_epsilon must be a finite number above 0, got 0.0"),
        ({"privacy": PrivacyOptions(dp_epsilon=float("nan"))}, "dp_epsilon must be a finite number above 0, got nan"),
        ({"privacy": PrivacyOptions(dp_noise=0.1)}, "dp_noise must be 0 or a finite number of at least 0.3, got 0.1"),
        ({"privacy": PrivacyOptions(dp_noise=float("inf"))}, "dp_noise must be 0 or a finite number"),
        ({"privacy": PrivacyOptions(dp_noise=0.0, dp_epsilon=1.0)}, "dp_noise=0 guarantees nothing"),
        ({"privacy": PrivacyOptions(dp_noise=1.0, dp_delta=1.0)}, "dp_delta must be above 0 and below 1, got 1.0"),
        ({"privacy": PrivacyOptions(dp_noise=1.0, dp_delta=0.5)}, "dp_delta=0.5 must be below 1/7"),
        ({"privacy": PrivacyOptions(dp_noise=1.0, dp_clip=0.0)}, "dp_clip must be a finite number above 0, got 0.0"),
        ({"privacy": PrivacyOptions(dp_noise=1.0, dp_clip_lr=0.2)}, "dp_clip_lr=0.2 does nothing without dp_quantile"),
        ({"privacy": PrivacyOptions(dp_noise=1.0, dp_count_noise=2.0)}, "dp_count_noise=2.0 does nothing without dp_quantile"),
        ({"privacy": PrivacyOptions(dp_noise=1.0, dp_quantile=1.5)}, "dp_quantile must be a finite number from 0 to 1"),
        (
            {"privacy": PrivacyOptions(dp_noise=1.0, dp_quantile=0.5, dp_mechanism="tree")},
            "dp_quantile=0.5 moves the clip from round to round",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        simulate(dataclasses.replace(BASE, **changes), population=oracles.population(), progress=False)
