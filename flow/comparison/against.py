"""Every algorithm of a comparison against one of them, the reference: differences paired by client, with tests of all of them.

Both sides of a pair are the numbers of one client with the model that it predicts with in the end. Only clients count that both
algorithms scored with every seed that both finished.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flow.comparison.kept import Values, matched
from flow.comparison.paired import holm, paired, wins, worst
from flow.comparison.table import Row, Run, Title, aligned, tested
from flow.evaluation.metrics import Metric
from flow.evaluation.select import SIDES
from flow.reports.format import FLOPS, HYPHEN, metric_value, number, scaled

LEVEL = 0.95
"""Of the intervals."""


class Line(NamedTuple):
    """One algorithm against the reference, by one metric on one side. Numbers are None where no client can be paired."""

    algorithm: str
    reference: str
    side: str
    metric: str
    """Its name; the numbers are as the metric counts them, not as it prints them."""
    seeds: int
    """Those that both finished."""
    clients: int
    """Those that both scored with all of these seeds."""
    reference_value: float | None = None
    """Mean over these clients; likewise the next."""
    value: float | None = None
    difference: float | None = None
    """The algorithm minus the reference."""
    low: float | None = None
    high: float | None = None
    p: float | None = None
    """Of the single test."""
    p_holm: float | None = None
    """After Holm's method over all tests of the comparison."""
    better: float | None = None
    """Share of the clients that are better off than with the reference, seeds averaged within a client."""
    worse: float | None = None
    reference_worst_tenth: float | None = None
    """Mean over the tenth of the clients that are worst off with the reference."""
    worst_tenth: float | None = None


BESIDE = ("helped", "hurt", "total_flops", "total_personal_flops")
"""What else is shown of both, from their rows."""


def lines_against(reference: str, runs: Mapping[str, Sequence[Run]]) -> list[Line]:
    """All lines: every other algorithm, both sides, accuracy and loss; without those in which nobody has a number.

    runs: by algorithm, those that have a result.
    """
    every = []
    for side in SIDES:
        for metric in tested():
            lines = [_line(name, reference, side, metric, runs) for name in runs if name != reference]
            if any(line.clients for line in lines):
                every += lines
    corrected = iter(holm([line.p for line in every if line.p is not None]))
    lines = [line if line.p is None else line._replace(p_holm=next(corrected)) for line in every]
    order = list(runs)
    return sorted(lines, key=lambda line: order.index(line.algorithm))


def _line(name: str, reference: str, side: str, metric: Metric, runs: Mapping[str, Sequence[Run]]) -> Line:
    both = [{run.seed: run for run in runs[algorithm]} for algorithm in (reference, name)]
    seeds = sorted(both[0].keys() & both[1].keys())
    both_values = [[run[seed].values.get((side, metric.name)) for seed in seeds] for run in both]
    known: list[Values] = [values for values in (*both_values[0], *both_values[1]) if values is not None]
    if not seeds or len(known) < 2 * len(seeds):
        return Line(name, reference, side, metric.name, len(seeds), 0)
    clients, numbers = matched(known)
    if not len(clients):
        return Line(name, reference, side, metric.name, len(seeds), 0)
    ours, theirs = numbers[len(seeds) :], numbers[: len(seeds)]
    differences: NDArray[np.float64] = ours - theirs
    higher, lower = wins(differences)
    better, worse = (higher, lower) if metric.higher_is_better else (lower, higher)
    tenths = [worst(values, highest_is_worst=not metric.higher_is_better) for values in (theirs, ours)]
    line = Line(
        name,
        reference,
        side,
        metric.name,
        len(seeds),
        len(clients),
        float(theirs.mean()),
        float(ours.mean()),
        float(differences.mean()),
        better=better,
        worse=worse,
        reference_worst_tenth=tenths[0],
        worst_tenth=tenths[1],
    )
    if len(clients) < 2:  # too few for a test
        return line
    test = paired(differences, level=LEVEL)
    return line._replace(low=test.low, high=test.high, p=test.p)


def records(lines: Sequence[Line], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Lines with all that is known of both algorithms, unrounded, as JSON and CSV have them."""
    by_name = {row.name: row for row in rows}
    content = []
    for line in lines:
        record: dict[str, Any] = line._asdict()
        for key in BESIDE:
            measure = f"{key}_{line.side}" if key in ("helped", "hurt") else key
            record[f"reference_{key}"] = by_name[line.reference].mean[measure]
            record[key] = by_name[line.algorithm].mean[measure]
        content.append(record)
    return content


def csv_against(lines: Sequence[Line], rows: Sequence[Row]) -> str:
    """One line per test; empty where there is no number."""
    out = io.StringIO()
    beside = [f"{prefix}{key}" for key in BESIDE for prefix in ("reference_", "")]
    writer = csv.DictWriter(out, [*Line._fields, *beside], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records(lines, rows))
    return out.getvalue()


def titles(reference: str) -> list[Title]:
    """Of the columns of the table of tests."""
    return [
        *(("", title) for title in ("algorithm", "clients", "seeds", "metric")),
        *(("mean over clients", title) for title in (reference, "algorithm")),
        *(("", title) for title in ("difference", f"{100 * LEVEL:.0f} % interval", "p (Holm)")),
        *(("clients, %", title) for title in ("better", "worse")),
        *(("worst tenth", title) for title in (reference, "algorithm")),
    ]


def cells(line: Line, missing: str = HYPHEN) -> list[str]:
    """A line of this table."""
    metric = next(known for known in tested() if known.name == line.metric)
    plain, signed = (partial(formatter, metric=metric, missing=missing) for formatter in (metric_value, _signed))
    interval = missing if line.low is None else f"{signed(line.low)} to {signed(line.high)}"
    values = [plain(value) for value in (line.reference_value, line.value)]
    shares = [number(share, 0, 100, missing) for share in (line.better, line.worse)]
    tenths = [plain(value) for value in (line.reference_worst_tenth, line.worst_tenth)]
    marks = [line.algorithm, f"{line.clients} {line.side}", f"{line.seeds}", metric.heading]
    return [*marks, *values, signed(line.difference), interval, p_value(line.p_holm, missing), *shares, *tenths]


def _signed(value: float | None, metric: Metric, missing: str) -> str:
    """A difference with its sign; never a signed zero."""
    text = missing if value is None else f"{metric.scale * value:+.{metric.digits}f}"
    return text[1:] if value is not None and float(text) == 0 else text


def p_value(p: float | None, missing: str = HYPHEN) -> str:
    """A p value with three digits after the point."""
    return missing if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def beside_titles() -> list[Title]:
    """Of the columns of the table beside it, which has the reference, too."""
    shares = [(f"{side.label}, %", share) for side in SIDES.values() for share in ("helped", "hurt")]
    return [("", "algorithm"), *shares, *(("client compute, total", title) for title in ("in rounds", "before predicting"))]


def beside_cells(row: Row, missing: str = HYPHEN) -> list[str]:
    """A line of that table."""
    shares = [number(row.mean[f"{share}_{side}"], 0, 100, missing) for side in SIDES for share in ("helped", "hurt")]
    return [row.name, *shares, *(scaled(row.mean[key], FLOPS, missing) for key in ("total_flops", "total_personal_flops"))]


def beside_rows(reference: str, rows: Sequence[Row]) -> list[Row]:
    """The reference first, then all others in their order."""
    return sorted(rows, key=lambda row: row.name != reference)


def notes(reference: str, lines: Sequence[Line], token: str = "token") -> list[str]:
    """What the columns of both tables mean, a sentence each; token: the word for what is scored."""
    tests = sum(line.p is not None for line in lines)
    if not lines:
        return [f"There is nothing to compare: no other algorithm has a client and a seed in common with {reference}."]
    sentences = [
        "Each client predicts with its personalized model where the algorithm has one, else with the global model.",
        f"Difference: algorithm minus {reference}, mean over the clients that both scored with every seed that both finished.",
        *_scopes(lines),
        f"p (Holm): of the test that there is no difference, adjusted by Holm's method for the {tests} "
        f"test{'' if tests == 1 else 's'} of this table; intervals are not adjusted."
        if tests
        else "There is no test: it takes two clients that both scored with every seed that both finished.",
        f"Better, worse: clients for which the algorithm is better or worse than {reference}, seeds averaged within a client.",
        "Worst tenth: mean over the tenth of the clients with the worst values of that algorithm.",
        f"Helped, hurt: clients with more, or fewer, {token}s right after personalization than before.",
        "Client compute, total: of all clients in all rounds; of all scored clients before they predict.",
    ]
    return sentences


def _scopes(lines: Sequence[Line]) -> Iterator[str]:
    """Of what the intervals and p speak."""
    interval, seeds = f"{100 * LEVEL:.0f} % interval and p", {line.seeds for line in lines if line.p is not None}
    if seeds - {1}:
        yield f"{interval}: a bootstrap over clients and seeds; they speak of other clients and other seeds."
    if 1 in seeds:
        where = " where there is one seed" if seeds - {1} else ""
        yield (
            f"{interval}{where}: a bootstrap over clients; they speak of other clients with the same seed. Other seeds may "
            "come out differently."
        )


def text_against(reference: str, lines: Sequence[Line], rows: Sequence[Row], token: str = "token") -> str:
    """Both tables for the terminal; token: the word for what is scored."""
    return "\n".join(
        [
            f"Against {reference}, client by client",
            *aligned(titles(reference), [cells(line) for line in lines], 4),
            "",
            *aligned(beside_titles(), [beside_cells(row) for row in beside_rows(reference, rows)], 1),
            "",
            *notes(reference, lines, token),
        ]
    )
