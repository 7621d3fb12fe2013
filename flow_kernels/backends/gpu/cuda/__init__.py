"""Adapter of the CUDA C++ kernels: the whole recurrence in one launch each way, a thread-block cluster per client and tile of
sequences. For compute capability 9.0 (Hopper), bfloat16 and float16, H up to 512.

The kernels' arithmetic, layouts and exchange are tested on the CPU by a model that runs their source text; none of it has run
on a GPU yet.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from flow_kernels.backends.gpu.cuda.launch import DTYPES, Kernels, Problem, family
from flow_kernels.backends.gpu.cuda.shape import MAX_HIDDEN, SMS, Division, batch_tile, cluster_size, divide
from flow_kernels.call import Inputs

__all__ = [
    "DTYPES", "MAX_HIDDEN", "Division", "Kernels", "Problem", "batch_tile", "cluster_size", "describe", "division", "family",
    "kernels", "limit", "refusal", "routed_gru", "status",
]  # fmt: skip

_C: Any
try:
    _C = importlib.import_module("flow_kernels._cuda")
except ImportError as error:
    _C = None
    _missing = (
        f"the extension flow_kernels._cuda is not built ({error}); install nvcc 13 and run FLOW_CUDA=1 pip install . in the "
        "project's folder"
    )

CAPABILITY = (9, 0)


def status() -> str:
    if _C is None:
        return _missing
    if not torch.cuda.is_available():
        return "no GPU: torch.cuda.is_available() is False"
    capability = torch.cuda.get_device_capability()
    return "available" if capability == CAPABILITY else limit(1, capability)


def refusal(dtype: torch.dtype, device: torch.device) -> str:
    if device.type != "cuda":
        return f"it runs on a GPU and the input is on {device}"
    if _C is None:
        return _missing
    if not torch.cuda.is_available():
        return "no GPU: torch.cuda.is_available() is False"
    if dtype not in DTYPES:
        return f"it takes bfloat16 or float16 and the input is {dtype}"
    return ""


def limit(hidden: int, capability: tuple[int, int] | None) -> str:
    if capability != CAPABILITY:
        state = "is not known" if capability is None else f"is {capability[0]}.{capability[1]}"
        return f"it is built for compute capability 9.0 (H100, H200) and that of the device {state}"
    if hidden > MAX_HIDDEN:
        return f"it keeps the recurrent weights in a cluster's shared memory: H at most {MAX_HIDDEN}, got {hidden}"
    return ""


def _asked(device: torch.device | None) -> bool:
    """Whether this device is here and can be asked how many clusters it runs at once."""
    if _C is None or device is None or device.type != "cuda" or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) == CAPABILITY


def division(k: int, b: int, h: int, dtype: torch.dtype, backward: bool, device: torch.device | None = None) -> Division:
    """What a launch for K clients, B sequences and H units has on this device; without one, or where it is not here, what 132
    multiprocessors that all clusters fit onto would have."""
    at_once = kernels().at_once(device, dtype, h, backward) if device is not None and _asked(device) else None
    return divide(k, b, h, backward, at_once)


def describe(k: int, t: int, b: int, i: int, h: int, dtype: torch.dtype, device: torch.device | None = None) -> str:
    def way(name: str, backward: bool) -> str:
        clusters, blocks, tile, at_once = divided = division(k, b, h, dtype, backward, device)
        return (
            f"{name} {clusters} cluster{'s' * (clusters > 1)} of {blocks} block{'s' * (blocks > 1)}, batch tile {tile}, "
            f"{divided.waves} wave{'s' * (divided.waves > 1)} of at most {at_once}"
        )

    assumed = "" if _asked(device) else f", for {SMS} multiprocessors"
    return f"{way('forward', False)}; {way('backward', True)}; {t} steps in a launch{assumed}"


def routed_gru(inputs: Inputs, recompute: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    return family.run(inputs, recompute)


def kernels() -> Kernels:
    """The kernels around the extension, for callers with a backward pass of their own.

    Raises:
        RuntimeError: the extension is not built.
    """
    if _kernels is None:
        raise RuntimeError(_missing)
    return _kernels


_kernels: Kernels | None = None
if _C is not None:
    _kernels = Kernels(_C)
    family.register("CUDA", _kernels.forward, _kernels.backward)
