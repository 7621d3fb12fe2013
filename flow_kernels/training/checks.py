"""Where these kernels run, and what a kernel's status means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from flow_kernels.backends import cpu

DTYPES = (torch.float32, torch.float64)
BAD_SIZE, BAD_OPTION, MISSING, BAD_LENGTH, BAD_TARGET = 1, 2, 3, 4, 8
"""Statuses of csrc/routed_gru.h."""


def refusal(dtype: torch.dtype, device: torch.device) -> str:
    """Why these kernels cannot run here; empty when they can."""
    why_not = cpu.refusal(dtype, device)
    return why_not or ("" if dtype in DTYPES else f"they take float32 or float64 and the input is {dtype}")


def multiplies_bfloat16() -> bool:
    """Whether this processor, by the instruction set in use, multiplies bfloat16 (AVX512_BF16 with or without AMX)."""
    return cpu._C is not None and cpu._C.isa() in ("avx512bf16", "avx512amx")


def check(status: int, rules: Mapping[int, str]) -> None:
    """Raise RuntimeError, with the rule that was broken, unless the status of a kernel is zero."""
    if status:
        rule = rules.get(status, f"status {status}")
        raise RuntimeError(f"flow_kernels.training: the kernel refused its arguments: {rule}")


def plain(name: str, t: Tensor) -> Tensor:
    """The numbers of an argument as the kernels read memory: detached, contiguous, aligned, no negated view.

    Raises:
        TypeError: not a tensor. RuntimeError: not a dense tensor on the CPU, or one whose storage was freed.
    """
    if not isinstance(t, Tensor):
        raise TypeError(f"flow_kernels.training: {name} must be a tensor, got {type(t).__name__}")
    if t.layout != torch.strided or t.is_nested or t.device.type != "cpu":
        what = "a nested tensor" if t.is_nested else f"{t.layout} on {t.device}"
        raise RuntimeError(f"flow_kernels.training: {name} must be a dense tensor on the CPU, got {what}; convert it")
    if t.numel() and not t.untyped_storage().nbytes():
        raise RuntimeError(f"flow_kernels.training: {name} has no memory: its storage was freed; pass a tensor that has one")
    t = t.detach().resolve_neg().contiguous()
    return t.clone() if t.data_ptr() % t.element_size() else t


def plain_or_none(name: str, t: Tensor | None) -> Tensor | None:
    """The same for an argument that may be absent."""
    return None if t is None else plain(name, t)


def changed(tensors: Iterable[Tensor | None]) -> None:
    """Count the change of every tensor that a kernel has written, as torch's own in-place operations do.

    Autograd then refuses to go back through a graph that had saved one of them before.
    """
    increment_version([t for t in tensors if t is not None and not t.is_inference()])
