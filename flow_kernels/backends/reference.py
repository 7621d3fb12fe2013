"""Adapter of the reference: runs everything, differentiable twice."""

from __future__ import annotations

import torch
from torch import Tensor

from flow_kernels import op, reference
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
    offsets: Tensor | None = None,
    reverse: bool = False,
    drop: tuple[int, ...] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    if batch_first:
        x = x.transpose(1, 2)
    steps = x.shape[1] if offsets is None else len(offsets) - 1
    if lengths is not None and not torch.compiler.is_compiling():
        op.check_lengths(lengths, steps)
    time = torch.arange(steps, device=x.device).view(1, -1, 1)
    batch = torch.arange(h0.shape[1], device=x.device)
    rows = None
    if offsets is not None:
        assert lengths is not None
        valid = time[0] < lengths[0]  # [T, B]
        row = (offsets[:-1].unsqueeze(1) + batch).clamp_max(x.shape[1] - 1)
        rows = row, valid
        x = torch.where(valid.unsqueeze(-1), x[:, :, 0][:, row], 0.0)  # [K, T, B, I]
    turn = None
    if reverse:
        turn = time.expand(x.shape[0], -1, len(batch)).flip(1)
        if lengths is not None:
            turn = torch.where(time < lengths.unsqueeze(1), lengths.unsqueeze(1) - 1 - time, time)
        x = _take(x, turn)
    y, h_n, q = reference.routed_gru(
        x, h0, global_expert, local_expert, router,
        lengths=lengths, route=route, routing=routing, temperature=temperature,
    )  # fmt: skip
    if turn is not None:
        y, q = _take(y, turn), _take(q, turn)
    if rows is not None:
        y, q = (t[:, rows[1]].unsqueeze(2) for t in (y, q))
    if batch_first:
        y, q = y.transpose(1, 2), q.transpose(1, 2)
    return y.squeeze(drop), h_n.squeeze(drop[:1]), q.squeeze(drop)


def _take(x: Tensor, turn: Tensor) -> Tensor:
    """x [K, T, B, C] with its steps in the order of turn [K, T, B]"""
    return x.gather(1, turn.unsqueeze(-1).expand(x.shape))
