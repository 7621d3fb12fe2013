"""The results as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.gpu.names import NAMES, OURS, OURS_GRAPH, SIDE_BY_SIDE

Row = dict[str, Any]
KERNELS = 12  # shown; gpu.json has all
BYTES_A_CLOCK = 128  # of shared memory that a multiprocessor reads (CUDA C++ programming guide, compute capability 9.0)


def caption(report: Row) -> str:
    """Device, driver, versions, date."""
    machine = report.get("backends")
    if machine is None:
        return f"{report['date']}, device {report['device']}; the step backends, which describes the machine, left nothing"
    versions = machine["versions"]
    software = f"torch {versions['torch']}, triton {versions['triton']}, {machine['date']}"
    if machine["stand_in"]:
        return f"STAND-IN RUN ON THE CPU ({machine['processor']}), tiny sizes, not to be quoted; {software}"
    driver = machine["nvidia_smi"].get("driver_version", "unknown")
    return f"{machine['gpu']['name']}, driver {driver}, {machine['processor']}; {software}"


def markdown(report: Row) -> str:
    parts = [f"{caption(report)}."]

    def section(title: str, lines: Iterable[str]) -> None:
        if text := list(lines):
            parts.extend(["", f"**{title}**", "", *text])

    section("Goals", goals(report))
    for name in ("cohort", "alone"):
        for row in report.get(name, {}).get("rows", []):
            section(f"{row['shape']}, {row['case']['dtype']}, {_mode(row)}", contenders(row, report))
    section("Sweep", sweep(report.get("sweep", {})))
    section("Tests", tests(report))
    section("Clusters that run at once", clusters(report.get("backends")))
    section("Products of many clients", products(report.get("products")))
    section("Federated: client-sequences a second", federated(report.get("federated")))
    section("Probes", probes(report.get("probes")))
    section("Steps", table(["step", "seconds", "ended"], [[s["step"], s["seconds"], s["status"]] for s in report["steps"]]))
    for step in report["steps"]:
        if "text" in step:
            section(f"The end of what {step['step']} printed", ["~~~text", *step["text"].splitlines(), "~~~"])
    return "\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    return [f"| {' | '.join(map(str, line))} |" for line in (head, ["---"] * len(head), *rows)]


def ratio(report: Row, step: str, mode: str, theirs: str, ours: str = OURS) -> float | None:
    """How many times faster `ours` is, both taken in turn with the layer's plain call."""
    for row in report.get(step, {}).get("rows", []):
        contenders = row["contenders"]
        if row["case"]["mode"] == mode and theirs in contenders and ours in contenders:
            own = 1.0 if ours == OURS else contenders[ours]["ratio"]["median"]
            return float(contenders[theirs]["ratio"]["median"] / own)
    return None


def per_step(report: Row, step: str, mode: str, name: str = OURS_GRAPH) -> float | None:
    """Microseconds a time step, for all clients together."""
    for row in report.get(step, {}).get("rows", []):
        if row["case"]["mode"] == mode and name in row["contenders"]:
            return float(row["contenders"][name]["seconds"]["median"] / row["case"]["steps"] * 1e6)
    return None


def goals(report: Row) -> list[str]:
    """What was aimed at, in bfloat16, and what was measured."""
    if report["device"] != "cuda" or ("cohort" not in report and "alone" not in report):
        return []  # a stand-in has no goals
    training, forward, graph = "training", "forward", NAMES["compiled graph"]
    wanted = [
        ("32 clients, training: times the eager loop over clients", 200, ratio(report, "cohort", training, NAMES["loop"])),
        ("- times the stacked eager form", 10, ratio(report, "cohort", training, NAMES["stacked"])),
        ("- times torch.compile of it, both as CUDA graphs", 3, ratio(report, "cohort", training, graph, OURS_GRAPH)),
        ("- forward, microseconds a time step (CUDA graph)", -3, per_step(report, "cohort", forward)),
        ("1 client, training: times 2 x nn.GRU side by side", 1, ratio(report, "alone", training, SIDE_BY_SIDE)),
        ("- both as CUDA graphs", 1, ratio(report, "alone", training, NAMES["GRU graph"], OURS_GRAPH)),
    ]
    lines = []
    for what, goal, measured in wanted:
        aim = f"at most {-goal}" if goal < 0 else f"at least {goal}"
        met = (
            "not measured" if measured is None else "met" if (measured <= -goal if goal < 0 else measured >= goal) else "missed"
        )
        lines.append([what, aim, "-" if measured is None else f"{measured:.2f}", met])
    return table(["goal", "", "measured", ""], lines)


def bounds(row: Row, report: Row) -> dict[str, float]:
    """The least seconds of one pass over the recurrence, by what limits it. One limit is reading both experts' recurrent
    weights from shared memory once a step, by all multiprocessors or by those that the clusters lie on, wave after wave. The
    other is their products at the measured bfloat16 rate."""
    machine, case, division = report.get("backends") or {}, row["case"], row["division"]
    clock = machine.get("nvidia_smi", {}).get("clocks.max.sm", "").removesuffix(" MHz")
    if case["dtype"] != "bfloat16" or "gpu" not in machine or not clock.isdigit():
        return {}
    count, of_a_client = machine["gpu"]["multiprocessors"], 6 * case["hidden"] ** 2
    rate = BYTES_A_CLOCK * int(clock) * 1e6
    products = 2 * of_a_client * case["clients"] * case["batch"]
    limits = {
        "shared memory of the whole chip": case["steps"] * 2 * of_a_client * case["clients"] / (count * rate),
    }
    if rates := report.get("machine"):
        limits["tensor cores"] = case["steps"] * products / rates["bf16_flops_per_second"]
    if division:
        limits["shared memory as divided"] = case["steps"] * division["waves"] * 2 * of_a_client / division["blocks"] / rate
    return limits


def contenders(row: Row, report: Row) -> list[str]:
    errors, steps = row["errors"], row["case"]["steps"]
    lines = []
    for name, entry in row["contenders"].items():
        spread, times = entry["seconds"], entry.get("ratio")
        error = max(errors.get(name, {"": 0.0}).values())
        lines.append(
            [
                f"{name} (wrong numbers)" if name in row["wrong_rivals"] else name,
                f"{spread['median'] * 1e6:.1f}",
                f"{spread['low'] * 1e6:.1f} to {spread['high'] * 1e6:.1f}",
                f"{spread['median'] / steps * 1e6:.2f}",
                "1" if times is None else f"{times['median']:.2f}",
                f"{error:.1e}",
            ]
        )
    head = ["", "us", "10-90 %", "us a time step", "times ours", "largest relative error"]
    text = [f"Plan: {row['plan']}.", "", *table(head, lines)]
    if least := bounds(row, report):
        bound = ", ".join(f"{name} {seconds * 1e6:.1f} us" for name, seconds in least.items())
        text += ["", f"Least time of one pass over the recurrence: {bound}."]
    if row["kernels"]:
        spent = [[f"`{name[:90]}`", f"{cost['us']:.1f}", f"{cost['launches']:g}"] for name, cost in row["kernels"].items()]
        text += ["", *table(["kernels of our plain call", "us", "launches"], spent[:KERNELS])]
    reasons = row["missing"] | row["wrong"] | row["wrong_rivals"]
    return text + ([""] if reasons else []) + [f"- {name}: {why}" for name, why in reasons.items()]


def sweep(part: Row) -> list[str]:
    """A line a case: our times and how many times faster we are."""
    rows = part.get("rows", [])
    if not rows:
        return []
    names = [OURS_GRAPH, *dict.fromkeys(n for row in rows for n in row["contenders"] if n not in (OURS, OURS_GRAPH))]
    lines = []
    for row in rows:
        contenders = row["contenders"]
        ratios = [f"{contenders[n]['ratio']['median']:.2f}" if n in contenders else "-" for n in names]
        ours = f"{contenders[OURS]['seconds']['median'] * 1e6:.1f}"
        lines.append([row["shape"], row["case"]["dtype"], _mode(row), row["plan"].split(" ")[0], ours, *ratios])
    left = part["cases"] - part["done"]
    note = ["", f"{left} of {part['cases']} cases were left out: no time."] if left else []
    head = ["shape", "dtype", "", "backend", "ours, us", *(f"{n}, times" for n in names)]
    return table(head, lines) + note + [f"- {why}" for why in (*part["failed"], *part["too_large"])]


def tests(report: Row) -> list[str]:
    """How many passed, and the last line of every failure."""
    lines, failures = [], []
    for name in ("cuda tests", "triton tests", "suite"):
        if part := report.get(name):
            lines.append([name, *(len(part[kind]) for kind in ("passed", "failed", "skipped"))])
            failures += [f"- {test}: {(text.splitlines() or [''])[-1][:200]}" for test, text in part["failed"].items()]
    return table(["", "passed", "failed", "skipped"], lines) + ([""] if failures else []) + failures if lines else []


def clusters(part: Row | None) -> list[str]:
    """By H and direction, for every tile."""
    rows = (part or {}).get("clusters", [])
    head = ["H", "", "blocks a cluster", "batch tile", "at once"]
    lines = [[row["hidden"], row["way"], row["blocks"], row["tile"], row["at_once"]] for row in rows]
    return table(head, lines) if lines else []


def federated(part: Row | None) -> list[str]:
    if part is None:
        return []
    names = list(dict.fromkeys(name for ways in part["algorithms"].values() for name in ways))
    lines = [
        [algorithm, *(f"{ways[n]['sequences_per_second']:.0f}" if n in ways else "-" for n in names)]
        for algorithm, ways in part["algorithms"].items()
    ]
    plans = [f"- {a}, {n}: {way['plan']}" for a, ways in part["algorithms"].items() for n, way in ways.items() if "plan" in way]
    return [*table(["", *names], lines), "", *plans, *(f"- {why}" for why in part["failed"])]


def products(part: Row | None) -> list[str]:
    """By line of the table: how many times faster cuBLAS is than Triton, the geometric mean, and what ought to decide."""
    if part is None:
        return []
    lines = []
    for shape, kind, way in part.get("table", []):
        own = [row["us"] for row in part["rows"] if (row["shape"], row["kind"]) == (shape, kind)]
        ratio = math.exp(sum(math.log(us["triton"] / us["cublas"]) for us in own) / len(own))
        lines.append([shape, kind, len(own), f"{ratio:.2f}", way])
    note = ["", f"{len(part['rows'])} of {part['products']} products were measured."]
    return (
        table(["shape", "operands", "products", "Triton's time over that of cuBLAS", "to be taken"], lines)
        + note
        + [f"- {why}" for why in part["failed"]]
    )


def probes(part: Row | None) -> list[str]:
    text = []
    for name, result in (part or {}).items():
        if "failed" in result:
            text.append(f"- {name}: {result['failed']}")
        text += [f"- {name}: {', '.join(f'{key} {value}' for key, value in line.items())}" for line in result.get("lines", [])]
    return text


def _mode(row: Row) -> str:
    return "forward + backward" if row["case"]["mode"] == "training" else "forward"
