"""Where these kernels run, and what a kernel's status means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from flow_kernels.backends import cpu
from flow_kernels.backends.gpu import cuda, triton

DTYPES = (torch.float32, torch.float64)
GPU = ("triton", "cuda")
BAD_SIZE, BAD_OPTION, MISSING, BAD_LENGTH, BAD_TARGET = 1, 2, 3, 4, 8
"""Statuses of csrc/routed_gru.h."""


def refusal(dtype: torch.dtype, device: torch.device, backend: str = "auto", bfloat16: bool = False, hidden: int = 1) -> str:
    """Why these kernels cannot run here; empty when they can.

    Args:
        dtype, device: of the parameters.
        backend: see :func:`on_gpu`.
        bfloat16: whether what is multiplied is to be rounded to bfloat16.
        hidden: H of the GRU, which matters for ``"cuda"``.
    """
    if backend in GPU or (backend == "auto" and device.type == "cuda"):
        if dtype != torch.float32:
            return f"on a GPU they take float32 and the input is {dtype}"
        if backend != "cuda":
            return triton.refusal(dtype, device)
        if not bfloat16:
            return "the CUDA kernels multiply 16-bit numbers, which dtype='bfloat16' asks for"
        capability = torch.cuda.get_device_capability(device) if device.type == "cuda" and torch.cuda.is_available() else None
        return triton.refusal(dtype, device) or cuda.refusal(torch.bfloat16, device) or cuda.limit(hidden, capability)
    if backend not in ("auto", "cpu"):
        return f"the model asks for backend={backend!r}"
    why_not = cpu.refusal(dtype, device)
    return why_not or ("" if dtype in DTYPES else f"they take float32 or float64 and the input is {dtype}")


def cell_of(device: torch.device, backend: str, bfloat16: bool, hidden: int) -> str:
    """The backend of the GRU for these kernels: ``"auto"`` becomes ``"cuda"`` where that takes the problem."""
    if backend == "auto" and device.type == "cuda":
        return "triton" if refusal(torch.float32, device, "cuda", bfloat16, hidden) else "cuda"
    return backend


def on_gpu(t: object, backend: str) -> bool:
    """Whether a call is one of the GPU's kernels.

    Args:
        t: a tensor of the call; where it lies decides for backend ``"auto"``.
        backend: ``"auto"``, ``"cpu"``, ``"triton"``, or ``"cuda"``, which takes the CUDA C++ kernels for the GRU and Triton's
            for everything else. With TRITON_INTERPRET=1 Triton's run on tensors of the CPU too, for tests.
    """
    return backend in GPU or (backend != "cpu" and isinstance(t, Tensor) and t.is_cuda)


def gpu_format(bfloat16: bool) -> torch.dtype:
    """The format of what a GPU multiplies; Triton's interpreter, which computes wrong numbers in bfloat16, gets float16."""
    if not bfloat16:
        return torch.float32
    return torch.float16 if triton.interpreted() else torch.bfloat16


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


def finish(device: torch.device) -> None:
    """Raise for numbers of tokens that kernels on a GPU were given since the last call and that their tables do not have.

    It waits for the device; one call after many of the kernels is enough. On the CPU kernels refuse such numbers themselves.

    Raises:
        ValueError: one was too large.
    """
    if device.type != "cuda" and not triton.interpreted():
        return
    from flow_kernels.training.gpu import arguments

    if largest := arguments.take_worst(device):
        raise ValueError(
            f"targets: every target, and every row of an embedding, must be below the vocabulary's size, got {largest}; map "
            "unknown tokens to one of them, or pass -1 to leave a row out"
        )
