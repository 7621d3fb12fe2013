"""Parameters as flat dictionaries of tensors: their groups, their initial values, and copies for K clients side by side."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]
Rows = npt.NDArray[np.int64]
Route = Literal["mixture", "global", "local"]
ALIGNED = 16
"""Bytes at a multiple of which a tensor begins among others."""


def stack(tensors: Tensors, clients: int) -> Tensors:
    """A copy of its own for every client: [..] -> [K, ..]."""
    return {name: tensor.expand(clients, *tensor.shape).clone() for name, tensor in tensors.items()}


def copy(tensors: Tensors) -> Tensors:
    """A copy to train, of what was received or kept: [K, ..] -> [K, ..]."""
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def moved(tensors: Tensors, device: torch.device | str) -> Tensors:
    """The same tensors on a device; between a GPU and the host all of them in one copy."""
    where = torch.device(device)
    if all(tensor.device.type == where.type for tensor in tensors.values()):
        return tensors
    pieces, ends = [], [0]
    for tensor in tensors.values():
        piece = tensor.contiguous().flatten().view(torch.uint8)
        pieces.append(torch.nn.functional.pad(piece, (0, -len(piece) % ALIGNED)))
        ends.append(ends[-1] + len(pieces[-1]))
    flat = torch.cat(pieces)
    flat = flat.pin_memory().to(where, non_blocking=True) if where.type == "cuda" else flat.to(where)
    return {
        name: flat[begin : begin + tensor.numel() * tensor.element_size()].view(tensor.dtype).view(tensor.shape)
        for (name, tensor), begin in zip(tensors.items(), ends, strict=False)
    }


def per_client(values: Tensor, like: Tensor) -> Tensor:
    """A number for every client, values [K], shaped [K, 1, ..] so that it combines with `like` [K, ..]."""
    return values.view(-1, *(1,) * (like.dim() - 1))


def tagged(tag: str, tensors: Tensors) -> Tensors:
    """The same tensors under the names "tag/name"."""
    return {f"{tag}/{name}": tensor for name, tensor in tensors.items()}


def untagged(tag: str, tensors: Tensors) -> Tensors:
    """Those of the tensors that have this tag, without it."""
    return {name.removeprefix(tag + "/"): tensor for name, tensor in tensors.items() if name.startswith(tag + "/")}


def group_of(name: str) -> str:
    """The group of a parameter, by its name: "global", "local" or "router"."""
    parts = name.split(".")
    return next((group for group in ("local", "router") if any(part.startswith(group + "_") for part in parts)), "global")


def names_of(parameters: Tensors, *groups: str) -> tuple[str, ...]:
    """The names of the parameters of these groups, in their own order."""
    return tuple(name for name in parameters if group_of(name) in groups)


def body_of(parameters: Tensors) -> tuple[str, ...]:
    """The names of the parameters below the head: embedding, GRU and projection."""
    return tuple(name for name in parameters if not name.startswith("head."))


def head_of(parameters: Tensors) -> tuple[str, ...]:
    """The names of the head's parameters."""
    return tuple(name for name in parameters if name.startswith("head."))


def initial(model: nn.Module, *groups: str) -> Tensors:
    """The model's own parameters of these groups: the initial values, which every client can draw from the run's seed."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if group_of(name) in groups}


def nbytes(tensors: Tensors) -> int:
    """Size of these tensors when sent or stored as they are."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def global_name(local_name: str) -> str:
    """The global parameter that a local one is a copy of: "gru.local_bias_hh_l0" -> "gru.bias_hh_l0"."""
    return ".".join(part.removeprefix("local_") for part in local_name.split("."))
