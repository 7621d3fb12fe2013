"""The charts of the live page, drawn without their points: frame, legend and lines, into which the page puts what comes.

Colours and lines are those of the report. A chart of one run has its models and sides; one of several runs has a line for each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

from flow.evaluation.metrics import ACCURACY, Metric
from flow.evaluation.registry import all_metrics
from flow.evaluation.select import SIDES
from flow.reports.charts import MOST_DOTS
from flow.reports.drawing import Axis, Chart, Line
from flow.reports.format import capitalized
from flow.reports.words import words_of
from flow.serving.watch.run import curve_of

SIX = 100_000.0
"""The end of an axis that leaves room for numbers of six letters beside it."""
COLOURS = [f"s{n}" for n in range(7)]
STROKES = ("solid", "dashed", "thin")
"""Of the first seven runs, the next seven, and all others."""
MODELS = {"global": "global", "personal": "personalized"}
ROUTED = {
    "local": ("own expert alone", "personal"),
    "hard": ("one expert at a token", "s3"),
    "soft": ("both experts mixed", "s1"),
}
"""What a run with a router counts beside the two models: words and colour."""


class Drawn(NamedTuple):
    """One line of a chart."""

    run: int
    curve: str
    label: str
    colour: str
    stroke: str = "solid"
    dots: str = ""


class Picture(NamedTuple):
    """One chart of the page."""

    name: str
    title: str
    y: str
    """The label of its axis."""
    lines: list[Drawn]
    digits: int = 2
    span: float = 0.0
    """The least length of its axis."""
    zero: bool = False
    """Whether its axis begins at 0."""

    def plain(self) -> dict[str, Any]:
        """What the page is given."""
        marks = [Line(line.label, [], line.colour, line.stroke) for line in self.lines]
        x, y = Axis("round", 0.0, 1.0, 0, whole=True), Axis(self.y, 0.0, SIX, self.digits)
        columns = 0 if len(marks) == 1 else 2
        about = f"{self.title} by round"
        return {
            "name": self.name,
            "title": self.title,
            "svg": str(Chart(self.name, about, x, y, marks, columns, shared=len(marks) < 5).svg()),
            "lines": [{"run": line.run, "curve": line.curve, "dots": line.dots} for line in self.lines],
            "span": self.span,
            "zero": self.zero,
            "most_dots": MOST_DOTS,
        }


def of_run(number: int, curves: Collection[str], classes: int) -> Iterator[Picture]:
    """The charts of one run alone.

    Args:
        number: of the run.
        curves: the names of those that it has.
        classes: of the texts; 0: the next token is predicted.
    """
    if "loss" in curves:
        yield Picture(
            "loss", "Training loss", words_of("token", classes).nats, [Drawn(number, "loss", "training loss", "ink")], 4
        )
    for metric in _charted():
        lines = [
            Drawn(number, name, f"{label}, {side}", model, *_of_side(side))
            for side in SIDES
            for model, label in MODELS.items()
            if (name := curve_of(metric.name, model, side)) in curves
        ]
        if lines:
            yield Picture(metric.name, _title(metric), metric.axis_label(classes), lines, metric.digits, metric.span)
    lines = [
        Drawn(number, name, f"{words}, {side}", colour, *_of_side(side))
        for side in SIDES
        for model, (words, colour) in ROUTED.items()
        if (name := curve_of(ACCURACY.name, model, side)) in curves
    ]
    if lines:
        title = "Router: accuracy by what it may choose"
        yield Picture("router", title, ACCURACY.axis_label(classes), lines, ACCURACY.digits, ACCURACY.span)
    yield from _of_time([(number, "")], {number: curves})
    for name, whose in (("lr", "clients"), ("server_lr", "server")):
        if name in curves:
            title = f"Learning rate of the {whose}"
            yield Picture(f"rate-{whose}", title, "learning rate", [Drawn(number, name, "learning rate", "ink")], 6, 0.0, True)


def of_runs(runs: Mapping[int, str], curves: Mapping[int, Collection[str]], classes: int) -> Iterator[Picture]:
    """The charts of several runs: a line for each, of the model that its clients predict with.

    Args:
        runs: their names by number.
        curves: the names of the curves that each has.
        classes: of the texts; 0: the next token is predicted.
    """
    styles = {number: _style(place) for place, number in enumerate(runs)}

    def lines(names: Mapping[int, str]) -> list[Drawn]:
        return [Drawn(number, name, runs[number], *styles[number]) for number, name in names.items()]

    if own := {number: "loss" for number in runs if "loss" in curves[number]}:
        yield Picture("loss", "Training loss", words_of("token", classes).nats, lines(own), 4)
    for side in ("unseen", "seen"):
        for metric in _charted():
            names: dict[int, str] = {}
            for number, model in product(runs, ("global", "personal")):  # the latter where a run has both
                if (name := curve_of(metric.name, model, side)) in curves[number]:
                    names[number] = name
            if names:
                title = f"{capitalized(metric.label)}, {SIDES[side].label}"
                drawn = [line._replace(dots="full") for line in lines(names)]
                yield Picture(f"{metric.name}-{side}", title, metric.axis_label(classes), drawn, metric.digits, metric.span)
    yield from _of_time([*runs.items()], curves)


def _of_time(runs: list[tuple[int, str]], curves: Mapping[int, Collection[str]]) -> Iterator[Picture]:
    """Speed, and the time that was left."""
    for name, title, axis, digits in (
        ("speed", "Client-sequences per second", "sequences a second", 0),
        ("left", "Time left, estimated at every round", "minutes", 2),
    ):
        lines = []
        for place, (number, label) in enumerate(runs):
            colour, stroke = _style(place) if label else ("ink", "solid")
            if name in curves[number]:
                lines.append(Drawn(number, name, label or title, colour, stroke))
        if lines:
            yield Picture(name, title, axis, lines, digits, 0.0, True)


def _charted() -> list[Metric]:
    return [metric for metric in all_metrics() if metric.charted]


def _title(metric: Metric) -> str:
    return f"{capitalized(metric.label)} on held-out text"


def _of_side(side: str) -> tuple[str, str]:
    """Stroke and dots, as in the report."""
    return ("dashed", "hollow") if side == "seen" else ("solid", "full")


def _style(place: int) -> tuple[str, str]:
    return COLOURS[place % len(COLOURS)], STROKES[min(place // len(COLOURS), len(STROKES) - 1)]
