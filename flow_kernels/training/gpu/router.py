"""The router of a vocabulary head on a GPU: checks and launches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flow_kernels.backends.gpu.call import on
from flow_kernels.backends.gpu.triton.tiles import power_of_two
from flow_kernels.training.gpu import router_kernels as kernels
from flow_kernels.training.gpu.arguments import fitting

ROWS, COLUMNS = 32, 64


@torch.no_grad()
def route(x: Tensor, targets: Tensor, weight: Tensor, bias: Tensor, *, temperature: float, routing: str) -> Tensor:
    """:func:`flow_kernels.training.route`."""
    k, n, h = _sizes(x, targets, weight, bias, temperature)
    q = x.new_empty(k, n, 2)
    with on(x.device):
        kernels.forward[-(-n // ROWS), k](
            x,
            targets,
            weight,
            bias,
            q,
            n,
            h,
            1 / temperature,
            HARD=routing == "hard",
            BM=ROWS,
            BK=min(COLUMNS, power_of_two(h)),
        )
    return q


@torch.no_grad()
def route_backward(
    x: Tensor,
    targets: Tensor,
    weight: Tensor,
    bias: Tensor,
    q: Tensor,
    dq: Tensor,
    *,
    temperature: float,
    dx: Tensor | None,
    dweight: Tensor | None,
    dbias: Tensor | None,
) -> None:
    """:func:`flow_kernels.training.route_backward`."""
    k, n, h = _sizes(x, targets, weight, bias, temperature)
    for name, tensor, shape in (
        ("q", q, (k, n, 2)), ("dq", dq, (k, n, 2)), ("the gradient of x", dx, (k, n, h)),
        ("the gradient of weight", dweight, (k, 2, h)), ("the gradient of bias", dbias, (k, 2)),
    ):  # fmt: skip
        fitting(name, tensor, shape, x)
    width = min(COLUMNS, power_of_two(h))
    with on(x.device):
        if dx is not None:
            kernels.backward_rows[-(-n // ROWS), k](targets, weight, q, dq, dx, n, h, 1 / temperature, BM=ROWS, BK=width)
        if dweight is not None or dbias is not None:
            blocks = -(-h // width) if dweight is not None else 1
            kernels.backward_weights[blocks, k](
                x, targets, q, dq, q if dweight is None else dweight, q if dbias is None else dbias, n, h, 1 / temperature,
                DW=dweight is not None, DB=dbias is not None, BM=ROWS, BK=width,
            )  # fmt: skip


def _sizes(x: Tensor, targets: Tensor, weight: Tensor, bias: Tensor, temperature: float) -> tuple[int, int, int]:
    if x.dim() != 3 or not x.numel():
        raise RuntimeError(f"flow_kernels.training: x is {list(x.shape)}; it must be [K, N, H], of at least one number")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise RuntimeError(f"flow_kernels.training: temperature must be a finite number > 0, got {temperature!r}; 1 is plain")
    k, n, h = x.shape
    fitting("x", x, (k, n, h), x, torch.float32)
    fitting("targets", targets, (k, n), x, torch.int64)
    fitting("weight", weight, (k, 2, h), x)
    fitting("bias", bias, (k, 2), x)
    return k, n, h
