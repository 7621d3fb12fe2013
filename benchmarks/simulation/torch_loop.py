"""The loop that one writes first, in PyTorch: client after client, batch after batch, autograd and SGD.

FedAvg with torch.nn.GRU; a round of Flow with two GRUCells, a linear router and a routed head."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from benchmarks.common import worker

if __name__ == "__main__":
    THREADS, REQUESTS, REPLIES = worker.start(sys.argv[1:])

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.simulation import rounds
from benchmarks.simulation.runner import arguments, serve
from benchmarks.simulation.workload import GRU, Array, Plan, Sizes, Weights


class Words(nn.Module):
    """Embedding -> GRU -> linear projection -> vocabulary; parameters bear the names of the plan."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.embedding)
        self.gru = nn.GRU(sizes.embedding, sizes.hidden, batch_first=True)
        self.projection = nn.Linear(sizes.hidden, sizes.projection) if sizes.projection else nn.Identity()
        self.head = nn.Linear(sizes.projection or sizes.hidden, sizes.vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.projection(self.gru(self.embedding(tokens))[0]))
        return logits


class RoutedWords(nn.Module):
    """Two experts in the GRU and in the head, and at every token a softmax between them."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        h, out = sizes.hidden, sizes.projection or sizes.hidden
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.embedding)
        self.cell, self.local_cell = (nn.GRUCell(sizes.embedding, h) for _ in range(2))
        self.router = nn.Linear(sizes.embedding + h, 2)
        self.projection = nn.Linear(h, sizes.projection) if sizes.projection else nn.Identity()
        self.head, self.local_head = (nn.Linear(out, sizes.vocabulary) for _ in range(2))
        self.head_router = nn.Linear(h, 2)

    def local(self, tokens: Tensor) -> Tensor:
        """[B, T] -> logits [B, T, V] of the local expert alone."""
        h, states = torch.zeros(len(tokens), self.cell.hidden_size), []
        for x in self.embedding(tokens).unbind(1):
            h = self.local_cell(x, h)
            states.append(h)
        logits: Tensor = self.local_head(self.projection(torch.stack(states, 1)))
        return logits

    def forward(self, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """[B, T] -> logits [B, T, V], and of both layers the weights [B, T, 2] of the experts."""
        h, states, weights = torch.zeros(len(tokens), self.cell.hidden_size), [], []
        for x in self.embedding(tokens).unbind(1):
            q = torch.softmax(self.router(torch.cat([x, h], 1)), -1)
            h = q[:, :1] * self.cell(x, h) + q[:, 1:] * self.local_cell(x, h)
            states.append(h)
            weights.append(q)
        read = torch.stack(states, 1)
        p, features = torch.softmax(self.head_router(read), -1), self.projection(read)
        logits = p[..., :1] * self.head(features) + p[..., 1:] * self.local_head(features)
        return logits, [torch.stack(weights, 1), p]


def _flow_names(model: RoutedWords) -> dict[str, Tensor]:
    """The uploaded parameters under the names of the plan."""
    cell, router = model.cell, model.router
    parameters: dict[str, Tensor] = {f"embedding.{n}": p for n, p in model.embedding.named_parameters()}
    parameters |= dict(zip(GRU, (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh), strict=True))
    parameters |= {"gru.router_weight_l0": router.weight, "gru.router_bias_l0": router.bias}
    parameters |= {f"projection.{n}": p for n, p in model.projection.named_parameters()}
    parameters |= {f"head.{n}": p for n, p in model.head.named_parameters()}
    return parameters | {f"head.router_{n}": p for n, p in model.head_router.named_parameters()}


def batches(sequences: Array, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets [B, T] of a client's sequences [n, T + 1] in their order; the last batch may be short."""
    for batch in torch.from_numpy(sequences).long().split(size):
        yield batch[:, :-1], batch[:, 1:]


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def make(plan: Plan, algorithm: str, dtype: str = "float32") -> rounds.Train:
    train = (flow if algorithm == "flow" else fedavg)(plan)
    return train if dtype == "float32" else in_autocast(train)


def in_autocast(train: rounds.Train) -> rounds.Train:
    """torch's mixed precision: products in bfloat16, weights in float32."""

    def mixed(weights: Weights, round: int, places: Sequence[int]) -> Weights:
        with torch.autocast("cpu", torch.bfloat16):
            return train(weights, round, places)

    return mixed


def fedavg(plan: Plan) -> rounds.Train:
    sizes, model = plan.sizes, Words(plan.sizes)
    parameters = dict(model.named_parameters())

    def client(round: int, place: int) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=sizes.lr)
        for inputs, targets in batches(plan.visit("order", round, place), sizes.batch):
            optimizer.zero_grad()
            loss_of(model(inputs), targets).backward()
            optimizer.step()

    def train(weights: Weights, round: int, places: Sequence[int]) -> Weights:
        return _sum(parameters, weights, places, plan.shares("fedavg", round), partial(client, round))

    return train


def flow(plan: Plan) -> rounds.Train:
    sizes, model = plan.sizes, RoutedWords(plan.sizes)
    uploaded = _flow_names(model)
    routers = [p for name, p in uploaded.items() if "router" in name]
    world = [p for name, p in uploaded.items() if "router" not in name]
    local = [*model.local_cell.parameters(), *model.local_head.parameters()]

    def step(loss: Tensor, parameters: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.sub_(gradient, alpha=sizes.lr)

    def client(round: int, place: int) -> None:
        model.local_cell.load_state_dict(model.cell.state_dict())
        model.local_head.load_state_dict(model.head.state_dict())
        for inputs, targets in batches(plan.visit("support", round, place), sizes.batch):
            step(loss_of(model.local(inputs), targets), local)
        for inputs, targets in batches(plan.visit("query", round, place), sizes.batch):
            logits, weights = model(inputs)
            regulariser = sum(q[..., 0].log().mean() for q in weights) / len(weights)
            step(loss_of(logits, targets) - plan.gamma * regulariser, routers)
            step(loss_of(model(inputs)[0], targets), world)

    def train(weights: Weights, round: int, places: Sequence[int]) -> Weights:
        return _sum(uploaded, weights, places, plan.shares("flow", round), partial(client, round))

    return train


def _sum(
    parameters: Mapping[str, Tensor], weights: Weights, places: Sequence[int], shares: Array, client: Callable[[int], None]
) -> Weights:
    """Every client from the server's weights; the sum of what they end with, each times its share."""
    received = {name: torch.from_numpy(array) for name, array in weights.items()}
    total = {name: torch.zeros_like(tensor) for name, tensor in received.items()}
    for place in places:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(received[name])
        client(place)
        with torch.no_grad():
            for name, parameter in parameters.items():
                total[name].add_(parameter, alpha=float(shares[place]))
    return {name: tensor.numpy() for name, tensor in total.items()}


def one_thread(plan: Plan, algorithm: str, dtype: str = "float32") -> rounds.Train:
    """For a process among several."""
    torch.set_num_threads(1)
    return make(plan, algorithm, dtype)


def check_preload() -> None:
    """Raise RuntimeError where MKL's vendor check was to be answered and is not."""
    if os.environ.get("LD_PRELOAD", "").endswith("mkl_vendor.so") and not ctypes.CDLL(None).mkl_serv_intel_cpu_true():
        raise RuntimeError("the preloaded function is not in this process")


if __name__ == "__main__":
    check_preload()
    torch.set_num_threads(THREADS)
    given = arguments(sys.argv[1:])
    make_one = partial(make if given.processes == 1 else one_thread, dtype=given.dtype)
    turn = rounds.runner(make_one, given.plan, given.algorithm, given.processes)
    serve(turn, {"torch": torch.__version__}, REQUESTS, REPLIES)
