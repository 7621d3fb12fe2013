"""The cohort engine: K clients trained at once, their parameters stacked on a leading axis of the same tensors.

Clients are independent, so one backward pass through the sum of their losses gives every client its own gradient. A
client's numbers do not depend on who shares its cohort: its loss is a mean over its own tokens, its gradient is clipped
by its own norm, and its randomness comes from (seed, round, client) alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from flow.errors import UserError
from flow.models import LanguageModel, Tensors

if TYPE_CHECKING:
    from flow.data.population import Client

Rows = npt.NDArray[np.int64]


class Draw(NamedTuple):
    """Where the random choices of one occasion come from: the run's seed, the round, and what the choices are for."""

    seed: int
    round: int
    purpose: str

    def stream(self, *labels: str) -> np.random.Generator:
        """The generator of one use. The same arguments give the same numbers, whatever was drawn before.

        Philox over SeedSequence([seed, round, d0, d1, d2, d3]), where d are the first four little-endian 32-bit words
        of the SHA-256 of purpose and labels joined by line feeds.
        """
        digest = hashlib.sha256("\n".join((self.purpose, *labels)).encode()).digest()
        words = np.frombuffer(digest, dtype="<u4")[:4].tolist()
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, self.round, *words])))


class Data(NamedTuple):
    """The sequences of K clients in one table."""

    ids: tuple[str, ...]
    rows: tuple[Rows, ...]
    """Which rows of the table are whose."""
    tokens: Tensor
    """int32 [N + 1, T + 1]; the last row is padding."""
    lengths: Tensor
    """int64 [N + 1]; valid targets of every row; 1 for the padding row, which no loss counts."""

    def sizes(self) -> list[int]:
        """Number of sequences of every client."""
        return [len(rows) for rows in self.rows]


class Batch(NamedTuple):
    """One batch of each of the first k clients."""

    rows: Tensor
    """int64 [k, B]: rows of the table; its last row where a client has fewer than B sequences left."""
    inputs: Tensor
    """int64 [k, B, T]"""
    targets: Tensor
    """int64 [k, B, T]"""
    lengths: Tensor
    """int64 [k, B], each in 1..T"""
    valid: Tensor
    """bool [k, B, T]: the targets that count; False past a sequence's length and in rows that only fill up."""


@dataclass(frozen=True)
class Sgd:
    """Plain SGD: no momentum, hence no state that would have to be reset between phases."""

    lr: float
    epochs: int
    batch_size: int
    clip: float
    """Largest norm of one client's gradient over the parameters trained; 0: unlimited."""


class Update(NamedTuple):
    """One SGD step taken on every batch: which parameters move, on which loss. Everything else stays frozen."""

    names: tuple[str, ...]
    route: Literal["mixture", "global", "local"]
    gamma: float = 0.0
    """Weight of Flow's regulariser, -(gamma / L) * sum over the L routed layers of the mean of log q_global."""


class Work(NamedTuple):
    """What a training phase did, per client."""

    nats: Tensor
    """float64 [K]: sum over the batches' valid tokens of the loss of the last update (without regulariser)."""
    tokens: Tensor
    """float64 [K]: how many tokens that sum has."""
    sequences: int
    """Sequences trained on, over all clients; one counts once per epoch."""


class Upload(NamedTuple):
    """What K clients send to the server, and how much each counts."""

    tensors: Tensors
    """Stacked on a leading K."""
    weights: list[int]
    work: Work
    """Of the phase whose loss is reported."""
    sequences: int
    """Over all phases."""


class Personal(NamedTuple):
    """How K clients predict after personalization."""

    parameters: Tensors
    route: Literal["mixture", "global", "local"]
    routing: Literal["soft", "hard"]


def gather(clients: Sequence[Client], part: Literal["train", "test"], device: torch.device | str) -> Data:
    """Put one part of the clients' sequences into one table on the device, in the order of the clients."""
    parts = [client.train if part == "train" else client.test for client in clients]
    ends = np.cumsum([0, *(len(p.lengths) for p in parts)])
    rows = tuple(np.arange(a, b) for a, b in pairwise(ends))
    width = parts[0].tokens.shape[1]
    tokens = np.concatenate([*(p.tokens for p in parts), np.zeros((1, width), np.int32)])
    lengths = np.concatenate([*(p.lengths for p in parts), np.ones(1, np.int32)]).astype(np.int64)
    ids = tuple(client.id for client in clients)
    return Data(ids, rows, torch.from_numpy(tokens).to(device), torch.from_numpy(lengths).to(device))


def halves(data: Data, draw: Draw) -> tuple[Data, Data]:
    """Split every client's sequences at random into two disjoint halves; of an odd number the second gets one more."""
    orders = [rows[draw.stream("split", id).permutation(len(rows))] for id, rows in zip(data.ids, data.rows, strict=True)]
    first = tuple(order[: len(order) // 2] for order in orders)
    second = tuple(order[len(order) // 2 :] for order in orders)
    return data._replace(rows=first), data._replace(rows=second)


def groups(clients: Sequence[Client], size: int, workers: int = 1) -> list[list[Client]]:
    """Deal a cohort into groups of at most `size` clients (the option --chunk) that cost about the same, at least one for
    every worker.

    The next largest client goes to the group with the least to do, so that workers end together; inside a group clients
    with much data come first, so that those still at work are a prefix. The costliest group comes first.
    """
    ordered = sorted(clients, key=lambda client: (-len(client.train.lengths), client.id))
    count = min(len(ordered), max(-(-len(ordered) // size), workers))
    dealt: list[list[Client]] = [[] for _ in range(count)]
    load = [0] * count
    for client in ordered:
        group = min((n for n in range(count) if len(dealt[n]) < size), key=load.__getitem__)
        dealt[group].append(client)
        load[group] += len(client.train.lengths) + 1
    return [dealt[n] for n in sorted(range(count), key=lambda n: -load[n])]


def stack(tensors: Tensors, clients: int) -> Tensors:
    """A copy of its own for every client: [..] -> [K, ..]."""
    return {name: tensor.expand(clients, *tensor.shape).clone() for name, tensor in tensors.items()}


def batches(
    data: Data, batch_size: int, epochs: int = 1, streams: Sequence[np.random.Generator] | None = None
) -> Iterator[Batch]:
    """The clients' batches, step by step.

    Every epoch of a client is one permutation drawn from its stream (in the order of its rows without streams), cut
    into batches; the last one may be short. A step holds the shortest prefix of the clients that covers all that still
    have a batch, so clients should come with the most sequences first.
    """
    cut: list[list[Rows]] = []
    for client, rows in enumerate(data.rows):
        order = [rows if streams is None else rows[streams[client].permutation(len(rows))] for _ in range(epochs)]
        cut.append([one[i : i + batch_size] for one in order for i in range(0, len(one), batch_size)])
    filler = len(data.lengths) - 1
    position = torch.arange(data.tokens.shape[1] - 1, device=data.tokens.device)
    for step in range(max(map(len, cut), default=0)):
        active = [client for client, own in enumerate(cut) if step < len(own)]
        now = [cut[client][step] for client in active]
        table = np.full((active[-1] + 1, max(map(len, now))), filler)
        for client, own in zip(active, now, strict=True):
            table[client, : len(own)] = own
        index = torch.from_numpy(table).to(data.tokens.device)
        lengths = data.lengths[index]
        steps = int(lengths.max())
        tokens = data.tokens[index, : steps + 1].long()
        valid = (position[:steps] < lengths.unsqueeze(-1)) & (index != filler).unsqueeze(-1)
        yield Batch(index, tokens[..., :-1], tokens[..., 1:], lengths, valid)


def objective(model: LanguageModel, parameters: Tensors, batch: Batch, update: Update) -> tuple[Tensor, Tensor]:
    """What an update descends, and the mean loss in nats per valid token alone: both [k]."""
    out = torch.func.functional_call(model, parameters, (batch.inputs, batch.lengths), {"route": update.route})
    share = batch.valid.to(out.logits.dtype) / batch.valid.sum((1, 2), keepdim=True).clamp_min(1)
    nats = F.cross_entropy(out.logits.flatten(0, 2), batch.targets.flatten(), reduction="none")
    loss = (nats.view_as(share) * share).sum((1, 2))
    if not update.gamma:
        return loss, loss
    routed = [q for q in (out.gru_routing, out.head_routing) if q is not None]
    # A softmax may round to zero far from any use; the smallest normal number keeps the logarithm finite.
    tiny = torch.finfo(out.logits.dtype).tiny
    logs = [torch.where(batch.valid, q[..., 0], 1.0).clamp_min(tiny).log() for q in routed]
    regulariser = sum((log * share).sum((1, 2)) for log in logs) / len(routed)
    return loss - update.gamma * regulariser, loss


def train(
    model: LanguageModel,
    parameters: Tensors,
    data: Data,
    updates: Sequence[Update],
    sgd: Sgd,
    draw: Draw,
    phase: str,
) -> Work:
    """Train K clients side by side, in place.

    Args:
        model: says how to compute; its own parameters are not used.
        parameters: stacked [K, ..]; those that an update names are changed.
        data: the sequences to train on, clients with the most sequences first.
        updates: taken in this order on every batch.
        draw, phase: the batches' order of client c comes from ``draw.stream("shuffle", phase, c)``.
    """
    nats = torch.zeros(len(data.ids), dtype=torch.float64, device=data.tokens.device)
    tokens = torch.zeros_like(nats)
    streams = [draw.stream("shuffle", phase, id) for id in data.ids]
    for batch in batches(data, sgd.batch_size, sgd.epochs, streams):
        k = len(batch.lengths)
        for update in updates:
            loss = descend(model, {name: tensor[:k] for name, tensor in parameters.items()}, batch, update, sgd)
        counted = batch.valid.sum((1, 2))
        nats[:k] += loss.double() * counted
        tokens[:k] += counted
    return Work(nats, tokens, sgd.epochs * sum(data.sizes()))


def descend(model: LanguageModel, parameters: Tensors, batch: Batch, update: Update, sgd: Sgd) -> Tensor:
    """One SGD step of one update on one batch, in place; returns the loss before the step, [k]."""
    leaves = {name: parameters[name].detach().requires_grad_() for name in update.names}
    target, loss = objective(model, {**parameters, **leaves}, batch, update)
    gradients = torch.autograd.grad(target.sum(), list(leaves.values()))
    with torch.no_grad():
        rate: float | Tensor = sgd.lr
        if sgd.clip:
            norms = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients]
            norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
            rate = sgd.lr * sgd.clip / norm.clamp_min(sgd.clip)
        for name, gradient in zip(leaves, gradients, strict=True):
            shaped = rate if isinstance(rate, float) else rate.view(-1, *(1,) * (gradient.dim() - 1))
            parameters[name].sub_(gradient * shaped)
    return loss.detach()


class Guess(NamedTuple):
    """Predictions for every row of a table of N sequences."""

    tokens: npt.NDArray[np.int32]
    """[N, T]: the most likely next token; -1 where there was nothing to predict."""
    local_weight: npt.NDArray[np.float32]
    """[N, T]: weight of the GRU's local expert."""


@torch.no_grad()
def predict(
    model: LanguageModel, parameters: Tensors, data: Data, route: str, routing: str = "soft", logits: int = 1 << 22
) -> Guess:
    """Predict every target of K clients with their own parameters; at most `logits` scores are held at a time."""
    count, width = len(data.lengths), data.tokens.shape[1] - 1
    tokens = torch.full((count, width), -1, dtype=torch.int32)
    local_weight = torch.zeros(count, width)
    vocabulary = parameters["head.bias"].shape[-1]
    size = min(256, max(1, logits // (len(data.ids) * width * vocabulary)))
    for batch in batches(data, size):
        k, _, steps = batch.valid.shape
        own = {name: tensor[:k] for name, tensor in parameters.items()}
        out = torch.func.functional_call(model, own, (batch.inputs, batch.lengths), {"route": route, "routing": routing})
        rows, best = batch.rows.cpu(), out.logits.argmax(-1).where(batch.valid, -1)
        tokens[rows, :steps] = best.int().cpu()
        local_weight[rows, :steps] = out.gru_routing[..., 1].float().cpu()
    return Guess(tokens[:-1].numpy(), local_weight[:-1].numpy())


def check_sgd(sgd: Sgd) -> None:
    """Raise UserError for options with which no training is possible."""
    for name, value in (("lr", sgd.lr), ("epochs", sgd.epochs), ("batch_size", sgd.batch_size)):
        if not (value > 0 and math.isfinite(value)):
            raise UserError(f"{name} must be a finite number above 0, got {value!r}; leave it out for the default")
    if not (sgd.clip >= 0 and math.isfinite(sgd.clip)):
        raise UserError(f"clip must be a finite number of at least 0, got {sgd.clip!r}; 0 switches clipping off")
