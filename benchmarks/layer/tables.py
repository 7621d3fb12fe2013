"""The results as Markdown: `python -m benchmarks.layer.tables benchmarks/results/cpu.json` prints them again."""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.markdown import caption, table

Row = dict[str, Any]
HEADS = {
    "eager": "eager",
    "hoisted": "hoisted",
    "torch.compile of eager": "compiled",
    "torch.compile of hoisted": "compiled hoisted",
    "torch.nn.GRU twice": "2 x nn.GRU",
    "torch.nn.GRU": "nn.GRU",
    "JAX lax.scan": "JAX",
    "JAX lax.scan, hoisted": "JAX hoisted",
    "eager, MKL's AVX-512 path": "eager, MKL AVX-512",
}
# Whatever computes the same in a better way than the plain loop: the fastest of these is the rival.
STRONG = ("hoisted", "torch.compile of eager", "torch.compile of hoisted", "JAX lax.scan", "JAX lax.scan, hoisted")
PEAK, BANDWIDTH = "at the FMA peak", "at the read bandwidth"


class Notes:
    """Reasons for empty cells, lettered."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}

    def mark(self, reason: str) -> str:
        if reason not in self._letters:
            count = len(self._letters)
            self._letters[reason] = string.ascii_lowercase[count % 26] * (count // 26 + 1)
        return f"- ({self._letters[reason]})"

    def lines(self) -> list[str]:
        return ["", *(f"({letter}) {reason}.  " for reason, letter in self._letters.items())] if self._letters else []


def markdown(report: Row) -> str:
    rows: list[Row] = report["rows"]
    by_group = {group: [r for r in rows if r["group"] == group] for group in dict.fromkeys(r["group"] for r in rows)}
    parts = [f"{caption(report)}. Measured in {report['minutes']} minutes."]

    def section(title: str, lines: Sequence[str]) -> None:
        parts.extend(["", f"**{title}**", "", *lines])

    titles = {
        "training": "Forward + backward, all gradients, float32: how many times faster",
        "forward": "Forward alone, float32: how many times faster",
        "dtype": "Other dtypes: how many times faster",
        "route": 'One expert, route="global": how many times faster',
        "clients": "Clients with weights of their own, forward + backward: how many times faster",
    }
    for group, title in titles.items():
        if group in by_group:
            section(title, ratios(by_group[group]))
    for group, title, make in (
        ("threads", "Forward + backward, 2 threads against 1", pairs),
        ("step", "One step of one sequence (T=1, B=1, no gradient), 1 thread", steps),
        ("packed", "Packed input against the padded tensor of the same size, forward + backward", pairs),
    ):
        if group in by_group:
            section(title, make(by_group[group]))
    if report["memory"]:
        section("Peak memory of one training step (above the level before it), MiB", memory(report["memory"]))
    if report["probe"]:
        section("What the processor can do (best of five)", peaks(report["probe"]))
    if effect := report["mkl_effect"]:
        parts.append(
            f"\nWith MKL's vendor check answered, torch.mm {effect['product']} on 1 thread is {effect['median']:.2f}x as fast "
            f"as without ({effect['low']:.2f} - {effect['high']:.2f})."
        )
    if report["missing"]:
        parts += ["", *(f"Left out: {what}: {why}." for what, why in report["missing"].items())]
    parts += ["", spread_line(rows), disturbed(rows)]
    return "\n".join(parts) + "\n"


def ratios(rows: Sequence[Row]) -> list[str]:
    names = [n for n in HEADS if any(n in r["contenders"] or n in r["missing"] for r in rows)]
    notes = Notes()
    head = ["", "threads", "ours, ms", *(HEADS[n] for n in names), "fastest rival", "of FMA peak"]
    body = []
    for row in rows:
        case, contenders = row["case"], row["contenders"]
        label = row["shape"]
        if row["group"] not in ("training", "forward"):
            label += f", {case['dtype']}" * (row["group"] == "dtype")
            label += {"training": ", forward + backward", "forward": ", forward"}[case["mode"]] * (row["group"] != "clients")
        ours = f"{contenders['ours']['seconds']['median'] * 1e3:.2f}"
        if row["backend"] != "cpu":
            ours += f" ({row['backend']})"
        cells = [ratio(row, n, notes) for n in names]
        strong = [contenders[n]["ratio"]["median"] for n in STRONG if n in contenders]
        body.append(
            [label, str(case["threads"]), ours, *cells, f"**{min(strong):.2f}x**" if strong else "-", share(row, PEAK, notes)]
        )
    return [*table(head, body), *notes.lines()]


def ratio(row: Row, name: str, notes: Notes) -> str:
    if name in row["contenders"]:
        return f"{row['contenders'][name]['ratio']['median']:.2f}x"
    return notes.mark(f"{name}: {row['missing'][name]}") if name in row["missing"] else ""


def share(row: Row, name: str, notes: Notes) -> str:
    if name in row["contenders"]:
        return f"{100 * row['contenders'][name]['ratio']['median']:.0f} %"
    if BANDWIDTH in row["contenders"]:
        return notes.mark(f"this processor, or the compiler of the probe, has no {row['case']['dtype']} multiply-add")
    return notes.mark("no peak was measured, see below")


def pairs(rows: Sequence[Row]) -> list[str]:
    body = []
    for row in rows:
        (a, ours), (b, theirs) = list(row["contenders"].items())
        times = [f"{entry['seconds']['median'] * 1e3:.2f}" for entry in (ours, theirs)]
        low, high = theirs["ratio"]["low"], theirs["ratio"]["high"]
        ratio = [f"**{theirs['ratio']['median']:.2f}x**", f"{low:.2f} - {high:.2f}"]
        body.append([row["shape"], str(row["case"]["threads"]), f"{a}: {times[0]}", f"{b}: {times[1]}", *ratio])
    return table(["", "threads", "ms", "against, ms", "ratio", "10-90 %"], body)


def steps(rows: Sequence[Row]) -> list[str]:
    notes = Notes()

    def microseconds(row: Row, name: str) -> str:
        if name in row["contenders"]:
            return f"{row['contenders'][name]['seconds']['median'] * 1e6:.1f}"
        return notes.mark(f"{name}: {row['missing'][name]}") if name in row["missing"] else ""

    columns = {
        "RoutedGRUCell": "ours",
        "routed_gru": "ours, functional",
        "eager": "eager",
        "torch.compile": "torch.compile of eager",
        "JAX jit": "JAX lax.scan",
    }
    body = []
    for row in rows:
        case, contenders = row["case"], row["contenders"]
        intensity = row["flops"] / row["least_bytes"]
        body.append(
            [
                f"I{case['inputs']} H{case['hidden']}, {case['route']}",
                *(microseconds(row, name) for name in columns.values()),
                f"**{contenders['eager']['ratio']['median']:.2f}x**",
                f"{row['weight_bytes'] / 2**20:.2f}",
                f"{intensity:.2f}",
                share(row, BANDWIDTH, notes),
            ]
        )
    head = ["us a call", *columns, "eager / RoutedGRUCell", "weights, MiB", "FLOP a byte", "of read bandwidth"]
    return [*table(head, body), *notes.lines()]


def memory(rows: Sequence[Row]) -> list[str]:
    names = {
        "ours": "ours",
        "ours, recompute": "with recompute",
        "eager": "eager",
        "hoisted": "hoisted",
        "GRU": "torch.nn.GRU twice",
    }
    body = []
    for row in rows:
        sizes = [f"{row['bytes'][name] / 2**20:.0f}" for name in names]
        shares = [f"**{row['bytes'][name] / row['bytes']['eager']:.2f}**" for name in ("ours", "ours, recompute")]
        body.append([f"{row['shape']}, {row['threads']} threads", *sizes, *shares])
    return table(["", *names.values(), "ours / eager", "recompute / eager"], body)


def peaks(probe: Row) -> list[str]:
    threads = sorted({entry["threads"] for entry in probe["flops"]})

    def line(name: str, entries: Iterable[Row]) -> list[str]:
        return [name, *(f"{entry['per_second'] / 1e9:.0f}" for entry in sorted(entries, key=lambda e: e["threads"]))]

    body = [
        line(f"multiply-adds, {dtype}, GFLOP/s", (e for e in probe["flops"] if e["dtype"] == dtype))
        for dtype in dict.fromkeys(e["dtype"] for e in probe["flops"])
    ]
    body += [
        line(f"reads of {size / 2**20:.1f} MiB ({level}), GB/s", (e for e in probe["bandwidth"] if e["bytes"] == size))
        for level, size in dict.fromkeys((e["level"], e["bytes"]) for e in probe["bandwidth"])
    ]
    return table(["", *(f"{n} thread{'s' * (n > 1)}" for n in threads)], body)


def spread_line(rows: Sequence[Row]) -> str:
    spreads = [c["ratio"] for r in rows for n, c in r["contenders"].items() if "ratio" in c and n not in (PEAK, BANDWIDTH)]
    if not spreads:
        return ""
    widths = sorted(100 * (r["high"] - r["low"]) / 2 / r["median"] for r in spreads)
    middle, wide = widths[len(widths) // 2], widths[int(0.9 * (len(widths) - 1))]
    return (
        "Ratios are medians over interleaved turns. Half the width of their 10-90 % range is "
        f"{middle:.0f} % of the ratio in the middle case and {wide:.0f} % in the 90th percentile of all."
    )


def disturbed(rows: Sequence[Row]) -> str:
    """The probe computes without a pause: where it got less than its cores, somebody else had them."""
    shares = [r["contenders"][PEAK]["cores"] / r["case"]["threads"] for r in rows if PEAK in r["contenders"]]
    busy = sum(share < 0.85 for share in shares)
    if not busy:
        return ""
    return f"**The machine was busy with something else in {busy} of {len(shares)} rows: repeat this when it is not.**"


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())), end="")
