"""Steps of SGD over the parameters of K clients, in place, and weighted sums of uploads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flow_kernels.backends import cpu
from flow_kernels.training.checks import BAD_OPTION, BAD_SIZE, BAD_TARGET, MISSING, changed, check, on_gpu
from flow_kernels.training.records import Step

RULES = {
    BAD_SIZE: "every size must be at least 1, and rows must divide their parameter",
    BAD_OPTION: "rows go with mu, weight_decay and momentum 0, momentum with a tensor",
    MISSING: "a tensor is missing: rows go with their gradient",
    BAD_TARGET: "rows must be below the number of rows of their parameter",
}


def sgd_(
    steps: Sequence[Step],
    *,
    lr: float,
    clip: float = 0.0,
    mu: float = 0.0,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    present: Tensor | None = None,
    backend: str = "auto",
    kept: dict[Any, Any] | None = None,
) -> None:
    """One step of SGD for K clients, in place.

    A client's gradients are scaled down to the norm `clip` over all its tensors (0: not); then

        g += weight_decay * parameter + mu * (parameter - anchor);  v = momentum * v + g;  parameter -= lr * v

    Clients that are not `present` (bool [K]) stay as they are. Gradients by rows go with mu, weight_decay and momentum 0.

    As a step of :mod:`torch.optim`, this changes leaves that require a gradient and records nothing. The version of every
    tensor that it changes counts up: a backward pass through a graph that had saved one of them before is refused.
    backend: see :func:`flow_kernels.training.on_gpu`. kept: what lasts from step to step on a GPU, {} before the first one, and
    as long as the tensors of the steps do; None: nothing lasts.

    Raises:
        ValueError: an option is negative or not finite.
        RuntimeError: tensors that do not fit, or one that is changed and shares memory with another.
    """
    for name, value in (("lr", lr), ("clip", clip), ("mu", mu), ("weight_decay", weight_decay), ("momentum", momentum)):
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"sgd_: {name} must be a finite number of at least 0, got {value!r}; 0 leaves it out")
    steps = tuple(steps)
    if steps and on_gpu(steps[0].parameter, backend):
        from flow_kernels.training.gpu import sgd as of_gpu

        of_gpu.sgd_(
            steps,
            lr=lr,
            clip=clip,
            mu=mu,
            weight_decay=weight_decay,
            momentum=momentum,
            present=present,
            kept={} if kept is None else kept,
        )
    else:
        check(cpu._kernels.sgd(steps, present, lr, clip, mu, weight_decay, momentum, torch.get_num_threads()), RULES)
    for parameter, _, _, velocity, _ in steps:
        changed((parameter, velocity if momentum else None))


def add_rows_(out: Tensor, rows: Tensor, gradient: Tensor, *, backend: str = "auto") -> None:
    """Set out [K, V, width] to the sums of the rows of gradient [K, N, width] by their numbers, rows int64 [K, N]; negative: to
    none. backend: see :func:`flow_kernels.training.on_gpu`.

    Raises:
        RuntimeError: tensors that do not fit. IndexError: a number of V or more; on a GPU :func:`flow_kernels.training.finish`
        raises for it.
    """
    if on_gpu(out, backend):
        from flow_kernels.training.gpu import sgd as of_gpu

        of_gpu.add_rows_(out, rows, gradient)
        return
    k, size, width = out.shape
    every = rows + torch.arange(k).unsqueeze(1) * size
    valid = rows >= 0
    out.zero_().view(-1, width).index_add_(0, every[valid], gradient[valid])
