"""SGD of the clients: its options, and what one update changes on which loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from flow.checks import check_number
from flow.errors import UserError
from flow.model.parameters import Route, Tensors


def check_sgd(sgd: Sgd) -> None:
    """Raise UserError for options of the SGD with which no training is possible."""
    for name, value in (("lr", sgd.lr), ("epochs", sgd.epochs), ("batch_size", sgd.batch_size)):
        if not (value > 0 and math.isfinite(value)):
            raise UserError(f"{name} must be a finite number above 0, got {value!r}; leave it out for the default")
    check_number("weight_decay", sgd.weight_decay, 0, remedy="0 switches it off")
    if not 0 <= sgd.momentum < 1:
        raise UserError(f"momentum must be at least 0 and below 1, got {sgd.momentum!r}; 0 switches it off")
    if not (sgd.clip >= 0 and math.isfinite(sgd.clip)):
        raise UserError(f"clip must be a finite number of at least 0, got {sgd.clip!r}; 0 switches clipping off")


@dataclass(frozen=True)
class Sgd:
    """SGD of the clients. Options of most algorithms."""

    lr: float = 2.0
    """Learning rate of the clients' SGD. (Published values lie near 0.1 for 1500 rounds and more; with clipping, 2 does in
    a hundred.)"""

    epochs: int = 3
    """Passes of a client over its training sequences per round, and in personalization."""

    batch_size: int = 8
    """Sequences per SGD step of a client. (google-research/federated: 4 for Shakespeare, 16 for StackOverflow.)"""

    clip: float = 1.0
    """Largest norm of a client's gradient over the weights trained in a step; longer ones are scaled down. 0: no
    clipping."""

    momentum: float = 0.0
    """Heavy-ball momentum; it starts at zero in every phase of every round. (google-research/federated: 0.)"""

    weight_decay: float = 0.0
    """weight_decay * parameter joins the gradient, after clipping, as in torch.optim.SGD."""


class Update(NamedTuple):
    """One SGD step taken on every batch: which parameters move, on which loss. Everything else stays frozen."""

    names: tuple[str, ...]
    """What stands before a "/" tells parameters apart that stand in the same place of the model."""
    route: Route
    gamma: float = 0.0
    """Weight of Flow's regulariser, -(gamma / L) * sum over the L routed layers of the mean of log q_global."""
    mu: float = 0.0
    """Strength of the pull to the anchor: mu * (parameter - anchor) joins the gradient, after clipping."""
    anchor: Tensors | None = None
    """By the same names, [K, ..]."""
    compose: Callable[[Tensors], Tensors] | None = None
    """The clients' parameters -> those the model computes with, under its own names; None: they are the same."""
