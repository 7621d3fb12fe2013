"""Two rounds of a baseline beside those of its oracle, and the clients and options that its tests share."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import harness
import oracles
import pytest
from harness import Bench, close, row

from flow.data import Client
from flow.model.parameters import Tensors
from flow.training.messages import Upload

CLIENTS = harness.TRAINING
FIRST, SECOND = CLIENTS[:4], CLIENTS[2:]  # of two rounds: some take part once, some twice
EVERYBODY = list(harness.POPULATION.clients)  # with the two that never train
BASE: dict[str, Any] = {"lr": 0.4, "batch_size": 2, "epochs": 2}
TUNED: dict[str, Any] = {**BASE, "personal_lr": 0.25, "personal_epochs": 3}  # with fine-tuning before a prediction
Work = Callable[[Tensors, Any, Client, int], tuple[Tensors, float, Any]]
CLIPS = pytest.mark.parametrize("clip", [0.0, 0.3])


def mean(uploads: Sequence[tuple[Tensors, float]]) -> Tensors:
    return oracles.weighted_mean(uploads)


def check_upload(upload: Upload, expected: Iterable[tuple[Tensors, float]], what: str) -> None:
    """expected: (tensors, weight) by client."""
    for k, (tensors, weight) in enumerate(expected):
        close(row(upload.tensors, k), tensors, f"{what} {k}")
        assert upload.weights[k] == weight


def two_rounds(bench: Bench, work: Work) -> tuple[Tensors, dict[str, Any]]:
    """Two rounds of the bench beside those of the oracle; returns the oracle's state and what every client kept.

    work(received, kept or None, client, round) -> (upload, weight, next kept)
    """
    state, kept = dict(bench.state), dict[str, Any]()
    for round, clients in ((1, FIRST), (2, SECOND)):
        clients = bench.able(clients)
        upload = bench.local(clients, round)
        results = [work(state, kept.get(client.id), client, round) for client in clients]
        check_upload(upload, [(tensors, weight) for tensors, weight, _ in results], f"round {round}")
        bench.round(clients, round, group=2)
        if results[0][0]:
            state = {**state, **mean([(tensors, weight) for tensors, weight, _ in results])}
        close(bench.state, state, f"after round {round}")
        kept |= {client.id: own for client, (_, _, own) in zip(clients, results, strict=True) if own is not None}
    known = sorted(kept)
    assert [CLIENTS[n].id for n in bench.states.rows()] == known
    return state, kept
