"""The cohort engine: K clients trained at once, their parameters stacked on a leading axis of the same tensors.

Clients are independent: flow/descent.py says how a step of all of them is computed. A client's numbers do not depend on who
shares its cohort: its loss is a mean over its own tokens, its gradient is clipped by its own norm, and its randomness comes
from (seed, round, client) alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flow.descent import Batch, Descent, Sgd, Update, objective
from flow.errors import UserError
from flow.exchange import Personal, Route, Rows, Upload
from flow.flops import per_token
from flow.models import LanguageModel, Tensors
from flow.native import Native, refusal

if TYPE_CHECKING:
    from flow.data.population import Client


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


class Work(NamedTuple):
    """What a training phase did, per client."""

    nats: Tensor
    """float64 [K]: sum over the batches' valid tokens of the loss of the last update (without regulariser)."""
    tokens: Tensor
    """float64 [K]: how many tokens that sum has."""
    sequences: int
    """Sequences trained on, over all clients; one counts once per epoch."""
    flops: Tensor
    """float64 [K]: see flow/flops.py."""


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


def split(data: Data, draw: Draw, share: float = 0.5) -> tuple[Data, Data]:
    """Split every client's sequences at random into two disjoint parts, the first with this share of them, rounded down.

    From two sequences on neither part is empty.
    """
    orders = [rows[draw.stream("split", id).permutation(len(rows))] for id, rows in zip(data.ids, data.rows, strict=True)]
    sizes = [min(max(int(len(order) * share), 1), max(len(order) - 1, 0)) for order in orders]
    first = tuple(order[:size] for order, size in zip(orders, sizes, strict=True))
    second = tuple(order[size:] for order, size in zip(orders, sizes, strict=True))
    return data._replace(rows=first), data._replace(rows=second)


def groups(clients: Sequence[Client], size: int, workers: int = 1) -> list[list[Client]]:
    """Deal a cohort into groups of at most `size` clients (the option --chunk) that cost about the same, as many for every
    worker.

    The next largest client goes to the group with the least to do, so that workers end together; inside a group clients
    with much data come first, so that those still at work are a prefix. The costliest group comes first.
    """
    ordered = sorted(clients, key=lambda client: (-len(client.train), client.id))
    count = -(-len(ordered) // size)
    count = min(len(ordered), -(-count // workers) * workers)
    dealt: list[list[Client]] = [[] for _ in range(count)]
    load = [0] * count
    for client in ordered:
        group = min((n for n in range(count) if len(dealt[n]) < size), key=load.__getitem__)
        dealt[group].append(client)
        load[group] += len(client.train) + 1
    return [dealt[n] for n in sorted(range(count), key=lambda n: -load[n])]


def stack(tensors: Tensors, clients: int) -> Tensors:
    """A copy of its own for every client: [..] -> [K, ..]."""
    return {name: tensor.expand(clients, *tensor.shape).clone() for name, tensor in tensors.items()}


def copy(tensors: Tensors) -> Tensors:
    """A copy to train, of what was received or kept: [K, ..] -> [K, ..]."""
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def tagged(tag: str, tensors: Tensors) -> Tensors:
    """The same tensors under the names "tag/name"."""
    return {f"{tag}/{name}": tensor for name, tensor in tensors.items()}


def untagged(tag: str, tensors: Tensors) -> Tensors:
    """Those of the tensors that have this tag, without it."""
    return {name.removeprefix(tag + "/"): tensor for name, tensor in tensors.items() if name.startswith(tag + "/")}


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


def train(
    model: LanguageModel,
    parameters: Tensors,
    data: Data,
    updates: Sequence[Update],
    sgd: Sgd,
    draw: Draw,
    phase: str,
    after: Callable[[Tensors], None] | None = None,
) -> Work:
    """Train K clients side by side, in place.

    Args:
        model: says how to compute; its own parameters are not used.
        parameters: stacked [K, ..]; those that an update names are changed.
        data: the sequences to train on, clients with the most sequences first.
        updates: taken in this order on every batch.
        draw, phase: the batches' order of client c comes from ``draw.stream("shuffle", phase, c)``.
        after: called after every batch with the parameters of the clients that had one, to change in place.
    """
    nats = torch.zeros(len(data.ids), dtype=torch.float64, device=data.tokens.device)
    tokens = torch.zeros_like(nats)
    streams = [draw.stream("shuffle", phase, id) for id in data.ids]
    descent = Descent(model, parameters, sgd)
    for batch in batches(data, sgd.batch_size, sgd.epochs, streams):
        k = len(batch.lengths)
        for update in updates:
            loss = descent.step(batch, update)
        if after is not None:
            after({name: tensor[:k] for name, tensor in parameters.items()})
        counted = batch.valid.sum((1, 2))
        nats[:k] += loss * counted
        tokens[:k] += counted
    cost = sum(per_token(model, update.route, update.names) for update in updates)
    return Work(nats, tokens, sgd.epochs * sum(data.sizes()), tokens * cost)


def fit(model: LanguageModel, received: Tensors, data: Data, update: Update, sgd: Sgd, draw: Draw) -> Upload:
    """A round's work by one update: K clients upload what it makes of a copy of what they received, weighted by the number
    of their training sequences."""
    parameters = copy(received)
    work = train(model, parameters, data, [update], sgd, draw, "global")
    return Upload(parameters, data.sizes(), (work,))


def finetune(model: LanguageModel, start: Tensors, data: Data, update: Update, sgd: Sgd, draw: Draw) -> Personal:
    """Personalization by one update: K clients predict with what it makes of a copy of `start`."""
    parameters = copy(start)
    work = train(model, parameters, data, [update], sgd, draw, "personal")
    return Personal(parameters, update.route, phases=(work,))


@torch.no_grad()
def measure(model: LanguageModel, parameters: Tensors, data: Data, route: Route, batch_size: int) -> Work:
    """The loss of K clients' parameters on their data, without training."""
    nats = torch.zeros(len(data.ids), dtype=torch.float64, device=data.tokens.device)
    tokens = torch.zeros_like(nats)
    update = Update((), route)
    native = None if refusal(model, parameters) else Native(model, route)
    plain = {name: t if native is None else t.contiguous() for name, t in parameters.items()}
    for batch in batches(data, batch_size):
        k = len(batch.lengths)
        counted = batch.valid.sum((1, 2))
        active = {name: tensor[:k] for name, tensor in plain.items()}
        if native is not None:
            nats[:k] += native.look(active, batch)[0].nats
        else:
            _, loss = objective(model, active, batch, update)
            nats[:k] += loss.double() * counted
        tokens[:k] += counted
    return Work(nats, tokens, sum(data.sizes()), tokens * per_token(model, route))


class Guess(NamedTuple):
    """Predictions for every row of a table of N sequences."""

    tokens: npt.NDArray[np.int32]
    """[N, T]: the most likely next token; -1 where there was nothing to predict."""
    local_weight: npt.NDArray[np.float32]
    """[N, T]: weight of the GRU's local expert."""


@torch.no_grad()
def predict(model: LanguageModel, own: Personal, data: Data, routing: str | None = None, logits: int = 1 << 22) -> Guess:
    """Predict every target of K clients with their own parameters; at most `logits` scores are held at a time, or about as
    many numbers of the layers below where the kernels, which hold no scores, compute them.

    routing: in place of the clients' own.
    """
    parameters, routing = own.parameters, routing or own.routing
    count, width = len(data.lengths), data.tokens.shape[1] - 1
    tokens = torch.full((count, width), -1, dtype=torch.int32)
    local_weight = torch.zeros(count, width)
    native, size = None, 256
    if own.scores is None and not refusal(model, parameters):
        native = Native(model, own.route)  # which holds no logits, but states
        wide = model.gru.input_size + 2 * model.gru.hidden_size
        size = min(size, max(1, 2 * logits // (len(data.ids) * width * wide)))
        parameters = {name: tensor.contiguous() for name, tensor in parameters.items()}
    else:
        size = min(size, max(1, logits // (len(data.ids) * width * model.vocabulary_size)))
    for batch in batches(data, size):
        k, _, steps = batch.valid.shape
        active = {name: tensor[:k] for name, tensor in parameters.items()}
        if native is not None:
            found, q = native.look(active, batch, routing, best=True)
            assert found.best is not None
            best = found.best.view(batch.valid.shape)
        else:
            how = {"route": own.route, "routing": routing}
            out = torch.func.functional_call(model, active, (batch.inputs, batch.lengths), how)
            scores, q = out.logits if own.scores is None else own.scores(out, batch), out.gru_routing
            best = scores.argmax(-1).where(batch.valid, -1)
        rows = batch.rows.cpu()
        tokens[rows, :steps] = best.int().cpu()
        local_weight[rows, :steps] = q[..., 1].float().cpu()
    return Guess(tokens[:-1].numpy(), local_weight[:-1].numpy())


def check_sgd(sgd: Sgd) -> None:
    """Raise UserError for options of the SGD with which no training is possible."""
    for name, value in (("lr", sgd.lr), ("epochs", sgd.epochs), ("batch_size", sgd.batch_size)):
        if not (value > 0 and math.isfinite(value)):
            raise UserError(f"{name} must be a finite number above 0, got {value!r}; leave it out for the default")
    check_number("weight_decay", sgd.weight_decay, 0, remedy="0 switches it off")
    if not 0 <= sgd.momentum < 1:
        raise UserError(f"momentum must be at least 0 and below 1, got {sgd.momentum!r}; 0 switches it off")
    if not (sgd.clip >= 0 and math.isfinite(sgd.clip)):
        raise UserError(f"clip must be a finite number of at least 0, got {sgd.clip!r}; 0 switches clipping off")


def check_number(name: str, value: float, low: float, high: float = math.inf, remedy: str = "") -> None:
    """Raise UserError unless a number is finite and within these limits, both included."""
    if not (low <= value <= high and math.isfinite(value)):
        rule = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise UserError(f"{name} must be a finite number {rule}, got {value!r}; {remedy or 'leave it out for the default'}")
