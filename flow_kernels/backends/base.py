"""What an adapter of a backend offers. Every adapter is a module with these functions, and importing it needs nothing that may
be missing."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from flow_kernels.call import Inputs


class Backend(Protocol):
    """The functions of an adapter; a module fulfils the protocol."""

    def status(self) -> str:
        """``"available ..."``, or why the backend cannot run on this machine."""

    def refusal(self, dtype: torch.dtype, device: torch.device) -> str:
        """Why the backend cannot run this dtype on this device, on this machine; empty where it can."""

    def limit(self, hidden: int, capability: tuple[int, int] | None) -> str:
        """Why this H, or a GPU of this compute capability, is not for the backend; empty where it is. The answer depends on
        the arguments alone."""

    def describe(self, k: int, t: int, b: int, i: int, h: int, dtype: torch.dtype, device: torch.device | None = None) -> str:
        """A line on how the backend divides K clients, T steps, B sequences, I inputs and H units. device: which is asked,
        where it is here; None: none is."""

    def routed_gru(self, inputs: Inputs, recompute: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """y, h_n and q of inputs that have been checked. recompute: keep nothing but the outputs for the backward pass."""
