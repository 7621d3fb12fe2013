"""The page of a comparison: one file that opens anywhere, with the table, the pictures and how it was made."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from flow.comparison.plan import Plan
from flow.comparison.table import COSTS, MODELS, ResultColumn, Row, result_columns
from flow.comparison.tuning import Trial, Values, metric_of, number, show
from flow.evaluation import metrics
from flow.evaluation.metrics import ACCURACY, Metric
from flow.evaluation.select import SIDES
from flow.reports.charts import COLOUR, chart
from flow.reports.files import read_evaluation
from flow.reports.format import BYTES, DASH, FLOPS, duration, scaled
from flow.reports.page import template
from flow.storage import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_comparison(
    folder: Path, plan: Plan, rows: list[Row], tried: dict[str, list[Trial]], chosen: dict[str, Values]
) -> Path:
    """Write comparison.html, whole or not at all; returns its path."""
    source = template(
        "comparison.html.j2",
        cell=lambda row, column: column.cell(row, DASH),
        operations=lambda value: scaled(value, FLOPS),
        rates=show,
        size=scaled,
        duration=duration,
    )
    finished, columns = [row for row in rows if row.runs], result_columns()
    page = source.render(
        rows=rows,
        facts=_facts(folder, plan, finished),
        seeds=plan.seeds,
        results=columns,
        groups=[(group, len(list(same))) for group, same in itertools.groupby(column.group for column in columns)],
        best=_best(finished, columns),
        charts=_charts(finished),
        tuning={name: _tried(trials, chosen[name]) for name, trials in tried.items()},
        tune=plan.tune,
        untuned=[name for name in plan.names if name not in tried],
        tune_rounds=plan.tune_rounds or plan.config.rounds,
        plan_json=(folder / "comparison.json").read_text(encoding="utf-8"),
    )
    target = folder / "comparison.html"
    files.write(target, page.encode("utf-8", errors="replace"))
    return target


def _facts(folder: Path, plan: Plan, finished: list[Row]) -> list[tuple[str, str, str]]:
    """(term, value, smaller print) of the definition list."""
    config = plan.config
    facts = [
        ("Rounds", f"{config.rounds}", f"{config.cohort} clients a round, the same ones for every algorithm"),
        ("Seeds", ", ".join(str(config.seed + n) for n in range(plan.seeds)), "one run of every algorithm with each"),
        ("Model", f"{config.model.hidden_size} units", f"embedding {config.model.embedding_dim}, {config.model.dtype}"),
    ]
    if finished:
        evaluation = read_evaluation(folder / "runs" / f"{finished[0].name}-seed{config.seed}")
        counts = [f"{evaluation['summary'][name]['clients']} {side.label}" for name, side in SIDES.items()]
        facts = [
            ("Data", evaluation["dataset"], evaluation["about"]),
            ("Scored", ", ".join(counts), "by the first run"),
            *facts,
        ]
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

    def shown(value: float | None) -> str:
        return DASH if value is None else f"{metric.scale * value:.{metric.digits}f}"

    lines = [
        {
            "tried": {name: number(value) for name, value in trial.values.items()},
            "best": trial.values == chosen,
            "score": "no result" if trial.score is None else shown(trial.score),
            "parts": "" if trial.score is None else f"{shown(trial.seen)} / {shown(trial.unseen)}",
        }
        for trial in trials
    ]
    reasons = [(trial.values, trial.reason) for trial in trials if trial.reason]
    notes = list(dict.fromkeys(trial.note for trial in trials if trial.note))
    return {"trials": lines, "chosen": chosen, "ends": ends, "metric": metric, "reasons": reasons, "notes": notes}


def _charts(rows: list[Row]) -> list[dict[str, Any]]:
    """Pictures, each with a title and a caption; those that have nothing to show are left out."""
    pictures: list[dict[str, Any]] = []
    for metric in metrics.METRICS:
        for side in ("unseen", "seen"):
            if any(row.mean[metric.measure(model, side, "client")] is not None for row in rows for model in MODELS):
                title = f"{SIDES[side].title}, {metric.label}"
                pictures.append({"title": title, "svg": _both_models(rows, side, metric), "metric": metric.label})
    for key, title in (("upload_bytes", "Accuracy and upload"), ("flops", "Accuracy and compute")):
        points = [(row, row.mean[key], _final(row)) for row in rows]
        known = [(row, x, y) for row, x, y in points if x is not None and y is not None]
        if len(known) > 1:
            pictures.append({"title": title, "svg": _against(known, key), "cost": key})
    return pictures


def _final(row: Row) -> float | None:
    """The accuracy with which unseen clients predict in the end."""
    base, personal = (row.mean[ACCURACY.measure(model, "unseen", "client")] for model in MODELS)
    return base if personal is None else personal


def _both_models(rows: list[Row], side: str, metric: Metric) -> Markup:
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
                [metric.scale * (row.mean[key] or 0) for _, row in known], [place for place, _ in known],
                xerr=[metric.scale * (row.spread[key] or 0) for _, row in known], fmt=marker, markersize=5.5, linewidth=0,
                elinewidth=1.2, color=COLOUR[model], label=label,
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="x", color=COLOUR["rule"], linewidth=0.7)

    about = f"{metric.label.capitalize()} of every algorithm, {SIDES[side].label}"
    return chart(f"{metric.name}-{side}", about, "", f"{metric.axis}, mean over clients", draw, 2)


def _against(points: list[tuple[Row, float, float]], key: str) -> Markup:
    """The accuracy of unseen clients over a cost, from zero on."""
    units = FLOPS if key == "flops" else BYTES

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        axes.figure.set_size_inches(4.9, 3.8)  # type: ignore[union-attr]
        for row, x, y in points:
            axes.plot(
                x, 100 * y, "D" if row.client else "o", color=COLOUR["personal" if row.client else "global"], markersize=5
            )
        axes.margins(y=0.1)
        axes.set_xlim(-0.03 * max(x for _, x, _ in points), 1.2 * max(x for _, x, _ in points) or 1)
        for (row, x, y), shift in zip(points, _shifts(points, axes.get_xlim(), axes.get_ylim()), strict=True):
            axes.annotate(
                row.name, (x, 100 * y), xytext=(6, shift), textcoords="offset points", fontsize=7.5, va="center",
                color=COLOUR["muted"],
            )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(lambda value, _: scaled(value, units) if value >= 0 else "")

    unseen = SIDES["unseen"].label
    return chart(key.replace("_", "-"), f"Accuracy of {unseen} over {COSTS[key]}", f"% right, {unseen}", COSTS[key], draw)


def _shifts(points: list[tuple[Row, float, float]], across: tuple[float, float], along: tuple[float, float]) -> list[float]:
    """How far up each name goes, in points of 1/72 inch, so that it covers no name below it; the axes are about 290 by 190."""
    shifts = [0.0] * len(points)
    taken: list[tuple[float, float]] = []
    for n in sorted(range(len(points)), key=lambda n: points[n][2]):
        x = 290 * points[n][1] / (across[1] - across[0])
        place = 190 * 100 * points[n][2] / (along[1] - along[0])
        start = place
        for other_x, other in sorted(taken, key=lambda one: one[1]):
            if abs(x - other_x) < 50 and abs(place - other) < 8:
                place = other + 8
        taken.append((x, place))
        shifts[n] = place - start
    return shifts
