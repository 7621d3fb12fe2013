"""Where these kernels run, and what a kernel's status means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from flow_kernels.backends import cpu

DTYPES = (torch.float32, torch.float64)
BAD_SIZE, BAD_OPTION, MISSING, BAD_LENGTH, BAD_TARGET = 1, 2, 3, 4, 8
"""Statuses of csrc/routed_gru.h."""


def refusal(dtype: torch.dtype, device: torch.device) -> str:
    """Why these kernels cannot run here; empty when they can."""
    why_not = cpu.refusal(dtype, device)
    return why_not or ("" if dtype in DTYPES else f"they take float32 or float64 and the input is {dtype}")


def check(status: int, rules: Mapping[int, str]) -> None:
    """Raise RuntimeError, with the rule that was broken, unless the status of a kernel is zero."""
    if status:
        rule = rules.get(status, f"status {status}")
        raise RuntimeError(f"flow_kernels.training: the kernel refused its arguments: {rule}")


def refuse_negated(tensors: Iterable[Tensor | None]) -> None:
    """Raise RuntimeError for a view of numbers that are to be read with the other sign, as ``.imag`` of a conjugate is.

    The kernels read memory as it lies; for a registered op torch's dispatcher makes a copy first, for a function nobody does.
    """
    for t in tensors:
        if t is not None and t.is_neg():
            raise RuntimeError("flow_kernels.training: a tensor is a view with its negative bit set; pass tensor.resolve_neg()")
