"""SGD over all parameters of K clients on a GPU: the table of their addresses, and two launches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flow_kernels.backends.gpu.call import on
from flow_kernels.backends.gpu.triton.tiles import power_of_two
from flow_kernels.training.gpu import sgd_kernels as kernels
from flow_kernels.training.gpu.arguments import fitting, worst
from flow_kernels.training.records import Step

SIZE = 2048
"""Numbers of a program."""
ROWS = 32


@torch.no_grad()
def sgd_(
    steps: Sequence[Step],
    *,
    lr: float,
    clip: float,
    mu: float,
    weight_decay: float,
    momentum: float,
    present: Tensor | None,
    kept: dict[Any, Any],
) -> None:
    """:func:`flow_kernels.training.sgd_`."""
    if not steps:
        return
    clients, device = len(steps[0].parameter), steps[0].parameter.device
    pulled = bool(mu or weight_decay or momentum)
    for step in steps:
        _check(step, clients, pulled, bool(momentum))
    fitting("present", present, (clients,), steps[0].parameter, torch.bool)
    with on(device):
        lines, blocks = [], 0
        for parameter, gradient, anchor, velocity, rows in steps:
            n, named, width = gradient.numel() // clients, None, 1
            if rows is not None:
                gradient, named = _summed_rows(rows, gradient, parameter.shape[1], kept)
                width = gradient.shape[2]
            used = (parameter, gradient, anchor if mu else None, velocity if momentum else None, named)
            addresses = (0 if t is None else t.data_ptr() for t in used)
            lines.append((*addresses, n, parameter.numel() // clients, width, blocks))
            blocks += -(-n // SIZE)
        table = on_device(tuple(lines), device, kept)
        shared = dict(PAD=power_of_two(len(lines)), SIZE=SIZE, num_warps=8)
        squares = steps[0].parameter.new_empty((clients, blocks) if clip else 1)
        if clip:
            kernels.norms[blocks, clients](table, squares, len(lines), blocks, **shared)
        kernels.update[blocks, clients](
            table, squares, squares if present is None else present.view(torch.uint8), len(lines), blocks, clip, lr, mu,
            weight_decay, momentum, CLIP=clip > 0, PRESENT=present is not None, PULLED=pulled, MOMENTUM=momentum > 0, **shared,
        )  # fmt: skip


def _check(step: Step, clients: int, pulled: bool, with_momentum: bool) -> None:
    parameter, gradient, anchor, velocity, rows = step
    if not parameter.numel():
        raise RuntimeError(f"flow_kernels.training: a parameter is {list(parameter.shape)}; it must have at least one number")
    shape = (clients, *parameter.shape[1:])
    fitting("parameter", parameter, shape, parameter, torch.float32)
    fitting("anchor", anchor, shape, parameter)
    fitting("momentum", velocity, shape, parameter)
    if with_momentum and velocity is None:
        raise RuntimeError("flow_kernels.training: momentum needs a tensor beside every parameter; pass one, or momentum=0")
    if rows is None:
        fitting("gradient", gradient, shape, parameter)
        return
    if pulled:
        raise RuntimeError("flow_kernels.training: gradients by rows go with mu, weight_decay and momentum 0; pass dense ones")
    fitting("gradient", gradient, (*rows.shape, parameter.shape[-1]), parameter)
    fitting("rows", rows, (clients, rows.shape[-1]), parameter, torch.int64)


def on_device(lines: tuple[tuple[int, ...], ...], device: torch.device, kept: dict[Any, Any]) -> Tensor:
    """The table on the device. The same addresses come again and again, so it is sent once for many updates."""
    if lines not in kept:
        table = torch.tensor(lines, dtype=torch.int64)
        kept[lines] = table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table
    sent: Tensor = kept[lines]
    return sent


def _summed_rows(rows: Tensor, gradient: Tensor, size: int, kept: dict[Any, Any]) -> tuple[Tensor, Tensor]:
    """Rows of one number added up, in the first of them: [K, N, width], and int32 [K, N] its number, -1 for the others.

    They lie where those of the last gradient at this address did, so that the table of addresses stays the same.
    """
    key = (gradient.data_ptr(), tuple(gradient.shape))
    if key not in kept:
        kept[key] = torch.empty_like(gradient), rows.new_empty(rows.shape, dtype=torch.int32)
    summed, named = kept[key]
    _add(rows, gradient, size, summed, named)
    return summed, named


@torch.no_grad()
def add_rows_(out: Tensor, rows: Tensor, gradient: Tensor) -> None:
    """:func:`flow_kernels.training.add_rows_`."""
    k, v, width = out.shape
    n = rows.shape[1]
    fitting("out", out, (k, v, width), out, torch.float32)
    fitting("rows", rows, (k, n), out, torch.int64)
    fitting("gradient", gradient, (k, n, width), out)
    with on(out.device):
        _add(rows, gradient, v, out.zero_(), None)


def _add(rows: Tensor, gradient: Tensor, size: int, summed: Tensor, named: Tensor | None) -> None:
    k, n, width = gradient.shape
    following, lead = rows.new_empty((k, n), dtype=torch.int32), rows.new_empty((k, n), dtype=torch.int8)
    kernels.links[-(-n // ROWS), k](rows, following, lead, worst(rows.device), n, size, BN=ROWS)
    kernels.add_rows[n, k](
        rows, following, lead, gradient, summed, following if named is None else named, n, size, width, DENSE=named is None,
        BW=min(128, power_of_two(width)), num_warps=1,
    )  # fmt: skip
