"""Adapter of the C++ kernels. They check the arguments once more, because an exported program or a direct call of the op passes
no other check."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flow_kernels.call import Inputs, OutputGradients, Outputs, Saved, Weights, contiguous
from flow_kernels.checks import check_lengths
from flow_kernels.ops import Family

_C: Any
try:
    _C = importlib.import_module("flow_kernels._C")
except ImportError as error:
    _C = None
    _missing = f"the extension flow_kernels._C is not built ({error}); run pip install . in the project's folder"

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
ISAS = ("baseline", "avx2", "avx512", "avx512bf16", "avx512amx")


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
    return _missing if _C is None else f"available ({_C.isa()}, {_C.threads()})"


def instruction_sets() -> dict[str, str]:
    """Every instruction set, the slowest first: "in use", "available" or "not here"; empty where the extension is not built."""
    if _C is None:
        return {}
    states = {name: "available" if _C.has_isa(name) else "not here" for name in ISAS}
    return {**states, str(_C.isa()): "in use"}


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


def describe(k: int, t: int, b: int, i: int, h: int, dtype: torch.dtype, device: torch.device | None = None) -> str:
    threads, tiles, workspace = _C.division(k, t, b, i, h, DTYPES.index(dtype), torch.get_num_threads(), True)
    work = f"{k} client{'s' * (k > 1)} x {tiles} batch tile{'s' * (tiles > 1)} on {threads} thread{'s' * (threads > 1)}"
    return f"{_C.isa()}, {work} ({_C.threads()}), {workspace / 2**20:.1f} MiB of workspace for the backward pass"


def routed_gru(inputs: Inputs, recompute: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    return family.run(inputs, recompute)


def gates_shape(hidden: int, route: str) -> tuple[int, ...]:
    """What is saved of one row: the layout of csrc/routed_gru.h."""
    return 8 if route == "mixture" else 4, (hidden + 15) // 16 * 16


def _contiguous(inputs: Inputs) -> Inputs:
    x, h0, *weights = map(contiguous, inputs.tensors)
    assert x is not None and h0 is not None  # for the type checker
    return Inputs(x, h0, Weights(*weights), contiguous(inputs.lengths), contiguous(inputs.offsets), inputs.options)


def _check(status: int, inputs: Inputs) -> None:
    if status and inputs.lengths is not None:
        check_lengths(inputs.lengths, inputs.steps)
    if status:
        raise RuntimeError(f"flow_kernels._C refused a problem that passed every check (status {status})")


def _forward(inputs: Inputs, save: bool) -> Outputs:
    inputs = _contiguous(inputs)
    y, h_n, q, gates = outputs = family.empty_outputs(inputs, save)
    threads = torch.get_num_threads()  # not among the arguments: torch.compile would warn of the kernel
    status = _kernels.forward(
        inputs.tensors,
        inputs.lengths,
        inputs.offsets,
        *inputs.options,
        False,
        False,
        threads,
        y,
        h_n,
        q,
        gates if save else None,
    )
    _check(status, inputs)
    return outputs


def _backward(gradients: OutputGradients, saved: Saved, inputs: Inputs, wanted: Sequence[bool]) -> list[Tensor]:
    inputs = _contiguous(inputs)
    dy, dh_n, dq, y, q, gates = map(contiguous, (*gradients, *saved))
    tensors = inputs.tensors
    grads = tuple(torch.empty_like(t) if want and t is not None else None for t, want in zip(tensors, wanted, strict=True))
    threads = torch.get_num_threads()  # not among the arguments: torch.compile would warn of the kernel
    status = _kernels.backward(
        tensors,
        inputs.lengths,
        inputs.offsets,
        *inputs.options,
        False,
        False,
        threads,
        y,
        q,
        gates if saved.gates.numel() else None,
        dy,
        dh_n,
        dq,
        grads,
    )
    _check(status, inputs)
    return [g for g in grads if g is not None]


family = Family("routed_gru", gates_shape)
if _C is not None:
    _kernels = _C.Kernels(Tensor)
    family.register("CPU", _forward, _backward)
