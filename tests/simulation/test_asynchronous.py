"""Asynchronous aggregation beside a naive simulation of events in float64, one client at a time; and beside rounds."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch

from flow import Config, ModelOptions, Population, UserError, resume, simulate
from flow.algorithms.apfl import APFLOptions
from flow.algorithms.ditto import DittoOptions
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.fedfomo import FedFomoOptions
from flow.algorithms.ffgg import FFGGOptions
from flow.algorithms.flow import FlowOptions
from flow.algorithms.lgfedavg import LGFedAvgOptions
from flow.clock.spread import drawn
from flow.engine.task import prepare
from flow.server.options import ServerOptions
from flow.simulation import loop
from flow.simulation.loop import Result

POPULATION = oracles.population((5, 1, 11, 2, 8, 3, 4, 6, 7, 2, 9))
BASE: Config[Any] = Config(
    algorithm=FedAvgOptions(lr=0.5, epochs=2, batch_size=4),
    model=ModelOptions(embedding_dim=3, hidden_size=4, dtype="float64"),
    rounds=12,
    cohort=6,
    async_buffer=2,
    evaluate_every=0,
    min_texts=1,
    chunk=2,
    validation_share=0.0,
)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are tested elsewhere, and slow."""
    monkeypatch.setattr(loop, "_write_report", lambda folder: None)


def names(population: Population = POPULATION) -> list[str]:
    return sorted(client.id for client in population.clients if not client.held_out)


def run(folder: Path | None = None, population: Population = POPULATION, **changes: Any) -> Result:
    return simulate(dataclasses.replace(BASE, **changes), folder, population=population, progress=False)


def times(result: Result) -> list[float]:
    return [row["virtual_seconds"] for row in result.metrics]


def naive(dropout: float = 0.0) -> tuple[oracles.Tensors, list[float], list[float]]:
    """The state after the run, when each step was taken, and by how many steps its uploads lagged behind on average.

    Every client trains alone and at once when it starts. Who starts is drawn as docs/time.md says.
    """
    everybody = names()
    clients = {client.id: client for client in POPULATION.clients}
    own = drawn(len(everybody), 0, False)
    task = prepare(dataclasses.replace(BASE, async_buffer=0), POPULATION)
    state = dict(task.algorithm.init(BASE.algorithm, task.model, 0, len(everybody)))
    size = sum(tensor.numel() * 8 for tensor in state.values())
    at_work: list[dict[str, Any]] = []
    now, started, steps, lags = 0.0, 0, [], []
    for version in range(BASE.rounds):
        busy, batch = {work["n"] for work in at_work}, 0
        waiting: list[int] = []
        buffer: list[dict[str, Any]] = []
        while len(buffer) < BASE.async_buffer:
            due = sorted((work for work in at_work if work["end"] <= now), key=lambda work: (work["end"], work["order"]))
            if due:
                at_work.remove(due[0])
                buffer += [] if due[0]["lost"] else [due[0]]
                continue
            while len(at_work) < BASE.cohort:
                if not waiting:
                    free = [n for n in range(len(everybody)) if n not in busy]
                    if not free:
                        break
                    stream = oracles.stream(0, version + 1, "cohort", *(["later", str(batch)] if batch else []))
                    want = BASE.cohort - len(at_work)
                    want = max(want, BASE.async_buffer - len(buffer)) if batch else want
                    waiting = [free[i] for i in stream.choice(len(free), min(want, len(free)), replace=False)]
                    busy |= set(waiting)
                    batch += 1
                n = waiting.pop(0)
                client = clients[everybody[n]]
                after, weight, _ = oracles.fedavg(state, client, vars(BASE.algorithm), 0, version + 1)
                lost = oracles.stream(0, version + 1, "participation", client.id).random(3)[0] < dropout
                takes = size / own.download[n] + 2 * len(client.train) / own.speed[n] + size / own.upload[n]
                delta = {name: after[name] - state[name] for name in state}
                at_work.append(
                    {
                        "n": n,
                        "end": now + takes,
                        "order": started,
                        "lost": lost,
                        "delta": delta,
                        "weight": weight,
                        "from": version,
                    }
                )
                started += 1
            if not any(work["end"] <= now for work in at_work):
                now = min(work["end"] for work in at_work)
        total = sum(work["weight"] for work in buffer)
        for work in buffer:
            share = work["weight"] / total / (1 + version - work["from"]) ** 0.5
            state = {name: state[name] + share * work["delta"][name] for name in state}
        steps.append(now)
        lags.append(sum(version - work["from"] for work in buffer) / len(buffer))
    return state, steps, lags


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_run_is_that_of_a_naive_simulation_of_events(dropout: float) -> None:
    result = run(dropout=dropout)
    state, steps, lags = naive(dropout)
    np.testing.assert_allclose(times(result), steps, rtol=1e-12)
    np.testing.assert_allclose([row["staleness"] for row in result.metrics], lags)
    assert max(lags) > 1 and all(row["clients"] == 2 for row in result.metrics)
    assert bool(sum(row["dropped"] for row in result.metrics)) == bool(dropout)
    for name, tensor in state.items():
        torch.testing.assert_close(result.state[name], tensor, rtol=1e-10, atol=1e-11)


ALIKE = oracles.population((4,) * 9)
EVERYBODY = {"sums": FedAvgOptions(lr=0.5), "kept": DittoOptions(lr=0.5, epochs=1), "voted": FlowOptions(lr=0.5, epochs=1)}


@pytest.mark.parametrize("name", EVERYBODY)
def test_with_equal_devices_and_a_full_buffer_it_is_a_run_in_rounds(name: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("class,share,speed,download,upload\nall,1,10,1,1\n")
    changes: dict[str, Any] = {"algorithm": EVERYBODY[name], "clock": str(tmp_path / "p.csv"), "rounds": 5, "evaluate_every": 2}
    rounds, steps = (run(None, ALIKE, async_buffer=buffer, **changes) for buffer in (0, 6))
    for key, tensor in rounds.state.items():
        assert torch.equal(steps.state[key], tensor), key
    assert times(steps) == times(rounds)
    for ours, theirs in zip(steps.metrics, rounds.metrics, strict=True):
        assert ours["staleness"] == 0.0
        shared = set(theirs) - {key for key in theirs if key.endswith("seconds") or key == "sequences_per_second"}
        assert all(ours[key] == theirs[key] for key in shared)
    assert steps.evaluation["summary"] == rounds.evaluation["summary"]


def test_a_smaller_buffer_takes_steps_sooner() -> None:
    several = [times(run(async_buffer=buffer, rounds=4))[-1] for buffer in (1, 3, 6)]
    assert several == sorted(several) and several[0] < several[-1]


WAYS: dict[str, dict[str, Any]] = {
    "sums": {"server": ServerOptions("yogi")},
    "kept": {"algorithm": APFLOptions(lr=0.5, epochs=1)},
    "kept on disk": {"algorithm": DittoOptions(lr=0.5, epochs=1), "client_memory": 0},
    "voted": {"algorithm": FlowOptions(lr=0.5, epochs=1)},
    "compressed": {"compress": "topk:0.3", "dropout": 0.2},
    "robust": {"server": ServerOptions(aggregator="median"), "async_buffer": 4},
    "nights": {"clock": "nights", "cohort": 3, "rounds": 8},
    "float32": {"model": ModelOptions(embedding_dim=3, hidden_size=4)},
}


@pytest.mark.parametrize("name", WAYS)
def test_a_run_that_goes_on_has_the_bits_of_an_unbroken_one(name: str, tmp_path: Path) -> None:
    changes = {"rounds": 9, "checkpoint_every": 1, **WAYS[name]}
    whole = run(tmp_path / "whole", **changes)
    run(tmp_path / "run", **{**changes, "rounds": 5})
    again = resume(tmp_path / "run", rounds=changes["rounds"], population=POPULATION, progress=False)
    assert times(again) == times(whole)
    for key, tensor in whole.state.items():
        assert torch.equal(again.state[key], tensor), key
    assert again.evaluation == whole.evaluation
    grouped = run(**{**changes, "chunk": 1, "threads": 2, "client_memory": 1024})
    assert times(grouped) == times(whole) and all(torch.equal(grouped.state[key], t) for key, t in whole.state.items())


def test_where_everybody_was_drawn_and_too_few_uploads_come_the_step_is_taken_without_them() -> None:
    result = run(dropout=1.0, rounds=3)
    assert [(row["clients"], row["dropped"], row["loss"]) for row in result.metrics] == [(0, 11, None)] * 3
    small = run(None, oracles.population((4, 1, 1, 5, 6, 7)), algorithm=FedFlow, rounds=4, cohort=5, async_buffer=4)
    assert all(row["skipped"] == 2 and row["clients"] == 4 for row in small.metrics[:1])


FedFlow = FlowOptions(variant="neurips", lr=0.5, epochs=1)


def test_clients_of_one_version_train_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = loop._local

    def counted(task: Any, run: Any, draw: Any, model: Any, group: Any) -> Any:
        sizes.append(len(group.clients))
        return original(task, run, draw, model, group)

    monkeypatch.setattr(loop, "_local", counted)
    run(None, oracles.population((4, 5, 6) * 10), cohort=8, async_buffer=5, chunk=8, threads=1, rounds=10)
    assert sizes[0] == 8 and sum(sizes) < 8 + 10 * 6
    assert np.mean(sizes[1:]) > 2 and max(sizes[1:]) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"async_buffer": 7},
            "async_buffer=7 must be at most cohort=6, the clients at work at a time; lower it, or raise cohort",
        ),
        ({"async_buffer": -1}, "async_buffer must be at least 0, got -1"),
        ({"deadline": 3.0}, "deadline=3.0 ends a round, and with async_buffer=2 the server waits for nobody; leave one"),
        (
            {"algorithm": FedFomoOptions()},
            "async_buffer=2 needs uploads that are averaged, and the server of fedfomo averages none",
        ),
        (
            {"algorithm": FFGGOptions()},
            "async_buffer=2 needs uploads of which the server takes the mean alone, and that of ffgg",
        ),
        (
            {"algorithm": LGFedAvgOptions()},
            "async_buffer=2 cannot be: with pretrain_rounds=6 clients upload the whole model up to",
        ),
    ],
)
def test_what_cannot_be_asynchronous_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        run(**changes)
    assert message in str(caught.value)
