"""The backends by name, one adapter each; :mod:`flow_kernels.backends.base` says what an adapter offers."""

from __future__ import annotations

import torch

from flow_kernels.backends import cpu, reference
from flow_kernels.backends.base import Backend
from flow_kernels.backends.gpu import cuda, triton

_MODULES: dict[str, Backend] = {"reference": reference, "cpu": cpu, "triton": triton, "cuda": cuda}
NAMES = tuple(_MODULES)


def load(name: str) -> Backend:
    """The adapter of a backend."""
    return _MODULES[name]


def refusal(name: str, dtype: torch.dtype, device: torch.device) -> str:
    """Why a backend cannot run this dtype on this device; empty when it can."""
    return load(name).refusal(dtype, device)


def status() -> dict[str, str]:
    """Every backend and, where it cannot run, why: ``{"reference": "available", "cpu": "available (avx512, OpenMP)"}``."""
    return {name: load(name).status() for name in NAMES}
