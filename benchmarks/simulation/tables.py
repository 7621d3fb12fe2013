"""The results as Markdown: `python -m benchmarks.simulation.tables benchmarks/results/simulation.json` prints them again, and
with a page after it puts each table into the page, between <!-- fedavg --> and <!-- /fedavg --> and so on."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common.markdown import caption, table
from flow.storage.files import write

Row = dict[str, Any]
PEAK = "at the FMA peak"
RACES = ("fedavg", "flow", "unequal", "bfloat16")
RIVALS = ("fedjax", "pfl", "flwr")


def measured(report: Row) -> str:
    """Machine, versions, date; those of the rivals that were there."""
    installed = [f"{name} {report['versions'][name]}" for name in RIVALS if name in report["versions"]]
    return "; ".join([caption(report), *installed]) + "."


def when(report: Row) -> str:
    """The day and the minutes of every part: ratios compare what ran in the same part."""
    parts = []
    for part, run in report["runs"].items():
        minutes = f" in {run['minutes']:.0f} minutes" if run["minutes"] and run["minutes"] >= 1.5 else ""
        parts.append(f"{part} on {run['date']}{minutes}")
    return f"Measured: {'; '.join(parts)}."


def markdown(report: Row) -> str:
    parts = [f"{measured(report)} {when(report)}"]
    for part, (title, make) in SECTIONS.items():
        if rows := report["parts"].get(part):
            parts += ["", f"**{title}**", "", *make(rows)]
    if report["failed"]:
        parts += ["", *(f"**Failed: {what}: {why}.**" for what, why in report["failed"].items())]
    if report["missing"]:
        parts += ["", *(f"Left out: {what}: {why}." for what, why in report["missing"].items())]
    if line := disturbed(report):
        parts += ["", line]
    return "\n".join(parts) + "\n"


def races(rows: list[Row]) -> list[str]:
    """One line a contender and number of cores, the fastest first; below the names of those that did not run."""
    body, notes = [], []
    for cores in sorted({row["cores"] for row in rows}):
        own = [row for row in rows if row["cores"] == cores]
        lines = [
            _line(row, name)
            for row in own
            for name in row["contenders"]
            if name != PEAK and not (name == "ours" or name == "ours, FedAvg")
        ]
        first = _line(own[0], "ours")
        body += [first, *sorted(lines, key=lambda line: -float(line[2].replace(",", "")))]
        for row in own:
            notes += [f"{cores} core{'s' * (cores > 1)}, {name}: {why}." for name, why in row["missing"].items()]
            notes += [f"**{cores} core{'s' * (cores > 1)}, {name} FAILED: {why}.**" for name, why in row["failed"].items()]
        if "parts" in own[0]["contenders"]["ours"]:
            notes.append(_where(own[0]["contenders"]["ours"], cores))
    head = ["", "cores", "sequences a second", "ours is faster by", "10-90 %", "of FMA peak", "held-out loss"]
    return [*table(head, body), *([""] if notes else []), *(f"- {note}" for note in notes)]


def _where(ours: Row, cores: int) -> str:
    """Where the time of a round of ours goes; data and training are those of one thread, on average."""
    shares = {part: 100 * value / ours["last_round_seconds"] for part, value in ours["parts"].items()}
    shares["waiting and the rest"] = 100 - sum(shares.values())
    listed = ", ".join(f"{part} {share:.1f} %" for part, share in shares.items())
    outside = f"before the first and after the last round together {1e3 * ours['outside']:.0f} ms"
    return f"Our round on {cores} core{'s' * (cores > 1)}: {listed}; {outside}."


def _line(row: Row, name: str) -> list[str]:
    contenders = row["contenders"]
    entry = contenders[name]
    ratio = entry.get("ratio", {"median": 1.0})
    faster = "" if name == "ours" else f"**{ratio['median']:.2f}x**"
    spread = "" if name == "ours" else f"{ratio['low']:.2f} - {ratio['high']:.2f}"
    share = "-"
    if PEAK in contenders:
        share = f"{100 * contenders[PEAK]['ratio']['median'] / ratio['median']:.0f} %"
    rate = f"{entry['sequences_per_second']:,.0f}"
    return [name, str(row["cores"]), rate, faster, spread, share, f"{entry['loss']:.4f}"]


def flow_races(rows: list[Row]) -> list[str]:
    lines = races(rows)
    cost = []
    for row in rows:
        if (plain := row["contenders"].get("ours, FedAvg")) is None:
            continue
        arithmetic = row["contenders"]["ours"]["flops"] / plain["flops"]
        cost.append([str(row["cores"]), f"**{1 / plain['ratio']['median']:.2f}x**", f"{arithmetic:.2f}x"])
    if cost:
        lines += ["", *table(["cores", "a round of Flow takes, of one of FedAvg", "its arithmetic"], cost)]
    return lines


def mixed_races(rows: list[Row]) -> list[str]:
    return by_algorithm(rows, "; the first line is ours in bfloat16, and the peak is that of bfloat16")


def unequal_races(rows: list[Row]) -> list[str]:
    return by_algorithm(rows, "")


def by_algorithm(rows: list[Row], what: str) -> list[str]:
    """The races of FedAvg in one table, those of Flow in another."""
    lines: list[str] = []
    for algorithm, name in (("fedavg", "FedAvg"), ("flow", "Flow")):
        own = [row for row in rows if row["algorithm"] == algorithm]
        if not own:
            continue
        lines += [
            *([""] if lines else []),
            f"{name}{what}:",
            "",
            *races(own),
        ]
    return lines


def busy(rows: list[Row]) -> list[str]:
    body, notes = [], []
    for row in rows:
        notes += [f"- {name}: {why}." for kind in ("missing", "failed") for name, why in row[kind].items()]
        if "ratio" in row:
            times = [f"{row[kind]['median']:.2f}" for kind in ("quiet", "busy")]
            ratio = row["ratio"]
            body.append([row["name"], *times, f"**{ratio['median']:.2f}x**", f"{ratio['low']:.2f} - {ratio['high']:.2f}"])
    head = ["", "quiet, s a round", "busy, s a round", "busy / quiet", "10-90 %"]
    return [*table(head, body), *([""] if notes else []), *notes]


def cohorts(rows: list[Row]) -> list[str]:
    threads = sorted({row["threads"] for row in rows})
    body = []
    for cohort in sorted({row["cohort"] for row in rows}):
        cells = []
        for count in threads:
            (row,) = [row for row in rows if (row["cohort"], row["threads"]) == (cohort, count)]
            cells += [f"{row['seconds']:.3f}", f"{1e3 * row['seconds'] / cohort:.1f}", f"{row['peak_bytes'] / 2**20:.0f}"]
        body.append([str(cohort), *cells])
    heads = [f"{what}, {n} thread{'s' * (n > 1)}" for n in threads for what in ("s a round", "ms a client", "peak MiB")]
    return table(["cohort", *heads], body)


def populations(rows: list[Row]) -> list[str]:
    points = by_population(rows)
    rate, memory = points[min(points)]
    body = [
        [f"{clients:,}", f"{own[0]:,.0f}", f"{own[0] / rate:.2f}", f"{own[1] / 2**20:.0f}", f"{own[1] / memory:.2f}"]
        for clients, own in sorted(points.items())
    ]
    return table(["clients", "sequences a second", "of the smallest's", "peak resident, MiB", "of the smallest's"], body)


def by_population(rows: list[Row]) -> dict[int, tuple[float, float]]:
    """Medians: sequences a second, and bytes at the highest."""
    return {
        clients: (
            statistics.median(row["sequences_per_second"] for row in rows if row["population"] == clients),
            statistics.median(row["peak_bytes"] for row in rows if row["population"] == clients),
        )
        for clients in {row["population"] for row in rows}
    }


def starts(rows: list[Row]) -> list[str]:
    body = []
    for row in rows:
        median, high = row["seconds"]["median"], row["seconds"]["high"]
        body.append([f"`{row['command']}`", f"**{median:.2f}**", f"{high:.2f}", f"{row['of_the_round']:.2f}"])
    return table(["", "s to the first trained round", "90th percentile", "of which the round"], body)


def disturbed(report: Row) -> str:
    """The probe computes without a pause: where it got less than its cores, somebody else had them."""
    rows = [row for part in RACES for row in report["parts"].get(part, []) if PEAK in row["contenders"]]
    busy = sum(row["contenders"][PEAK]["cores"] / row["cores"] < 0.85 for row in rows)
    if not busy:
        return ""
    return f"**The machine was busy with something else in {busy} of {len(rows)} races: repeat this when it is not.**"


SECTIONS: dict[str, tuple[str, Callable[[list[Row]], list[str]]]] = {
    "fedavg": ("FedAvg: rounds of one cohort, all in turn", races),
    "flow": ("Flow: rounds of one cohort, all in turn", flow_races),
    "unequal": ("Clients of unequal size and 10,000 words: rounds of one cohort, all in turn", unequal_races),
    "bfloat16": ("Products in bfloat16: rounds of one cohort, all in turn", mixed_races),
    "busy": ("While a foreign process takes a core of the two", busy),
    "cohorts": ("Seconds a round, by the size of the cohort", cohorts),
    "populations": ("A cohort of 100 from populations on disk", populations),
    "start": ("From the start of the command to its first trained round, data prepared", starts),
}


def fill(page: str, report: Row) -> str:
    """A page with the tables of this report in place of what stood between their marks; marks of other parts stay as they are.

    Raises:
        ValueError: there is a mark without an end, or nothing to fill."""
    sections = {part: "\n".join(make(rows)) for part, (_, make) in SECTIONS.items() if (rows := report["parts"].get(part))}
    sections["measured"] = f"{measured(report)} {when(report)}"
    filled = 0
    for part, text in sections.items():
        begin, end = f"<!-- {part} -->", f"<!-- /{part} -->"
        if begin not in page:
            continue
        before, _, rest = page.partition(begin)
        _, ended, after = rest.partition(end)
        if not ended:
            raise ValueError(f"{begin} has no {end} after it; add it to the page")
        page = f"{before}{begin}\n\n{text}\n\n{end}{after}"
        filled += 1
    if not filled:
        raise ValueError(f"the page has none of the marks {', '.join(f'<!-- {part} -->' for part in sections)}; add one")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation.tables", description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("page", type=Path, nargs="?")
    given = parser.parse_args()
    report = json.loads(given.report.read_text())
    if given.page is None:
        print(markdown(report), end="")
    else:
        write(given.page, fill(given.page.read_text(encoding="utf-8"), report).encode())


if __name__ == "__main__":
    main()
