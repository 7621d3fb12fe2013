"""The page of a comparison: one file that opens anywhere, with the table, the pictures and how it was made."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

from flow.comparison import against
from flow.comparison.against import Line
from flow.comparison.labels import Label, add_labels
from flow.comparison.plan import Plan
from flow.comparison.table import (
    MODELS,
    ResultColumn,
    Row,
    Run,
    Title,
    accuracy_columns,
    other_columns,
    routed_columns,
    shown_metrics,
)
from flow.comparison.tuning import Trial, Values, metric_of, number, show
from flow.config import ModelOptions, TorchModel, name_of
from flow.evaluation.metrics import ACCURACY, Metric
from flow.evaluation.select import SIDES
from flow.reports.charts import COLOUR, chart
from flow.reports.format import BYTES, DASH, FLOPS, capitalized, duration, finite, scaled
from flow.reports.page import template
from flow.reports.words import words_of
from flow.storage import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_comparison(
    folder: Path,
    plan: Plan,
    rows: list[Row],
    runs: Mapping[str, list[Run]],
    tests: list[Line],
    tried: dict[str, list[Trial]],
    chosen: dict[str, Values],
    classes: int = 0,
) -> Path:
    """Write comparison.html, whole or not at all; returns its path.

    runs: by algorithm, those that have a result. tests: of every other algorithm against `plan.against`, where there is one.
    classes: of the texts; 0: the next token is predicted.
    """
    token = words_of("token", classes).token
    source = template(
        "comparison.html.j2",
        cell=lambda row, column: column.cell(row, DASH),
        operations=lambda value: scaled(value, FLOPS),
        rates=show,
        size=scaled,
        duration=duration,
    )
    finished, routed = [row for row in rows if row.runs], routed_columns(rows)
    page = source.render(
        rows=rows,
        facts=_facts(plan, [run for row in finished for run in runs[row.name]]),
        seeds=plan.seeds,
        accuracy=_table(accuracy_columns(), rows),
        others=_table(other_columns(rows), rows),
        routed=_table(routed, [row for row in finished if any(row.mean[column.measure] is not None for column in routed)]),
        token=token,
        against=_against(plan.against, tests, rows, token),
        metrics=[metric.label for metric in shown_metrics(rows) if metric is not ACCURACY],
        marked={name: words for name, words in _marked(plan.against).items() if name in plan.names},
        charts=_charts(finished, runs, plan.against, classes),
        tuning={name: _tried(trials, chosen[name]) for name, trials in tried.items()},
        tune=plan.tune,
        untuned=[name for name in plan.names if name not in tried],
        tune_rounds=plan.tune_rounds or plan.config.rounds,
        plan_json=(folder / "comparison.json").read_text(encoding="utf-8"),
    )
    target = folder / "comparison.html"
    files.write(target, page.encode("utf-8", errors="replace"))
    return target


def _table(columns: list[ResultColumn], rows: list[Row]) -> dict[str, Any]:
    """What the template needs of a table with a line per algorithm."""
    titles = [(column.group, column.title) for column in columns]
    finished = [row for row in rows if row.runs]
    return {"rows": rows, "columns": columns, "groups": _groups(titles), "best": _best(finished, columns)}


def _groups(titles: list[Title]) -> list[tuple[str, int]]:
    """The titles over neighbours, each with its columns."""
    return [(group, len(list(same))) for group, same in itertools.groupby(group for group, _ in titles)]


def _against(reference: str | None, tests: list[Line], rows: list[Row], token: str) -> dict[str, Any] | None:
    """What the template needs of the tests against the reference; None where there is none."""
    if reference is None:
        return None
    columns = against.titles(reference), against.beside_titles()
    beside = [against.beside_cells(row, DASH) for row in against.beside_rows(reference, rows)]
    lines = [against.cells(line, DASH) for line in tests], beside
    tables = [
        {"groups": _groups(titles), "titles": [title for _, title in titles], "lines": cells}
        for titles, cells in zip(columns, lines, strict=True)
    ]
    return {"reference": reference, "tables": tables, "notes": against.notes(reference, tests, token)}


def _model(options: ModelOptions | TorchModel) -> tuple[str, str]:
    if isinstance(options, TorchModel):
        return name_of(options.factory), options.dtype
    return f"{options.hidden_size} units", f"embedding {options.embedding_dim}, {options.dtype}"


def _facts(plan: Plan, runs: list[Run]) -> list[tuple[str, str, str]]:
    """(term, value, smaller print) of the definition list."""
    config = plan.config
    facts = [
        ("Rounds", f"{config.rounds}", f"{config.cohort} clients a round, the same ones for every algorithm"),
        ("Seeds", ", ".join(str(config.seed + n) for n in range(plan.seeds)), "one run of every algorithm with each"),
        ("Model", *_model(config.model)),
    ]
    if runs:
        counts = [f"{runs[0].clients[name]} {side.label}" for name, side in SIDES.items()]
        facts = [("Data", runs[0].dataset, runs[0].about), ("Scored", ", ".join(counts), "by the first run"), *facts]
    return facts


def _best(rows: list[Row], columns: list[ResultColumn]) -> dict[str, set[str]]:
    """By measure, the names of the rows that have the best value as printed."""
    best: dict[str, set[str]] = {}
    for column in columns:
        values = {row.name: value for row in rows if (value := row.mean[column.measure]) is not None}
        printed = {name: column.best * round(column.scale * value, column.digits) for name, value in values.items()}
        compared = column.best and len(printed) > 1
        best[column.measure] = {name for name, value in printed.items() if compared and value == max(printed.values())}
    return best


def _tried(trials: list[Trial], chosen: Values) -> dict[str, Any]:
    """What the table of tries says of one algorithm, and those parameters that were best at an end of what was tried."""
    tried = {name: [trial.values[name] for trial in trials] for name in chosen}
    ends = [name for name, values in tried.items() if min(values) < max(values) and chosen[name] in (min(values), max(values))]
    metric = metric_of(trials[0].metric)

    def formatted(value: float | None) -> str:
        return DASH if value is None else f"{metric.scale * value:.{metric.digits}f}"

    lines = [
        {
            "tried": {name: number(value) for name, value in trial.values.items()},
            "best": trial.values == chosen,
            "score": "no result" if trial.score is None else formatted(trial.score),
            "parts": "" if trial.score is None else f"{formatted(trial.seen)} / {formatted(trial.unseen)}",
        }
        for trial in trials
    ]
    reasons = [(trial.values, trial.reason) for trial in trials if trial.reason]
    notes = list(dict.fromkeys(trial.note for trial in trials if trial.note))
    return {"trials": lines, "chosen": chosen, "ends": ends, "metric": metric, "reasons": reasons, "notes": notes}


def _charts(rows: list[Row], runs: Mapping[str, list[Run]], reference: str | None, classes: int) -> list[dict[str, Any]]:
    """Pictures, each with a title and what its caption needs; those that have nothing to show are left out."""
    drawn = [metric for metric in shown_metrics(rows) if metric.charted]
    pictures: list[dict[str, Any]] = []
    for metric, cost in itertools.product(drawn, CURVES):
        lines = [line for row in rows if (line := _line(row.name, runs[row.name], metric, cost)) is not None]
        if lines:
            title = f"{capitalized(metric.label)} at equal {CURVES[cost].title}"
            svg = _curves(lines, metric, cost, reference, classes)
            pictures.append({"title": title, "svg": svg, "cost": cost, "metric": metric.label})
    for metric, side in itertools.product(drawn, ("unseen", "seen")):
        if any(row.mean[metric.measure(model, side, "client")] is not None for row in rows for model in MODELS):
            title = f"{SIDES[side].title}, {metric.label}"
            pictures.append({"title": title, "svg": _both_models(rows, side, metric, classes), "metric": metric.label})
    return pictures


def _both_models(rows: list[Row], side: str, metric: Metric, classes: int) -> Markup:
    """A metric of both models of every algorithm, joined by a line."""
    keys = {model: metric.measure(model, side, "client") for model in MODELS}

    def draw(axes: Axes) -> None:
        axes.figure.set_size_inches(4.9, 1.3 + 0.27 * len(rows))  # type: ignore[union-attr]
        for place, row in enumerate(rows):
            values = [row.mean[key] for key in keys.values()]
            if None not in values:
                axes.plot([metric.scale * (v or 0) for v in values], [place, place], color=COLOUR["same"], linewidth=2)
        for (model, label), marker in zip(MODELS.items(), "oD", strict=True):
            key = keys[model]
            known = [(place, row) for place, row in enumerate(rows) if row.mean[key] is not None]
            axes.errorbar(
                [metric.scale * (row.mean[key] or 0) for _, row in known],
                [place for place, _ in known],
                xerr=[metric.scale * (row.spread[key] or 0) for _, row in known],
                fmt=marker,
                markersize=5.5,
                linewidth=0,
                elinewidth=1.2,
                color=COLOUR[model],
                label=label,
            )
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="x", color=COLOUR["rule"], linewidth=0.7)

    about = f"{capitalized(metric.label)} of every algorithm, {SIDES[side].label}"
    return chart(f"{metric.name}-{side}", about, "", f"{metric.axis_label(classes)}, mean over clients", draw, 2)


class Cost(NamedTuple):
    """What a picture of learning curves has on its horizontal axis."""

    title: str
    axis: str
    units: tuple[str, ...]


CURVES = {
    "flops": Cost("client compute", "operations of a client drawn, over the rounds so far", FLOPS),
    "bytes": Cost("communication", "sent and received by a client drawn, over the rounds so far", BYTES),
}


class Curve(NamedTuple):
    """One algorithm's learning curve, mean over its runs."""

    name: str
    x: list[float]
    y: list[float]


def _line(name: str, runs: list[Run], metric: Metric, cost: str) -> Curve | None:
    """A metric of unseen clients, with the model that they predict with in the end, over a cost; None: it is not known."""
    key = metric.summary_key(runs[0].predicted, "client") if runs else ""
    each = [{point.round: (getattr(point, cost), point.sides["unseen"].get(key)) for point in run.curve} for run in runs]
    rounds = [round for round in (each[0] if each else {}) if all(finite(run.get(round, (0, None))[1]) for run in each)]
    x, y = ([statistics.fmean(float(run[round][n] or 0) for run in each) for round in rounds] for n in range(2))
    return Curve(name, x, y) if rounds else None


def _marked(reference: str | None) -> dict[str, str]:
    """The lines that stand out, and in which colour."""
    colours = {} if reference is None else {reference: "dark"}
    return colours if reference == "flow" else colours | {"flow": "orange"}


def _curves(lines: list[Curve], metric: Metric, cost: str, reference: str | None, classes: int) -> Markup:
    """Learning curves of all algorithms; the reference and flow stand out."""
    _, axis, units = CURVES[cost]
    marked = {name: COLOUR["ink" if words == "dark" else "personal"] for name, words in _marked(reference).items()}

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        axes.figure.set_size_inches(4.9, max(3.8, 1.4 + 0.14 * len(lines)))  # type: ignore[union-attr]
        for line in lines:
            colour, width = (marked[line.name], 2.2) if line.name in marked else (COLOUR["same"], 1.2)
            x, y, order = line.x, [metric.scale * value for value in line.y], 3 if line.name in marked else 2
            axes.plot(x, y, color=colour, linewidth=width, zorder=order)
            axes.plot(x[-1], y[-1], "o", color=colour, markersize=4.5 if line.name in marked else 3.5, zorder=order)
        axes.set_xlim(0, 1.02 * max(line.x[-1] for line in lines) or 1)
        axes.margins(y=0.06)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(lambda value, _: scaled(value, units))
        ends = ((line.name, line.x[-1], metric.scale * line.y[-1]) for line in lines)
        add_labels(axes, [Label(*end, marked.get(end[0], COLOUR["muted"])) for end in ends])

    about = f"{capitalized(metric.label)} of {SIDES['unseen'].label} over {axis}"
    return chart(f"{metric.name}-{cost}", about, f"{metric.axis_label(classes)}, {SIDES['unseen'].label}", axis, draw)
