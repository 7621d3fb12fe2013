"""Clipping of whole uploads, and how the clip follows a quantile of their norms (Andrew et al., NeurIPS 2021)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from flow.errors import Diverged
from flow.model.parameters import Tensors, per_client
from flow.server import aggregators

EXACT = 2.0**-40


def clipped(changes: Tensors, bound: float) -> tuple[Tensors, Tensor]:
    """Every client's change scaled down to the bound where it is longer.

    Norms are taken in float64 over all tensors together. The bound is lowered by what rounding to the format of the tensors can
    add, so the norm of what is returned is never above it.

    Args:
        changes: [K, ..]
        bound: of the Euclidean norm, above 0.

    Returns:
        The changes as they are sent, in their own format, and their norms before, float64 [K].
    """
    exact = {name: tensor.double() for name, tensor in changes.items()}
    lengths = norms(exact)
    slack = max((2 * torch.finfo(tensor.dtype).eps for tensor in changes.values()), default=0.0)
    most = bound * (1 - max(slack, EXACT))
    share = most / lengths.clamp_min(most)
    return {name: (tensor * per_client(share, tensor)).to(changes[name].dtype) for name, tensor in exact.items()}, lengths


def norms(changes: Tensors) -> Tensor:
    """The Euclidean norm of each of K clients over all its tensors, float64 [K].

    On a CPU it is summed up one client after the other by NumPy, so that a client's bits depend neither on those beside it nor
    on the number of threads.

    Args:
        changes: float64 [K, ..]
    """
    if any(tensor.device.type != "cpu" for tensor in changes.values()):
        return aggregators.norms(changes)
    arrays = [tensor.flatten(1).contiguous().numpy() for tensor in changes.values()]
    squares = [[float(np.square(row).sum()) for row in array] for array in arrays]
    return torch.tensor([math.sqrt(math.fsum(own)) for own in zip(*squares, strict=True)], dtype=torch.float64)


def below(lengths: Tensor, bound: float) -> Tensor:
    """What each client says of its norm, [K]: 1/2 for one that is at most the bound, else -1/2.

    So a client changes the sum by 1/2 at most, whether it is there or not.
    """
    return (lengths <= bound).to(lengths.dtype) - 0.5


def followed(bound: float, share: float, quantile: float, rate: float) -> float:
    """The next bound: C exp(-rate (share - quantile)), where this share of the uploads was below C.

    Raises:
        Diverged: it is no longer a finite number above 0.
    """
    try:
        after = bound * math.exp(-rate * (share - quantile))
    except OverflowError:
        after = math.inf
    if not 0 < after < math.inf:
        raise Diverged(
            f"the clip of dp_quantile={quantile!r} went from {bound:.3g} to {after:g}, which clips nothing or all; start again "
            "with a smaller dp_clip_lr or dp_count_noise"
        )
    return after


def noise_of_sum(noise: float, count_noise: float) -> float:
    """The noise multiplier of the sum of uploads that together with the noise on the count costs what `noise` alone would.

    (z^-2 - (2 s)^-2)^-1/2 (Andrew et al. 2021, Theorem 1), for 2 s > z.
    """
    return float((noise**-2 - (2 * count_noise) ** -2) ** -0.5)
