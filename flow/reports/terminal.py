"""What a run prints of its evaluation."""

from __future__ import annotations

import itertools
from typing import Any

from flow.evaluation import metrics
from flow.evaluation.metrics import ACCURACY, Average, Metric
from flow.evaluation.select import SIDES
from flow.reports.format import HYPHEN, metric_value, number

AVERAGES: dict[Average, str] = {"token": "over tokens", "client": "mean of clients"}
WIDTH = 28, 16  # of the labels, and of a side's column


def summary_table(summaries: dict[str, dict[str, Any]], calibration: dict[str, dict[str, Any] | None] | None = None) -> str:
    """All metrics of both sides as a table; lines without a number are left out.

    Args:
        summaries: by side, see :func:`flow.evaluation.summaries.side_summary`.
        calibration: by side, see :func:`flow.evaluation.calibration.calibration`; None where it was not measured.
    """
    routings = other_routings(summaries)
    lines = [_line(ACCURACY.heading, [side.label for side in SIDES.values()])]
    for metric in metrics.METRICS:
        rows = [(label, [summaries[side][key] for side in SIDES]) for label, key in _rows(metric, routings)]
        measured = [(label, values) for label, values in rows if values != [None] * len(SIDES)]
        if measured and metric is not ACCURACY:
            lines.append(metric.heading)
        lines += [_line(label, [metric_value(value, metric, HYPHEN) for value in values]) for label, values in measured]
    errors = [calibration_error(calibration, side) for side in SIDES]
    if errors != [None] * len(SIDES):
        lines.append(_line("calibration error (ECE), %", [number(error, 2, 100, HYPHEN) for error in errors]))
    counts = [f"{summaries[side]['clients']} ({summaries[side]['skipped']})" for side in SIDES]
    return "\n".join([*lines, _line("clients (left out)", counts)])


def _rows(metric: Metric, routings: list[str]) -> list[tuple[str, str]]:
    """(label, key of a summary) of the lines of a metric."""
    rows = []
    for average, words in AVERAGES.items():
        rows += [(f"{model}, {words}", metric.summary_key(model, average)) for model in ("global", "personal")]
        rows += [(f"  {routing} routing", metric.summary_key(routing, average)) for routing in routings]
    return [*rows, ("clients helped", "helped"), ("clients hurt", "hurt")] if metric is ACCURACY else rows


def other_routings(summaries: dict[str, dict[str, Any]]) -> list[str]:
    """Of hard and soft routing those by which clients do not predict: their results are others than the personalized ones."""

    def differs(routing: str, side: str, metric: Metric, average: Average) -> bool:
        own, other = (summaries[side].get(metric.summary_key(model, average)) for model in ("personal", routing))
        return other is not None and other != own

    every = list(itertools.product(SIDES, metrics.METRICS, AVERAGES))
    return [routing for routing in ("hard", "soft") if any(differs(routing, *one) for one in every)]


def calibration_error(calibration: dict[str, dict[str, Any] | None] | None, side: str) -> float | None:
    """The expected calibration error of one side; None where there is none."""
    own = (calibration or {}).get(side)
    return None if own is None else own["error"]


def _line(label: str, values: list[str]) -> str:
    return f"{label:<{WIDTH[0]}}" + "".join(f"{value:>{WIDTH[1]}}" for value in values)
