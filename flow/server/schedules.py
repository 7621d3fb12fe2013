"""Learning rates from round to round: what the rates of the clients and of the server are multiplied by.

The factor of a round is a closed form of its number. So a run that goes on has the rates of one that was never stopped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from flow.checks import check_number
from flow.errors import UserError

Shape = Literal["constant", "cosine", "linear", "step"]
Rate = Literal["lr", "server_lr"]
RATES: tuple[Rate, ...] = ("lr", "server_lr")
USED: dict[str, tuple[str, ...]] = {
    "rounds": ("cosine", "linear"), "final": ("cosine", "linear"), "step_every": ("step",), "step_factor": ("step",),
}  # fmt: skip
"""By the end of an option's name, the schedules that have it."""


@dataclass(frozen=True)
class ScheduleOptions:
    """How learning rates change from round to round; what clients do before they predict has constant ones."""

    lr_schedule: Shape = "constant"
    """Learning rate of the clients by round. "cosine", "linear" and "step" are torch's CosineAnnealingLR, LinearLR from 1 down,
    and StepLR, with a step in every round. They multiply lr alone (docs/optimizers.md names the exceptions)."""

    lr_warmup: int = 0
    """Rounds at the start in which the clients' rate rises linearly: of W rounds, the first has a share of 1 / (W + 1). The
    schedule begins after them."""

    lr_rounds: int | None = None
    """With "cosine" and "linear": round after which lr_final is reached, warm-up included. None: rounds."""

    lr_final: float | None = None
    """With "cosine" and "linear": the share of lr at the end, 0 to 1. None: 0."""

    lr_step_every: int | None = None
    """With "step": rounds between two steps; it must be given."""

    lr_step_factor: float | None = None
    """With "step": what every step multiplies the rate by, above 0 and at most 1. None: 0.1. (torch: 0.1.)"""

    server_lr_schedule: Shape = "constant"
    """Learning rate of the server by round, as lr_schedule."""

    server_lr_warmup: int = 0
    """As lr_warmup, for the server."""

    server_lr_rounds: int | None = None
    """As lr_rounds, for the server."""

    server_lr_final: float | None = None
    """As lr_final, for the server."""

    server_lr_step_every: int | None = None
    """As lr_step_every, for the server."""

    server_lr_step_factor: float | None = None
    """As lr_step_factor, for the server."""


class _Schedule(NamedTuple):
    """The options of one rate."""

    schedule: Shape
    warmup: int
    rounds: int | None
    final: float | None
    step_every: int | None
    step_factor: float | None


def constant(options: ScheduleOptions, rate: Rate) -> ScheduleOptions:
    """The options without a schedule of this rate."""
    return replace(options, **{f"{rate}_{name}": getattr(ScheduleOptions, f"{rate}_{name}") for name in _Schedule._fields})


def _of(options: ScheduleOptions, rate: Rate) -> _Schedule:
    return _Schedule(*(getattr(options, f"{rate}_{name}") for name in _Schedule._fields))


def on(options: ScheduleOptions, rate: Rate) -> bool:
    """Whether a rate changes from round to round."""
    own = _of(options, rate)
    return own.schedule != "constant" or own.warmup > 0


def resolve(options: ScheduleOptions, rounds: int) -> ScheduleOptions:
    """The options with nothing left open that a schedule uses; rounds: of the run.

    Raises:
        UserError: an option is out of range, missing, or of another schedule.
    """
    for rate in RATES:
        options = replace(options, **{f"{rate}_{name}": value for name, value in _resolved(_of(options, rate), rate, rounds)})
    return options


def factor(options: ScheduleOptions, rate: Rate, round: int) -> float:
    """What a rate is multiplied by in a round, counted from 1; at most 1. The options are resolved."""
    return _factor(_of(options, rate), round)


def _factor(own: _Schedule, round: int) -> float:
    if round <= own.warmup:
        return round / (own.warmup + 1)
    passed = round - 1 - own.warmup
    if own.schedule == "step":
        assert own.step_every is not None and own.step_factor is not None
        return float(own.step_factor ** (passed // own.step_every))
    if own.schedule == "constant":
        return 1.0
    assert own.rounds is not None and own.final is not None
    done = min(passed / (own.rounds - own.warmup), 1.0)
    share = 1 - done if own.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return own.final + (1 - own.final) * share


def _resolved(own: _Schedule, rate: Rate, rounds: int) -> list[tuple[str, Any]]:
    """The options of one rate, checked and filled in, by the ends of their names."""
    for name, shapes in USED.items():
        value = getattr(own, name)
        if value is not None and own.schedule not in shapes:
            raise UserError(
                f"{rate}_{name}={value!r} is an option of {rate}_schedule={' or '.join(map(repr, shapes))}, got "
                f"{own.schedule!r}; give that one, or leave it out"
            )
    check_number(f"{rate}_warmup", own.warmup, 0, remedy="0 leaves the warm-up out")
    end, of_end = rounds, "rounds"
    if own.schedule in USED["final"]:
        end, of_end = (rounds, "rounds") if own.rounds is None else (own.rounds, f"{rate}_rounds")
        own = own._replace(rounds=end, final=0.0 if own.final is None else own.final)
        assert own.rounds is not None and own.final is not None
        check_number(f"{rate}_rounds", own.rounds, 1)
        check_number(f"{rate}_final", own.final, 0, 1)
    if own.schedule == "step":
        if own.step_every is None:
            raise UserError(f"{rate}_schedule='step' needs {rate}_step_every, the rounds between two steps; give it")
        check_number(f"{rate}_step_every", own.step_every, 1, remedy="give the rounds between two steps")
        own = own._replace(step_factor=0.1 if own.step_factor is None else own.step_factor)
        assert own.step_factor is not None
        if not 0 < own.step_factor <= 1:
            raise UserError(
                f"{rate}_step_factor must be above 0 and at most 1, got {own.step_factor!r}; leave it out for the default, 0.1"
            )
    if own.warmup >= end:
        raise UserError(f"{rate}_warmup={own.warmup} must be below {of_end}={end}; lower it, or raise {of_end}")
    if not _factor(own, rounds):
        raise UserError(
            f"{rate}_schedule={own.schedule!r} brings {rate} to 0 before the last of rounds={rounds}; when a run starts, "
            + (
                f"raise {rate}_step_every or {rate}_step_factor"
                if own.schedule == "step"
                else f"give {rate}_final above 0, or {rate}_rounds of at least {rounds}"
            )
        )
    return list(own._asdict().items())
