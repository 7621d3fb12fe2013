"""Runs with validation clients: they never train, are never tested, and everything else is as if they were not there."""

import dataclasses
import json
from typing import Any

import numpy as np
import oracles
import pytest
import torch

from flow import Config, ModelOptions, UserError, resume, simulate
from flow.algorithms.ditto import DittoOptions
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.fedfomo import FedFomoOptions
from flow.algorithms.flow import FlowOptions
from flow.algorithms.pfedhn import PFedHNOptions, PFedHNPCOptions
from flow.data import Population
from flow.engine.task import prepare
from flow.evaluation.select import nobody
from flow.simulation import loop

POPULATION = oracles.population(sizes=(5, 2, 11, 3, 8, 3, 4, 6, 2, 4, 7, 5, 3), held_out=(6, 9, 4))
SHARE = 0.35
ASIDE = ["client 12", "client 4", "client 7"]
SMALL: dict[str, Any] = {"lr": 0.5, "batch_size": 4}
RUN: Config[Any] = Config(
    model=ModelOptions(embedding_dim=3, hidden_size=4),
    rounds=3,
    cohort=6,
    evaluate_every=1,
    evaluate_clients=20,
    min_texts=0,
    checkpoint_every=1,
    chunk=3,
    threads=1,
    validation_share=SHARE,
)
CASES: dict[str, Any] = {
    "fedavg": FedAvgOptions(**SMALL),
    "flow": FlowOptions(**SMALL, variant="neurips", epochs=1),
    "ditto": DittoOptions(**SMALL),
    "fedfomo": FedFomoOptions(**SMALL, models=2),
    "pfedhn": PFedHNOptions(**SMALL, steps=2, hyper_width=5, new_exchanges=2),
    "pfedhnpc": PFedHNPCOptions(**SMALL, steps=2, hyper_width=5, new_exchanges=2),
}


def run(options: Any, population: Population = POPULATION, folder: Any = None, **changes: Any) -> loop.Result:
    return simulate(dataclasses.replace(RUN, algorithm=options, **changes), folder, population=population, progress=False)


def without(names: list[str], population: Population = POPULATION) -> Population:
    return dataclasses.replace(population, clients=tuple(client for client in population.clients if client.id not in names))


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if "second" not in key} for row in rows]


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_write_report", lambda folder: None)


def test_the_run_has_the_clients_that_its_share_says() -> None:
    """What the tests below rest on; whatever the seed is."""
    for seed in (0, 5):
        task = prepare(dataclasses.replace(RUN, algorithm=CASES["fedavg"], seed=seed), POPULATION)
        population = task.population
        assert [population.clients[int(place)].id for place in np.flatnonzero(population.validation)] == ASIDE
        assert len(task.clients) == 13 - len(ASIDE)


@pytest.mark.parametrize("name", CASES)
def test_everything_is_as_if_they_were_not_there(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits of state, rows, scores and what clients keep, by their numbers: those of a run without these clients."""
    drawn: set[str] = set()
    original = loop.sample

    def sample(*arguments: Any) -> Any:
        cohort = original(*arguments)
        drawn.update(client.id for client in cohort)
        return cohort

    monkeypatch.setattr(loop, "sample", sample)
    disk: dict[str, Any] = {"client_memory": 0}
    result = run(CASES[name], folder=tmp_path / "found", **disk)
    assert len(drawn) == 8 and not drawn & {*ASIDE}
    monkeypatch.setattr(loop, "sample", original)
    expected = run(CASES[name], without(ASIDE), tmp_path / "expected", **disk, validation_share=0.0)
    assert result.state.keys() == expected.state.keys()
    assert all(torch.equal(tensor, expected.state[key]) for key, tensor in result.state.items())
    assert timeless(result.metrics) == timeless(expected.metrics)
    assert result.evaluation == {**expected.evaluation, "validation_clients": len(ASIDE)}
    kept = [sorted(path.name for path in (tmp_path / which / "clients").rglob("*")) for which in ("found", "expected")]
    assert kept[0] == kept[1] and bool(kept[0]) == (name in ("ditto", "fedfomo", "pfedhnpc"))
    if name.startswith("pfedhn"):
        assert len(result.state["vectors"]) == len(result.state["visits"]) == 10
    told = json.loads((tmp_path / "found" / "evaluation.json").read_text())
    assert not {row["id"] for row in told["clients"]} & {*ASIDE} and not {text["client"] for text in told["texts"]} & {*ASIDE}
    assert told["eligible"] == {"seen": 10, "unseen": 3}
    assert [side["clients"] + side["skipped"] for side in told["summary"].values()] == [10, 3]
    assert json.loads((tmp_path / "found" / "config.json").read_text())["validation_share"] == SHARE


def test_they_are_not_counted_as_skipped_either() -> None:
    summary = run(CASES["fedavg"], min_texts=1000).evaluation["summary"]
    assert [(side["clients"], side["skipped"]) for side in summary.values()] == [(0, 10), (0, 3)]
    assert "none of the 10 could be scored" in nobody(POPULATION.setting_aside(SHARE), "seen", 1000, 1)
    assert "none of the 3 could be scored" in nobody(POPULATION.setting_aside(SHARE), "unseen", 1000, 1)


def test_a_run_that_goes_on_sets_the_same_clients_aside(tmp_path: Any) -> None:
    whole = run(CASES["ditto"], folder=tmp_path / "whole")
    run(CASES["ditto"], folder=tmp_path / "run", rounds=1)
    again = resume(tmp_path / "run", rounds=3, population=POPULATION, progress=False)
    assert all(torch.equal(tensor, whole.state[key]) for key, tensor in again.state.items())
    assert again.evaluation == whole.evaluation


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"cohort": 11},
            r"^cohort=11 is more than the 10 clients that may train beside the 3 that validation_share=0.35 sets aside; lower "
            "cohort or validation_share, or take more clients$",
        ),
        ({"cohort": 14, "validation_share": 0.0}, "^cohort=14 is more than the 13 clients that may train; lower cohort, or"),
        ({"validation_share": 1.0}, "^validation_share must be at least 0 and below 1, got 1.0; 0 sets nobody aside$"),
        ({"validation_share": -0.1}, "^validation_share must be at least 0 and below 1, got -0.1"),
        ({"validation_share": float("nan")}, "^validation_share must be at least 0 and below 1, got nan"),
        ({"validation_share": "0.1"}, "^validation_share must be a number, got '0.1'"),
    ],
)
def test_a_share_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(CASES["fedavg"], **changes)


def test_a_share_that_leaves_nobody_is_refused() -> None:
    few = dataclasses.replace(POPULATION, clients=tuple(c for c in POPULATION.clients if c.held_out or c.id in ASIDE))
    with pytest.raises(
        UserError,
        match=r"^validation_share=0.35 makes validation clients of all 3 clients that are not held out, and none is left to "
        "train; lower validation_share, or take more clients$",
    ):
        run(CASES["fedavg"], few, cohort=1)


def test_where_only_validation_clients_have_enough_text_the_share_is_named() -> None:
    sizes = [2 if f"client {n}" in ASIDE else 1 for n in range(13)]
    with pytest.raises(
        UserError, match=r"none of the 10 clients .* the 2 training sequences that flow needs; .*, or validation_share=0.35, w"
    ):
        run(CASES["flow"], oracles.population(sizes=sizes))
