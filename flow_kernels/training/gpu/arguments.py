"""Checks of what the kernels read by its address, and what they notice only on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from flow_kernels.backends.gpu import products
from flow_kernels.backends.gpu.triton.tiles import kind_of

_worst: dict[torch.device, Tensor] = {}
"""By device, int64 [1]: the largest number of a token that a kernel was given and that its table does not have; 0 for none."""


def fitting(name: str, t: Tensor | None, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> None:
    """Raise RuntimeError unless a tensor that is there is dense and contiguous, of this shape, on the device of `like`, and of
    the dtype, by default that of `like`."""
    if t is None:
        return
    expected = like.dtype if dtype is None else dtype
    if tuple(t.shape) != shape or t.dtype != expected or t.device != like.device or not t.is_contiguous():
        order = "" if t.is_contiguous() else ", not contiguous"
        raise RuntimeError(
            f"flow_kernels.training: {name} is {t.dtype} {list(t.shape)} on {t.device}{order}; it must be {expected} "
            f"{list(shape)} on {like.device}, contiguous"
        )


def worst(device: torch.device) -> Tensor:
    """Where kernels on this device leave a token's number that is too large."""
    if device not in _worst:
        _worst[device] = torch.zeros(1, dtype=torch.int64, device=device)
    return _worst[device]


def take_worst(device: torch.device) -> int:
    """What :func:`worst` holds, which is 0 from then on; waits for the device."""
    if device not in _worst:
        return 0
    value = int(_worst[device])
    if value:
        _worst[device].zero_()
    return value


def kind(operands: torch.dtype) -> str:
    """How products with these operands are made: "half", "tf32" or "ieee"."""
    return kind_of(operands, products.tf32())


def rounded(t: Tensor, operands: torch.dtype) -> Tensor:
    """[.., columns] in the format of the products, every row at a multiple of 16 bytes where that is a copy anyway."""
    if t.dtype == operands:
        return t
    columns = t.shape[-1]
    wide = t.new_empty((*t.shape[:-1], -(-columns // 8) * 8), dtype=operands)[..., :columns]
    return wide.copy_(t)
