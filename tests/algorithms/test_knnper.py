"""kNN-Per against its oracle, and what is known to go wrong in it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import harness
import numpy as np
import oracles
import pytest
import torch
from harness import SEED, TIGHT, Bench, close, row
from optional import present
from oracles import knnper
from torch import Tensor

from flow.algorithms import knnper as module
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.knnper import KNNPerOptions
from flow.data import Client
from flow.errors import UserError
from flow.training.batches import Data, batches, gather
from flow.training.messages import Personal
from flow.training.predict import predict

EVERYBODY = list(harness.POPULATION.clients)
BASE: dict[str, Any] = {"lr": 0.4, "batch_size": 2, "epochs": 2}


def scores(bench: Bench, clients: Sequence[Client], size: int = 2) -> tuple[Personal, Data, dict[tuple[str, int], Tensor]]:
    """{(client, test sequence): [T, V]} as the clients predict, and the rows that tell them apart."""
    own, test = bench.personalize(clients), gather(clients, "test", "cpu")
    answers = {}
    for batch in batches(test, size):
        active = {name: t[: len(batch.lengths)] for name, t in own.parameters.items()}
        out = torch.func.functional_call(bench.model, active, (batch.inputs, batch.lengths), {"route": own.route})
        mixed = present(own.probabilities)(out, batch)
        assert mixed.shape == out.logits.shape
        for k in range(len(batch.lengths)):
            for b, number in enumerate(batch.rows[k].tolist()):
                if batch.valid[k, b].any():
                    answers[clients[k].id, number - int(test.rows[k][0])] = mixed[k, b][batch.valid[k, b]]
    return own, test, answers


def after_a_round(options: KNNPerOptions) -> Bench:
    bench = Bench(options)
    bench.round(harness.TRAINING, 1)
    return bench


@pytest.mark.parametrize(
    "options",
    [
        KNNPerOptions(**BASE),
        KNNPerOptions(**BASE, neighbours=1, lam=0.9),
        KNNPerOptions(**BASE, neighbours=1000, lam=0.3, scale=0.05),
        KNNPerOptions(**BASE, neighbours=3, capacity=5),
        KNNPerOptions(**BASE, lam=0.0),
        KNNPerOptions(**BASE, lam=1.0),
    ],
    ids=["default", "one", "all", "bounded", "model", "vote"],
)
def test_every_probability(options: KNNPerOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DISTANCES", 20)  # several pieces
    bench = after_a_round(options)
    own, test, answers = scores(bench, EVERYBODY)
    guess, clear, tied = predict(bench.model, own, test), 0, 0
    for k, client in enumerate(EVERYBODY):
        pairs = knnper.store(bench.state, client, bench.plain, SEED, 2, "evaluation")
        for number, (sequence, length) in enumerate(zip(client.test.tokens, client.test.lengths, strict=True)):
            expected = knnper.distribution(bench.state, pairs, sequence, int(length), bench.plain)
            mixed = answers[client.id, number]
            for actual, other in zip(mixed, expected, strict=True):
                if other is not None:  # else it is open who of two equally far votes
                    torch.testing.assert_close(actual, torch.tensor(other, dtype=torch.float64), **TIGHT)
                clear, tied = clear + (other is not None), tied + (other is None)
            torch.testing.assert_close(mixed.sum(1), torch.ones(int(length), dtype=torch.float64), **TIGHT)
            row = test.rows[k][number]
            assert guess.tokens[row, :length].tolist() == mixed.argmax(1).tolist()
            for t, p in enumerate(mixed.tolist()):  # by the vote alone a token may have no chance at all
                target = max(p[int(sequence[t + 1])], float(np.finfo(np.float64).tiny))
                np.testing.assert_allclose(guess.nats[row, t], -math.log(target), rtol=1e-6, atol=1e-7)
                np.testing.assert_allclose(guess.probability[row, t], max(p), rtol=1e-6)
    assert clear > 4 * tied


def test_training_is_fedavg() -> None:
    bench, plain = Bench(KNNPerOptions(**BASE)), Bench(FedAvgOptions(**BASE))
    for round in (1, 2):
        close(bench.local(EVERYBODY[:7], round).tensors, plain.local(EVERYBODY[:7], round).tensors)
        for each in (bench, plain):
            each.round(harness.TRAINING, round)
        close(bench.state, plain.state)


def test_labels_are_stored_and_not_what_the_model_says() -> None:
    bench = after_a_round(KNNPerOptions(**BASE))
    stored, work = module.stores(bench.options, bench.model, bench.visit(EVERYBODY, "evaluation"))
    wrong = 0
    for k, client in enumerate(EVERYBODY):
        pairs = knnper.store(bench.state, client, bench.plain, SEED, 2, "evaluation")
        assert stored[k].labels.tolist() == [label for _, label in pairs]
        torch.testing.assert_close(stored[k].features, torch.stack([feature for feature, _ in pairs]), **TIGHT)
        for sequence, length in zip(client.train.tokens, client.train.lengths, strict=True):
            logits, _ = oracles.run(bench.state, sequence, int(length), "global", 1.0)
            wrong += sum(int(logits[t].argmax()) != int(sequence[t + 1]) for t in range(int(length)))
        assert float(work.tokens[k]) == client.train.lengths.sum()
    assert wrong > 20  # the two are not the same


def test_every_row_of_a_batch_gets_its_votes() -> None:
    """Whatever the size of the batch, a sequence's probabilities are the same."""
    bench = after_a_round(KNNPerOptions(**BASE))
    scores_by_size = [scores(bench, EVERYBODY, size)[2] for size in (1, 3)]
    assert scores_by_size[0].keys() == scores_by_size[1].keys() and len(scores_by_size[0]) == 3 * len(EVERYBODY)
    for key, mixed in scores_by_size[0].items():
        torch.testing.assert_close(scores_by_size[1][key], mixed, **TIGHT)


def test_a_kernel_that_underflows_still_gives_a_distribution() -> None:
    bench = after_a_round(KNNPerOptions(**BASE, scale=1e-300, lam=1.0, neighbours=3))
    for mixed in scores(bench, EVERYBODY)[2].values():
        torch.testing.assert_close(mixed.sum(1), torch.ones(len(mixed), dtype=torch.float64), **TIGHT)


def test_the_received_model_is_left_alone_and_the_same_for_all() -> None:
    bench = after_a_round(KNNPerOptions(**BASE))
    own = bench.personalize(EVERYBODY)
    for k in range(len(EVERYBODY)):
        close(row(own.parameters, k), bench.state)
    assert own.route == "global"
    close(row(present(bench.algorithm.general(bench.options, bench.model, bench.state)).parameters, 0), bench.state)


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("neighbours", 0, "at least 1"),
        ("lam", 1.5, "from 0 to 1"),
        ("lam", -0.1, "from 0 to 1"),
        ("scale", -1.0, "at least 0"),
        ("capacity", -1, "at least 0"),
    ],
)
def test_options_out_of_range(option: str, value: float, rule: str) -> None:
    change: dict[str, Any] = {option: value}
    with pytest.raises(UserError, match=f"{option} must be a finite number {rule}, got {value}"):
        Bench(dataclasses.replace(KNNPerOptions(), **change))
    with pytest.raises(UserError, match="scale must be above 0, got 0"):
        Bench(KNNPerOptions(scale=0.0))
