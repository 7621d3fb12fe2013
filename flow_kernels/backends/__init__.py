"""One adapter per backend, each a module with the same functions; importing it needs nothing that may be missing.

status() -> "available ..."  or why it cannot run on this machine
refusal(dtype, device) -> ""  or why it cannot run this dtype on this device, on this machine
limit(hidden, capability) -> ""  or why this H or a GPU of this compute capability is not for it; from the arguments alone
describe(k, t, b, i, h, dtype) -> how it goes about a problem, in a line
routed_gru(tensors, lengths, offsets, route, routing, temperature, batch_first, reverse, recompute=False)
    -> y, h_n, q
    the twelve tensors of flow_kernels/op.py, all with a leading K or none, checked already
"""

from __future__ import annotations

from types import ModuleType

import torch

from flow_kernels.backends import cpu, cuda, reference, triton

_MODULES: dict[str, ModuleType] = {"reference": reference, "cpu": cpu, "triton": triton, "cuda": cuda}
NAMES = tuple(_MODULES)


def load(name: str) -> ModuleType:
    """The adapter module of a backend."""
    return _MODULES[name]


def refusal(name: str, dtype: torch.dtype, device: torch.device) -> str:
    """Why a backend cannot run this dtype on this device; empty when it can."""
    reason: str = load(name).refusal(dtype, device)
    return reason


def status() -> dict[str, str]:
    """Every backend and, where it cannot run, why: ``{"reference": "available", "cpu": "available (avx512)"}``."""
    return {name: load(name).status() for name in NAMES}
