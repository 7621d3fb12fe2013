"""The metrics that are known in this process: those of flow, those that installed packages bring, and those of the user.

A metric of the user's own is registered, or in a file that the user names. Its file is recorded as that of an algorithm is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from typing import NamedTuple

from flow import user_code
from flow.errors import UserError
from flow.evaluation import metrics
from flow.evaluation.metrics import Metric
from flow.storage.metrics import LARGEST
from flow.user_code import source_of

MOST_DIGITS = 20
"""Digits after the point that a metric may be printed with."""
GROUP = "flow.metrics"
"""The group of entry points by which an installed package brings a metric: ``name = "package.module:METRIC"``."""
Source = tuple[str, str]
"""A file's name without folders, and its SHA-256, see :func:`flow.user_code.source_of`."""


class _Registered(NamedTuple):
    """A metric that is not of flow itself."""

    metric: Metric
    source: Source | None
    origin: str
    """The file that it was loaded from, or that its function `count` is written in."""


_registered: dict[str, _Registered] = {}


def all_metrics() -> tuple[Metric, ...]:
    """All metrics: those of flow, then those that installed packages bring, then those that were registered.

    Raises:
        UserError: an entry point cannot be loaded, or is no metric as :func:`register_metric` wants it.
    """
    return (*metrics.METRICS, *(known.metric for known in _others().values()))


def sources() -> dict[str, Source | None]:
    """By name, the file of every metric that is not of flow itself. None: nothing is known of its text, or it is of an
    installed package.

    Raises:
        UserError: as :func:`all_metrics`.
    """
    return {name: known.source for name, known in _others().items()}


def register_metric(metric: Metric) -> Metric:
    """Make a metric of one's own known in this process, by its name.

    The same object may be registered again. A metric from a file, or from a notebook, takes the place of the one that this file
    or notebook registered under the same name before.

    Args:
        metric: with ``always=False`` it is counted by runs that ask for it by its name, with ``always=True`` by every run from
            now on.

    Returns:
        The metric, unchanged.

    Raises:
        UserError: it is no Metric, a field of it is of another kind, or one of its names is taken.
    """
    return _register(metric, source_of(*_functions(metric)), "")


def named_metrics(names: str) -> str:
    """The names of metrics, separated by commas. Those of the form FILE.py:NAME are loaded, registered and named by their own.

    Raises:
        UserError: a file cannot be loaded, or what it gives is no metric or cannot be registered.
    """
    return ",".join(_named(name.strip()) for name in names.split(",") if name.strip())


def _named(name: str) -> str:
    if not user_code.is_reference(name):
        return name
    loaded = user_code.load(name, "metric")
    if not isinstance(loaded.value, Metric):
        raise UserError(
            f"metric={name!r} is a {type(loaded.value).__name__} and not a Metric; give the name of the file's flow.Metric, "
            "which docs/tasks.md shows"
        )
    return _register(loaded.value, source_of(loaded, *_functions(loaded.value)), str(loaded.path)).name


def chosen(names: str, classes: bool) -> tuple[Metric, ...]:
    """The metrics that a run counts, in the order in which they are shown.

    Args:
        names: of those that are asked for, separated by commas.
        classes: whether texts are classified.

    Raises:
        UserError: a name is unknown, or needs classes where there are none.
    """
    asked = [name.strip() for name in names.split(",") if name.strip()]
    known = {metric.name: metric for metric in all_metrics()}
    for name in asked:
        if name not in known:
            raise UserError(
                f"metric={names!r}: there is no {name!r}, only {', '.join(known)}; give one of these, or a metric of your own, "
                "with --metric FILE.py:NAME or by flow.register_metric"
            )
        if known[name].of_classes and not classes:
            raise UserError(
                f"metric={names!r}: {name!r} is of texts that are classified, and the data have no classes; leave it out"
            )
    return tuple(m for m in known.values() if (classes if m.of_classes else m.always or m.name in asked))


def sources_of(counted: Sequence[Metric]) -> dict[str, Source | None]:
    """Of these metrics, by name, the files that those are from which are not of flow itself."""
    own = sources()
    return {metric.name: own[metric.name] for metric in counted if metric.name in own}


def _others() -> dict[str, _Registered]:
    return {**_brought(), **_registered}


@cache
def _brought() -> dict[str, _Registered]:
    """The metrics that installed packages bring."""
    brought: dict[str, _Registered] = {}
    for metric, where, remedy in user_code.brought(GROUP, "metric"):
        try:
            _check(metric, "it", (*metrics.METRICS, *(other.metric for other in brought.values())))
        except UserError as error:
            raise UserError(f"{where}, which is refused ({error}); {remedy}") from error
        brought[metric.name] = _Registered(metric, source_of(*_functions(metric)), user_code.origin(metric.count))
    return brought


def _register(metric: Metric, source: Source | None, origin: str) -> Metric:
    """origin: the file that the metric was loaded from; empty: that of its functions."""
    where = f"metric={getattr(metric, 'name', metric)!r}"
    known = _registered.get(getattr(metric, "name", ""))
    if known is not None and known.metric is metric:
        return metric
    _check(metric, where, [other for other in all_metrics() if known is None or other is not known.metric])
    origin = origin or user_code.origin(metric.count)
    if known is not None and known.origin != origin:
        raise UserError(
            f"{where}: there is another metric of the name {metric.name!r}, which {known.origin} registered; give it another "
            "name"
        )
    _registered[metric.name] = _Registered(metric, source, origin)
    return metric


def _functions(metric: object) -> list[object]:
    """The functions of a metric; of something else nothing."""
    values = [getattr(metric, field.name) for field in fields(Metric)] if isinstance(metric, Metric) else []
    return [value for value in values if callable(value)]


def _check(metric: object, where: str, others: Sequence[Metric]) -> None:
    """Raise UserError unless it is a metric with names of its own and fields of the kinds that they must have."""
    if not isinstance(metric, Metric):
        raise UserError(f"{where} must be a flow.Metric, got a {type(metric).__name__}; make one as docs/tasks.md shows")
    for name in ("name", "label", "unit", "axis", "column", "infix", "axis_of_texts"):
        if not isinstance(getattr(metric, name), str):
            raise UserError(f"{where}: {name} must be a string, got {getattr(metric, name)!r}; write it in quotes")
    for name in ("scale", "span"):
        value: object = getattr(metric, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
            raise UserError(f"{where}: {name} must be a finite number, got {value!r}; give one")
    if isinstance(metric.digits, bool) or not isinstance(metric.digits, int) or not 0 <= metric.digits <= MOST_DIGITS:
        raise UserError(f"{where}: digits must be a whole number from 0 to {MOST_DIGITS}, got {metric.digits!r}; give one")
    for name in ("count", "over_tokens", "over_clients"):
        if not callable(getattr(metric, name)):
            raise UserError(f"{where}: {name} must be a function, got {getattr(metric, name)!r}; give one")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", metric.name) or not re.fullmatch(r"[a-z][a-z0-9_]*", metric.column):
        raise UserError(
            f"{where} with column={metric.column!r}: both must be lower-case letters, digits and '_', and begin with a letter; "
            "rename them"
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]*_", metric.infix):
        raise UserError(f"{where}: infix={metric.infix!r} must be a name that ends in '_'; write '{metric.name}_'")
    if metric.of_classes != callable(metric.of_table):
        raise UserError(
            f"{where}: of_table={metric.of_table!r} and of_classes={metric.of_classes!r} go together; give a function and "
            "True, or leave both out"
        )
    for known in others:
        for part in ("name", "column", "infix"):
            if getattr(known, part) == getattr(metric, part):
                raise UserError(f"{where}: {part}={getattr(metric, part)!r} is that of {known.name!r}; rename it")
