"""What the functions of this package take and give, by name."""

from __future__ import annotations

from typing import NamedTuple

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
    """One parameter of K clients, about to be changed by :func:`sgd_`."""

    parameter: Tensor
    """[K, ..], contiguous; changed in place."""
    gradient: Tensor
    """[K, ..]; with `rows` [K, N, width]"""
    anchor: Tensor | None = None
    """[K, ..]"""
    momentum: Tensor | None = None
    """[K, ..]; changed in place."""
    rows: Tensor | None = None
    """int64 [K, N]: which row of the parameter [K, rows, width] a row of the gradient belongs to; negative: to none. Several
    may belong to one: they are added up."""
