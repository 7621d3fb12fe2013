"""Tensors of clients as the arrays of a packet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flow.deploy.packet import Arrays
from flow.model.parameters import Tensors

EVERY, EACH = "every/", "each/"
"""Before the names of arrays of which all clients get the same, and of those with a row for every client."""


def of_clients(tensors: Tensors) -> Arrays:
    """Tensors [K, ..] of K clients as arrays; those of which all clients have the same lie there once."""
    arrays: Arrays = {}
    for name, tensor in tensors.items():
        same = len(tensor) == 1 or tensor.stride(0) == 0
        part = tensor[0] if same else tensor
        arrays[(EVERY if same else EACH) + name] = part.detach().cpu().contiguous().numpy()
    return arrays


def to_clients(arrays: Mapping[str, npt.NDArray[Any]], clients: int, device: str) -> Tensors:
    """The tensors [K, ..] again, as views where all clients have the same, in the order of `arrays`."""
    tensors: Tensors = {}
    for name, array in arrays.items():
        tensor = torch.from_numpy(np.array(array)).to(device)  # a copy: what a transport gives may not be written to
        if name.startswith(EVERY):
            tensors[name.removeprefix(EVERY)] = tensor.expand(clients, *tensor.shape)
        else:
            tensors[name.removeprefix(EACH)] = tensor
    return tensors
