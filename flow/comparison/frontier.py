"""The frontier of privacy: what the runs of a comparison reach, over the epsilon that each costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from flow.comparison.table import MODELS, Row, Title, aligned
from flow.evaluation.metrics import ACCURACY
from flow.evaluation.select import SIDES
from flow.reports.drawing import Axis, Chart, Line, limits
from flow.reports.format import HYPHEN, with_spread

NO_BOUND, PLAIN = "no bound", "not private"
COLOURS = [f"s{n}" for n in range(7)]


def private(rows: Sequence[Row]) -> bool:
    """Whether any of the runs is private."""
    return any(row.mean.get("noise_multiplier") is not None for row in rows)


def ordered(rows: Sequence[Row]) -> list[Row]:
    """The rows that have a result, those that cost the least first."""
    return sorted((row for row in rows if row.runs), key=lambda row: row.mean["epsilon"] or float("inf"))


def label(row: Row) -> str:
    """The epsilon of a row; without noise there is no bound."""
    epsilon = row.mean["epsilon"]
    return NO_BOUND if epsilon is None else f"{epsilon:.3g}"


def place(row: Row) -> str:
    """Where a row stands in the pictures: one that clips without noise beside those with noise, one that does neither apart."""
    return PLAIN if row.mean["noise_multiplier"] is None else label(row)


def predicted(row: Row, side: str) -> str:
    """The measure of the accuracy with which clients predict in the end."""
    own = [ACCURACY.measure(model, side, "client") for model in reversed(MODELS)]
    return next((measure for measure in own if row.mean[measure] is not None), own[-1])


def titles() -> list[Title]:
    """Of the columns of the table."""
    sides = [(f"{side.label}, %", title) for side in SIDES.values() for title in ("accuracy", "helped", "hurt")]
    return [("", "algorithm"), ("", "epsilon"), ("", "noise"), *sides]


def cells(row: Row, missing: str = HYPHEN) -> list[str]:
    """A line of the table."""
    noise = row.mean["noise_multiplier"]
    line = [row.name, label(row), missing if noise is None else f"{noise:.3g}"]
    for side in SIDES:
        shares = [(predicted(row, side), ACCURACY.digits), (f"helped_{side}", 0), (f"hurt_{side}", 0)]
        line += [with_spread(row.mean[name], row.spread[name], digits, 100, missing) for name, digits in shares]
    return line


def text(rows: Sequence[Row]) -> str:
    """The table for the terminal; empty where no run is private."""
    if not private(rows):
        return ""
    lines = [cells(row) for row in ordered(rows)]
    return "\n".join(["Accuracy, helped and hurt against epsilon", *aligned(titles(), lines, 1), "", *notes()])


def notes() -> list[str]:
    """What the table and the pictures leave out, a sentence each."""
    return [
        "Epsilon: of one client, at the delta of each run; it covers what the server learns, not these evaluations.",
        "What was chosen by looking at private data costs epsilon that is not counted here.",
    ]


def charts(rows: Sequence[Row], algorithms: Mapping[str, str]) -> dict[str, Markup]:
    """By title, pictures over epsilon, with a line for every algorithm.

    algorithms: by the name of a row, that of its algorithm.
    """
    known = sorted(ordered(rows), key=lambda row: place(row) == PLAIN)
    names = list(dict.fromkeys(map(place, known)))
    x = Axis("epsilon", -0.5, len(names) - 0.5, names=tuple(names))
    pictures: dict[str, Markup] = {}
    for title, kinds in {"Accuracy": ("accuracy",), "Helped and hurt": ("helped", "hurt")}.items():
        lines: list[Line] = []
        for n, algorithm in enumerate(dict.fromkeys(algorithms[row.name] for row in known)):
            for apart in (False, True):
                own = [row for row in known if algorithms[row.name] == algorithm and (place(row) == PLAIN) == apart]
                for kind in kinds:
                    points = [
                        (float(names.index(place(row))), 100 * value)
                        for row in own
                        if (value := row.mean[predicted(row, "unseen") if kind == "accuracy" else f"{kind}_unseen"]) is not None
                    ]
                    name = ", ".join([*([] if kind == "accuracy" else [kind]), algorithm, *([PLAIN] if apart else [])])
                    line, dots = ("dashed", "hollow") if kind == "hurt" else ("solid", "full")
                    lines += [Line(name, points, COLOURS[n % len(COLOURS)], line, dots)] if points else []
        if lines:
            y = Axis(
                f"{title.lower()}, %, {SIDES['unseen'].label}", *limits([y for line in lines for _, y in line.points], 1.0)
            )
            about = f"{title} of {SIDES['unseen'].label} over epsilon"
            pictures[f"{title} over epsilon"] = Chart(f"frontier-{len(pictures)}", about, x, y, lines, columns=2).svg()
    return pictures


def page(rows: Sequence[Row], algorithms: Mapping[str, str], missing: str) -> dict[str, Any] | None:
    """What the template of a comparison needs; None where no run is private."""
    if not private(rows):
        return None
    return {"lines": [cells(row, missing) for row in ordered(rows)], "charts": charts(rows, algorithms), "notes": notes()}
