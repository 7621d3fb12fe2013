"""What a comparison measures of every run, and the table over algorithms: as text and as CSV."""

from __future__ import annotations

import csv
import io
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from flow.algorithms import NAMES
from flow.errors import UserError
from flow.reports import files as report_files

Measures = dict[str, float | None]
SIDES = {"seen": "seen clients", "unseen": "new clients"}

MEASURES = {
    **{
        f"{model}_{side}{how}": f"accuracy of the {said} model, {SIDES[side]}, {average}"
        for side in SIDES
        for model, said in (("global", "global"), ("personal", "personalized"))
        for how, average in (("", "mean over clients"), ("_by_token", "over tokens"))
    },
    "helped_seen": "share of seen clients that personalization helps",
    "helped_unseen": "share of new clients that personalization helps",
    "hurt_seen": "share of seen clients that personalization hurts",
    "hurt_unseen": "share of new clients that personalization hurts",
    "upload_bytes": "a client sends in a round",
    "download_bytes": "a client receives in a round",
    "flops": "operations of a client in a round",
    "personal_upload_bytes": "a client sends to personalize",
    "personal_download_bytes": "a client receives to personalize, the model included",
    "personal_flops": "operations of a client to personalize",
    "client_state_bytes": "all clients keep at the end",
    "seconds": "all rounds, without evaluations",
}
"""Of every run; None where there is no such number. Accuracies and shares are in 0..1."""


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
        metrics, evaluation = report_files.read_metrics(folder), report_files.read_evaluation(folder)
        summary = evaluation["summary"]
        found: Measures = {}
        for side in SIDES:
            for model in ("global", "personal"):
                found[f"{model}_{side}"] = summary[side][f"{model}_client"]
                found[f"{model}_{side}_by_token"] = summary[side][f"{model}_token"]
            found[f"helped_{side}"], found[f"hurt_{side}"] = summary[side]["helped"], summary[side]["hurt"]
        sent, skipped, lost = (
            sum(row[key] for row in metrics for key in keys) for keys in (["clients"], ["skipped"], ["dropped", "late"])
        )
        counts = {"upload_bytes": sent, "download_bytes": sent + skipped + lost, "flops": sent + lost}
        for name, count in counts.items():
            found[name] = sum(row[name] for row in metrics) / count if count else None
            everybody = [client[name] for client in evaluation["clients"]]
            found["personal_" + name] = statistics.fmean(everybody) if everybody else None
        found["client_state_bytes"] = metrics[-1]["client_state_bytes"]
        found["seconds"] = sum(row["seconds"] for row in metrics)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: its files are damaged ({error}); remove the folder, and the run is done again") from error
    return {name: None if found[name] is None else float(found[name] or 0) for name in MEASURES}


def row_of(name: str, options: Any, runs: list[Measures | None]) -> Row:
    """The line of one algorithm; None is a run that diverged."""
    algorithm = NAMES[name].algorithm
    each = [run for run in runs if run is not None]
    mean: Measures = {}
    spread: Measures = {}
    for key in MEASURES:
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


def accuracy(row: Row, key: str) -> str:
    """A share in per cent, with its spread: "29.16 ± 0.12"."""
    mean, spread = row.mean[key], row.spread[key]
    if mean is None:
        return "-"
    return f"{100 * mean:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")


def share(row: Row, key: str) -> str:
    """A share in whole per cent, with its spread."""
    mean, spread = row.mean[key], row.spread[key]
    if mean is None:
        return "-"
    return f"{100 * mean:.0f}" + ("" if spread is None else f" ± {100 * spread:.0f}")


BYTES = ("B", "kB", "MB", "GB", "TB")
FLOPS = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP")


def scaled(value: float | None, units: tuple[str, ...] = BYTES) -> str:
    """A number with its decimal unit, three digits."""
    if value is None:
        return "-"
    power = 0
    while value >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    digits = 0 if value >= 99.95 or power == 0 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {units[power]}"


def time(seconds: float | None) -> str:
    """A duration."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


COLUMNS = (
    ("", "algorithm"),
    ("", "state"),
    ("per", "client"),
    ("per", "instance"),
    ("seen clients, %", "global"),
    ("seen clients, %", "personal"),
    ("seen clients, %", "helped"),
    ("new clients, %", "global"),
    ("new clients, %", "personal"),
    ("new clients, %", "helped"),
    ("a client in a round", "upload"),
    ("a client in a round", "compute"),
    ("to", "personalize"),
    ("training", "time"),
)


def cells(row: Row) -> list[str]:
    """A line of the table, in the order of COLUMNS."""
    name = row.name + (f" ({row.diverged} diverged)" if row.diverged else "")
    marks = ["stateful" if row.stateful else "stateless", "yes" if row.client else "-", "yes" if row.instance else "-"]
    results = [
        show(row, f"{what}_{side}")
        for side in SIDES
        for what, show in (("global", accuracy), ("personal", accuracy), ("helped", share))
    ]
    costs = [scaled(row.mean["upload_bytes"]), scaled(row.mean["flops"], FLOPS), scaled(row.mean["personal_flops"], FLOPS)]
    return [name, *marks, *results, *costs, time(row.mean["seconds"])]


def text_table(rows: list[Row]) -> str:
    """The table for the terminal."""
    lines = [cells(row) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip([name for _, name in COLUMNS], *lines, strict=True)]
    heads, start = "", 0
    while start < len(COLUMNS):
        group, end = COLUMNS[start][0], start + 1
        while end < len(COLUMNS) and group and COLUMNS[end][0] == group:
            end += 1
        width = sum(widths[start:end]) + 2 * (end - start - 1)
        if len(group) > width:  # the last column makes room for the title above it
            widths[end - 1] += len(group) - width
            width = len(group)
        heads += f"{group:^{width}}  "
        start = end
    table = [[name for _, name in COLUMNS], *lines]
    shown = [
        "  ".join(f"{c:<{w}}" if n < 2 else f"{c:>{w}}" for n, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in table
    ]
    seeds = max(row.runs + row.diverged for row in rows)
    spread = f"± standard deviation over {seeds} seeds; " if seeds > 1 else ""
    foot = f"Accuracies are means over clients; {spread}training time without evaluations."
    return "\n".join(line.rstrip() for line in (heads, *shown, foot))


def csv_table(rows: list[Row]) -> str:
    """One line per algorithm: its marks, and mean and spread of every measure, unrounded; empty where there is no number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    marks = ["algorithm", "kind", "stateful", "per_client", "per_instance", "lr", "runs", "diverged"]
    writer.writerow([*marks, *(column for name in MEASURES for column in (name, name + "_std"))])
    for row in rows:
        numbers = [value for name in MEASURES for value in (row.mean[name], row.spread[name])]
        values = [row.name, row.kind(), *(int(mark) for mark in (row.stateful, row.client, row.instance)), row.lr, row.runs]
        writer.writerow(["" if value is None else value for value in (*values, row.diverged, *numbers)])
    return out.getvalue()
