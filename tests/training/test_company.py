"""A client's bits are its own: alone, in any group, in any order, and a whole run's under any chunk and number of threads.

In float32 and by the kernels, with clients of one to many sequences of unequal length, so that last batches are short.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
import numpy as np
import oracles
import pytest
import torch
from algorithm_cases import CASES
from harness import Bench
from optional import present
from safetensors.torch import load_file

from flow import Config, ModelOptions, simulate
from flow.data import Client, Population, Sequences, Vocabulary
from flow.model.parameters import Tensors
from flow.server.options import ServerOptions
from flow.simulation import loop
from flow.training.batches import Data, gather
from flow.training.fused import refusal
from flow.training.messages import Personal
from flow.training.predict import Guess, predict
from flow_kernels.training import multiplies_bfloat16

ALL = pytest.mark.parametrize("options", CASES.values(), ids=CASES)
ROUND = 3


def alike(first: Tensors, second: Tensors, what: str) -> None:
    assert first.keys() == second.keys(), what
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), f"{what}: {name} differs by {(tensor - second[name]).abs().max()}"


def of_client(tensors: Tensors, k: int) -> Tensors:
    return {name: tensor[k : k + 1] for name, tensor in tensors.items()}


@pytest.fixture
def bench(options: object) -> Bench:
    """An algorithm after two rounds, so that clients have states and servers have moments."""
    made = Bench(options, dtype=torch.float32)
    assert not refusal(made.model, made.initial), "the kernels must be at work"
    for round in (1, 2):
        made.round(made.able()[:-1], round)
    return made


def together(clients: Sequence[Client]) -> Iterator[list[Sequence[Client]]]:
    """All in one group; pairs of a large and a small one; three groups."""
    yield [clients]
    yield [[clients[n], clients[-1 - n]] for n in range(len(clients) // 2)]
    yield [clients[n::3] for n in range(3)]


@ALL
def test_local_work_alone_and_in_company(bench: Bench, options: Any) -> None:
    clients = sorted(bench.able(), key=lambda client: -len(client.train))
    alone = {
        client.id: bench.algorithm.local(bench.options, bench.model, bench.visit([client], round=ROUND)) for client in clients
    }
    for groups in together(clients):
        for group in groups:
            upload = bench.algorithm.local(bench.options, bench.model, bench.visit(group, round=ROUND))
            for k, client in enumerate(group):
                own = alone[client.id]
                alike(of_client(upload.tensors, k), own.tensors, f"upload of {client.id}")
                alike(of_client(upload.kept or {}, k), own.kept or {}, f"state of {client.id}")
                assert upload.weights[k] == own.weights[0]
                for phase, other in zip(upload.phases, own.phases, strict=True):
                    assert torch.equal(phase.nats[k], other.nats[0]) and torch.equal(phase.flops[k], other.flops[0]), client.id


@ALL
def test_personalization_and_prediction_alone_and_in_company(bench: Bench, options: Any) -> None:
    if bench.algorithm.personalize is None:
        return
    everybody = bench.able(harness.POPULATION.clients)
    clients = sorted(everybody, key=lambda client: -len(client.train))

    def scored(group: Sequence[Client]) -> tuple[Personal, Guess, Data]:
        own = present(bench.algorithm.personalize)(bench.options, bench.model, bench.visit(group, "evaluation", ROUND))
        test = gather(group, "test", "cpu")
        return own, predict(bench.model, own, test), test

    alone = {client.id: scored([client]) for client in clients}
    for groups in together(clients):
        for group in groups:
            own, guess, test = scored(group)
            for k, (client, rows) in enumerate(zip(group, test.rows, strict=True)):
                before, expected, _ = alone[client.id]
                alike(of_client(own.parameters, k), before.parameters, f"model of {client.id}")
                assert np.array_equal(guess.tokens[rows], expected.tokens), client.id
                assert np.array_equal(guess.local_weight[rows], expected.local_weight), client.id


def uneven() -> Population:
    """Eleven clients of 1 to 13 sequences of 1 to 9 tokens."""
    rng = np.random.default_rng(7)

    def sequences(n: int) -> Sequences:
        lengths = rng.integers(1, 10, n).astype(np.int32)
        tokens = rng.integers(4, 30, (n, 10)).astype(np.int32)
        tokens[np.arange(10) > lengths[:, None]] = 0
        return Sequences(tokens, lengths)

    sizes = (13, 1, 6, 8, 11, 2, 5, 3, 7, 9, 4)
    clients = tuple(Client(f"c{n:02d}", "", n > 8, 20, sequences(size), sequences(3)) for n, size in enumerate(sizes))
    names = ("<pad>", "<oov>", "<bos>", "<eos>", *(f"w{n}" for n in range(26)))
    return Population("uneven", clients, Vocabulary(names, "word"), 9, "made up")


RUN: Config[Any] = Config(
    model=ModelOptions(embedding_dim=5, hidden_size=19),
    rounds=3,
    cohort=7,
    evaluate_every=1,
    evaluate_clients=2,
    checkpoint_every=3,
    min_texts=1,
    chunk=1,
    threads=1,
    validation_share=0.0,
)
SETTINGS = ({"chunk": 2, "threads": 2}, {"chunk": 16}, {"chunk": 5, "threads": 2}, {"chunk": 16, "threads": 3})
EVERY_SETTING = {
    "fedavg": "one model for all",
    "flow, both": "a mixture of experts, and clients that answer in a way of their own",
    "ditto": "clients that keep something",
    "apfl, adam": "moments of two models",
    "fedfomo": "uploads one by one, which other clients receive",
    "pfedhn": "a model on the server that makes those of the clients",
    "hypcluster": "several models on the server",
    "ffgg, asynchronous": "uploads that are late",
    "knnper, bounded": "answers from a memory of limited size",
}
"""Runs that differ in what groups and threads could leave a trace on; other algorithms have the first two settings alone."""


def timeless(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: timeless(value) for key, value in content.items() if "second" not in key}
    return [timeless(value) for value in content] if isinstance(content, list) else content


def left_behind(config: Config[Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensors, str]:
    monkeypatch.setattr(loop, "_write_report", lambda path: None)
    result = simulate(config, folder, population=uneven(), progress=False)
    (last,) = (folder / "checkpoints").glob("*.safetensors")
    return load_file(last), json.dumps([timeless(result.metrics), timeless(result.evaluation)], sort_keys=True)


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        *(({"algorithm": options}, SETTINGS if name in EVERY_SETTING else SETTINGS[:2]) for name, options in CASES.items()),
        ({"server": ServerOptions("yogi")}, SETTINGS),
        ({"server": ServerOptions(aggregator="geometric_median")}, SETTINGS),
        ({"dropout": 0.3, "stragglers": 0.4, "late": "partial"}, SETTINGS),
        *[({"algorithm": CASES["flow, both"], "model": dataclasses.replace(RUN.model, dtype="bfloat16")}, SETTINGS)]
        * multiplies_bfloat16(),
    ],
    ids=[*CASES, "yogi", "geometric median", "stragglers", *["bfloat16"] * multiplies_bfloat16()],
)
def test_a_run_is_the_same_bits_under_any_chunk_and_number_of_threads(
    changes: dict[str, Any], settings: Sequence[Mapping[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(RUN, **changes)
    state, results = left_behind(config, tmp_path / "one by one", monkeypatch)
    for n, setting in enumerate(settings):
        other, other_results = left_behind(dataclasses.replace(config, **setting), tmp_path / str(n), monkeypatch)
        alike(other, state, str(setting))
        assert other_results == results, setting


def test_the_clients_are_as_uneven_as_they_should_be() -> None:
    sizes = [len(client.train) for client in harness.TRAINING]
    assert len(set(sizes)) > 3 and oracles.VOCABULARY


def test_runs_with_every_setting_are_among_the_cases() -> None:
    assert EVERY_SETTING.keys() < CASES.keys()
