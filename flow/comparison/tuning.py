"""Which learning rates an algorithm gets in a comparison: those with the best accuracy on texts kept for that.

The validation texts are the last fifth, in time, of every training client's training sequences, at least one where a client
has two. A run that tries something trains on the rest. It sees nothing of the final evaluation: no test text of anybody, and
no client that is held out. Every algorithm gets as many tries as any other, with the same rounds, cohorts and seed, however
many rates it has. The final runs then train on all training text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from flow.config import Config, checked
from flow.data import Population, Sequences
from flow.errors import UserError
from flow.reports import files as report_files

Values = dict[str, float]
"""By the names of options."""


class Trial(NamedTuple):
    """One choice of the rates that was tried."""

    values: Values
    accuracy: float | None
    """On the validation texts, mean over clients: personalized where the algorithm personalizes, else of the global model."""
    reason: str
    """Why there is none."""


class NotPossible(Exception):
    """A choice that the algorithm refuses, with its message."""


def population_of(population: Population) -> Population:
    """The clients of a run that tries something: training clients alone, tested on their validation texts."""
    clients = []
    for client in population.clients:
        if not client.held_out:
            cut = len(client.train) - max(len(client.train) // 5, min(len(client.train) - 1, 1))
            parts = [
                Sequences(client.train.tokens[part], client.train.lengths[part]) for part in (slice(cut), slice(cut, None))
            ]
            clients.append(replace(client, train=parts[0], test=parts[1]))
    return replace(population, clients=tuple(clients), about=f"{population.about}; validation texts of the training clients")


def search(start: Values, factors: Mapping[str, float], budget: int, tried: Callable[[Values], Trial]) -> list[Trial]:
    """Try choices of the rates: one rate after the other, each from the best that is known of all.

    The first try are the defaults; the others are dealt to the rates alike. A rate goes up from its best value so far by its
    factor, and down where that was tried; where both were, by the root of the factor, and so on.

    Args:
        start: the default of every rate, in the order in which they are tuned.
        factors: by rate, the first step.
        budget: how many tries.
        tried: makes one of them.
    """
    trials = [tried(dict(start))]
    for place, (name, value) in enumerate(start.items()):
        seen = {0.0: value}
        for _ in range((budget - 1) // len(start) + (place < (budget - 1) % len(start))):
            values = best(trials) or dict(start)
            centre = next(power for power, known in seen.items() if known == values[name])
            around = (power for finer in count() for power in (centre + 0.5**finer, centre - 0.5**finer))
            power = next(power for power in around if power not in seen)
            seen[power] = value * factors[name] ** power
            trials.append(tried({**values, name: seen[power]}))
    return trials


def best(trials: list[Trial]) -> Values | None:
    """The choice with the highest validation accuracy, of those that are equal the one tried first; None: none has a result."""
    scored = [trial for trial in trials if trial.accuracy is not None]
    return dict(max(scored, key=lambda trial: trial.accuracy or 0).values) if scored else None


def possible(config: Config[Any]) -> Config[Any]:
    """The same configuration; raises NotPossible where the algorithm's own check refuses its rates."""
    try:
        checked(config)
    except UserError as error:
        raise NotPossible(str(error)) from error
    return config


def accuracy(folder: Path) -> float:
    """The validation accuracy of a finished run.

    Raises:
        UserError: nobody could be scored, or the run's files are damaged.
    """
    try:
        summary = report_files.read_evaluation(folder)["summary"]["seen"]
    except ValueError as error:
        raise UserError(str(error)) from error
    own, common = summary["personal_client"], summary["global_client"]
    found = common if own is None else own
    if found is None:
        raise UserError(
            f"{folder}: no client could be scored on its validation texts, so no rate can be chosen; lower min_texts, "
            "give clients more text, or leave tune out"
        )
    return float(found)


def chosen(name: str, trials: list[Trial]) -> Values:
    """The best choice of an algorithm.

    Raises:
        UserError: none has a result.
    """
    found = best(trials)
    if found is None:
        reasons = "; ".join(f"{show(trial.values)}: {trial.reason}" for trial in trials)
        raise UserError(f"{name}: nothing that tune tried has a result ({reasons}); give a smaller lr, or leave tune out")
    return found


def show(values: Values) -> str:
    """ "lr 2, personal_lr 0.5" """
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
