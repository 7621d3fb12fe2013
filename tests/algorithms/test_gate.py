"""The gate at the output, and the memory that it may choose, against their oracles."""

import math
from collections.abc import Mapping
from typing import Any, cast

import harness
import numpy as np
import numpy.typing as npt
import oracles
import pytest
import torch
from harness import ROUND, SEED, TIGHT, Bench
from oracles import decoupled as oracle

from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.flow import FlowOptions
from flow.algorithms.shared import experts as experts_module
from flow.algorithms.shared import gate as module
from flow.algorithms.shared.memory import NONE, Memory
from flow.data import Client
from flow.errors import UserError
from flow.evaluation.score import _guesses
from flow.model.flops import per_token
from flow.model.parameters import Tensors
from flow.training.batches import gather
from flow.training.predict import predict

EVERYBODY = list(oracles.population().clients)
BASE: dict[str, Any] = {"lr": 0.4, "batch_size": 2, "epochs": 2}
OPTIONS: dict[str, Any] = {
    "output": FlowOptions(**BASE, gate="output", clip=0.0),
    "both": FlowOptions(**BASE, gate="both", router_lr=0.8, router_epochs=2, temperature=0.5),
    "both, clipped": FlowOptions(**BASE, gate="both", clip=0.05, local_share=0.4, through="mixture"),
    "adapted": FlowOptions(**BASE, gate="both", adapt_epochs=2, adapt_lr=0.7, router_every=2),
    "memory": FlowOptions(**BASE, gate="output", memory=True),
    "both, memory": FlowOptions(**BASE, gate="both", memory=True, memory_tokens=11, adapt_epochs=1),
    "local, memory": FlowOptions(**BASE, gate="local", memory=True),
    "constant": FlowOptions(**BASE, gate="constant", local_weight=0.3),
    "local": FlowOptions(**BASE, gate="local"),
}


def expected(bench: Bench, client: Client, purpose: str = "train") -> tuple[Tensors, int, oracles.Steps]:
    return oracle.decoupled(bench.state, bench.shapes, client, bench.plain, SEED, ROUND, purpose)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_local_work(options: FlowOptions) -> None:
    bench = Bench(options)
    upload = bench.local(bench.able())
    assert set(upload.tensors) == set(bench.state)
    for index, client in enumerate(bench.able()):
        parameters, weight, _ = expected(bench, client)
        assert upload.weights[index] == weight
        for name, tensor in upload.tensors.items():
            torch.testing.assert_close(tensor[index], parameters[name], **TIGHT, msg=harness.labelled(name))
            chooses = name.startswith("gate/") or "router" in name
            moved = (tensor[index] - bench.state[name]).abs().max() > 1e-9
            assert moved or (chooses and len(client.train) == 1), name


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_predictions(options: FlowOptions) -> None:
    bench = Bench(options)
    own, test = bench.personalize(EVERYBODY), gather(EVERYBODY, "test", "cpu")
    guesses = {routing: predict(bench.model, own, test, routing) for routing in ("soft", "hard")}
    for k, client in enumerate(EVERYBODY):
        p, _, _ = expected(bench, client, "evaluation")
        known = [(tokens, int(length)) for tokens, length in zip(client.train.tokens, client.train.lengths, strict=True)]
        mixture = oracle.Mixture(p, known, bench.plain, oracles.VOCABULARY)
        gates = {name: tensor for name, tensor in p.items() if name.startswith("gate/")}
        for number, (sequence, length) in enumerate(zip(client.test.tokens, client.test.lengths, strict=True)):
            row = test.rows[k][number]
            for routing, guess in guesses.items():
                if options.gate == "local" and not options.memory:
                    log_p, q = oracle.log_p(p, sequence, int(length), "local", 1.0)
                    places = list(zip(log_p.exp(), q.tolist(), strict=True))
                else:
                    places = mixture.predictions(gates, sequence, int(length), routing == "hard")
                for t, (probabilities, local_weight) in enumerate(places):
                    assert guess.tokens[row, t] == int(probabilities.argmax())
                    target = float(probabilities[int(sequence[t + 1])])
                    np.testing.assert_allclose(guess.nats[row, t], -math.log(target), rtol=1e-6, atol=1e-7)
                    np.testing.assert_allclose(guess.probability[row, t], float(probabilities.max()), rtol=1e-6)
                    np.testing.assert_allclose(guess.local_weight[row, t], local_weight, rtol=1e-6, atol=1e-7)
            assert (guesses["soft"].tokens[row, length:] == -1).all() and not guesses["soft"].nats[row, length:].any()


def test_w_g_is_that_of_fedavg_to_the_bit() -> None:
    """Beside every gate, over rounds, in float32."""
    for options in OPTIONS.values():
        sgd = {name: getattr(options, name) for name in ("lr", "epochs", "batch_size", "clip")}
        flow, plain = (Bench(algorithm, dtype=torch.float32) for algorithm in (options, FedAvgOptions(**sgd)))
        for round in (1, 2):
            for bench in (flow, plain):
                bench.round(harness.TRAINING, round)
        for name, tensor in plain.state.items():
            assert torch.equal(flow.state[name], tensor), name


@pytest.mark.parametrize("name", ["both", "both, memory"])
def test_numbers_do_not_depend_on_who_else_is_in_the_group(name: str) -> None:
    bench = Bench(OPTIONS[name], dtype=torch.float32)
    together = bench.local(bench.able()).tensors
    own, test = bench.personalize(EVERYBODY), gather(EVERYBODY, "test", "cpu")
    all_of_them = predict(bench.model, own, test)
    for index, client in enumerate(bench.able()):
        upload = bench.local([client]).tensors
        for key, tensor in together.items():
            assert torch.equal(tensor[index], upload[key][0]), key
    for k, client in enumerate(EVERYBODY):
        alone = predict(bench.model, bench.personalize([client]), gather([client], "test", "cpu"))
        for by_itself, in_company in zip(alone, all_of_them, strict=True):
            width = by_itself.shape[1]
            assert (by_itself == in_company[test.rows[k]][:, :width]).all()


def test_the_gate_by_autograd_gives_what_the_kernels_give() -> None:
    reference, fastest = (Bench(OPTIONS["both, memory"], backend=backend) for backend in ("reference", "auto"))
    harness.close(reference.local(EVERYBODY[2:5]).tensors, fastest.local(EVERYBODY[2:5]).tensors)
    test = gather(EVERYBODY, "test", "cpu")
    for a, b in zip(*(predict(bench.model, bench.personalize(EVERYBODY), test) for bench in (reference, fastest)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_a_client_with_one_sequence_leaves_the_gate_as_it_is() -> None:
    bench = Bench(OPTIONS["both"])
    lone = next(client for client in EVERYBODY if len(client.train) == 1)
    upload = bench.local([lone])
    for name in bench.state:
        moved = not torch.equal(upload.tensors[name][0], bench.state[name])
        assert moved == (not name.startswith("gate/") and "router" not in name), name


def test_what_the_gate_costs_is_counted() -> None:
    """The experts' forward passes once over the newer texts, and the gate's products in every epoch."""
    bench = Bench(OPTIONS["both"])  # router_epochs=2
    client = EVERYBODY[2]
    work = bench.local([client]).phases[1]
    newer = client.train.lengths[oracles.older(client, 0.75) :]
    passes = sum(per_token(bench.model, route) for route in ("global", "local", "mixture"))
    own = 2 * module.HIDDEN * (2 * experts_module.width(3, False) + 3 * 3)  # no gradient by the features
    assert float(work.flops[0]) == newer.sum() * (passes + 2 * own)
    assert (work.sequences, float(work.tokens[0])) == (2 * len(newer), 2 * newer.sum())


def test_the_first_gate_weighs_all_experts_alike() -> None:
    for networks, memory in ((2, False), (3, False), (3, True), (1, True)):
        first = module.initial(networks, memory, SEED, torch.zeros(1))
        share = module.weights(first, torch.rand(5, experts_module.width(networks, memory)))
        torch.testing.assert_close(share, torch.full((5, networks + memory), 1 / (networks + memory)))
    assert not torch.equal(
        module.initial(2, False, 0, torch.zeros(1))["gate/hidden_weight"], first["gate/hidden_weight"][:, :10]
    )


def texts(seed: int, n: int = 7, size: int = 12, width: int = 9) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    tokens = np.minimum(rng.geometric(0.3, (n, width + 1)), size - 1).astype(np.int32)
    return tokens, rng.integers(1, width + 1, n)


@pytest.mark.parametrize(("n", "most"), [(7, 1000), (7, 20), (1, 1000), (1, 1), (7, 0 + 3)])
def test_a_memory_is_the_witten_bell_model_of_its_texts(n: int, most: int) -> None:
    size = 12
    tokens, lengths = texts(n, n)
    memory = Memory(tokens, lengths, size, most)
    plain = oracle.Memory([(row, int(length)) for row, length in zip(tokens, lengths, strict=True)], size, most)
    pairs = np.array([(a, b) for a in [NONE, *range(size + 3)] for b in range(size + 3)])
    votes = memory.after(*pairs.T)
    dense = np.zeros((len(pairs), size))
    dense += (votes.back * memory.floor)[:, None]
    dense[:, memory.words] += votes.back[:, None] * memory.unigram
    np.add.at(dense, (votes.rows, votes.words), votes.shares)
    for row, (a, b) in enumerate(pairs.tolist()):
        context = (b,) if a == NONE else (a, b)
        naive = [plain.p(context, w) for w in range(size)]
        np.testing.assert_allclose(dense[row], naive, rtol=1e-12)
        np.testing.assert_allclose(votes.top[row], max(naive), rtol=1e-12)
        assert votes.seen[:, row].tolist() == [plain.often(b), 0 if a == NONE else plain.often(a, b)]
        chances = memory.chance(np.full(size, a), np.full(size, b), np.arange(size))
        np.testing.assert_allclose(chances, naive, rtol=1e-12)
    np.testing.assert_allclose(dense.sum(1), 1, rtol=1e-12)
    assert memory.often(np.arange(size + 2)).tolist() == [plain.target(w) for w in range(size + 2)]


def test_a_memory_of_nothing_says_that_all_tokens_are_as_likely() -> None:
    memory = Memory(np.zeros((0, 5), np.int32), np.zeros(0, np.int64), 8, 10)
    pairs = np.array([[NONE, 3], [1, 2]])
    votes = memory.after(*pairs)
    assert votes.back.tolist() == [1, 1] and memory.floor == 1 / 8 and not len(votes.rows)
    assert memory.chance(pairs[0], pairs[1], np.array([0, 7])).tolist() == [1 / 8, 1 / 8]
    assert memory.often(np.arange(3)).tolist() == [0, 0, 0]


def test_a_memory_is_bounded_by_its_tokens_and_not_by_the_vocabulary() -> None:
    tokens, lengths = texts(0, 50)
    memory = Memory(tokens, lengths, 10**9, 30)
    arrays = [memory.words, memory.unigram, *memory._single, *memory._two, *memory._three]
    assert max(map(len, arrays)) <= 3 * 30 + 1
    newest = Memory(tokens[-30:], lengths[-30:], 10**9, 30)
    assert all((a == b).all() for a, b in zip(arrays[2:], [*newest._single, *newest._two, *newest._three], strict=True))


def test_the_local_expert_alone_is_reported_beside_the_gate() -> None:
    bench = Bench(OPTIONS["both"])
    own, test = bench.personalize(EVERYBODY), gather(EVERYBODY, "test", "cpu")

    class Task:
        algorithm, config = bench.algorithm, type("Config", (), {"algorithm": bench.options})  # all that is asked of it

    guesses = _guesses(cast(Any, Task), bench.model, bench.state, own, test, False)
    assert set(guesses) == {"global", "local", "personal", "soft", "hard"}
    alone = predict(bench.model, Bench(OPTIONS["local"]).personalize(EVERYBODY), test)
    for name in ("tokens", "nats"):
        np.testing.assert_allclose(getattr(guesses["local"], name), getattr(alone, name), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"memory": True, "gate": "cell"},
            "memory=True is a source of the gate at the output, got gate='cell'; give gate='both'",
        ),
        ({"memory": True, "gate": "constant"}, "memory=True is a source of the gate at the output, got gate='constant'"),
        ({"memory_tokens": 0}, "memory_tokens must be a finite number at least 1, got 0"),
        ({"local_weight": 1.5, "gate": "constant"}, "local_weight must be a finite number from 0 to 1, got 1.5"),
        ({"local_weight": 0.2}, "local_weight=0.2 is the weight of gate='constant', got gate='both'; leave one of them out"),
        ({"gate": "local", "through": "mixture"}, "through='mixture' needs a routed cell, got gate='local'; give gate='cell'"),
        (
            {"gate": "constant", "router_lr": 2.0},
            "router_lr=2.0 has nothing to train: with gate='constant' there are neither routers nor",
        ),
        (
            {"gate": "local", "adapt_epochs": 2},
            "adapt_epochs=2 has nothing to train: with gate='local' there are neither routers nor",
        ),
        ({"variant": "neurips", "gate": "both"}, "gate='both' is one of variant='decoupled', got variant='neurips'; leave one"),
        ({"router_lr": 1e39}, "router_lr must be at most 3.4e\\+38, as float32 is, got 1e\\+39"),
    ],
)
def test_options_that_do_not_go_together(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Bench(FlowOptions(**options))


def test_what_a_random_split_leaves_is_remembered_in_the_order_of_time() -> None:
    data = gather(EVERYBODY, "train", "cpu")
    turned = data._replace(rows=tuple(rows[::-1] for rows in data.rows))
    for first, second in zip(*(experts_module.Memories(part, oracles.VOCABULARY, 4) for part in (data, turned)), strict=True):
        assert first.words.tolist() == second.words.tolist() and first.unigram.tolist() == second.unigram.tolist()


def test_a_constant_mixture_is_not_routed() -> None:
    for name, instance in (("constant", False), ("local", False), ("local, memory", True), ("output", True)):
        bench = Bench(OPTIONS[name])
        assert bench.algorithm.scope(bench.options) == (True, instance)
