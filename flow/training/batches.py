"""Clients' sequences as tables and batches, K clients side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flow.data import Client
from flow.data.population import Split, boundary
from flow.draws import Draw
from flow.model.parameters import Rows

MANY = 8  # groups for every worker, from which on the last one at work costs little against all


class Data(NamedTuple):
    """The sequences of K clients in one table."""

    ids: tuple[str, ...]
    rows: tuple[Rows, ...]
    """Which rows of the table are whose."""
    tokens: Tensor
    """int32 [N + 1, T + 1]; the last row is padding."""
    lengths: Tensor
    """int64 [N + 1]; valid targets of every row; 1 for the padding row, which no loss counts."""
    texts: Rows
    """int64 [N]; the text of its client that a row comes from, see :attr:`flow.data.population.Sequences.texts`."""
    steps: Rows
    """int64 [N + 1]: the same as lengths, on the host, which plans with it."""
    labelled: bool = False
    """Whether the last column is the label of the row's text, see :class:`flow.data.population.Sequences`."""
    most: tuple[int, ...] | None = None
    """[K]: the batches after which every client stops, though its epochs have more; None: nobody stops early."""

    def of(self, chosen: Sequence[bool]) -> Data:
        """The same, without the sequences of clients that are not chosen."""
        return self._replace(
            rows=tuple(rows if is_chosen else rows[:0] for rows, is_chosen in zip(self.rows, chosen, strict=True))
        )

    def sizes(self) -> list[int]:
        """Number of sequences of every client."""
        return [len(rows) for rows in self.rows]

    def trained(self, batch_size: int, epochs: int) -> list[int]:
        """Sequences that every client trains on in these epochs, by :func:`batches`, each epoch counted."""
        if self.most is None:
            return [epochs * len(rows) for rows in self.rows]
        ends = [trained_after(len(rows), batch_size, epochs) for rows in self.rows]
        return [int(own[min(most, len(own) - 1)]) for own, most in zip(ends, self.most, strict=True)]


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
    """bool [k, B, T]: the targets that count; False past a sequence's length and in rows that only fill up. Of a text with a
    label the last position alone."""

    def rows_that_count(self) -> Tensor:
        """bool [k, B]: False for rows that only fill up."""
        return self.valid.any(-1)

    def read(self) -> Tensor:
        """bool [k, B, T]: the positions that are read to predict a target that counts."""
        position = torch.arange(self.valid.shape[-1], device=self.valid.device)
        return (position < self.lengths.unsqueeze(-1)) & self.rows_that_count().unsqueeze(-1)


def trained_after(sequences: int, batch_size: int, epochs: int) -> npt.NDArray[np.int64]:
    """How many sequences a client with so many has trained on before its first batch and after each, int64 [batches + 1]."""
    ends = np.minimum(np.arange(0, sequences + batch_size, batch_size), sequences) if sequences else np.zeros(1, np.int64)
    later = [epoch * sequences + ends[1:] for epoch in range(epochs)]
    return np.concatenate([ends[:1], *later]).astype(np.int64)


def gather(clients: Sequence[Client], part: Literal["train", "test"], device: torch.device | str) -> Data:
    """Put one part of the clients' sequences into one table on the device, in the order of the clients."""
    parts = [client.train if part == "train" else client.test for client in clients]
    ends = np.cumsum([0, *(len(p.lengths) for p in parts)])
    rows = tuple(np.arange(a, b) for a, b in pairwise(ends))
    width = parts[0].tokens.shape[1]
    tokens = np.concatenate([*(p.tokens for p in parts), np.zeros((1, width), np.int32)])
    lengths = np.concatenate([*(p.lengths for p in parts), np.ones(1, np.int32)]).astype(np.int64)
    ids = tuple(client.id for client in clients)
    texts = np.concatenate([p.texts for p in parts])
    table, sizes = sent(torch.from_numpy(tokens), device), sent(torch.from_numpy(lengths), device)
    return Data(ids, rows, table, sizes, texts, lengths, parts[0].labelled)


def sent(t: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the host on the device; a GPU is not waited for."""
    if torch.device(device).type != "cuda":
        return t.to(device)
    return t.pin_memory().to(device, non_blocking=True)


def split(data: Data, draw: Draw, share: float = 0.5, rule: Split = "time") -> tuple[Data, Data]:
    """Split every client's sequences into two disjoint parts. From two sequences on neither part is empty.

    Args:
        share: how much of the sequences the first part has.
        rule: "time": the older texts and the newer ones, cut between the two texts where the share is nearest. Sequences of
            a single text are cut at the nearest place between two of them. "random": sequences are drawn without regard to
            their texts; the first part gets the share rounded down.
    """
    if rule == "time":
        orders, sizes = list(data.rows), [boundary(data.texts[rows], share) for rows in data.rows]
    else:
        orders = [rows[draw.stream("split", id).permutation(len(rows))] for id, rows in zip(data.ids, data.rows, strict=True)]
        sizes = [min(max(int(len(order) * share), 1), max(len(order) - 1, 0)) for order in orders]
    first = tuple(order[:size] for order, size in zip(orders, sizes, strict=True))
    second = tuple(order[size:] for order, size in zip(orders, sizes, strict=True))
    return data._replace(rows=first), data._replace(rows=second)


def groups(clients: Sequence[Client], size: int, workers: int = 1) -> list[list[Client]]:
    """Deal a cohort into groups of at most `size` clients (the option --chunk), as many for every worker.

    Few groups cost about the same: the next largest client goes to the group with the least to do, so that workers end
    together. Where every worker gets many, the next worker takes the next group and they end together anyway. Then a group
    has clients of about one size, which work side by side to the end. Inside a group clients with much data come first, so
    that those still at work are a prefix. The costliest group comes first.
    """
    ordered = sorted(clients, key=lambda client: (-len(client.train), client.id))
    count = -(-len(ordered) // size)
    count = min(len(ordered), -(-count // workers) * workers)
    if count >= MANY * workers:
        ends = [len(ordered) * n // count for n in range(count + 1)]
        return [ordered[a:b] for a, b in pairwise(ends)]
    dealt: list[list[Client]] = [[] for _ in range(count)]
    load = [0] * count
    for client in ordered:
        group = min((n for n in range(count) if len(dealt[n]) < size), key=load.__getitem__)
        dealt[group].append(client)
        load[group] += len(client.train) + 1
    return [dealt[n] for n in sorted(range(count), key=lambda n: -load[n])]


def batches(
    data: Data, batch_size: int, epochs: int = 1, streams: Sequence[np.random.Generator] | None = None
) -> Iterator[Batch]:
    """The clients' batches, step by step: the first k of K clients, tensors [k, B, T] with B at most batch_size.

    Every epoch of a client is one permutation drawn from its stream (in the order of its rows without streams), cut
    into batches; the last one may be short. A step holds the shortest prefix of the clients that covers all that still
    have a batch, so clients should come with the most sequences first. A client that stops early has its first batches alone.

    Which rows make a batch is planned on the host for all epochs, and sent to the device at once. So a GPU is never waited for.

    Args:
        streams: K generators, one for every client, from ``visit.draw.stream(..)``.
    """
    cut: list[list[Rows]] = []
    for client, rows in enumerate(data.rows):
        order = [rows if streams is None else rows[streams[client].permutation(len(rows))] for _ in range(epochs)]
        whole = [epoch[i : i + batch_size] for epoch in order for i in range(0, len(epoch), batch_size)]
        cut.append(whole if data.most is None else whole[: data.most[client]])
    filler, tables = len(data.lengths) - 1, []
    for step in range(max(map(len, cut), default=0)):
        active = [client for client, own in enumerate(cut) if step < len(own)]
        now = [cut[client][step] for client in active]
        table = np.full((active[-1] + 1, max(map(len, now))), filler)
        for client, own in zip(active, now, strict=True):
            table[client, : len(own)] = own
        tables.append(table)
    if not tables:
        return
    everything, begin = sent(torch.from_numpy(np.concatenate([table.ravel() for table in tables])), data.tokens.device), 0
    position = torch.arange(data.tokens.shape[1] - 1, device=data.tokens.device)
    for table in tables:
        index, begin = everything[begin : begin + table.size].view(table.shape), begin + table.size
        lengths, steps = data.lengths[index], int(data.steps[table].max())
        tokens = data.tokens[index, : steps + 1].long()
        if data.labelled:
            last = position[:steps] == lengths.unsqueeze(-1) - 1
            labels = torch.where(last, data.tokens[index, -1:].long(), 0)
            yield Batch(index, tokens[..., :steps], labels, lengths, last & (index != filler).unsqueeze(-1))
            continue
        valid = (position[:steps] < lengths.unsqueeze(-1)) & (index != filler).unsqueeze(-1)
        yield Batch(index, tokens[..., :-1], tokens[..., 1:], lengths, valid)


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """The first half of every client's sequences in a batch, rounded up, and the others; a single one is in both.

    Returns:
        Two batches of the same k clients and the same shapes [k, B, T], see :func:`only`.
    """
    valid = batch.rows_that_count()
    count = valid.sum(1, keepdim=True)
    place = torch.arange(valid.shape[1], device=valid.device)
    first = place < (count + 1) // 2
    return only(batch, first), only(batch, torch.where(count > 1, ~first, first))


def only(batch: Batch, part: Tensor) -> Batch:
    """The sequences of a batch that a mask says, bool [k, B]; the others are masked like padding and moved last."""
    order = (~(part & batch.rows_that_count())).to(torch.uint8).argsort(dim=1, stable=True)
    masked = batch._replace(valid=batch.valid & part.unsqueeze(-1))
    return Batch(*(torch.take_along_dim(t, order.view(*order.shape, *(1,) * (t.dim() - 2)), dim=1) for t in masked))
