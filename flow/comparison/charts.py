"""The pictures of a comparison: learning curves over what they cost, and both models of every algorithm."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from flow.comparison.table import MODELS, Row, Run, shown_metrics
from flow.evaluation.metrics import Metric
from flow.evaluation.select import SIDES
from flow.reports.drawing import Axis, Chart, Line, Mark, Rule, limits
from flow.reports.format import BYTES, FLOPS, capitalized, finite

COLOURS = [f"s{n}" for n in range(7)]
"""Of as many lines, told apart also by those who see few colours; more lines are grey but for those that stand out."""


def pictures(rows: list[Row], runs: Mapping[str, list[Run]], reference: str | None, classes: int) -> list[dict[str, Any]]:
    """Pictures, each with a title and what its caption needs; those that have nothing to show are left out."""
    drawn = [metric for metric in shown_metrics(rows) if metric.charted]
    result: list[dict[str, Any]] = []
    for metric, cost in itertools.product(drawn, CURVES):
        lines = [line for row in rows if (line := curve_of(row.name, runs[row.name], metric, cost)) is not None]
        if lines:
            title = f"{capitalized(metric.label)} at equal {CURVES[cost].title}"
            svg = _curves(lines, metric, cost, reference, classes)
            result.append({"title": title, "svg": svg, "cost": cost, "metric": metric.label})
    for metric, side in itertools.product(drawn, ("unseen", "seen")):
        if any(row.mean[metric.measure(model, side, "client")] is not None for row in rows for model in MODELS):
            title = f"{SIDES[side].title}, {metric.label}"
            result.append({"title": title, "svg": _both_models(rows, side, metric, classes), "metric": metric.label})
    return result


def _both_models(rows: list[Row], side: str, metric: Metric, classes: int) -> Markup:
    """A metric of both models of every algorithm, joined by a line."""
    keys = {model: metric.measure(model, side, "client") for model in MODELS}
    marks: list[Mark] = []
    ends: list[float] = []
    for place, row in enumerate(rows):
        values = [value for key in keys.values() if (value := row.mean[key]) is not None]
        if len(values) == len(keys):
            marks.append(Rule([(metric.scale * value, place) for value in values], "joint"))
    for (model, label), dots in zip(MODELS.items(), ("full", "diamond"), strict=True):
        known = [(n, row, value) for n, row in enumerate(rows) if (value := row.mean[keys[model]]) is not None]
        notes = []
        for n, row, value in known:
            middle, reach = metric.scale * value, metric.scale * (row.spread[keys[model]] or 0)
            ends += [middle - reach, middle + reach]
            notes.append(f"± {reach:.{metric.digits}f}" if reach else "")
            if reach:
                marks.append(Rule([(middle - reach, n), (middle + reach, n)], f"c-{model}"))
        points = [(metric.scale * value, float(n)) for n, _, value in known]
        marks.append(Line(label, points, model, "", dots, [4.2] * len(points), notes if any(notes) else ()))
    about = f"{capitalized(metric.label)} of every algorithm, {SIDES[side].label}"
    x = Axis(f"{metric.axis_label(classes)}, mean over clients", *limits(ends, 0.2 * metric.span), digits=metric.digits)
    y = Axis("", len(rows) - 0.5, -0.5, names=tuple(row.name for row in rows))
    name, height = f"{metric.name}-{side}", 12 + 22.0 * len(rows)
    return Chart(name, about, x, y, marks, columns=2, height=height, grid="x").svg()


class Cost(NamedTuple):
    """What a picture of learning curves has on its horizontal axis."""

    title: str
    axis: str
    units: tuple[str, ...]


CURVES = {
    "flops": Cost("client compute", "operations of a client drawn so far", FLOPS),
    "bytes": Cost("communication", "sent and received by a client drawn so far", BYTES),
}


class Curve(NamedTuple):
    """One algorithm's learning curve, mean over its runs."""

    name: str
    x: list[float]
    y: list[float]


def curve_of(name: str, runs: list[Run], metric: Metric, cost: str) -> Curve | None:
    """A metric of unseen clients, with the model that they predict with in the end, over a cost; None: it is not known."""
    key = metric.summary_key(runs[0].predicted, "client") if runs else ""
    each = [{point.round: (getattr(point, cost), point.sides["unseen"].get(key)) for point in run.curve} for run in runs]
    rounds = [round for round in (each[0] if each else {}) if all(finite(run.get(round, (0, None))[1]) for run in each)]
    x, y = ([statistics.fmean(float(run[round][n] or 0) for run in each) for round in rounds] for n in range(2))
    return Curve(name, x, y) if rounds else None


def marked(reference: str | None) -> dict[str, str]:
    """The lines that stand out where there are many, and in which colour."""
    colours = {} if reference is None else {reference: "dark"}
    return colours if reference == "flow" else colours | {"flow": "orange"}


def unit_of(largest: float, units: Sequence[str]) -> tuple[float, str]:
    """(what to divide by, the unit then) for numbers up to this."""
    power = 0
    while largest >= 1000 and power < len(units) - 1:
        largest, power = largest / 1000, power + 1
    return 1000.0**power, units[power]


def _curves(curves: list[Curve], metric: Metric, cost: str, reference: str | None, classes: int) -> Markup:
    """Learning curves of all algorithms, each with its name; where there are many, the reference and flow stand out."""
    _, axis, units = CURVES[cost]
    divisor, unit = unit_of(max(curve.x[-1] for curve in curves), units)
    few = len(curves) <= len(COLOURS)
    outstanding = {name: "ink" if words == "dark" else "personal" for name, words in marked(reference).items()}
    lines = []
    for n, curve in enumerate(curves):
        points = [(x / divisor, metric.scale * y) for x, y in zip(curve.x, curve.y, strict=True)]
        colour = outstanding.get(curve.name, COLOURS[n] if few else "same")
        line = "solid" if few or curve.name in outstanding else "thin"
        lines.append(Line(curve.name, points, colour, line, ("full", "hollow", "diamond")[n % 3] if few else ""))
    lines.sort(key=lambda line: line.name in outstanding)  # the last is above the others
    x = Axis(f"{axis} ({unit})", 0, 1.02 * max(x for line in lines for x, _ in line.points) or 1)
    y = Axis(
        f"{metric.axis_label(classes)}, {SIDES['unseen'].label}",
        *limits([y for line in lines for _, y in line.points]),
        digits=metric.digits,
    )
    about = f"{capitalized(metric.label)} of {SIDES['unseen'].label} over {axis}"
    height = max(230.0, 14.0 * len(lines))
    return Chart(f"{metric.name}-{cost}", about, x, y, lines, ends=lines, height=height).svg()
