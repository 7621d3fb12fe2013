"""Adapter of the reference: runs everything, differentiable twice."""

from __future__ import annotations

import torch
from torch import Tensor

from flow_kernels import reference
from flow_kernels.call import Inputs
from flow_kernels.checks import check_lengths


def status() -> str:
    return "available"


def refusal(dtype: torch.dtype, device: torch.device) -> str:
    return ""


def limit(hidden: int, capability: tuple[int, int] | None) -> str:
    return ""


def describe(k: int, t: int, b: int, i: int, h: int, dtype: torch.dtype, device: torch.device | None = None) -> str:
    return f"a loop over {t} steps in PyTorch"


def routed_gru(inputs: Inputs, recompute: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """y, h_n, q; the reference takes no notice of recompute."""
    x, h0, weights, lengths, offsets, (route, routing, temperature, batch_first, reverse) = inputs.with_clients()
    if batch_first and offsets is None:
        x = x.transpose(1, 2)
    steps = x.shape[1] if offsets is None else len(offsets) - 1
    if lengths is not None and not torch.compiler.is_compiling():
        check_lengths(lengths, steps)
    time = torch.arange(steps, device=x.device).view(1, -1, 1)
    batch = torch.arange(h0.shape[1], device=x.device)
    rows = None
    if offsets is not None:
        assert lengths is not None
        valid = time[0] < lengths[0]  # [T, B]
        row = (offsets[:-1].unsqueeze(1) + batch).clamp_max(x.shape[1] - 1)
        rows = row, valid
        x = torch.where(valid.unsqueeze(-1), x[:, row], 0.0)  # [K, T, B, I]
    turn = None
    if reverse:
        turn = time.expand(x.shape[0], -1, len(batch)).flip(1)
        if lengths is not None:
            turn = torch.where(time < lengths.unsqueeze(1), lengths.unsqueeze(1) - 1 - time, time)
        x = _take(x, turn)
    y, h_n, q = reference.routed_gru(
        x,
        h0,
        weights.expert("global"),
        weights.expert("local"),
        weights.router,
        lengths=lengths,
        route=route,
        routing=routing,
        temperature=temperature,
    )
    if turn is not None:
        y, q = _take(y, turn), _take(q, turn)
    if rows is not None:
        y, q = (t[:, rows[1]] for t in (y, q))
    elif batch_first:
        y, q = y.transpose(1, 2), q.transpose(1, 2)
    return (y, h_n, q) if inputs.stacked else (y.squeeze(0), h_n.squeeze(0), q.squeeze(0))


def _take(x: Tensor, turn: Tensor) -> Tensor:
    """x [K, T, B, C] with its steps in the order of turn [K, T, B]"""
    return x.gather(1, turn.unsqueeze(-1).expand(x.shape))
