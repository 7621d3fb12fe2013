"""A search by Optuna: its TPE sampler proposes choices of the parameters, within a range of each.

A proposal follows from the seed, the algorithm's name, the number of the try, and the tries before it. Nothing of Optuna's is
stored: the proposals themselves are, in one JSON file for each algorithm, so a search that was killed goes on with the same
tries, and a finished one needs no Optuna. The extra `optuna` of the distribution brings the library, which is imported here
alone.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flow.algorithms.interface import Tunable
from flow.comparison.tuning import Trial, Values
from flow.data.readers.needs import package
from flow.draws import Draw
from flow.errors import UserError
from flow.storage import files

REACH = 3
"""How many of a parameter's steps its range has on either side of the default."""


class Range(NamedTuple):
    """What a parameter may be."""

    low: float
    """At least; an integer for one that counts."""
    high: float
    """At most; an integer for one that counts."""
    scale: str
    """On which proposals are uniform before anything is known: "log" for the logarithm of the parameter, "odds" for the
    logarithm of x / (1 - x)."""
    zero: bool
    """Whether it may be 0 as well, which is below the range."""


class Proposer(NamedTuple):
    """What the proposals of one algorithm follow from, beside the tries before."""

    name: str
    """Of the algorithm."""
    start: Values
    """The default of every parameter, which is the first try."""
    ranges: Mapping[str, Range]
    seed: int
    budget: int
    """How many tries there are."""
    higher_is_better: bool


def range_of(tunable: Tunable, default: float) -> Range:
    """The range of a parameter: :data:`REACH` of its steps around the default; around the first one where that is 0.

    default: 0 only for a weight.
    """
    origin, wide = default or tunable.first, float(tunable.factor**REACH)
    if tunable.kind == "share":
        low, high = (_share(odds) for odds in (_odds(origin) / wide, _odds(origin) * wide))
        return Range(low, high, "odds", False)
    if tunable.kind == "count":
        return Range(max(1, round(origin / wide)), max(2, round(origin * wide)), "log", False)
    return Range(origin / wide, origin * wide, "log", not default)


def library() -> Any:
    """Optuna.

    Raises:
        UserError: it is not installed.
    """
    return package("optuna", "optuna", "tuner='optuna'", "a search by Optuna")


def place(comparison: Path, name: str) -> Path:
    """The file of an algorithm's proposals, in the folder of a comparison."""
    return comparison / "kept" / "proposals" / f"{name}.json"


def complete(path: Path, proposer: Proposer) -> bool:
    """Whether every try was proposed already, so that Optuna is not needed.

    Raises:
        UserError: as :func:`search`.
    """
    return len(_read(path, proposer)) == proposer.budget


def search(proposer: Proposer, path: Path, tried: Callable[[Values], Trial]) -> list[Trial]:
    """Try the defaults, then what is proposed; every proposal is on the disk before it is tried.

    Args:
        path: see :func:`place`.
        tried: makes a try.

    Raises:
        UserError: the file is damaged or of another search, or Optuna is needed and is not installed.
    """
    proposals, trials = _read(path, proposer), list[Trial]()
    for number in range(1, proposer.budget + 1):
        if number > len(proposals):
            proposals.append(dict(proposer.start) if number == 1 else proposal(proposer, trials))
            content = {"algorithm": proposer.name, "seed": proposer.seed, "optuna": library().__version__}
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(path, files.with_checksum({**content, "proposals": proposals}))
        trials.append(tried(dict(proposals[number - 1])))
    return trials


def proposal(proposer: Proposer, trials: list[Trial]) -> Values:
    """What the TPE sampler proposes after these tries. One without a result counts as worse than any that has one.

    The sampler draws at random until a third of the tries are done, at most 10, and then goes by their scores.

    Raises:
        UserError: Optuna is not installed.
    """
    optuna = library()
    worst = -math.inf if proposer.higher_is_better else math.inf
    drawn = Draw(proposer.seed, len(trials) + 1, "proposals").stream(proposer.name)
    sampler = optuna.samplers.TPESampler(
        seed=int(drawn.integers(1 << 31)), n_startup_trials=min(10, 1 + proposer.budget // 3), multivariate=False
    )
    direction = "maximize" if proposer.higher_is_better else "minimize"
    everything = {
        label: distribution
        for option, own in proposer.ranges.items()
        for label, distribution in _distributions(optuna, option, own).items()
    }
    with _quiet(optuna):
        study = optuna.create_study(direction=direction, sampler=sampler)
        for trial in trials:
            known = _labelled(proposer.ranges, trial.values)
            own = {label: everything[label] for label in known}
            value = worst if trial.score is None else trial.score
            study.add_trial(optuna.trial.create_trial(params=known, distributions=own, value=value))
        proposed = study.ask(everything).params
    return {option: _value(option, own, proposed) for option, own in proposer.ranges.items()}


def _distributions(optuna: Any, option: str, own: Range) -> dict[str, Any]:
    """What Optuna draws for a parameter, by labels: its value or its odds, and before that whether it is 0, where it may be."""
    kinds = optuna.distributions
    switch = {f"{option} above 0": kinds.CategoricalDistribution((False, True))} if own.zero else {}
    if own.scale == "odds":
        return {f"odds of {option}": kinds.FloatDistribution(_odds(own.low), _odds(own.high), log=True)}
    kind = kinds.IntDistribution if isinstance(own.low, int) else kinds.FloatDistribution
    return {**switch, option: kind(own.low, own.high, log=True)}


def _labelled(ranges: Mapping[str, Range], values: Values) -> dict[str, Any]:
    """A choice by Optuna's labels."""
    labelled: dict[str, Any] = {}
    for option, own in ranges.items():
        value = values[option]
        if own.zero:
            labelled[f"{option} above 0"] = value > 0
        if own.scale == "odds":  # rounding may move an end of the range out of it
            labelled[f"odds of {option}"] = min(max(_odds(value), _odds(own.low)), _odds(own.high))
        elif value > 0:
            labelled[option] = value
    return labelled


def _value(option: str, own: Range, labelled: Mapping[str, Any]) -> float:
    if own.zero and not labelled[f"{option} above 0"]:
        return 0.0
    if own.scale == "odds":
        return _share(labelled[f"odds of {option}"])
    value = labelled[option]
    return int(value) if isinstance(own.low, int) else float(value)


def _odds(share: float) -> float:
    return share / (1 - share)


def _share(odds: float) -> float:
    return odds / (1 + odds)


def _read(path: Path, proposer: Proposer) -> list[Values]:
    """The proposals that are on the disk; none where there is no file.

    Raises:
        UserError: the file is damaged or of another search.
    """
    if not path.is_file():
        return []
    remedy = (
        "put it back from a copy, or remove it; then the same version of Optuna proposes the same again, and finished tries "
        "are kept"
    )
    content = files.read_json(path, remedy)
    try:
        proposals = [dict(values) for values in content["proposals"]]
        ours = (content["algorithm"], content["seed"]) == (proposer.name, proposer.seed) and len(proposals) <= proposer.budget
        kinds = {option: type(value) for option, value in proposer.start.items()}
        ours &= all({option: type(value) for option, value in values.items()} == kinds for values in proposals)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not what a search by Optuna of this version writes ({error!r}); {remedy}") from error
    if not ours:
        raise UserError(f"{path}: is of another search than this comparison's; {remedy}")
    return proposals


def described(ranges: Mapping[str, Range]) -> dict[str, dict[str, Any]]:
    """The ranges as comparison.json has them."""
    content: dict[str, dict[str, Any]] = json.loads(json.dumps({option: own._asdict() for option, own in ranges.items()}))
    return content


@contextlib.contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Optuna says of every study on stderr that it was made; here nothing but warnings."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
