"""Adapter of the reference: runs everything, differentiable twice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flow_kernels import op, reference
from flow_kernels.reference import Expert, Router


def status() -> str:
    return "available"


def refusal(dtype: torch.dtype, device: torch.device) -> str:
    return ""


def limit(hidden: int, capability: tuple[int, int] | None) -> str:
    return ""


def describe(k: int, t: int, b: int, i: int, h: int, dtype: torch.dtype) -> str:
    return f"a loop over {t} steps in PyTorch"


def routed_gru(
    tensors: Sequence[Tensor | None],
    lengths: Tensor | None,
    offsets: Tensor | None,
    route: str,
    routing: str,
    temperature: float,
    batch_first: bool,
    reverse: bool,
    recompute: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    assert tensors[1] is not None
    stacked = tensors[1].dim() == 3
    if not stacked:
        tensors = [None if t is None else t.unsqueeze(0) for t in tensors]
        lengths = None if lengths is None else lengths.unsqueeze(0)
    x, h0, *weights, router_weight, router_bias = tensors
    assert x is not None and h0 is not None
    global_expert, local_expert = (
        None if w_ih is None or w_hh is None else Expert(w_ih, w_hh, b_ih, b_hh)
        for w_ih, w_hh, b_ih, b_hh in (weights[:4], weights[4:])
    )
    router = None if router_weight is None else Router(router_weight, router_bias)
    if batch_first and offsets is None:
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
        x = torch.where(valid.unsqueeze(-1), x[:, row], 0.0)  # [K, T, B, I]
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
        y, q = (t[:, rows[1]] for t in (y, q))
    elif batch_first:
        y, q = y.transpose(1, 2), q.transpose(1, 2)
    return (y, h_n, q) if stacked else (y.squeeze(0), h_n.squeeze(0), q.squeeze(0))


def _take(x: Tensor, turn: Tensor) -> Tensor:
    """x [K, T, B, C] with its steps in the order of turn [K, T, B]"""
    return x.gather(1, turn.unsqueeze(-1).expand(x.shape))
