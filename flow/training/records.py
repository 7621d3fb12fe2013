"""What a training phase did."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    pass


class Work(NamedTuple):
    """What a training phase did, per client."""

    nats: Tensor
    """float64 [K]: sum over the batches' valid tokens of the loss of the last update (without regulariser)."""
    tokens: Tensor
    """float64 [K]: how many tokens that sum has."""
    sequences: int
    """Sequences trained on, over all clients; one counts once per epoch."""
    flops: Tensor
    """float64 [K]: see flow/model/flops.py."""
