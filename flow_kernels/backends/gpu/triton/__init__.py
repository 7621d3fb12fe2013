"""Adapter of the Triton kernels. Importing it needs neither triton nor a GPU: the kernels are imported at the first call.

With TRITON_INTERPRET=1 in the environment they run in Triton's interpreter, slowly and on tensors of the CPU too, for tests.
None of it has run on a GPU yet.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from flow_kernels.backends.gpu import products
from flow_kernels.backends.gpu.triton import tiles
from flow_kernels.call import Inputs, OutputGradients, Outputs, Saved
from flow_kernels.ops import Family
from flow_kernels.tracing import constant_when_compiled

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
OLDEST = (8, 0)  # compute capability: the first with bfloat16 and asynchronous copies


def interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


@constant_when_compiled
def _missing() -> str:
    return _why_missing()


@functools.cache
def _why_missing() -> str:
    """Why no kernel can run on this machine."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if not interpreted() and not torch.cuda.is_available():
        return "no GPU: torch.cuda.is_available() is False"
    return ""


def status() -> str:
    return _missing() or ("available (interpreted, for tests: TRITON_INTERPRET is set)" if interpreted() else "available")


def refusal(dtype: torch.dtype, device: torch.device) -> str:
    if device.type != "cuda" and not (interpreted() and device.type == "cpu"):
        return f"it runs on a CUDA device and the input is on {device}"
    missing: str = _missing()
    if missing:
        return missing
    if dtype not in DTYPES:
        return f"it takes float32, float16 or bfloat16 and the input is {dtype}"
    if interpreted() and dtype == torch.bfloat16:
        return "Triton's interpreter computes wrong numbers in bfloat16; unset TRITON_INTERPRET"
    return ""


def limit(hidden: int, capability: tuple[int, int] | None) -> str:
    if capability is not None and capability < OLDEST:
        return f"it needs compute capability {OLDEST[0]}.{OLDEST[1]} or later and the GPU has {capability[0]}.{capability[1]}"
    return ""


def describe(k: int, t: int, b: int, i: int, h: int, dtype: torch.dtype, device: torch.device | None = None) -> str:
    return tiles.describe(k, b, h, tiles.kind_of(dtype, products.tf32()))


def routed_gru(inputs: Inputs, recompute: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    return family.run(inputs, recompute)


def _gates_shape(hidden: int, route: str) -> tuple[int, ...]:
    """n, r, z and u = W_hn h + b_hn of a row, expert after expert."""
    return 8 if route == "mixture" else 4, hidden


def _forward(inputs: Inputs, save: bool) -> Outputs:
    from flow_kernels.backends.gpu.triton import launch

    return launch.forward(family, inputs, save)


def _backward(gradients: OutputGradients, saved: Saved, inputs: Inputs, wanted: Sequence[bool]) -> list[Tensor]:
    from flow_kernels.backends.gpu.triton import launch

    return launch.backward(family, gradients, saved, inputs, wanted)


family = Family("routed_gru_triton", _gates_shape)
for _device in ("CUDA", "CPU") if interpreted() else ("CUDA",):
    family.register(_device, _forward, _backward)
