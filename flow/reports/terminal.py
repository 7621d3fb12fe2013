"""What a run prints of its evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from flow.evaluation.metrics import AVERAGES, Average, Metric
from flow.evaluation.registry import all_metrics
from flow.evaluation.select import SIDES
from flow.reports.format import HYPHEN, finite, metric_value, number
from flow.reports.words import words_of

MODELS = {"global": "global", "local": "local expert", "personal": "personal"}
SHARES = {"clients helped, %": "helped", "clients hurt, %": "hurt"}
LABELS, NARROWEST = 30, 14  # characters of the labels, and of a side's columns together

Summaries = dict[str, dict[str, Any]]
"""By side, see :func:`flow.evaluation.summaries.side_summary`."""
Calibration = dict[str, dict[str, Any] | None]
"""By side, see :func:`flow.evaluation.calibration.calibration`."""


def summary_table(summaries: Summaries, calibration: Calibration | None = None, classes: int = 0) -> str:
    """All metrics of both sides: a column for each, a line for every model. What has no number at all is left out.

    calibration: None where it was not measured. classes: of the texts; 0: the next token is predicted.
    """
    rows = _rows(summaries, words_of("token", classes).token)
    columns = [m for m in all_metrics() if any(_known(summaries, [m], model, average) for _, model, average in rows)]
    widths = [len(metric.heading) + 3 for metric in columns]
    widths[-1] += max(0, max(NARROWEST, *(len(side.label) + 3 for side in SIDES.values())) - sum(widths))

    def line(label: str, *sides: Sequence[str]) -> str:
        cells = (f"{cell:>{width}}" for side in sides for cell, width in zip(side, widths, strict=True))
        return f"{label:<{LABELS}}{''.join(cells)}".rstrip()

    lines = [
        (" " * LABELS + "".join(f"{side.label:^{sum(widths)}}" for side in SIDES.values())).rstrip(),
        line("", *[[metric.heading for metric in columns]] * len(SIDES)),
    ]
    for label, model, average in rows:
        if _known(summaries, columns, model, average):
            keys = [(metric, metric.summary_key(model, average)) for metric in columns]
            cells = [[metric_value(summaries[side].get(key), metric, HYPHEN) for metric, key in keys] for side in SIDES]
            lines.append(line(label, *cells))
    whole: dict[str, list[float | None]] = {
        label: [summaries[side][key] for side in SIDES] for label, key in SHARES.items()
    } | {"calibration error, %": [calibration_error(calibration, side) for side in SIDES]}
    counts = {label: [number(value, 2, 100, HYPHEN) for value in own] for label, own in whole.items() if any(map(finite, own))}
    counts["clients (left out)"] = [f"{summaries[side]['clients']} ({summaries[side]['skipped']})" for side in SIDES]
    nothing = [""] * (len(columns) - 1)
    return "\n".join([*lines, *(line(label, *([value, *nothing] for value in own)) for label, own in counts.items())])


def _rows(summaries: Summaries, token: str) -> list[tuple[str, str, Average]]:
    """(label, model, average) of the lines."""
    rows: list[tuple[str, str, Average]] = []
    averages: dict[Average, str] = {"client": "mean of clients", "token": f"over {token}s"}
    for average, words in averages.items():
        rows += [(f"{label}, {words}", model, average) for model, label in MODELS.items()]
        rows += [(f"  {routing} routing", routing, average) for routing in other_routings(summaries)]
    return rows


def _known(summaries: Summaries, columns: Sequence[Metric], model: str, average: Average) -> bool:
    """Whether any of these metrics has a number for this model."""
    keys = [metric.summary_key(model, average) for metric in columns]
    return any(summaries[side].get(key) is not None for side in SIDES for key in keys)


def other_routings(summaries: Summaries) -> list[str]:
    """Of hard and soft routing those by which clients do not predict: their results are others than the personalized ones."""

    def differs(routing: str, side: str, metric: Metric, average: Average) -> bool:
        own, other = (summaries[side].get(metric.summary_key(model, average)) for model in ("personal", routing))
        return other is not None and other != own

    every = list(itertools.product(SIDES, all_metrics(), AVERAGES))
    return [routing for routing in ("hard", "soft") if any(differs(routing, *column) for column in every)]


def calibration_error(calibration: Calibration | None, side: str) -> float | None:
    """The expected calibration error of one side, in 0..1; None where there is none."""
    own = (calibration or {}).get(side)
    return None if own is None else own["error"]
