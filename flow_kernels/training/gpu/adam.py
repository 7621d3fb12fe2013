"""Adam over all parameters of K clients on a GPU: the table of their addresses, and two launches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flow_kernels.backends.gpu.call import on
from flow_kernels.backends.gpu.triton.tiles import power_of_two
from flow_kernels.training.gpu import adam_kernels, sgd_kernels
from flow_kernels.training.gpu.arguments import fitting
from flow_kernels.training.gpu.sgd import on_device
from flow_kernels.training.records import Moments, Step

SIZE = 2048
"""Numbers of a program."""


@torch.no_grad()
def adam_(
    steps: Sequence[Step],
    moments: Sequence[Moments],
    taken: Tensor,
    *,
    lr: float,
    clip: float,
    mu: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    decoupled: bool,
    present: Tensor | None,
    kept: dict[Any, Any],
) -> None:
    """:func:`flow_kernels.training.adam_`."""
    clients, some = len(steps[0].parameter), steps[0].parameter
    for step, own in zip(steps, moments, strict=True):
        _check(step, own, clients)
    fitting("present", present, (clients,), some, torch.bool)
    fitting("taken", taken, (clients,), some, torch.int64)
    with on(some.device):
        lines, blocks = [], 0
        for step, own in zip(steps, moments, strict=True):
            n = step.parameter.numel() // clients
            used = (step.parameter, step.gradient, step.anchor if mu else None, own.first, None)
            lines.append((*(0 if t is None else t.data_ptr() for t in used), n, n, 1, blocks))
            blocks += -(-n // SIZE)
        table = on_device(tuple(lines), some.device, kept)
        seconds = on_device((tuple(own.second.data_ptr() for own in moments),), some.device, kept)
        shared = dict(PAD=power_of_two(len(lines)), SIZE=SIZE, num_warps=8)
        squares = some.new_empty((clients, blocks) if clip else 1)
        if clip:
            sgd_kernels.norms[blocks, clients](table, squares, len(lines), blocks, **shared)
        taken.add_(1 if present is None else present)
        logs = (math.log(beta) if beta else -1e4 for beta in (beta1, beta2))  # whose exponential is 0
        decay, stay = (0.0, 1 - lr * weight_decay) if decoupled else (weight_decay, 1.0)
        adam_kernels.adam[blocks, clients](
            table, seconds, squares, squares if present is None else present.view(torch.uint8), taken, len(lines), blocks, clip,
            lr, mu, decay, stay, 1 - beta1, beta2, 1 - beta2, *logs, epsilon, CLIP=clip > 0, PRESENT=present is not None,
            **shared,
        )  # fmt: skip


def _check(step: Step, own: Moments, clients: int) -> None:
    parameter = step.parameter
    if not parameter.numel():
        raise RuntimeError(f"flow_kernels.training: a parameter is {list(parameter.shape)}; it must have at least one number")
    if step.rows is not None:
        raise RuntimeError("flow_kernels.training: Adam on a GPU takes dense gradients; add rows up with add_rows_ first")
    shape = (clients, *parameter.shape[1:])
    fitting("parameter", parameter, shape, parameter, torch.float32)
    fitting("gradient", step.gradient, shape, parameter)
    fitting("anchor", step.anchor, shape, parameter)
    fitting("first moment", own.first, shape, parameter)
    fitting("second moment", own.second, shape, parameter)
