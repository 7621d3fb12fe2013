"""What the functions of this package take and give, by name."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Head(NamedTuple):
    """The weights of a vocabulary head of D features, each with a leading K; the same order holds for their gradients."""

    projection_weight: Tensor | None
    """[K, D, I], or None: the inputs are the features."""
    projection_bias: Tensor | None
    """[K, D]"""
    weight: Tensor
    """[K, V, D]"""
    bias: Tensor
    """[K, V]"""
    local_weight: Tensor | None = None
    """[K, V, D] of a second expert, or None."""
    local_bias: Tensor | None = None
    """[K, V]"""


class HeadLoss(NamedTuple):
    """The result of :func:`head_loss`, per client."""

    nats: Tensor
    """float64 [K]: sum of the cross-entropies of the rows that count."""
    counts: Tensor
    """int64 [K]: how many rows that sum has."""
    best: Tensor | None
    """int64 [K, N]: the most likely token, the first of equals; -1 for rows that do not count."""
    probability: Tensor | None
    """[K, N]: the probability of that token; 0 for rows that do not count."""
    row_nats: Tensor | None
    """[K, N]: a row's cross-entropy in nats; 0 for rows that do not count."""
    x: Tensor | None
    """[K, N, I]: gradient of the client's mean over its rows."""
    q: Tensor | None
    """[K, N, 2]: the same."""


class Step(NamedTuple):
    """One parameter of K clients, about to be changed by :func:`sgd_` or :func:`adam_`."""

    parameter: Tensor
    """[K, ..], contiguous; changed in place."""
    gradient: Tensor
    """[K, ..]; with `rows` [K, N, width]"""
    anchor: Tensor | None = None
    """[K, ..]"""
    momentum: Tensor | None = None
    """[K, ..]; changed in place. Of SGD alone."""
    rows: Tensor | None = None
    """int64 [K, N]: which row of the parameter [K, rows, width] a row of the gradient belongs to; negative: to none. Several
    may belong to one: they are added up."""


class Moments(NamedTuple):
    """What :func:`adam_` keeps of one parameter of K clients from step to step; changed in place."""

    first: Tensor
    """[K, ..]: the running mean of the gradient."""
    second: Tensor
    """[K, ..]: that of its square."""
    touched: Tensor | None = None
    """bool [K, rows] of a parameter [K, rows, width]: which rows ever had a gradient. It goes with gradients by rows."""

    @classmethod
    def of(cls, parameter: Tensor) -> Moments:
        """Zeros, as before the first step of a parameter [K, ..]."""
        touched = parameter.new_zeros(parameter.shape[:2], dtype=torch.bool) if parameter.dim() == 3 else None
        return cls(torch.zeros_like(parameter), torch.zeros_like(parameter), touched)

    def until(self, clients: int) -> Moments:
        """Those of the first clients, which share the memory."""
        return Moments(*(None if t is None else t[:clients] for t in self))  # type: ignore[arg-type]
