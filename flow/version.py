"""The version of flow, and what else a report of a fault must say."""

from __future__ import annotations

import platform

import torch

import flow_kernels

__all__ = ["__version__", "described"]

__version__ = "0.2.0"


def described() -> str:
    """The version with those of flow_kernels, Python, torch and the system, and the state of every backend, in a few lines."""
    system = (
        f"flow_kernels {flow_kernels.__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{platform.system()} {platform.machine()}"
    )
    backends = "; ".join(f"{name}: {status}" for name, status in flow_kernels.backends().items())
    return f"flow {__version__}\n{system}\nbackends: {backends}"
