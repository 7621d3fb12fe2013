"""Which parameters an algorithm gets in a comparison: those with the best score on texts and on clients kept for that.

A run that tries something has two kinds of clients, and its score is the mean of what both come to, with equal weight. Training
clients train on the older of their training texts, about four fifths of their sequences. They are tested on the newer ones,
their validation texts. Validation clients, whom the comparison sets aside (``validation_share``), never train: they adapt to
their own training texts as an unseen client does, and are tested on their later ones. Nothing else of the data exists for it:
no unseen client, and no test text of a client that trains. Every algorithm gets as many tries as any other, with the same
rounds, cohorts and seed, however many parameters it has. The final runs then train on all training text of the training
clients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from flow.algorithms.interface import Tunable
from flow.config import Config, checked
from flow.data import Population
from flow.data.population import Split, boundary
from flow.errors import UserError
from flow.evaluation.metrics import ACCURACY, Metric
from flow.evaluation.registry import all_metrics

Values = dict[str, float]
"""By the names of options; integers for those that count."""
MOST = 1000
"""Tries of an algorithm. So many values of a parameter can always be told apart, see :func:`around`."""
FINEST = 20
"""Times that a step is halved before others are taken."""


class Trial(NamedTuple):
    """One choice of the parameters that was tried."""

    values: Values
    metric: str
    """The name of the metric that decides."""
    score: float | None
    """The mean of both parts, or the one that there is; None: no result."""
    seen: float | None
    """On the validation texts of training clients, mean over clients: personalized where the algorithm personalizes, else of
    the global model."""
    unseen: float | None
    """The same of validation clients, on their test texts."""
    reason: str
    """Why there is no result."""
    note: str = ""
    """Why one part alone decides."""


class NotPossible(Exception):
    """A choice that the algorithm refuses, with its message."""


def population_of(population: Population, rule: Split = "time") -> Population:
    """The clients of a run that tries something, without validation clients of its own.

    rule: "time": validation texts are whole, the boundary of texts nearest to a fifth of the sequences; "random": the last
    fifth of the sequences, as in older builds.

    Those that may train have their validation texts as test texts; validation clients are whole, and held out.
    """
    clients = []
    for client, validates in zip(population.clients, population.validation.tolist(), strict=True):
        if client.held_out:
            continue
        if validates:
            clients.append(replace(client, held_out=True))
            continue
        cut = len(client.train) - max(len(client.train) // 5, min(len(client.train) - 1, 1))
        if rule == "time":
            cut = boundary(client.train.texts, 0.8) or len(client.train)
        parts = [client.train.part(part) for part in (slice(cut), slice(cut, None))]
        clients.append(replace(client, train=parts[0], test=parts[1]))
    about = f"{population.about}; validation texts of training clients, and validation clients"
    return replace(population, clients=tuple(clients), about=about, validation_share=0.0)


def search(start: Values, parameters: Mapping[str, Tunable], budget: int, tried: Callable[[Values], Trial]) -> list[Trial]:
    """Try choices of the parameters: one parameter after the other, each from the best that is known of all.

    The first try are the defaults; the others are dealt to the parameters alike. A parameter goes up from its best value so far
    by its step, and down where that was tried; where both were, by half the step, and so on. No value is tried twice.

    Args:
        start: the default of every parameter, in the order in which they are tuned.
        parameters: by their names, how they move.
        budget: how many tries, at most :data:`MOST`.
        tried: makes one of them.
    """
    trials = [tried(dict(start))]
    for place, (name, value) in enumerate(start.items()):
        seen = {0.0 if value else -math.inf: value}
        for _ in range((budget - 1) // len(start) + (place < (budget - 1) % len(start))):
            values = best(trials) or dict(start)
            power, candidate = following(parameters[name], value, seen, values[name])
            seen[power] = candidate
            trials.append(tried({**values, name: candidate}))
    return trials


def following(tunable: Tunable, start: float, seen: Mapping[float, float], value: float) -> tuple[float, float]:
    """What to try after the best value so far, and how many steps that lies above the start.

    Args:
        start: the default; 0 only for a weight.
        seen: by steps above the start, what was tried; a start of 0 lies at minus infinity.
        value: the best of these.
    """
    origin, known = start or tunable.first, set(seen.values())
    centre = next(power for power, other in seen.items() if other == value)
    for power in around(tunable, origin, centre, value):
        candidate = at(tunable, origin, power)
        if candidate is not None and power not in seen and candidate not in known:
            return power, candidate
    raise AssertionError(f"{tunable.option}: more than {MOST} values are asked for")


def at(tunable: Tunable, origin: float, power: float) -> float | None:
    """The value that lies so many steps above an origin; None where a float cannot hold it, or it is out of range."""
    try:
        if tunable.kind == "share":
            odds = origin / (1 - origin) * float(tunable.factor**power)
            moved = odds / (1 + odds)
            return moved if 0 < moved < 1 else None
        moved = origin * float(tunable.factor**power)
        if tunable.kind == "count":
            return max(1, round(moved))
        return moved if 0 < moved < math.inf else None
    except ArithmeticError:
        return None


def around(tunable: Tunable, origin: float, centre: float, value: float) -> Iterator[float]:
    """Places to look at from the best one on, in steps above the origin.

    A step up and down, then halves of it. A count then takes the integers in the order of their distance. Whatever else is
    asked for comes from further away. A weight whose best value is 0 comes down to it, step by step.
    """
    if centre == -math.inf:
        yield from (-float(steps) for steps in range(MOST))
        centre = 0.0
    for finer in range(FINEST):
        yield centre + 0.5**finer
        yield centre - 0.5**finer
    if tunable.kind == "count":
        for distance in count(1):
            yield from (math.log(size / origin, tunable.factor) for size in (value + distance, value - distance) if size >= 1)
    for finer in range(FINEST):
        for steps in range(2, MOST):
            yield centre + steps * 0.5**finer
            yield centre - steps * 0.5**finer


def best(trials: list[Trial]) -> Values | None:
    """The choice with the best score, of those that are equal the one tried first; None: none has a result."""
    scored = [(trial, trial.score) for trial in trials if trial.score is not None]
    if not scored:
        return None
    sign = 1 if metric_of(trials[0].metric).higher_is_better else -1
    return dict(max(scored, key=lambda scored_choice: sign * scored_choice[1])[0].values)


def metric_of(name: str) -> Metric:
    """The metric of this name.

    Raises:
        UserError: there is none.
    """
    for metric in all_metrics():
        if metric.name == name:
            return metric
    known = " or ".join(metric.name for metric in all_metrics())
    raise UserError(f"tune_by={name!r} must be the name of a metric, {known}; leave it out for 'accuracy'")


def possible(config: Config[Any]) -> Config[Any]:
    """The same configuration; raises NotPossible where the algorithm's own check refuses its parameters."""
    try:
        checked(config)
    except UserError as error:
        raise NotPossible(str(error)) from error
    return config


def judged(values: Values, metric: str, summary: Mapping[str, Mapping[str, Any]], folder: Path, measured: bool = True) -> Trial:
    """A choice with the score of its finished run in a folder, from the summaries of both sides.

    It has none where the metric is not finite on a side that has clients, as the loss of a model that diverged before it
    predicts.

    Args:
        measured: whether the run, which may be of an older build, knew the metric.

    Raises:
        UserError: no training client could be scored, or a run of an older build says nothing of the metric.
    """
    if not summary["seen"]["clients"]:
        raise UserError(
            f"{folder}: no training client could be scored on its validation texts, so nothing can be chosen; lower min_texts, "
            "give clients more text, or leave tune out"
        )
    if not measured:
        raise UserError(
            f"{folder}: the run says nothing of tune_by={metric!r}; remove the folder and its files in kept/tuning, and the "
            "run is done again"
        )
    seen, unseen = (_part(summary[side], metric_of(metric)) for side in ("seen", "unseen"))
    for part, side, who in ((seen, "seen", "training"), (unseen, "unseen", "validation")):
        if part is None and summary[side]["clients"]:
            return Trial(values, metric, None, None, None, f"the {metric} of its {who} clients is not finite")
    assert seen is not None
    if unseen is not None:
        return Trial(values, metric, (seen + unseen) / 2, seen, unseen, "")
    skipped = summary["unseen"]["skipped"]
    who = f"none of the {skipped} validation clients could be scored" if skipped else "there are no validation clients"
    return Trial(values, metric, seen, seen, None, "", f"{who}, so the validation texts of the training clients alone decide")


def _part(summary: Mapping[str, Any], metric: Metric) -> float | None:
    """What one side's clients come to, personalized where they personalize."""
    model = "global" if summary[ACCURACY.summary_key("personal", "client")] is None else "personal"  # which is always finite
    average = summary[metric.summary_key(model, "client")]
    return None if average is None else float(average)


def chosen(name: str, trials: list[Trial]) -> Values:
    """The best choice of an algorithm.

    Raises:
        UserError: none has a result.
    """
    values = best(trials)
    if values is None:
        reasons = "; ".join(f"{show(trial.values)}: {trial.reason}" for trial in trials)
        raise UserError(f"{name}: nothing that tune tried has a result ({reasons}); give a smaller lr, or leave tune out")
    return values


def show(values: Values) -> str:
    """ "lr 2, personal_lr 0.5, personal_epochs 3" """
    return ", ".join(f"{name} {number(value)}" for name, value in values.items())


def number(value: float) -> str:
    """A parameter's value as it is printed: integers whole, others with four digits."""
    return str(value) if isinstance(value, int) else f"{value:.4g}"
