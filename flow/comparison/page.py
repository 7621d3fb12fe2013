"""The page of a comparison: one file that opens anywhere, with the table, the pictures and how it was made."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flow.comparison import against, frontier
from flow.comparison.against import Line
from flow.comparison.charts import marked, pictures
from flow.comparison.plan import Plan, known_as
from flow.comparison.table import (
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
from flow.evaluation.metrics import ACCURACY
from flow.evaluation.select import SIDES
from flow.reports.format import DASH, FLOPS, duration, scaled
from flow.reports.page import document
from flow.reports.words import words_of
from flow.storage import files


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
    filters: dict[str, Callable[..., Any]] = {
        "cell": lambda row, column: column.cell(row, DASH),
        "operations": lambda value: scaled(value, FLOPS),
        "rates": show,
        "size": scaled,
        "duration": duration,
    }
    finished, routed = [row for row in rows if row.runs], routed_columns(rows)
    page = document(
        "comparison",
        filters,
        rows=rows,
        facts=_facts(plan, [run for row in finished for run in runs[row.name]], frontier.private(rows)),
        frontier=frontier.page(rows, {name: known_as(plan.settings, name).algorithm.name for name in plan.names}, DASH),
        seeds=plan.seeds,
        accuracy=_table(accuracy_columns(), rows),
        others=_table(other_columns(rows), rows),
        routed=_table(routed, [row for row in finished if any(row.mean[column.measure] is not None for column in routed)]),
        clock=[row for row in rows if row.mean["virtual_seconds"] is not None],
        target=plan.config.target,
        token=token,
        against=_against(plan.against, tests, rows, token),
        metrics=[metric.label for metric in shown_metrics(rows) if metric is not ACCURACY],
        marked={name: words for name, words in marked(plan.against).items() if name in plan.names},
        charts=pictures(finished, runs, plan.against, classes),
        tuning={name: _tried(trials, chosen[name]) for name, trials in tried.items()},
        tune=plan.tune,
        proposed={name: _ranges(plan, name) for name in tried} if plan.tuner == "optuna" else {},
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


def _facts(plan: Plan, runs: list[Run], private: bool = False) -> list[tuple[str, str, str]]:
    """(term, value, smaller print) of the definition list; private: whether some of the runs draw clients of their own."""
    config = plan.config
    same = "on average in private runs" if private else "the same ones for every algorithm"
    facts = [
        ("Rounds", f"{config.rounds}", f"{config.cohort} clients a round, {same}"),
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


def _ranges(plan: Plan, name: str) -> str:
    """ "lr 0.25 to 16, gamma 0 or 0.0003162 to 0.3162" """
    return ", ".join(
        f"{option} {'0 or ' if own.zero else ''}{number(own.low)} to {number(own.high)}"
        for option, own in plan.ranges(name).items()
    )


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
