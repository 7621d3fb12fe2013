"""Modules of the user's own in federated training, beside loops that train one client after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import flow
from flow.algorithms import REGISTRY
from flow.model.user_module import UserModule
from flow_kernels import RoutedGRU

Factory = Callable[[int], nn.Module]
EPOCHS, LR, CLIP, ROUNDS, LAM = 3, 0.7, 1.5, 2, 0.3


class Recurrent(nn.Module):
    """Embedding, a recurrent layer of torch or of this project, and a head."""

    def __init__(self, vocabulary_size: int, layer: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, 5)
        self.layer = layer
        self.head = nn.Linear(6, vocabulary_size)

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.head(self.layer(self.embedding(tokens))[0])
        return scores


class Transformer(nn.Module):
    def __init__(self, vocabulary_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, 8)
        self.positions = nn.Parameter(torch.randn(oracles.STEPS, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout, batch_first=True)
        self.head = nn.Linear(8, vocabulary_size)

    def forward(self, tokens: Tensor) -> Tensor:
        steps = tokens.shape[1]
        mask = torch.triu(torch.ones(steps, steps, dtype=torch.bool, device=tokens.device), 1)
        scores: Tensor = self.head(self.layer(self.embedding(tokens) + self.positions[:steps], mask))
        return scores


class Bag(nn.Module):
    """The mean of all tokens up to here, with a frozen table beside a trained one."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, 4)
        self.frozen = nn.Embedding(vocabulary_size, 4)
        self.frozen.weight.requires_grad_(False)
        self.register_buffer("scale", torch.tensor(0.5))
        self.head = nn.Linear(4, vocabulary_size)

    def forward(self, tokens: Tensor) -> Tensor:
        counts = torch.arange(1, tokens.shape[1] + 1, device=tokens.device).view(1, -1, 1)
        total = (self.embedding(tokens) + self.scale * self.frozen(tokens)).cumsum(1)
        scores: Tensor = self.head(total / counts)
        return scores


FACTORIES: dict[str, Factory] = {
    "lstm": lambda size: Recurrent(size, nn.LSTM(5, 6, batch_first=True)),
    "gru of two layers": lambda size: Recurrent(size, nn.GRU(5, 6, 2, batch_first=True)),
    "routed gru": lambda size: Recurrent(size, RoutedGRU(5, 6, batch_first=True)),
    "transformer": Transformer,
    "bag of words": Bag,
}
SIDE_BY_SIDE = {"lstm": False, "gru of two layers": False, "routed gru": True, "transformer": True, "bag of words": True}


def config(name: str, algorithm: str, **options: Any) -> flow.Config[Any]:
    kind = REGISTRY[algorithm].options
    given = {"lr": LR, "epochs": EPOCHS, "clip": CLIP, "batch_size": 64, **options}
    model = flow.TorchModel(FACTORIES[name], head="head", dtype="float64")
    return flow.Config(
        algorithm=kind(**given), model=model, rounds=ROUNDS, cohort=7, evaluate_every=0, min_texts=0, validation_share=0.0,
        seed=4, threads=1,
    )  # fmt: skip


# --- one client after the other, with autograd alone -------------------------------------------------------------------


@dataclass
class Naive:
    """A client at a time: all of its sequences are one batch."""

    module: nn.Module

    def loss(self, sequences: Any) -> Tensor:
        tokens = torch.from_numpy(np.asarray(sequences.tokens, dtype=np.int64))
        logits, losses = self.module(tokens[:, :-1]), []
        for row, length in enumerate(sequences.lengths.tolist()):
            losses += [F.cross_entropy(logits[row, t], tokens[row, t + 1]) for t in range(length)]
        return torch.stack(losses).mean()

    def values(self) -> dict[str, Tensor]:
        return {n: p.detach().clone() for n, p in self.module.named_parameters() if p.requires_grad}

    def put(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(values[name])

    def descend(self, sequences: Any, steps: int, anchor: dict[str, Tensor] | None = None) -> None:
        named = {n: p for n, p in self.module.named_parameters() if p.requires_grad}
        for _ in range(steps):
            grads = torch.autograd.grad(self.loss(sequences), list(named.values()), allow_unused=True, materialize_grads=True)
            norm = torch.sqrt(sum((g.square().sum() for g in grads), torch.zeros((), dtype=torch.float64)))
            with torch.no_grad():
                for (name, parameter), gradient in zip(named.items(), grads, strict=True):
                    step = gradient * min(1.0, CLIP / float(norm))
                    if anchor is not None:
                        step = step + LAM * (parameter - anchor[name])
                    parameter.sub_(LR * step)


def naive(name: str, seed: int = 4) -> Naive:
    torch.manual_seed(seed)
    return Naive(FACTORIES[name](oracles.VOCABULARY).double())


def averaged(own: Naive, clients: list[Any], start: dict[str, Tensor]) -> dict[str, Tensor]:
    """A round of FedAvg."""
    total = {n: torch.zeros_like(t) for n, t in start.items()}
    for client in clients:
        own.put(start)
        own.descend(client.train, EPOCHS)
        for n, t in own.values().items():
            total[n] += t * len(client.train)
    return {n: t / sum(len(client.train) for client in clients) for n, t in total.items()}


def plain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.partition(".model/")[2].replace("/", "."): tensor for name, tensor in state.items()}


@pytest.mark.parametrize("name", FACTORIES)
def test_fedavg_and_ditto_are_those_of_a_loop_over_clients(name: str) -> None:
    population = oracles.population()
    clients = [client for client in population.clients if not client.held_out]
    own, models = naive(name), {client.id: naive(name).values() for client in clients}
    state = own.values()
    for _ in range(ROUNDS):
        for client in clients:
            own.put(models[client.id])
            own.descend(client.train, EPOCHS, anchor=state)
            models[client.id] = own.values()
        state = averaged(own, clients, state)
    result = flow.simulate(config(name, "fedavg"), population=population, progress=False)
    assert plain_names(result.state).keys() == state.keys()
    for parameter, tensor in plain_names(result.state).items():
        torch.testing.assert_close(tensor, state[parameter], rtol=1e-9, atol=1e-9)
    ditto = flow.simulate(
        config(name, "ditto", lam=LAM, personal_lr=LR, personal_epochs=2), population=population, progress=False
    )
    assert all(torch.equal(tensor, ditto.state[parameter]) for parameter, tensor in result.state.items())
    losses = {row["id"]: row for row in ditto.evaluation["clients"]}
    assert len(losses) == 9
    for client in population.clients:
        own.put(models.get(client.id, state))
        own.descend(client.train, 2, anchor=state)
        scored = client.test
        keep = scored.tokens[:, 1:] > 3  # special tokens are not scored
        nats, count = 0.0, 0
        logits = own.module(torch.from_numpy(np.asarray(scored.tokens[:, :-1], dtype=np.int64))).log_softmax(-1).detach()
        for row, length in enumerate(scored.lengths.tolist()):
            for t in range(length):
                if keep[row, t]:
                    nats, count = nats - float(logits[row, t, int(scored.tokens[row, t + 1])]), count + 1
        if count:
            assert losses[client.id]["tokens"] == count
            assert losses[client.id]["personal_nats"] / count == pytest.approx(nats / count, abs=1e-5)


@pytest.mark.parametrize("name", FACTORIES)
def test_clients_are_side_by_side_where_torch_can(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And have the same numbers one by one."""
    model = UserModule(naive(name).module, oracles.VOCABULARY, "head")
    assert model.side_by_side is SIDE_BY_SIDE[name] and bool(model.reason) is not model.side_by_side
    population = oracles.population()
    together = flow.simulate(config(name, "fedavgft"), population=population, progress=False)
    monkeypatch.setattr(UserModule, "side_by_side", property(lambda self: False, lambda self, value: None), raising=False)
    alone = flow.simulate(config(name, "fedavgft"), population=population, progress=False)
    for parameter, tensor in together.state.items():
        torch.testing.assert_close(tensor, alone.state[parameter], rtol=1e-9, atol=1e-9)
    for first, second in zip(together.evaluation["clients"], alone.evaluation["clients"], strict=True):
        assert first["personal_nats"] == pytest.approx(second["personal_nats"], abs=1e-5)


def test_a_client_does_not_depend_on_its_group() -> None:
    population = oracles.population()
    states = [
        flow.simulate(flow_config, population=population, progress=False).state
        for flow_config in (
            replace(config("transformer", "fedavg"), chunk=chunk, threads=threads)
            for chunk, threads in ((1, 1), (3, 2), (7, 1))
        )
    ]
    for name, tensor in states[0].items():
        for other in states[1:]:
            torch.testing.assert_close(tensor, other[name], rtol=1e-9, atol=1e-9)


PROVIDED = {"head", "features", "next_token"}
RUNNING = [name for name, algorithm in REGISTRY.items() if not set(algorithm.needs(algorithm.options())) - PROVIDED]


@pytest.mark.parametrize("algorithm", REGISTRY)
def test_every_algorithm_runs_or_says_what_it_needs(algorithm: str) -> None:
    short = flow.Config(
        algorithm=REGISTRY[algorithm].options(),
        model=flow.TorchModel(FACTORIES["bag of words"], head="head"),
        rounds=2,
        cohort=3,
        evaluate_every=0,
        min_texts=0,
        validation_share=0.0,
    )
    if algorithm in RUNNING:
        result = flow.simulate(short, population=oracles.population(), progress=False)
        able = [client for client in oracles.population().clients if len(client.train) >= 2 or algorithm != "fedfomo"]
        assert len(result.evaluation["clients"]) == len(able)
        return
    with pytest.raises(flow.UserError, match=rf"{algorithm} needs .*, which the module does not have; leave the model out, or"):
        flow.simulate(short, population=oracles.population(), progress=False)


def test_most_algorithms_run() -> None:
    assert set(REGISTRY) - set(RUNNING) == {
        "flow", "dynamic_routing", "fedrecon", "privategate", "hypcluster", "pfedhn", "pfedhnpc",
    }  # fmt: skip


def test_only_the_head_of_fedper_stays_with_the_clients() -> None:
    result = flow.simulate(config("transformer", "fedper"), population=oracles.population(), progress=False)
    head = {name for name in result.state if name.startswith("head.")}
    assert head == {"head.model/head/weight", "head.model/head/bias"}
    with pytest.raises(flow.UserError, match=r"fedper needs an output layer .*; name its output layer with head, or take"):
        flow.simulate(
            replace(config("transformer", "fedper"), model=flow.TorchModel(Transformer)), population=oracles.population()
        )


def test_what_needs_no_gradient_stays_and_is_not_sent() -> None:
    result = flow.simulate(config("bag of words", "fedavg"), population=oracles.population(), progress=False)
    names = plain_names(result.state)
    assert set(names) == {"embedding.weight", "head.weight", "head.bias"}
    sent = sum(tensor.numel() * 8 for tensor in names.values())
    assert result.metrics[0]["download_bytes"] == 7 * sent


class Tied(Recurrent):
    """The head shares the embedding's weight."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__(vocabulary_size, nn.GRU(5, 6, batch_first=True))
        self.narrow = nn.Linear(6, 5)
        self.head = nn.Linear(5, vocabulary_size)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.head(self.narrow(self.layer(self.embedding(tokens))[0]))
        return scores


def test_a_shared_weight_is_trained_once() -> None:
    FACTORIES["tied"] = Tied
    try:
        population = oracles.population()
        clients = [client for client in population.clients if not client.held_out]
        own = naive("tied")
        state = own.values()
        for _ in range(ROUNDS):
            state = averaged(own, clients, state)
        result = flow.simulate(config("tied", "fedavg"), population=population, progress=False)
    finally:
        del FACTORIES["tied"]
    assert "head.weight" not in plain_names(result.state)
    for name, tensor in plain_names(result.state).items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-9, atol=1e-9)


class Normed(Bag):
    def __init__(self, vocabulary_size: int) -> None:
        super().__init__(vocabulary_size)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.head(self.norm(self.embedding(tokens).mT).mT)
        return scores


class Pair(Bag):
    def forward(self, tokens: Tensor) -> Any:
        return super().forward(tokens), None


class Narrow(Bag):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens)[..., :-1]


def broken(vocabulary_size: int) -> nn.Module:
    raise KeyError("no such file")


@pytest.mark.parametrize(
    ("factory", "head", "message"),
    [
        (Normed, "", r"Normed': the buffer 'norm.* changes while the module is used.*; use LayerNorm or GroupNorm"),
        (Pair, "", r"forward gives a tuple, and must give logits, a tensor \[B, T, V\]; return them alone"),
        (Narrow, "", r"forward gives torch.float32 \[2, 5, 8\] for tokens \[2, 5\], and must give logits \[2, 5, 9\]"),
        (broken, "", r"broken' failed for a vocabulary of 9 tokens \(KeyError: 'no such file'\); correct it"),
        (lambda size: 3, "", r"gives a int, and must give a torch.nn.Module; correct it"),
        (lambda size: nn.Embedding(5, size), "", r"failed on tokens \[B, T\] between 0 and 8 \(IndexError: .*\); correct"),
        (
            Bag,
            "decoder",
            r"head='decoder' is no submodule; give one of these, or leave head out: 'embedding', 'frozen', 'head'",
        ),
        (lambda size: nn.Embedding(size, size).requires_grad_(False), "", r"no parameter that requires a gradient"),
    ],
)
def test_a_module_that_cannot_be_trained_is_one_sentence(factory: Factory, head: str, message: str) -> None:
    given = replace(config("bag of words", "fedavg"), model=flow.TorchModel(factory, head=head))
    with pytest.raises(flow.UserError, match=message) as refused:
        flow.simulate(given, population=oracles.population(), progress=False)
    assert str(refused.value).isprintable() and "model=" in str(refused.value)


def test_dropout_is_left_out_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    """A client's numbers may not depend on what others drew."""

    def with_dropout(vocabulary_size: int) -> nn.Module:
        return Transformer(vocabulary_size, dropout=0.5)

    def without(vocabulary_size: int) -> nn.Module:
        return Transformer(vocabulary_size)

    states = [
        flow.simulate(
            replace(config("transformer", "fedavg"), model=flow.TorchModel(kind, dtype="float64")),
            population=oracles.population(),
            progress=False,
        ).state
        for kind in (with_dropout, without)
    ]
    assert "it draws random numbers in training mode, such as those of dropout" in capsys.readouterr().err
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-6, atol=1e-6)


def test_the_same_seed_makes_the_same_module_and_leaves_torchs_random_numbers_alone() -> None:
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    first, second = (
        flow.simulate(config("transformer", "fedavg"), population=oracles.population(), progress=False) for _ in range(2)
    )
    assert all(torch.equal(tensor, second.state[name]) for name, tensor in first.state.items())
    assert torch.equal(torch.random.get_rng_state(), before)
