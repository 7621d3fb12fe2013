"""Compressed uploads with error feedback: a client sends little of what it changed, and remembers the rest.

A client compresses its change plus what compression left out before (Seide et al. 2014; Karimireddy et al., ICML 2019). Nothing
is random: values are rounded to the nearest level, halves to the even one, and of equal values the first counts as the larger.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from flow.errors import UserError
from flow.model.parameters import Tensors

INDEX = 4
"""Bytes of the index of a value that is sent."""
LEVELS = {"int8": 127, "int4": 7}
"""By name, the largest whole number that is sent; -127 to 127 and -7 to 7."""
RULE = "must be 'topk:SHARE' with a share above 0 and at most 1, 'int8' or 'int4'"


class Compression(NamedTuple):
    """How uploads are compressed."""

    kind: Literal["topk", "int8", "int4"]
    share: float = 1.0
    """Of all numbers of an upload, those that "topk" sends."""


class Compressed(NamedTuple):
    """The uploads of K clients as the server has them."""

    tensors: Tensors
    """[K, ..]: what was received plus the change that was sent."""
    residual: Tensors
    """[K, ..]: what compression left out, under the same names."""
    sent: tuple[int, ...]
    """[K]: bytes of every upload."""


def read(compress: str) -> Compression | None:
    """The option `compress`; None where it is empty.

    Raises:
        UserError: it is another text.
    """
    if not compress:
        return None
    kind, _, share = compress.partition(":")
    if kind in LEVELS and compress == kind:
        return Compression("int8" if kind == "int8" else "int4")
    try:
        value = float(share)
    except ValueError:
        value = math.nan
    if kind != "topk" or not 0 < value <= 1:
        raise UserError(f"compress {RULE}, got {compress!r}; write 'topk:0.01' for a hundredth, or leave it out")
    return Compression("topk", value)


def compressed(way: Compression, tensors: Tensors, received: Tensors, residual: Tensors) -> Compressed:
    """Compress the uploads of K clients, each by itself.

    Args:
        tensors: [K, ..], the parameters that clients would upload.
        received: [K, ..], from which they started; the same names and possibly more.
        residual: [K, ..], what compression left out before; the same names and possibly more.
    """
    wanted = {name: tensor - received[name] + residual[name] for name, tensor in tensors.items()}
    if way.kind == "topk":
        sent = _largest(way.share, wanted)
    else:
        sent = {name: _rounded(tensor, LEVELS[way.kind]) for name, tensor in wanted.items()}
    clients = len(next(iter(tensors.values()))) if tensors else 0
    return Compressed(
        {name: received[name] + change for name, change in sent.items()},
        {name: wanted[name] - change for name, change in sent.items()},
        (nbytes(way, {name: tensor[0] for name, tensor in tensors.items()} if clients else {}),) * clients,
    )


def nbytes(way: Compression, tensors: Tensors) -> int:
    """Size of one client's compressed upload.

    "topk" has the values and an index of 4 bytes for each. "int8" and "int4" have a number of 1 or 1/2 byte for every
    value, and for every tensor one scale in its own format.
    """
    if way.kind == "topk":
        item = max((tensor.element_size() for tensor in tensors.values()), default=0)
        return _count(way.share, sum(tensor.numel() for tensor in tensors.values())) * (item + INDEX)
    per_byte = 1 if way.kind == "int8" else 2
    return sum(-(-tensor.numel() // per_byte) + tensor.element_size() for tensor in tensors.values())


def _count(share: float, numbers: int) -> int:
    """How many of so many numbers are sent: the share, rounded up."""
    return min(numbers, math.ceil(share * numbers - 1e-9))


def _largest(share: float, wanted: Tensors) -> Tensors:
    """The numbers of every client that are largest in magnitude over all of its tensors; zero in the place of the others."""
    flat = torch.cat([tensor.flatten(1) for tensor in wanted.values()], dim=1) if wanted else torch.zeros(0, 0)
    numbers = flat.shape[1]
    count = _count(share, numbers)
    if count < numbers:
        size = flat.abs()
        edge = size.kthvalue(numbers - count + 1, dim=1, keepdim=True).values
        above, equal = size > edge, size == edge
        room = count - above.sum(1, keepdim=True)
        flat = torch.where(above | (equal & (equal.cumsum(1) <= room)) | flat.isnan(), flat, 0.0)
    pieces = torch.split(flat, [tensor[0].numel() for tensor in wanted.values()], dim=1)
    return {name: piece.view(wanted[name].shape) for name, piece in zip(wanted, pieces, strict=True)}


def _rounded(wanted: Tensor, most: int) -> Tensor:
    """Every client's tensor in whole multiples of its scale, which is its largest magnitude over `most`."""
    flat = wanted.flatten(1)
    scale = flat.abs().amax(1, keepdim=True) / most
    steps = torch.where(scale > 0, (flat / scale).round(), 0.0)
    return (torch.where(scale.isnan(), scale, steps * scale)).view(wanted.shape)
