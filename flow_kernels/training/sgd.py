"""Steps of SGD over the parameters of K clients, in place, and weighted sums of uploads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flow_kernels.backends import cpu
from flow_kernels.training.checks import BAD_OPTION, BAD_SIZE, BAD_TARGET, MISSING, changed, check

RULES = {
    BAD_SIZE: "every size must be at least 1, and rows must divide their parameter",
    BAD_OPTION: "rows go with mu, weight_decay and momentum 0, momentum with a tensor",
    MISSING: "a tensor is missing: rows go with their gradient",
    BAD_TARGET: "rows must be below the number of rows of their parameter",
}


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


def sgd_(
    steps: Sequence[Step],
    *,
    lr: float,
    clip: float = 0.0,
    mu: float = 0.0,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    present: Tensor | None = None,
) -> None:
    """One step of SGD for K clients, in place.

    A client's gradients are scaled down to the norm `clip` over all its tensors (0: not); then

        g += weight_decay * parameter + mu * (parameter - anchor);  v = momentum * v + g;  parameter -= lr * v

    Clients that are not `present` (bool [K]) stay as they are. Gradients by rows go with mu, weight_decay and momentum 0.

    As a step of :mod:`torch.optim`, this changes leaves that require a gradient and records nothing. The version of every
    tensor that it changes counts up: a backward pass through a graph that had saved one of them before is refused.

    Raises:
        ValueError: an option is negative or not finite.
        RuntimeError: tensors that do not fit, or one that is changed and shares memory with another.
    """
    for name, value in (("lr", lr), ("clip", clip), ("mu", mu), ("weight_decay", weight_decay), ("momentum", momentum)):
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"sgd_: {name} must be a finite number of at least 0, got {value!r}; 0 leaves it out")
    steps = tuple(steps)
    check(cpu._kernels.sgd(steps, present, lr, clip, mu, weight_decay, momentum, torch.get_num_threads()), RULES)
    for parameter, _, _, velocity, _ in steps:
        changed((parameter, velocity if momentum else None))
