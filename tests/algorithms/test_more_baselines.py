"""FedBABU, Per-FedAvg and the n-gram cache against their oracles."""

import math
from typing import Any

import harness
import numpy as np
import oracles
import pytest
import torch
from baseline_rounds import BASE, CLIENTS, CLIPS, EVERYBODY, TUNED, two_rounds
from harness import SEED, Bench, close, row
from optional import present
from oracles import baselines
from oracles.decoupled import Memory, log_p

from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.fedavgft import FedAvgFTOptions
from flow.algorithms.fedbabu import FedBABUOptions
from flow.algorithms.ngram import NGramOptions
from flow.algorithms.perfedavg import PerFedAvgOptions
from flow.data import Client
from flow.errors import UserError
from flow.model.flops import per_token
from flow.model.parameters import Tensors, body_of, head_of
from flow.training.batches import gather
from flow.training.predict import predict

HEAD = ("head.weight", "head.bias")


@CLIPS
@pytest.mark.parametrize("part", ["all", "head", "body"])
def test_fedbabu(clip: float, part: Any) -> None:
    bench = Bench(FedBABUOptions(**TUNED, clip=clip, tuned_part=part))
    first = {name: bench.initial[name] for name in HEAD}

    def work(received: Tensors, kept: Tensors | None, client: Client, round: int) -> tuple[Tensors, int, None]:
        return *baselines.fedbabu(received, first, client, bench.plain, SEED, round), None

    state, _ = two_rounds(bench, work)
    whole = {**state, **first}
    names = {"all": tuple(whole), "head": head_of(whole), "body": body_of(whole)}[part]
    own = bench.personalize(EVERYBODY)
    for k, client in enumerate(EVERYBODY):
        expected = baselines.tuned(whole, names, client, baselines.personal(bench.plain), SEED, 2)
        close(row(own.parameters, k), expected, client.id)
    close(row(present(bench.algorithm.general(bench.options, bench.model, bench.state)).parameters, 0), whole)


@pytest.mark.parametrize(("clip", "decay", "size"), [(0.0, 0.0, 2), (0.3, 0.0, 3), (0.0, 0.05, 4), (1.0, 0.0, 1)])
def test_perfedavg(clip: float, decay: float, size: int) -> None:
    bench = Bench(PerFedAvgOptions(**{**TUNED, "batch_size": size}, clip=clip, weight_decay=decay, inner_lr=0.7))

    def work(received: Tensors, kept: Tensors | None, client: Client, round: int) -> tuple[Tensors, int, None]:
        return *baselines.perfedavg(received, client, bench.plain, SEED, round), None

    state, _ = two_rounds(bench, work)
    own = bench.personalize(EVERYBODY)
    tuning = {**baselines.personal(bench.plain), "mu": 0.0, "weight_decay": 0.0}
    if not decay:
        for k, client in enumerate(EVERYBODY):
            w, _ = baselines.fedprox(state, client, tuning, SEED, 2, "evaluation", "personal")
            close(row(own.parameters, k), w, client.id)


def test_perfedavg_without_a_step_ahead_trains_on_half_of_every_batch() -> None:
    """With a step ahead of nearly nothing it is SGD on the second halves; with batches of one, FedAvg itself."""
    options = {**BASE, "batch_size": 1}
    ahead = Bench(PerFedAvgOptions(**options, inner_lr=1e-12)).local(CLIENTS).tensors
    other = Bench(FedAvgOptions(**options)).local(CLIENTS).tensors
    for name, tensor in other.items():
        torch.testing.assert_close(ahead[name], tensor, rtol=1e-8, atol=1e-9)


def test_perfedavg_counts_both_gradients() -> None:
    bench = Bench(PerFedAvgOptions(**{**BASE, "batch_size": 3}))
    work = bench.local(CLIENTS).phases[0]
    for k, client in enumerate(CLIENTS):
        tokens = 0
        for batch in baselines.plan(client, bench.plain, SEED, harness.ROUND, "train", "global"):
            tokens += sum(length for _, length in batch) * (2 if len(batch) == 1 else 1)
        assert float(work.flops[k]) == tokens * per_token(bench.model, "global", tuple(bench.state))


def test_perfedavg_refuses_momentum() -> None:
    with pytest.raises(UserError, match=r"momentum must be 0 for perfedavg, .*, got 0.5; leave it out"):
        Bench(PerFedAvgOptions(momentum=0.5))


@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
def test_ngram(lam: float) -> None:
    bench = Bench(NGramOptions(**BASE, lam=lam, memory_tokens=15))
    bench.round(CLIENTS, 1)
    own, test = bench.personalize(EVERYBODY), gather(EVERYBODY, "test", "cpu")
    guess = predict(bench.model, own, test)
    for k, client in enumerate(EVERYBODY):
        known = [(tokens, int(length)) for tokens, length in zip(client.train.tokens, client.train.lengths, strict=True)]
        memory = Memory(known, oracles.VOCABULARY, 15)
        for number, (sequence, length) in enumerate(zip(client.test.tokens, client.test.lengths, strict=True)):
            logs, _ = log_p(bench.state, sequence, int(length), "global", 1.0)
            for t in range(int(length)):
                context = tuple(int(token) for token in sequence[max(t - 1, 0) : t + 1])
                cache = torch.tensor([memory.p(context, w) for w in range(oracles.VOCABULARY)], dtype=torch.float64)
                mixed = (1 - lam) * logs[t].exp() + lam * cache
                place = test.rows[k][number], t
                np.testing.assert_allclose(guess.nats[place], -math.log(mixed[int(sequence[t + 1])]), rtol=1e-6, atol=1e-7)
                np.testing.assert_allclose(guess.probability[place], float(mixed.max()), rtol=1e-6)
                assert mixed[guess.tokens[place]] >= mixed.max() - 1e-12
    assert own.phases == () and own.route == "global"


def test_ngram_trains_as_fedavg() -> None:
    ngram, fedavg = Bench(NGramOptions(**BASE)), Bench(FedAvgOptions(**BASE))
    for bench in (ngram, fedavg):
        bench.round(CLIENTS, 1)
    close(ngram.state, fedavg.state)


def test_fedbabu_sends_no_head_and_fine_tunes_it() -> None:
    bench = Bench(FedBABUOptions(**BASE))
    assert not head_of(bench.local(CLIENTS).tensors)
    own = bench.personalize(CLIENTS)
    assert all((own.parameters[name] != bench.initial[name]).any() for name in HEAD)
    assert set(own.parameters) == set(Bench(FedAvgFTOptions(**BASE)).state)
