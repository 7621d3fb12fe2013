"""Compressed uploads: bytes and values by hand, what is left out is remembered, and a run beside a naive float64 oracle."""

import dataclasses
import math
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from small_runs import BASE, CLIENTS, NAMES, POPULATION

from flow import ModelOptions, UserError, resume, simulate
from flow.algorithms.ditto import DittoOptions
from flow.algorithms.fedfomo import FedFomoOptions
from flow.algorithms.flow import FlowOptions
from flow.algorithms.local import LocalOptions
from flow.engine.task import prepare
from flow.simulation import loop
from flow.training.compression import Compression, compressed, nbytes, read

WAYS = ("topk:0.1", "int8", "int4")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are tested elsewhere, and slow."""
    monkeypatch.setattr(loop, "_write_report", lambda folder: None)


def two(*values: float) -> torch.Tensor:
    """The same values for the first of two clients, and their opposites for the second."""
    return torch.stack([torch.tensor(values), -torch.tensor(values)])


def test_bytes_and_values_by_hand() -> None:
    received = {"a": torch.ones(2, 5), "b": torch.zeros(2, 2)}
    change, left = {"a": two(0.5, -3.0, 0.1, 3.0, 0.0), "b": two(-0.25, 0.75)}, {"a": torch.zeros(2, 5), "b": two(0.0, 4.25)}
    uploads = {name: received[name] + change[name] for name in change}
    top = compressed(Compression("topk", 0.4), uploads, received, left)  # 3 of 7: the 5.0 of b, both threes of a
    torch.testing.assert_close(top.tensors["a"] - 1, two(0.0, -3.0, 0.0, 3.0, 0.0))
    torch.testing.assert_close(top.tensors["b"], two(0.0, 5.0))
    torch.testing.assert_close(top.residual["a"], two(0.5, 0.0, 0.1, 0.0, 0.0))
    assert top.sent == (24, 24), "three values of four bytes and three indices of four"
    first = compressed(Compression("topk", 0.2), uploads, received, left)  # 2 of 7: of the equal ones the first
    torch.testing.assert_close(first.tensors["a"] - 1, two(0.0, -3.0, 0.0, 0.0, 0.0))
    eight = compressed(Compression("int8"), uploads, received, left)
    torch.testing.assert_close(eight.tensors["a"] - 1, two(21 * 3 / 127, -3.0, 4 * 3 / 127, 3.0, 0.0))
    assert eight.sent == (5 + 4 + 2 + 4,) * 2, "a byte for each value, and a scale of four bytes for each tensor"
    four = compressed(Compression("int4"), uploads, received, left)
    torch.testing.assert_close(four.tensors["a"] - 1, two(1 * 3 / 7, -3.0, 0.0, 3.0, 0.0))
    torch.testing.assert_close(four.residual["a"], two(0.5 - 3 / 7, 0.0, 0.1, 0.0, 0.0))
    assert four.sent == (3 + 4 + 1 + 4,) * 2, "half a byte for each value, rounded up for each tensor"
    nothing = compressed(Compression("int8"), received, received, {name: 0 * t for name, t in received.items()})
    assert all(torch.equal(nothing.tensors[name], tensor) for name, tensor in received.items())


def test_a_client_alone_has_the_bits_that_it_has_in_company() -> None:
    generator = torch.Generator().manual_seed(0)
    received = {"a": torch.randn(5, 7, 11, generator=generator), "b": torch.randn(5, 3, generator=generator)}
    uploads = {
        name: tensor + torch.randn(tensor.shape, generator=generator).round(decimals=1) for name, tensor in received.items()
    }
    left = {name: torch.zeros_like(tensor) for name, tensor in received.items()}
    for text in WAYS:
        way = read(text)
        assert way is not None
        together = compressed(way, uploads, received, left)
        for n in range(5):
            alone = compressed(
                way, *({name: tensor[n : n + 1] for name, tensor in part.items()} for part in (uploads, received, left))
            )
            assert all(torch.equal(alone.tensors[name][0], tensor[n]) for name, tensor in together.tensors.items())
            assert all(torch.equal(alone.residual[name][0], tensor[n]) for name, tensor in together.residual.items())


def squeezed(text: str, wanted: oracles.Tensors) -> oracles.Tensors:
    """One client's change as it is sent, number by number."""
    flat = [(name, place, value) for name, tensor in wanted.items() for place, value in enumerate(tensor.flatten().tolist())]
    sent = {name: torch.zeros(tensor.numel(), dtype=torch.float64) for name, tensor in wanted.items()}
    if text.startswith("topk"):
        ordered = sorted(range(len(flat)), key=lambda n: (-abs(flat[n][2]), n))
        for n in ordered[: math.ceil(float(text.partition(":")[2]) * len(flat))]:
            sent[flat[n][0]][flat[n][1]] = flat[n][2]
    else:
        most = {"int8": 127, "int4": 7}[text]
        for name, place, value in flat:
            scale = float(wanted[name].abs().max()) / most
            sent[name][place] = round(value / scale) * scale if scale else 0.0
    return {name: tensor.view(wanted[name].shape) for name, tensor in sent.items()}


def oracle(text: str) -> tuple[oracles.Tensors, list[int]]:
    """The state of FedAvg after the run, and the clients that took part, one client at a time."""
    task = prepare(BASE, POPULATION)
    state = dict(task.algorithm.init(BASE.algorithm, task.model, 0, len(NAMES)))
    left: dict[str, oracles.Tensors] = {}
    for round in range(1, BASE.rounds + 1):
        uploads = []
        for n in oracles.stream(0, round, "cohort").choice(len(NAMES), BASE.cohort, replace=False):
            id = NAMES[n]
            after, weight, _ = oracles.fedavg(state, CLIENTS[id], vars(BASE.algorithm), 0, round)
            before = left.get(id, {name: torch.zeros_like(tensor) for name, tensor in state.items()})
            wanted = {name: after[name] - state[name] + before[name] for name in state}
            sent = squeezed(text, wanted)
            left[id] = {name: wanted[name] - sent[name] for name in state}
            uploads.append(({name: state[name] + sent[name] for name in state}, weight))
        state = oracles.weighted_mean(uploads)
    return state, [len(left)]


@pytest.mark.parametrize("text", WAYS)
def test_a_run_is_that_of_the_oracle_and_counts_its_bytes(text: str) -> None:
    config = dataclasses.replace(BASE, compress=text)
    result, plain = (simulate(c, population=POPULATION, progress=False) for c in (config, BASE))
    expected, (clients,) = oracle(text)
    for name, tensor in expected.items():
        torch.testing.assert_close(result.state[name], tensor, rtol=1e-10, atol=1e-11)
    numbers, tensors = sum(t.numel() for t in expected.values()), list(expected.values())
    size = {
        "topk:0.1": math.ceil(0.1 * numbers) * 12,
        "int8": numbers + 8 * len(tensors),
        "int4": sum(-(-tensor.numel() // 2) + 8 for tensor in tensors),
    }[text]
    assert [row["upload_bytes"] for row in result.metrics] == [5 * size] * 4 != [row["upload_bytes"] for row in plain.metrics]
    assert [row["download_bytes"] for row in result.metrics] == [row["download_bytes"] for row in plain.metrics]
    assert result.metrics[-1]["client_state_bytes"] == clients * numbers * 8


def test_bytes_of_a_tiny_run_by_hand() -> None:
    """Nine tokens, embeddings of 3, a GRU of 4 units, all in float32.

    180 numbers in 7 tensors: embedding 9 * 3 = 27, W_ih 12 * 3 = 36, W_hh 12 * 4 = 48, biases 12 and 12, head 9 * 4 = 36 and 9.
    """
    sizes = {
        "": 720,  # 180 * 4
        "topk:0.1": 144,  # 18 values of 4 bytes, and 18 indices of 4
        "topk:0.01": 16,  # 1.8 values are rounded up to 2
        "int8": 208,  # 180 of 1 byte, and 7 scales of 4
        "int4": 119,  # halves 13.5, 18, 24, 6, 6, 18 and 4.5 rounded up are 91, and 7 scales of 4
    }
    for text, size in sizes.items():
        config = dataclasses.replace(BASE, compress=text, model=ModelOptions(embedding_dim=3, hidden_size=4), rounds=2)
        result = simulate(config, population=POPULATION, progress=False)
        assert sorted(tensor.numel() for tensor in result.state.values()) == [9, 12, 12, 27, 36, 36, 48]
        assert [(row["upload_bytes"], row["download_bytes"]) for row in result.metrics] == [(5 * size, 5 * 720)] * 2
        steps = simulate(dataclasses.replace(config, async_buffer=3), population=POPULATION, progress=False)
        assert [row["upload_bytes"] for row in steps.metrics] == [3 * size] * 2


@pytest.mark.parametrize("options", [FlowOptions(lr=0.5, epochs=1), DittoOptions(lr=0.5, epochs=1)])
@pytest.mark.parametrize("memory", [1024, 0])
def test_a_run_that_goes_on_has_the_numbers_of_an_unbroken_one(options: Any, memory: int, tmp_path: Any) -> None:
    config = dataclasses.replace(
        BASE, algorithm=options, compress="topk:0.2", client_memory=memory, checkpoint_every=1, dropout=0.3, rounds=5
    )
    whole = simulate(config, population=POPULATION, progress=False) if memory else None
    simulate(dataclasses.replace(config, rounds=2), tmp_path / "run", population=POPULATION, progress=False)
    again = resume(tmp_path / "run", rounds=5, population=POPULATION, progress=False)
    assert bool(list(tmp_path.glob("run/residuals/*/*"))) == (memory == 0)
    whole = whole or simulate(config, tmp_path / "whole", population=POPULATION, progress=False)
    assert all(torch.equal(again.state[name], tensor) for name, tensor in whole.state.items())
    assert [row["upload_bytes"] for row in again.metrics] == [row["upload_bytes"] for row in whole.metrics]


def test_groups_change_no_bit() -> None:
    config = dataclasses.replace(BASE, compress="int4", algorithm=FlowOptions(lr=0.5, epochs=1))
    first, many = (
        simulate(dataclasses.replace(config, chunk=chunk, threads=threads), population=POPULATION, progress=False)
        for chunk, threads in ((1, 1), (5, 2))
    )
    assert all(torch.equal(first.state[name], tensor) for name, tensor in many.state.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"compress": "topk"},
            "compress must be 'topk:SHARE' with a share above 0 and at most 1, 'int8' or 'int4', got 'topk'",
        ),
        ({"compress": "topk:2"}, "got 'topk:2'; write 'topk:0.01' for a hundredth, or leave it out"),
        ({"compress": "topk:nan"}, "got 'topk:nan'"),
        ({"compress": "int8:3"}, "got 'int8:3'"),
        (
            {"compress": "int8", "algorithm": LocalOptions()},
            "compress='int8' needs uploads that are averaged, and the server of local",
        ),
        (
            {"compress": "int8", "algorithm": FedFomoOptions()},
            "needs uploads that are averaged, and the server of fedfomo averages none",
        ),
    ],
)
def test_what_cannot_be_compressed_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        simulate(dataclasses.replace(BASE, **changes), population=POPULATION, progress=False)
    assert message in str(caught.value)


def test_the_size_of_a_share_does_not_depend_on_rounding() -> None:
    tensors = {"a": torch.zeros(100)}
    assert [nbytes(Compression("topk", share), tensors) for share in (0.01, 0.07, 0.071, 1.0)] == [8, 56, 64, 800]
    assert np.ceil(0.07 * 100) == 8, "which is why a little is taken away first"
