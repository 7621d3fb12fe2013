"""The simulation benchmark: `python -m benchmarks.simulation` races, measures, writes simulation.json, tables and pictures."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.common import machine
from benchmarks.common.compiler import Missing
from benchmarks.common.probe import Probe
from benchmarks.common.timing import Effort, Spread
from benchmarks.common.worker import WorkerError
from benchmarks.simulation import environments, first_round, ours, plots, race, scaling, tables
from benchmarks.simulation.race import Arena
from benchmarks.simulation.workload import FULL, QUICK, UNEQUAL, Sizes
from flow.storage.files import write, write_json
from flow_kernels.training import multiplies_bfloat16

RESULTS = Path(__file__).resolve().parent.parent / "results"
PARTS = ("fedavg", "flow", "unequal", "bfloat16", "busy", "cohorts", "populations", "start")


def fedavg(arena: Arena, quick: bool) -> list[dict[str, Any]]:
    """On one core and on two. Flower in races of its own, beside the plain loop that says what is right."""
    return _everybody(arena, quick, "FedAvg")


def _everybody(arena: Arena, quick: bool, title: str, turns: int | None = None) -> list[dict[str, Any]]:
    rows = []
    for cores in available():
        rivals, flower = [*race.loops(cores), *race.scans(cores), *race.others(cores)], race.flower(cores)
        slow = [rival for rival in rivals + flower if rival.mkl] if quick else []
        row = race.race(arena, race.ours(cores), [rival for rival in rivals if rival not in slow], title, turns)
        row["missing"] |= {rival.name: "left out of a quick run" for rival in slow}
        rows.append(row)
        rows += [race.race(arena, race.ours(cores), [rival], title, turns=3) for rival in flower if rival not in slow]
    return rows


def flow(arena: Arena, quick: bool) -> list[dict[str, Any]]:
    """A round of Flow, and beside it one of FedAvg; half as many clients, since the loop takes so long."""
    smaller = _with(arena, "flow", _half(arena.plan.sizes), "fedavg", "flow")
    rows = []
    for cores in available():
        rivals = race.loops(cores, "flow")
        if quick:
            rivals = [rival for rival in rivals if not rival.mkl and rival.threads == 1]
        beside = race.ours(cores, name="ours, FedAvg")
        rows.append(race.race(smaller, race.ours(cores, "flow"), [*rivals, beside], "Flow", turns=3))
    return rows


def _half(sizes: Sizes) -> Sizes:
    return replace(sizes, cohort=sizes.cohort // 2)


def _with(arena: Arena, folder: str, sizes: Sizes, *algorithms: str) -> Arena:
    """The same with a plan of other sizes, and with what is right for these algorithms."""
    (path := arena.folder / folder).mkdir()
    other = replace(arena, folder=path, plan=ours.make_plan(sizes, len(arena.plan.cohorts)), reference={})
    for algorithm in algorithms:
        other.set_reference(algorithm)
    return other


def unequal(arena: Arena, quick: bool) -> list[dict[str, Any]]:
    """Clients of unequal size and five times the words: FedAvg against everybody, Flow against the loop's fastest ways."""
    sizes = replace(UNEQUAL, cohort=QUICK.cohort) if quick else UNEQUAL
    rows = _everybody(_with(arena, "unequal", sizes, "fedavg"), quick, "FedAvg, unequal clients", turns=3)
    smaller = _with(arena, "unequal-flow", _half(sizes), "flow")
    for cores in available():
        rivals = [rival for rival in race.loops(cores, "flow") if rival.threads == 1 and not (quick and rival.mkl)]
        rows.append(race.race(smaller, race.ours(cores, "flow"), rivals, "Flow, unequal clients", turns=3))
    return rows


def bfloat16(arena: Arena, quick: bool) -> list[dict[str, Any]]:
    """Ours in bfloat16 against ours in float32, and the fastest rivals in both; then Flow against itself."""
    if not multiplies_bfloat16():
        raise Missing("this processor multiplies no bfloat16")
    rows = []
    for cores in available():
        loops = race.loops(cores)[1:] if cores == 1 else race.loops(cores)[1:2] + race.loops(cores)[3:]
        plain = [*race.scans(cores)[-1:], *loops]  # on two cores those of processes, which are the fastest
        rivals = [race.ours(cores, name="ours, float32"), *plain, *map(race.in_bfloat16, plain)]
        own = race.ours(cores, dtype="bfloat16")
        rows.append(race.race(arena, own, rivals[:2] if quick else rivals, "FedAvg in bfloat16"))
    smaller = _with(arena, "bfloat16", _half(arena.plan.sizes), "flow")
    for cores in available():
        own, beside = (race.ours(cores, "flow", *more) for more in (("ours", "bfloat16"), ("ours, float32",)))
        rows.append(race.race(smaller, own, [beside], "Flow in bfloat16", turns=3))
    return rows


def busy(arena: Arena, quick: bool) -> list[dict[str, Any]]:
    """On a machine of which a foreign process takes a core."""
    if len(available()) < 2:
        raise Missing("one core cannot be shared out between two")
    rivals = [race.ours(2), *race.loops(2)[:2], *race.scans(2)]
    return race.busy_machine(arena, rivals[:1] if quick else rivals, 1 if quick else 3)


def cohorts(arena: Arena, quick: bool) -> list[dict[str, Any]]:
    rounds = {1: 4, 10: 2} if quick else {1: 40, 10: 8, 100: 2, 1000: 1}
    points = []
    for threads in available()[: 1 if quick else 2]:
        for cohort, count in rounds.items():
            arena.say(f"  cohort of {cohort}, {threads} threads")
            points.append(scaling.point("full", cohort, threads, count, "memory"))
    return points


def populations(arena: Arena, quick: bool) -> list[dict[str, Any]]:
    """Of growing size, on disk, in turn."""
    sizes = (300, 3000) if quick else (300, 3000, 30_000, 300_000)
    threads, points = available()[-1], []
    for clients in sizes:
        arena.say(f"  preparing {clients} clients")
        scaling.prepare("full", clients)
    for _ in range(1 if quick else 2):
        for clients in sizes:
            arena.say(f"  population of {clients}")
            point = scaling.point("full", 100, threads, 2 if quick else 4, f"synthetic:{clients}")
            points.append(point | {"population": clients})
    return points


def start(arena: Arena, quick: bool) -> list[dict[str, Any]]:
    runs: dict[str, list[str]] = {"flow run": [], "flow run fedavg --data synthetic": ["fedavg", "--data", "synthetic"]}
    starts: list[dict[str, Any]] = []
    for name, arguments in list(runs.items())[: 1 if quick else None]:
        times = []
        for n in range(2 if quick else 5):
            arena.say(f"  {name}")
            folder = arena.folder / f"run-{len(starts)}-{n}"
            times.append(first_round.first_round(arguments, folder))
        times.pop(0)  # the first may have prepared the data
        spread = Spread.of([run["seconds"] for run in times])
        starts.append(
            {"command": name, "seconds": asdict(spread), "of_the_round": statistics.median(t["of_the_round"] for t in times)}
        )
    return starts


MEASURE: dict[str, Callable[[Arena, bool], list[dict[str, Any]]]] = {
    "fedavg": fedavg, "flow": flow, "unequal": unequal, "bfloat16": bfloat16, "busy": busy, "cohorts": cohorts,
    "populations": populations, "start": start,
}  # fmt: skip


def available() -> list[int]:
    """1, and 2 where this process may use as many cores."""
    return [1, 2][: machine.describe()["cores"]]


def run(sizes: Sizes, parts: list[str], quick: bool, folder: Path, rivals: environments.Plan) -> tuple[dict[str, Any], bool]:
    """The report, and whether all that ran computed the same."""
    started = time.time()
    effort = Effort(0.0, (1, 1) if quick else (5, 5), 0.0)
    plan = ours.make_plan(sizes, 2 if quick else 3)
    arena = Arena(folder, plan, 1 if quick else 2, effort, rivals.pythons, rivals.missing)
    missing: dict[str, str] = {}
    peaks = None
    try:
        arena.probe = Probe(folder)
        peaks = arena.probe.table(machine.caches(), available(), 0.01 if quick else 0.05)
    except Missing as why:
        missing["share of the FMA peak"] = str(why)
    arena.set_reference("fedavg")
    report: dict[str, Any] = {}
    minutes: dict[str, float] = {}
    for part in parts:
        arena.say(part)
        begun = time.time()
        try:
            report[part] = MEASURE[part](arena, quick)
        except Missing as why:
            missing[part] = str(why)
        except (race.Differs, WorkerError, RuntimeError) as why:
            arena.failed[part] = str(why)
        minutes[part] = round((time.time() - begun) / 60, 1)
    return {
        "date": machine.today(),
        "minutes": round((time.time() - started) / 60, 1),
        "quick": quick,
        "machine": machine.describe(),
        "versions": machine.versions() | arena.versions,
        "sizes": asdict(sizes),
        "flops_per_sequence": sizes.flops,
        "probe": peaks,
        "missing": missing,
        "failed": arena.failed,
        "parts": report,
        "runs": {part: {"date": machine.today(), "minutes": minutes[part]} for part in report},
    }, not arena.failed


def merged(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The report `now` with those parts of the one before that were not measured again.

    Raises:
        SystemExit: they are of two machines, or one of them is of a quick run."""
    for name, of in (("machine", "processor"), ("quick", None)):
        old, new = ((report[name][of] if of else report[name]) for report in (before, now))
        if old != new:
            raise SystemExit(f"--keep: {name} is {new!r} and that of the parts kept is {old!r}; give another folder as --out")
    runs = before.get("runs", {part: {"date": before["date"], "minutes": None} for part in before["parts"]})
    kept = {part: rows for part, rows in before["parts"].items() if part not in now["parts"]}
    parts, runs = kept | now["parts"], runs | now["runs"]
    order = [part for part in PARTS if part in parts]
    return now | {
        "versions": before["versions"] | now["versions"],
        "parts": {part: parts[part] for part in order},
        "runs": {part: runs[part] for part in order},
    }


def main(argv: list[str] | None = None) -> int:
    """0, or 1 where something failed: a rival that computed something else, or a part that could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few turns, few rivals: does it work, in about a minute")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for simulation.json and simulation.md")
    parser.add_argument("--images", type=Path, default=None, help="folder for the pictures; that of --out if not given")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    made = f"make what is absent of the environments of {', '.join(environments.PINS)} in build/rivals first (3 GB, minutes)"
    kept = "leave the other parts as --out has them: each keeps its date, versions and minutes"
    parser.add_argument("--keep", action="store_true", help=kept)
    parser.add_argument("--rivals", action="store_true", help=f"{made}; what is complete there is used without this too")
    rival = "the interpreter that has this rival installed, such as flwr=PATH"
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help=rival)
    given = parser.parse_args(argv)
    for option in given.python:
        if "=" not in option:
            parser.error(f"--python {option!r} must be NAME=PATH, such as flwr=/path/to/bin/python")
    named = dict(option.split("=", 1) for option in given.python)
    rivals = environments.find(named, given.rivals, lambda line: print(line, file=sys.stderr, flush=True))
    with tempfile.TemporaryDirectory(prefix="flow-bench-") as folder:
        report, right = run(QUICK if given.quick else FULL, given.only, given.quick, Path(folder), rivals)
    images = given.images or given.out
    for path in (given.out, images):
        path.mkdir(parents=True, exist_ok=True)
    if given.keep and (before := given.out / "simulation.json").exists():
        report = merged(json.loads(before.read_text()), report)
    text = tables.markdown(report)
    print(text)
    write_json(given.out / "simulation.json", report)
    write(given.out / "simulation.md", text.encode())
    drawn = plots.draw(report, images)
    print("written:", ", ".join(map(str, [given.out / "simulation.json", given.out / "simulation.md", *drawn])))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
