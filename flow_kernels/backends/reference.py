"""Adapter of the reference: runs everything, differentiable twice."""

from __future__ import annotations

import torch
from torch import Tensor

from flow_kernels import reference
from flow_kernels.reference import Expert, Router


def status() -> str:
    return "available"


def refusal(dtype: torch.dtype, device: torch.device) -> str:
    return ""


def describe(k: int, t: int, b: int, i: int, h: int, dtype: torch.dtype) -> str:
    return f"a loop over {t} steps in PyTorch"


def routed_gru(
    x: Tensor,
    h0: Tensor,
    global_expert: Expert | None,
    local_expert: Expert | None,
    router: Router | None,
    lengths: Tensor | None,
    *,
    route: str,
    routing: str,
    temperature: float,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    if batch_first:
        x = x.transpose(1, 2)
    if lengths is not None and not torch.compiler.is_compiling():
        from flow_kernels.functional import check_lengths

        check_lengths(lengths, x.shape[1])
    y, h_n, q = reference.routed_gru(
        x, h0, global_expert, local_expert, router,
        lengths=lengths, route=route, routing=routing, temperature=temperature,
    )  # fmt: skip
    return (y.transpose(1, 2), h_n, q.transpose(1, 2)) if batch_first else (y, h_n, q)
