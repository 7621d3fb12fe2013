"""Options of virtual time, asynchronous aggregation and compression: which go together, and with which algorithms."""

from __future__ import annotations

from typing import Any

import numpy as np

from flow.algorithms import Algorithm
from flow.checks import check_number
from flow.clock import profiles
from flow.clock.devices import Devices
from flow.config import Config
from flow.data import Population
from flow.data.population import Indexed
from flow.errors import UserError
from flow.training import compression

ON_THE_CLOCK = ("deadline", "wait_for", "target")


def check(config: Config[Any], algorithm: Algorithm[Any]) -> None:
    """Raise UserError for options of this file out of range, or that do not go together."""
    check_number("deadline", config.deadline, 0)
    check_number("target", config.target, 0, 1)
    for name in ON_THE_CLOCK:
        if getattr(config, name) and not config.clock:
            raise UserError(
                f"{name}={getattr(config, name)!r} is measured on the clock, and there is none; add clock='spread', or "
                f"leave {name} out"
            )
    if config.wait_for > config.cohort:
        raise UserError(
            f"wait_for={config.wait_for} must be at most cohort={config.cohort}, the clients of a round; lower it, or raise "
            "cohort"
        )
    if config.clock and config.stragglers:
        raise UserError(
            f"stragglers={config.stragglers} makes clients slow by chance, and with clock={config.clock!r} their devices "
            "decide; leave stragglers out, and give a deadline"
        )
    if config.deadline and config.late == "partial" and (refusal := algorithm.stopping(config.algorithm).refusal):
        raise UserError(
            f"late='partial' has clients stop after some of their batches at deadline={config.deadline}, and {algorithm.name} "
            f"{refusal}; choose late='drop', or leave deadline out"
        )
    if config.async_buffer:
        _check_asynchronous(config, algorithm)
    if compression.read(config.compress):
        _check_deltas(f"compress={config.compress!r}", config, algorithm)


def _check_asynchronous(config: Config[Any], algorithm: Algorithm[Any]) -> None:
    """Raise UserError where uploads cannot wait in a buffer."""
    for name in ("deadline", "wait_for"):
        if getattr(config, name):
            raise UserError(
                f"{name}={getattr(config, name)!r} ends a round, and with async_buffer={config.async_buffer} the server waits "
                "for nobody; leave one of them out"
            )
    if config.async_buffer > config.cohort:
        raise UserError(
            f"async_buffer={config.async_buffer} must be at most cohort={config.cohort}, the clients at work at a time; lower "
            "it, or raise cohort"
        )
    _check_deltas(f"async_buffer={config.async_buffer}", config, algorithm)
    if reason := algorithm.in_step(config.algorithm):
        raise UserError(f"async_buffer={config.async_buffer} cannot be: {reason}")


def _check_deltas(option: str, config: Config[Any], algorithm: Algorithm[Any]) -> None:
    """Raise UserError unless an algorithm's uploads are changed parameters, of which the server takes the mean and no more."""
    if not algorithm.averages:
        raise UserError(
            f"{option} needs uploads that are averaged, and the server of {algorithm.name} averages none; leave it out, or "
            "take another algorithm, such as fedavg"
        )
    if not algorithm.takes_the_mean:
        raise UserError(
            f"{option} needs uploads of which the server takes the mean alone, and that of {algorithm.name} does more with "
            "every single one; leave it out, or take another algorithm, such as fedavg"
        )


def devices(config: Config[Any], population: Population) -> Devices | None:
    """The devices of the clients that may train; None without a clock.

    Raises:
        UserError: the file of profiles is wrong, or too few clients can ever be reached at once.
    """
    if not config.clock:
        return None

    def ids() -> list[str]:
        clients = population.clients
        everybody = clients.ids() if isinstance(clients, Indexed) else population.survey.ids
        return [everybody[place] for place in population.training.tolist()]

    count = len(population.training)
    made = profiles.devices(config.clock, count, ids, config.seed)
    least = 1 if config.async_buffer else config.cohort
    if made.opening(0.0, np.ones(count, dtype=np.bool_), least) is None:
        raise UserError(
            f"clock={config.clock!r}: at no hour of the day can cohort={config.cohort} of the {count} clients that may train "
            "be reached at once; lower cohort, or widen the windows"
        )
    return made
