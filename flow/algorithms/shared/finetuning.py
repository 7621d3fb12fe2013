"""Fine-tuning before prediction, for all algorithms that have it: SGD as in a round, with a rate and a length of its own.

What trains a model from scratch in few rounds is too fast for a model that is nearly right: it loses more than it gains. So
the two are chosen apart, as Wu et al. 2022 do (Motley, arXiv 2206.09262: on StackOverflow lr 1 in the rounds, 0.1 after them,
epochs by validation accuracy).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from flow.algorithms.interface import Tunable
from flow.checks import LARGEST, check_number
from flow.errors import UserError
from flow.training.sgd import Sgd, check_sgd


@dataclass(frozen=True)
class FineTuning(Sgd):
    """SGD of the rounds and of the fine-tuning before a client predicts."""

    personal_lr: float | None = 0.5
    """Learning rate of the fine-tuning before a client predicts. None: lr. (Panchal et al. 2023: the same; Motley on
    StackOverflow: 0.1, lr 1.)"""

    personal_epochs: int | None = None
    """Passes over its training sequences by which a client fine-tunes. None: epochs. (Panchal et al. 2023: the same;
    Motley: up to 20, by validation accuracy.)"""


Options = TypeVar("Options", bound=FineTuning)
RATES = (Tunable("lr"), Tunable("personal_lr"))
TUNED = (*RATES, Tunable("personal_epochs", "count"))
"""Of algorithms that have nothing else that decides as much."""


def personal(options: Options) -> Options:
    """The options with the rate and the epochs of fine-tuning as those of the SGD."""
    options = resolve(options, 0)
    assert options.personal_lr is not None and options.personal_epochs is not None
    return replace(options, lr=options.personal_lr, epochs=options.personal_epochs)


def resolve(options: Options, rounds: int) -> Options:
    """The options with nothing left open."""
    return replace(
        options,
        personal_lr=options.lr if options.personal_lr is None else options.personal_lr,
        personal_epochs=options.epochs if options.personal_epochs is None else options.personal_epochs,
    )


def check(options: FineTuning, **rates: float | None) -> None:
    """Raise UserError for an option of the SGD or of the fine-tuning out of range.

    rates: further learning rates of the same optimiser, by their options.
    """
    check_rate("personal_lr", options.personal_lr)
    check_sgd(options, personal_lr=options.personal_lr, **rates)
    if options.personal_epochs is not None:
        check_number("personal_epochs", options.personal_epochs, 1)


def check_pull(name: str, strength: float, rates: Mapping[str, float]) -> None:
    """Raise UserError for a pull that is negative, or so strong that a step of one of the rates goes beyond its anchor."""
    check_number(name, strength, 0, remedy="0 switches the pull off")
    for rate, value in rates.items():
        if value * strength > 1:
            raise UserError(
                f"{name}={strength!r} times {rate}={value!r} must be at most 1: a step would go beyond the model it is pulled "
                "to; lower either"
            )


def check_rate(name: str, rate: float | None) -> None:
    """Raise UserError for a learning rate that is given and not a finite number above 0."""
    if rate is not None and not 0 < rate <= LARGEST:
        rule = (
            "a finite number above 0" if not rate > LARGEST or rate == float("inf") else f"at most {LARGEST:.3g}, as float32 is"
        )
        raise UserError(f"{name} must be {rule}, got {rate!r}; leave it out for the default")
