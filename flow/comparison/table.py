"""What a comparison measures of every run, and the table over algorithms: as text and as CSV."""

from __future__ import annotations

import csv
import io
import itertools
import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from flow.algorithms import NAMES
from flow.errors import UserError
from flow.evaluation import metrics
from flow.evaluation.metrics import ACCURACY, Average, Metric
from flow.evaluation.select import SIDES
from flow.reports import files as report_files
from flow.reports.format import BYTES, FLOPS, HYPHEN, duration, scaled, with_spread

Measures = dict[str, float | None]
MODELS = {"global": "global", "personal": "personalized"}
AVERAGES: dict[Average, str] = {"client": "mean over clients", "token": "over tokens"}
SHARES = {"helped": "helps", "hurt": "hurts"}
COSTS = {
    "upload_bytes": "a client sends in a round",
    "download_bytes": "a client receives in a round",
    "flops": "operations of a client in a round",
    "personal_upload_bytes": "a client sends to personalize",
    "personal_download_bytes": "a client receives to personalize, the model included",
    "personal_flops": "operations of a client to personalize",
    "client_state_bytes": "all clients keep at the end",
    "seconds": "all rounds, without evaluations",
}


def descriptions() -> dict[str, str]:
    """The measures of every run, in the order of the CSV columns; accuracies and shares are in 0..1."""
    results = {
        metric.measure(model, side, average): f"{metric.label} of the {adjective} model, {SIDES[side].label}, {words}"
        for metric in metrics.METRICS
        for side in SIDES
        for model, adjective in MODELS.items()
        for average, words in AVERAGES.items()
    }
    shares = {
        f"{share}_{name}": f"share of {side.label} that personalization {verb}"
        for share, verb in SHARES.items()
        for name, side in SIDES.items()
    }
    return results | shares | COSTS


class Row(NamedTuple):
    """One algorithm, over its seeds."""

    name: str
    about: str
    stateful: bool
    """Whether clients keep something from round to round."""
    client: bool
    """Whether every client predicts with parameters of its own."""
    instance: bool
    """Whether which parameters compute is decided anew for every token."""
    lr: float | None
    runs: int
    """Those that have a result."""
    diverged: int
    """Those that have none."""
    mean: Measures
    spread: Measures
    """Standard deviation over the seeds, n - 1 in the denominator; None with fewer than two."""
    each: list[Measures]

    def kind(self) -> str:
        """As the poster of Flow names the classes."""
        if not self.client and not self.instance:
            return "server-side only"
        state = "stateful" if self.stateful else "stateless"
        return f"{state}, " + " + ".join(["per client"] * self.client + ["per instance"] * self.instance)


def measures(folder: Path) -> Measures:
    """What a finished run measured, from its files.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        rows, evaluation = report_files.read_metrics(folder), report_files.read_evaluation(folder)
        values: Measures = {}
        for side in SIDES:
            summary = evaluation["summary"][side]
            for metric, model, average in itertools.product(metrics.METRICS, MODELS, AVERAGES):
                values[metric.measure(model, side, average)] = summary[metric.summary_key(model, average)]
            for share in SHARES:
                values[f"{share}_{side}"] = summary[share]
        sent, skipped, lost = (
            sum(row[key] for row in rows for key in keys) for keys in (["clients"], ["skipped"], ["dropped", "late"])
        )
        counts = {"upload_bytes": sent, "download_bytes": sent + skipped + lost, "flops": sent + lost}
        for name, count in counts.items():
            values[name] = sum(row[name] for row in rows) / count if count else None
            everybody = [client[name] for client in evaluation["clients"]]
            values["personal_" + name] = statistics.fmean(everybody) if everybody else None
        values["client_state_bytes"] = rows[-1]["client_state_bytes"]
        values["seconds"] = sum(row["seconds"] for row in rows)
        found = {name: None if values[name] is None else float(values[name] or 0) for name in descriptions()}
        for name, value in found.items():
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} is {value}")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{folder}: its files are damaged ({error}); remove the folder, and the run is done again") from error
    return found


def row_of(name: str, options: Any, runs: list[Measures | None]) -> Row:
    """The line of one algorithm; None is a run that diverged."""
    algorithm = NAMES[name].algorithm
    each = [run for run in runs if run is not None]
    mean: Measures = {}
    spread: Measures = {}
    for key in descriptions():
        values = [value for value in (run[key] for run in each) if value is not None]
        whole = bool(values) and len(values) == len(each)
        mean[key] = statistics.fmean(values) if whole else None
        spread[key] = statistics.stdev(values) if whole and len(values) > 1 else None
    scope = algorithm.scope(options)
    lr, stateful = getattr(options, "lr", None), algorithm.fresh is not None
    return Row(
        name,
        NAMES[name].about,
        stateful,
        scope.client,
        scope.instance,
        lr,
        len(each),
        len(runs) - len(each),
        mean,
        spread,
        each,
    )


class ResultColumn(NamedTuple):
    """A column of the table that shows what an evaluation gave: a metric of one model, or the clients helped."""

    group: str
    """The title over its neighbours and itself."""
    title: str
    measure: str
    digits: int
    scale: float
    best: int
    """1 where the highest value is the best one, -1 where the lowest is, 0 where none is."""

    def cell(self, row: Row, missing: str = HYPHEN) -> str:
        """The mean over seeds, with its spread."""
        return with_spread(row.mean[self.measure], row.spread[self.measure], self.digits, self.scale, missing)


def result_columns() -> list[ResultColumn]:
    """These columns: for every metric both sides."""
    return [column for metric in metrics.METRICS for side in SIDES for column in _columns_of(metric, side)]


def _columns_of(metric: Metric, side: str) -> list[ResultColumn]:
    group = f"{SIDES[side].label}, {metric.unit if metric is ACCURACY else metric.heading}"
    best = 1 if metric.higher_is_better else -1
    columns = [
        ResultColumn(group, model, metric.measure(model, side, "client"), metric.digits, metric.scale, best) for model in MODELS
    ]
    return [*columns, ResultColumn(group, "helped", f"helped_{side}", 0, 100, 0)] if metric is ACCURACY else columns


def titles() -> list[tuple[str, str]]:
    """(title over neighbours, title) of every column of the terminal's table."""
    marks = [("", "algorithm"), ("", "state"), ("per", "client"), ("per", "instance")]
    costs = [("a client in a round", "upload"), ("a client in a round", "compute"), ("to", "personalize"), ("training", "time")]
    return [*marks, *((column.group, column.title) for column in result_columns()), *costs]


def cells(row: Row) -> list[str]:
    """A line of this table."""
    name = row.name + (f" ({row.diverged} diverged)" if row.diverged else "")
    marks = ["stateful" if row.stateful else "stateless", *("yes" if mark else HYPHEN for mark in (row.client, row.instance))]
    costs = (("upload_bytes", BYTES), ("flops", FLOPS), ("personal_flops", FLOPS))
    return [
        name,
        *marks,
        *(column.cell(row) for column in result_columns()),
        *(scaled(row.mean[key], units, HYPHEN) for key, units in costs),
        duration(row.mean["seconds"], HYPHEN),
    ]


def text_table(rows: list[Row]) -> str:
    """The table for the terminal."""
    columns, lines = titles(), [cells(row) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip([name for _, name in columns], *lines, strict=True)]
    heads, start = "", 0
    while start < len(columns):
        group, end = columns[start][0], start + 1
        while end < len(columns) and group and columns[end][0] == group:
            end += 1
        width = sum(widths[start:end]) + 2 * (end - start - 1)
        if len(group) > width:  # the last column makes room for the title above it
            widths[end - 1] += len(group) - width
            width = len(group)
        heads += f"{group:^{width}}  "
        start = end
    table = [[name for _, name in columns], *lines]
    text = [
        "  ".join(f"{c:<{w}}" if n < 2 else f"{c:>{w}}" for n, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in table
    ]
    seeds = max(row.runs + row.diverged for row in rows)
    spread = f"± standard deviation over {seeds} seeds; " if seeds > 1 else ""
    foot = f"Accuracies are means over clients; {spread}training time without evaluations."
    return "\n".join(line.rstrip() for line in (heads, *text, foot))


def csv_table(rows: list[Row]) -> str:
    """One line per algorithm: its marks, and mean and spread of every measure, unrounded; empty where there is no number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = list(descriptions())
    marks = ["algorithm", "kind", "stateful", "per_client", "per_instance", "lr", "runs", "diverged"]
    writer.writerow([*marks, *(column for name in names for column in (name, name + "_std"))])
    for row in rows:
        numbers = [value for name in names for value in (row.mean[name], row.spread[name])]
        values = [row.name, row.kind(), *(int(mark) for mark in (row.stateful, row.client, row.instance)), row.lr, row.runs]
        writer.writerow(["" if value is None else value for value in (*values, row.diverged, *numbers)])
    return out.getvalue()
