"""What a training phase did, and the sums over batches that it is counted by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flow.training.batches import Batch, Data


class Work(NamedTuple):
    """What a training phase did, per client."""

    nats: Tensor
    """float64 [K]: sum over the batches' valid tokens of the loss of the last update (without regulariser)."""
    tokens: Tensor
    """float64 [K]: how many tokens that sum has; of texts with labels, how many labels."""
    sequences: int
    """Sequences trained on, over all clients; one counts once per epoch."""
    flops: Tensor
    """float64 [K]: see flow/model/flops.py."""
    each: tuple[float, ...] | None = None
    """[K]: the sequences of every client; None: not known, where `sequences` is no sum over them."""

    def plus(self, other: Work) -> Work:
        """The two phases together."""
        return Work(
            self.nats + other.nats,
            self.tokens + other.tokens,
            self.sequences + other.sequences,
            self.flops + other.flops,
            _sums(self.sequences_of_each(), other.sequences_of_each()),
        )

    def sequences_of_each(self) -> tuple[float, ...] | None:
        """[K]: the sequences that every client trained on, each epoch counted; None: not known."""
        return (0.0,) * len(self.nats) if self.each is None and not self.sequences else self.each


def _sums(first: tuple[float, ...] | None, second: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """The sums of two numbers of every client; None where one of them is not known."""
    if first is None or second is None:
        return None
    return tuple(a + b for a, b in zip(first, second, strict=True))


def no_work(like: Tensor) -> Work:
    """The work of K clients that did nothing; `like` is a tensor [K, ..] on their device."""
    nothing = torch.zeros(len(like), dtype=torch.float64, device=like.device)
    return Work(nothing, nothing, 0, nothing)


class Tally:
    """Loss and tokens of K clients, added up over the batches of a phase."""

    def __init__(self, data: Data) -> None:
        self.nats = torch.zeros(len(data.ids), dtype=torch.float64, device=data.tokens.device)
        self.tokens = torch.zeros_like(self.nats)
        self.read = torch.zeros_like(self.nats)
        """The tokens that were read for these; as many where every token is followed by a target."""
        self._sizes = data.sizes()

    def add(self, batch: Batch, nats: Tensor) -> None:
        """Count a batch of the first k clients; nats: float64 [k], the sums over its valid tokens."""
        self._count(batch, nats, batch.valid.sum((1, 2)))

    def add_mean(self, batch: Batch, loss: Tensor) -> None:
        """Count a batch of the first k clients; loss: [k], the means over its valid tokens."""
        counted = batch.valid.sum((1, 2))
        self._count(batch, loss.double() * counted, counted)

    def work(self, sequences: int, flops_per_token: int, each: Sequence[float] | None = None) -> Work:
        """What was counted, as the record of the phase.

        Args:
            sequences: that the clients trained on, each epoch counted.
            each: [K], the sequences of every client. None: in proportion to their data, as in passes over all of it.
        """
        passes = sequences / max(sum(self._sizes), 1)
        own = tuple(passes * size for size in self._sizes) if each is None else tuple(each)
        return Work(self.nats, self.tokens, sequences, self.read * flops_per_token, own)

    def _count(self, batch: Batch, nats: Tensor, tokens: Tensor) -> None:
        k = len(batch.lengths)
        self.nats[:k] += nats
        self.tokens[:k] += tokens
        self.read[:k] += (batch.lengths * batch.rows_that_count()).sum(1)
