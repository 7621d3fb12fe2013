"""What a comparison measures of every run, and the tables over algorithms: as text and as CSV."""

from __future__ import annotations

import csv
import io
import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from flow.algorithms import algorithm_of
from flow.comparison.kept import Kept, Point, Values, matched
from flow.comparison.paired import worst
from flow.evaluation import metrics
from flow.evaluation.metrics import ACCURACY, Average, Metric
from flow.evaluation.registry import all_metrics
from flow.evaluation.select import SIDES
from flow.reports.format import BYTES, FLOPS, HYPHEN, duration, scaled, with_spread

Measures = dict[str, float | None]
MODELS = {"global": "global", "personal": "personalized"}
ROUTED = {"local": "client's own expert alone", "hard": "hard-routed personalized", "soft": "soft-routed personalized"}
"""The personal model taken apart: its local expert without the router, and both experts by either kind of routing."""
TESTED = ("accuracy", "loss")
AVERAGES: dict[Average, str] = {"client": "mean over clients", "token": "over tokens"}
SHARES = {"helped": "helps", "hurt": "hurts"}
COSTS = {
    "upload_bytes": "a client sends in a round",
    "download_bytes": "a client receives in a round",
    "flops": "operations of a client in a round",
    "personal_upload_bytes": "a client sends to personalize",
    "personal_download_bytes": "a client receives to personalize, the model included",
    "personal_flops": "operations of a client to personalize",
    "total_flops": "operations of all clients in all rounds",
    "total_personal_flops": "operations of all scored clients to personalize",
    "client_state_bytes": "all clients keep at the end",
    "seconds": "all rounds, without evaluations",
}
CLOCK = {
    "virtual_seconds": "all rounds, on the virtual clock",
    "target_seconds": "until the target accuracy was reached first, on the virtual clock",
}
"""Measures of runs with a clock."""
PRIVACY = {
    "epsilon": "what all rounds cost a client's privacy, at the delta of the run",
    "noise_multiplier": "standard deviation of the noise over the clip",
}
"""Measures of private runs."""
JOINT = {
    f"worst_tenth_{name}": f"accuracy of the model that a client predicts with in the end, the tenth of {side.label} with the "
    "lowest, seeds averaged within a client"
    for name, side in SIDES.items()
}
"""Measures of all runs of an algorithm together, which have no deviation over seeds."""


def descriptions() -> dict[str, str]:
    """The measures of every run, in the order of the CSV columns; accuracies and shares are in 0..1."""
    results = {
        metric.measure(model, side, average): f"{metric.label} of the {adjective} model, {SIDES[side].label}, {words}"
        for metric in all_metrics()
        for side in SIDES
        for model, adjective in (MODELS | ROUTED).items()
        if model in metrics.MODELS
        for average, words in AVERAGES.items()
    }
    shares = {
        f"{share}_{name}": f"share of {side.label} that personalization {verb}"
        for share, verb in SHARES.items()
        for name, side in SIDES.items()
    }
    return results | shares | COSTS | CLOCK | PRIVACY | JOINT


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
    each: list[Measures | None]
    """By run, in the order of the seeds; None in the place of one that diverged."""
    seeds: list[int]
    """Those of the runs."""

    def kind(self) -> str:
        """As the poster of Flow names the classes."""
        if not self.client and not self.instance:
            return "server-side only"
        state = "stateful" if self.stateful else "stateless"
        return f"{state}, " + " + ".join(["per client"] * self.client + ["per instance"] * self.instance)


def measures(known: Kept) -> Measures:
    """What a finished run measured, from what is kept of it."""
    values: Measures = {}
    for side in SIDES:
        summary = known.summary(side)
        for metric, model, average in itertools.product(all_metrics(), metrics.MODELS, AVERAGES):
            values[metric.measure(model, side, average)] = summary[metric.summary_key(model, average)]
        for share in SHARES:
            values[f"{share}_{side}"] = summary[share]
    totals = known.about["totals"]
    sent, lost = totals["clients"], totals["dropped"] + totals["late"]
    counts = {"upload_bytes": sent, "download_bytes": sent + totals["skipped"] + lost, "flops": sent + lost}
    for name, count in counts.items():
        values[name] = totals[name] / count if count else None
        everybody = known.columns[name]
        values["personal_" + name] = statistics.fmean(everybody) if everybody else None
    values["total_flops"] = totals["flops"]
    values["total_personal_flops"] = math.fsum(known.columns["flops"])
    values["client_state_bytes"] = known.about["client_state_bytes"]
    values["seconds"] = totals["seconds"]
    values |= dict.fromkeys(CLOCK) | known.about.get("clock", {})
    values |= dict.fromkeys(PRIVACY) | known.about.get("privacy", {})
    return {name: None if values[name] is None else float(values[name] or 0) for name in descriptions() if name not in JOINT}


class Run(NamedTuple):
    """A run that has a result, as tables and pictures need it."""

    seed: int
    measures: Measures
    values: dict[tuple[str, str], Values]
    """By side and name of the metric: of every scored client, with the model that it predicts with in the end."""
    predicted: str
    """Which model that is: "personal" or "global"."""
    curve: list[Point]
    dataset: str
    about: str
    clients: dict[str, int]
    """By side, how many were scored."""


def run_of(known: Kept) -> Run:
    """What tables and pictures need of what is kept of a run."""
    values = {}
    for side, metric in itertools.product(SIDES, tested()):
        per_client = known.values(side, metric)
        if per_client is not None:
            values[side, metric.name] = per_client
    about, clients = known.about, {side: known.columns["side"].count(side) for side in SIDES}
    facts = about["dataset"], about["about"]
    return Run(about["seed"], measures(known), values, known.predicted, known.curve(), *facts, clients)


def tested() -> list[Metric]:
    """The metrics by which algorithms are compared client by client."""
    return [metric for metric in all_metrics() if metric.name in TESTED]


def worst_tenths(runs: list[Run]) -> Measures:
    """The accuracy of the tenth of the clients of a side that has the lowest, seeds averaged within a client.

    None for a side without clients that were scored with every seed.
    """
    measures: Measures = {}
    for side in SIDES:
        values = [run.values[side, ACCURACY.name] for run in runs if (side, ACCURACY.name) in run.values]
        _, numbers = matched(values) if values and len(values) == len(runs) else (None, np.empty((0, 0)))
        measures[f"worst_tenth_{side}"] = worst(numbers) if numbers.size else None
    return measures


def row_of(
    name: str,
    options: Any,
    runs: list[Measures | None],
    joint: Measures | None = None,
    about: str = "",
    first_seed: int = 0,
) -> Row:
    """The line of one algorithm; None is a run that diverged.

    joint: what only all runs together have, see :data:`JOINT`. about: one line, in place of the algorithm's own. first_seed: of
    the first run; every further one has the next.
    """
    algorithm = algorithm_of(options)
    each = [run for run in runs if run is not None]
    mean: Measures = {}
    spread: Measures = {}
    for key in descriptions():
        if key in JOINT:
            mean[key], spread[key] = (joint or {}).get(key), None
            continue
        values = [value for value in (run[key] for run in each) if value is not None]
        whole = bool(values) and len(values) == len(each)
        mean[key] = statistics.fmean(values) if whole else None
        spread[key] = statistics.stdev(values) if whole and len(values) > 1 else None
    scope = algorithm.scope(options)
    lr, stateful = getattr(options, "lr", None), algorithm.stateful(options)
    return Row(
        name,
        about or algorithm.about,
        stateful,
        scope.client,
        scope.instance,
        lr,
        len(each),
        len(runs) - len(each),
        mean,
        spread,
        runs,
        list(range(first_seed, first_seed + len(runs))),
    )


class ResultColumn(NamedTuple):
    """A column of what the evaluation gave: a metric of one model, the clients helped or hurt, or the worst tenth of them."""

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


def accuracy_columns() -> list[ResultColumn]:
    """The columns of the first table: for both sides the accuracy, and the clients helped and hurt."""
    columns = []
    for side in SIDES:
        columns += _columns_of(ACCURACY, side, MODELS)
        group = columns[-1].group
        columns += [ResultColumn(group, share, f"{share}_{side}", 0, 100, 0) for share in SHARES]
    return columns


def other_columns(rows: Sequence[Row]) -> list[ResultColumn]:
    """The columns of the second table: for both sides all other metrics, then the worst tenth of the clients."""
    others = (metric for metric in all_metrics() if metric is not ACCURACY)
    columns = [column for metric in others for side in SIDES for column in _columns_of(metric, side, MODELS)]
    worst = [ResultColumn("worst tenth of clients, %", side, f"worst_tenth_{side}", 2, 100, 1) for side in SIDES]
    return [*_asked(columns, rows), *worst]


def routed_columns(rows: Sequence[Row]) -> list[ResultColumn]:
    """The columns of the table of routed models: every metric of the local expert alone, under hard and under soft routing."""
    models = [model for model in ROUTED if model in metrics.MODELS]
    columns = [column for metric in all_metrics() for side in SIDES for column in _columns_of(metric, side, models)]
    return _asked(columns, rows)


def _asked(columns: list[ResultColumn], rows: Sequence[Row]) -> list[ResultColumn]:
    """Those columns that the runs counted, or would have if they could."""
    nowhere = _unasked(rows)
    return [column for column in columns if column.measure not in nowhere]


def _columns_of(metric: Metric, side: str, models: Iterable[str]) -> list[ResultColumn]:
    group = f"{SIDES[side].label}, {metric.unit if metric is ACCURACY else metric.heading}"
    printed = metric.digits, metric.scale, 1 if metric.higher_is_better else -1
    return [ResultColumn(group, model, metric.measure(model, side, "client"), *printed) for model in models]


Title = tuple[str, str]
"""(title over neighbours, title) of a column of the terminal's tables."""


def titles() -> list[Title]:
    """Of every column of the terminal's first table."""
    marks = [("", "algorithm"), ("", "state"), ("per", "client"), ("per", "instance")]
    compute = [("client compute, total", "in rounds"), ("client compute, total", "before predicting")]
    costs = [("upload", "in a round"), *compute, ("training", "time")]
    return [*marks, *((column.group, column.title) for column in accuracy_columns()), *costs]


def cells(row: Row) -> list[str]:
    """A line of this table."""
    marks = ["stateful" if row.stateful else "stateless", *("yes" if mark else HYPHEN for mark in (row.client, row.instance))]
    costs = (("upload_bytes", BYTES), ("total_flops", FLOPS), ("total_personal_flops", FLOPS))
    return [
        _name(row),
        *marks,
        *(column.cell(row) for column in accuracy_columns()),
        *(scaled(row.mean[key], units, HYPHEN) for key, units in costs),
        duration(row.mean["seconds"], HYPHEN),
    ]


def _name(row: Row) -> str:
    return row.name + (f" ({row.diverged} diverged)" if row.diverged else "")


def text_table(rows: list[Row]) -> str:
    """The tables for the terminal."""
    others: list[Title] = [("", "algorithm"), *((column.group, column.title) for column in other_columns(rows))]
    seeds = max(row.runs + row.diverged for row in rows)
    spread = f"± standard deviation over {seeds} seeds; " if seeds > 1 else ""
    lines = [
        *aligned(titles(), [cells(row) for row in rows], 2),
        "",
        *aligned(others, [[_name(row), *(column.cell(row) for column in other_columns(rows))] for row in rows], 1),
        "",
        *clock_table(rows),
        f"All metrics are means over clients; {spread}training time without evaluations.",
        "Client compute, total: of all clients in all rounds; of all scored clients before they predict.",
        "Worst tenth: accuracy of the tenth of the clients that has the lowest, with the model that each predicts with.",
    ]
    return "\n".join(lines)


def clock_table(rows: list[Row]) -> list[str]:
    """The lines of the table of virtual times; none where no run had a clock."""
    if CLOCK.keys() <= _unasked(rows):
        return []
    columns: list[Title] = [("", "algorithm"), ("virtual time", "all rounds"), ("virtual time", "to the target")]
    return [
        *aligned(columns, [[_name(row), *(duration(row.mean[name], HYPHEN) for name in CLOCK)] for row in rows], 1), "",
    ]  # fmt: skip


def aligned(columns: list[Title], lines: list[list[str]], left: int) -> list[str]:
    """A table whose columns line up; the first so many are flush left, the others flush right."""
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
        "  ".join(f"{c:<{w}}" if n < left else f"{c:>{w}}" for n, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in table
    ]
    return [line.rstrip() for line in (heads, *text)]


def _unasked(rows: Sequence[Row]) -> set[str]:
    """The measures that not every run has and none of these did: of metrics, of the clock, and of privacy."""
    nowhere: set[str] = set()
    if not any(row.mean.get("virtual_seconds") is not None for row in rows):
        nowhere |= CLOCK.keys()
    if not any(row.mean.get("noise_multiplier") is not None for row in rows):
        nowhere |= PRIVACY.keys()
    for metric in all_metrics():
        own = {metric.measure(model, side, average) for model in metrics.MODELS for side in SIDES for average in AVERAGES}
        if not metric.always and not any(row.mean.get(name) is not None for row in rows for name in own):
            nowhere |= own
    return nowhere


def asked(row: Row, rows: Sequence[Row]) -> Row:
    """A row without the measures that none of the runs counted."""
    nowhere = _unasked(rows)

    def only(values: Measures) -> Measures:
        return {name: value for name, value in values.items() if name not in nowhere}

    each = [None if run is None else only(run) for run in row.each]
    return row._replace(mean=only(row.mean), spread=only(row.spread), each=each)


def shown_metrics(rows: Sequence[Row]) -> list[Metric]:
    """Those that every run counts, and those that one of these did."""
    nowhere = _unasked(rows)
    return [metric for metric in all_metrics() if metric.measure("global", "seen", "client") not in nowhere]


def csv_table(rows: list[Row]) -> str:
    """One line per algorithm: its marks, and mean and spread of every measure, unrounded; empty where there is no number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    nowhere = _unasked(rows)
    names = [name for name in descriptions() if name not in nowhere]
    marks = ["algorithm", "kind", "stateful", "per_client", "per_instance", "lr", "runs", "diverged"]
    writer.writerow([*marks, *(column for name in names for column in ([name] if name in JOINT else [name, name + "_std"]))])
    for row in rows:
        pairs = ((row.mean[name], *([] if name in JOINT else [row.spread[name]])) for name in names)
        numbers = itertools.chain.from_iterable(pairs)
        values = [row.name, row.kind(), *(int(mark) for mark in (row.stateful, row.client, row.instance)), row.lr, row.runs]
        writer.writerow(["" if value is None else value for value in (*values, row.diverged, *numbers)])
    return out.getvalue()
