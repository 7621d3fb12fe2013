"""The version of flow and flow_kernels, and what else a report of a fault must say."""

from __future__ import annotations

import platform

import torch

import flow_kernels
from flow_kernels.version import __version__

__all__ = ["__version__", "described"]


def described() -> str:
    """The version with those of Python, torch and the system, and the state of every backend, in a few lines."""
    system = f"Python {platform.python_version()}, torch {torch.__version__}, {platform.system()} {platform.machine()}"
    backends = "; ".join(f"{name}: {status}" for name, status in flow_kernels.backends().items())
    return f"flow {__version__}\n{system}\nbackends: {backends}"
