"""Adapter of the C++ kernels, which check once more what raw addresses rely on: an exported program or a direct call of the
op has nobody else to do it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flow_kernels import op

_C: Any
try:
    _C = importlib.import_module("flow_kernels._C")
except ImportError as error:
    _C = None
    _missing = f"the extension flow_kernels._C is not built ({error}); run pip install . in the project's folder"

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
ISAS = ("baseline", "avx2", "avx512", "avx512bf16")


def _select_isa() -> None:
    name = os.environ.get("FLOW_CPU_ISA", "")
    if _C is None or not name:
        return
    usable = [isa for isa in ISAS if _C.has_isa(isa)]
    if name not in usable:
        raise RuntimeError(
            f"FLOW_CPU_ISA={name!r}: this processor and build have {', '.join(usable)}; set it to one of these or unset it"
        )
    _C.select_isa(name)


_select_isa()


def status() -> str:
    return _missing if _C is None else f"available ({_C.isa()})"


def refusal(dtype: torch.dtype, device: torch.device) -> str:
    if _C is None:
        return _missing
    if device.type != "cpu":
        return f"it runs on the CPU and the input is on {device}"
    if dtype not in DTYPES:
        return f"it takes float32, float64 or bfloat16 and the input is {dtype}"
    return ""


def limit(hidden: int, capability: tuple[int, int] | None) -> str:
    return ""


def describe(k: int, t: int, b: int, i: int, h: int, dtype: torch.dtype) -> str:
    threads, tiles, workspace = _C.division(k, t, b, i, h, DTYPES.index(dtype), torch.get_num_threads(), True)
    work = f"{k} client{'s' * (k > 1)} x {tiles} batch tile{'s' * (tiles > 1)} on {threads} thread{'s' * (threads > 1)}"
    return f"{_C.isa()}, {work}, {workspace / 2**20:.1f} MiB of workspace for the backward pass"


def routed_gru(
    tensors: Sequence[Tensor | None], lengths: Tensor | None, offsets: Tensor | None, *options: Any, recompute: bool = False
) -> tuple[Tensor, ...]:
    return family.run(tensors, lengths, offsets, *options, recompute=recompute)


def _gates(x: Tensor, h0: Tensor, route: str) -> Tensor:
    """The layout of csrc/routed_gru.h."""
    return x.new_empty((*x.shape[:-1], 8 if route == "mixture" else 4, (h0.shape[-1] + 15) // 16 * 16))


def _contiguous(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [t if t is None or t.is_contiguous() else t.contiguous() for t in tensors]


def _done(status: int, lengths: Tensor | None, steps: int) -> None:
    if status and lengths is not None:
        op.check_lengths(lengths, steps)
    if status:
        raise RuntimeError(f"flow_kernels._C refused a problem that passed every check (status {status})")


def _steps(x: Tensor, offsets: Tensor | None, batch_first: bool) -> int:
    if offsets is not None:
        return len(offsets) - 1
    return x.shape[-2 if batch_first else -3]


def _forward(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *tensors, lengths, offsets = _contiguous(args[: op.COUNT + 2])
    options, save = args[op.COUNT + 2 : -1], args[-1]
    x, h0 = tensors[:2]
    assert x is not None and h0 is not None
    y, h_n, q, gates = outputs = family.empty_outputs(x, h0, options[0], save)
    threads = torch.get_num_threads()
    status = _kernels.forward(tuple(tensors), lengths, offsets, *options, threads, y, h_n, q, gates if save else None)
    if status:
        _done(status, lengths, _steps(x, offsets, options[3]))
    return outputs


def _backward(*args: Any) -> list[Tensor]:
    dy, dh_n, dq, y, q, gates, *tensors, lengths, offsets = _contiguous(args[: 6 + op.COUNT + 2])
    options, wanted = args[6 + op.COUNT + 2 : -1], args[-1]
    grads = tuple(torch.empty_like(t) if want and t is not None else None for t, want in zip(tensors, wanted, strict=True))
    threads = torch.get_num_threads()
    saved = None if gates is None or not gates.numel() else gates
    status = _kernels.backward(tuple(tensors), lengths, offsets, *options, threads, y, q, saved, dy, dh_n, dq, grads)
    if status:
        assert tensors[0] is not None
        _done(status, lengths, _steps(tensors[0], offsets, options[3]))
    return [g for g in grads if g is not None]


family = op.Family("routed_gru", _gates)
if _C is not None:
    _kernels = _C.Kernels(Tensor)
    family.register("CPU", _forward, _backward)
