"""Sums of uploads that come out the same, to the bit, in whatever order and groups the uploads are added up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flow_kernels.backends import cpu
from flow_kernels.training.checks import BAD_OPTION, BAD_SIZE, MISSING, changed, check, on_gpu, plain, plain_or_none

RULES = {
    BAD_SIZE: "there must be at least one upload of at least one number",
    BAD_OPTION: "uploads must be float32 or float64",
    MISSING: "a tensor is missing: total, uploads and weights come together",
}
UNITS = (2.0**-12, 2.0**-45, 2.0**-78)


def accumulate_(
    total: Tensor, uploads: Sequence[Tensor], weights: Sequence[Tensor], *, fresh: bool = False, backend: str = "auto"
) -> None:
    """Add every client's upload times its weight to a sum that no order changes; :func:`total_of` reads it.

    Every summand is cut into multiples of 2^-12, 2^-45 and 2^-78, whose sums float64 holds exactly. So the result depends
    neither on the order of the uploads nor on how they are dealt to calls, threads and processes. This holds for at most 2^20
    uploads, as long as a sum stays below 2^41 in absolute value.

    Args:
        total: float64 [3, ..], contiguous, zero at first; changed in place.
        uploads: tensors [K, ..], float32 or float64. All join the sum in one pass over it.
        weights: a float64 [K] beside each of them.
        fresh: whether `total` holds nothing yet, and may be uninitialised.
        backend: see :func:`flow_kernels.training.on_gpu`.

    Raises:
        RuntimeError: tensors that do not fit, or a total that shares memory with one. TypeError: no tensor at all.
    """
    if on_gpu(total, backend):
        from flow_kernels.training.gpu import sums as of_gpu

        of_gpu.accumulate_(total, uploads, weights, fresh=fresh)
        changed((total,))
        return
    given = tuple(plain("uploads", upload) for upload in uploads)
    factors = tuple(plain_or_none("weights", weight) for weight in weights)
    check(cpu._kernels.accumulate(total, given, factors, fresh), RULES)
    changed((total,))


def total_of(total: Tensor) -> Tensor:
    """What :func:`accumulate_` has added up: [3, ..] -> float64 [..]."""
    return (total[0] + total[1]).add_(total[2])


def split(values: Tensor) -> Tensor:
    """The three parts of float64 values, [..] -> [3, ..], as :func:`accumulate_` adds them up, on any device."""
    parts, rest = [], values
    for unit in UNITS:
        part = (rest + 1.5 * 2.0**52 * unit) - 1.5 * 2.0**52 * unit
        parts.append(part)
        rest = rest - part
    return torch.stack(parts)
