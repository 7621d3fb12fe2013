"""SGD of the clients, and Adam in its place: their options, and what one update changes on which loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from flow.checks import check_number
from flow.errors import UserError
from flow.model.parameters import Route, Tensors

Optimizer = Literal["sgd", "adam", "adamw"]
MOST_OF_ADAM = 0.25
"""The largest learning rate that Adam is given. Rates of SGD are above it, and would make noise of every model."""


def check_sgd(sgd: Sgd, **rates: float | None) -> None:
    """Raise UserError for options of the SGD, or of Adam, with which no training is possible.

    rates: further learning rates of the same optimiser, by their options; None: one that is left open.
    """
    for name, value in (("lr", sgd.lr), ("epochs", sgd.epochs), ("batch_size", sgd.batch_size)):
        if not (value > 0 and math.isfinite(value)):
            raise UserError(f"{name} must be a finite number above 0, got {value!r}; leave it out for the default")
    check_number("weight_decay", sgd.weight_decay, 0, remedy="0 switches it off")
    if not 0 <= sgd.momentum < 1:
        raise UserError(f"momentum must be at least 0 and below 1, got {sgd.momentum!r}; 0 switches it off")
    if not (sgd.clip >= 0 and math.isfinite(sgd.clip)):
        raise UserError(f"clip must be a finite number of at least 0, got {sgd.clip!r}; 0 switches clipping off")
    _check_adam(sgd, {"lr": sgd.lr, **rates})


def _check_adam(sgd: Sgd, rates: dict[str, float | None]) -> None:
    """Raise UserError for an option of Adam that is out of range, or that the optimiser does not have."""
    for name in ("client_beta1", "client_beta2"):
        if not 0 <= getattr(sgd, name) < 1:
            raise UserError(
                f"{name} must be at least 0 and below 1, got {getattr(sgd, name)!r}; leave it out for the default, "
                f"{getattr(Sgd, name)!r}"
            )
    check_number("client_epsilon", sgd.client_epsilon, 1e-30)
    if sgd.client_optimizer == "sgd":
        for name in ("client_beta1", "client_beta2", "client_epsilon"):
            if getattr(sgd, name) != getattr(Sgd, name):
                raise UserError(
                    f"{name}={getattr(sgd, name)!r} is an option of Adam, got client_optimizer='sgd'; give 'adam' or 'adamw', "
                    "or leave it out"
                )
        return
    if sgd.momentum:
        raise UserError(
            f"momentum={sgd.momentum!r} is an option of SGD, got client_optimizer={sgd.client_optimizer!r}; give client_beta1, "
            "or leave momentum out"
        )
    large = [f"{name}={rate!r}" for name, rate in rates.items() if rate is not None and rate > MOST_OF_ADAM]
    if large:
        raise UserError(
            f"{' and '.join(large)} must be at most {MOST_OF_ADAM} with client_optimizer={sgd.client_optimizer!r}, which moves "
            f"every weight by about its rate in a step; give {'it' if len(large) == 1 else 'them'} anew, such as 0.01"
        )


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
    """weight_decay * parameter joins the gradient, after clipping, as in torch.optim.SGD and Adam; with "adamw" a step takes
    lr * weight_decay of every parameter away."""

    client_optimizer: Optimizer = "sgd"
    """Optimiser of the clients. "adam" and "adamw" are those of torch.optim, with moments that start at zero in every phase of
    every round; they need learning rates of at most 0.25, such as 0.01. (google-research/federated: SGD.)"""

    client_beta1: float = 0.9
    """Decay of the first moment of the clients' Adam. (torch: 0.9.)"""

    client_beta2: float = 0.999
    """Decay of the second moment of the clients' Adam. (torch: 0.999.)"""

    client_epsilon: float = 1e-8
    """What the clients' Adam adds to the root of the second moment. (torch: 1e-8.)"""


def adapts(options: Any) -> bool:
    """Whether clients with these options, which may have no choice of it, train by Adam or AdamW."""
    return getattr(options, "client_optimizer", "sgd") != "sgd"


class Update(NamedTuple):
    """One step taken on every batch: which parameters move, on which loss. Everything else stays frozen."""

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
