"""Two pictures of the results: `python -m benchmarks.layer.plots cpu.json FOLDER` draws them again."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.common.markdown import caption
from benchmarks.common.pictures import INK, MUTED, RULE, chart, save
from benchmarks.layer.tables import BANDWIDTH, PEAK
from flow.storage.files import write

Row = dict[str, Any]
# Okabe and Ito's colours, told apart by everybody; markers differ as well.
STYLE = {
    "ours": ("RoutedGRU", "#0072B2", "o"),
    "eager": ("eager loop", "#D55E00", "s"),
    "hoisted": ("hoisted loop", "#E69F00", "D"),
    "torch.compile of eager": ("torch.compile, eager", "#8c4a8f", "X"),
    "torch.compile of hoisted": ("torch.compile, hoisted", "#CC79A7", "P"),
    "torch.nn.GRU twice": ("2 x nn.GRU (no routing)", "#7f7f7f", "v"),
    "JAX lax.scan": ("JAX scan", "#009E73", "^"),
    "JAX lax.scan, hoisted": ("JAX scan, hoisted", "#56B4E9", "<"),
    "eager, MKL's AVX-512 path": ("eager, MKL's AVX-512 path", "#D55E00", ""),
}
FIXED = {"batch": 16, "steps": 20, "inputs": 96, "clients": 0, "dtype": "float32", "route": "mixture", "mode": "training"}
BOX = (0.085, 0.155, 0.66, 0.675)


def draw(report: Row, folder: Path) -> list[Path]:
    """Write the pictures there is data for; returns their paths."""
    return save({"bench-time.png": time_against_hidden(report), "bench-speedup.png": speedup_map(report)}, folder, write)


def time_against_hidden(report: Row, threads: int = 1) -> Figure | None:
    wanted = FIXED | {"threads": threads}
    rows = [r for r in report["rows"] if r["group"] in ("training", "sweep") and wanted.items() <= r["case"].items()]
    rows.sort(key=lambda r: r["case"]["hidden"])
    if len(rows) < 2:
        return None
    steps = FIXED["steps"]

    def line(name: str) -> list[tuple[int, float]]:
        entries = ((r["case"]["hidden"], r["contenders"].get(name)) for r in rows)
        return [(h, entry["seconds"]["median"] / steps * 1e6) for h, entry in entries if entry]

    title = f"Time of a training step, by hidden size ({threads} thread{'s' * (threads > 1)})"
    figure, axes = chart(
        title,
        "microseconds a time step, forward + backward, all gradients; B = 16, T = 20, I = 96, float32",
        caption(report),
        BOX,
    )
    axes.set(xscale="log", yscale="log")
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    ends: list[tuple[float, str, str, bool]] = []
    peak = line(PEAK)
    if peak:
        axes.fill_between(*zip(*peak, strict=True), 1e-9, color="#eef1f4", zorder=0, linewidth=0)
        axes.plot(*zip(*peak, strict=True), color=INK, linewidth=1.4, linestyle=(0, (5, 2)), zorder=2)
        ends.append((peak[-1][1], "at the measured FMA peak", INK, False))
    if bandwidth := line(BANDWIDTH):
        axes.plot(*zip(*bandwidth, strict=True), color=MUTED, linewidth=1.2, linestyle=(0, (1, 1.6)), zorder=2)
        ends.append((bandwidth[-1][1], "at the measured bandwidth*", MUTED, False))
    for name, (label, colour, marker) in STYLE.items():
        if points := line(name):
            ours = name == "ours"
            alone = name.startswith("torch.compile")  # measured at too few sizes for a line
            axes.plot(
                *zip(*points, strict=True),
                color=colour,
                marker=marker,
                markersize=8 if alone else 6.5 if ours else 5,
                markeredgecolor="white",
                markeredgewidth=0.7,
                linewidth=2.8 if ours else 1.5,
                linestyle="none" if alone else "-" if marker else (0, (2, 1.2)),
                zorder=5 if ours else 3,
                label=label if alone else None,
            )
            if not alone:
                ends.append((points[-1][1], label, colour, ours))
    lowest = min(y for name in (*STYLE, PEAK) for _, y in line(name))
    highest = max(y for name in STYLE for _, y in line(name))
    low, high = lowest / 1.6, highest * 1.25
    if bandwidth:
        low = min(low, bandwidth[-1][1] / 1.3)
    axes.set_ylim(low, high)
    hidden = [r["case"]["hidden"] for r in rows]
    axes.set_xlim(hidden[0] / 1.08, hidden[-1] * 1.04)
    axes.xaxis.set_major_locator(FixedLocator(hidden))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda h, _: f"{h:.0f}"))
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    axes.yaxis.set_major_locator(FixedLocator([m * 10.0**d for d in decades for m in (1, 2, 5)]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}" if y >= 1 else f"{y:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("hidden size H", color=MUTED, fontsize=10)
    _labels_at_the_end(axes, ends, low, high)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", frameon=False, fontsize=9, labelcolor=INK, handletextpad=0.2)
    if bandwidth:
        figure.text(
            0.02,
            0.05,
            "* recurrent weights read once a step forward and once backward, from where that many bytes lie",
            fontsize=7.5,
            color=MUTED,
        )
    return figure


def _labels_at_the_end(axes: Any, ends: Sequence[tuple[float, str, str, bool]], low: float, high: float) -> None:
    """Names beside the lines' right ends, moved apart where they would overlap, each with a thin line to its own."""
    span = math.log(high / low)
    gap, order = 0.052, sorted(ends)
    places = [math.log(y / low) / span for y, *_ in order]
    for _ in range(200):  # push neighbours apart until none is too near
        for n in range(1, len(places)):
            if (short := gap - (places[n] - places[n - 1])) > 1e-6:
                places[n - 1] -= short / 2
                places[n] += short / 2
    if places and (over := places[-1] - 1.0) > 0:
        places = [p - over for p in places]
    for (y, label, colour, ours), place in zip(order, places, strict=True):
        at = math.log(y / low) / span
        axes.plot([1.0, 1.03], [at, place], transform=axes.transAxes, color=colour, linewidth=0.7, alpha=0.6, clip_on=False)
        axes.text(
            1.036,
            place,
            label,
            transform=axes.transAxes,
            va="center",
            fontsize=9.5,
            color=colour,
            fontweight="bold" if ours else "normal",
        )


def speedup_map(report: Row) -> Figure | None:
    rows = [r for r in report["rows"] if r["group"] == "map"]
    if not rows:
        return None
    hidden = sorted({r["case"]["hidden"] for r in rows})
    batch = sorted({r["case"]["batch"] for r in rows})
    ratios = {(r["case"]["hidden"], r["case"]["batch"]): r["contenders"]["eager"]["ratio"]["median"] for r in rows}
    threads = rows[0]["case"]["threads"]
    figure, axes = chart(
        "How many times faster than the eager loop",
        "two GRUCells and a router in a loop, forward + backward, all gradients; "
        f"T = 20, I = 96, float32, {threads} thread{'s' * (threads > 1)}",
        caption(report),
        BOX,
    )
    axes.set_position((0.085, 0.165, 0.80, 0.665))
    values = [[ratios.get((h, b), math.nan) for h in hidden] for b in batch]
    blues = LinearSegmentedColormap.from_list("speedup", ["#eef5fb", "#9cc8e6", "#3b93c9", "#0b5c96", "#052f52"])
    colours = blues.with_extremes(under="#D55E00", bad="#f2f2f2")  # orange: slower than the loop
    highest = max(2.0, *ratios.values())
    norm = LogNorm(1.0, highest)
    axes.imshow(values, cmap=colours, norm=norm, aspect="auto", origin="lower")
    for n, row in enumerate(values):
        for m, value in enumerate(row):
            if math.isnan(value):
                axes.text(m, n, "-", ha="center", va="center", fontsize=11.5, color=MUTED)
                continue
            red, green, blue, _ = colours(norm(value))
            ink = INK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.5 else "white"
            axes.text(
                m, n, f"{value:.1f}" if value < 99.5 else f"{value:.0f}", ha="center", va="center", fontsize=12, color=ink
            )
    axes.set_xticks(range(len(hidden)), [str(h) for h in hidden])
    axes.set_yticks(range(len(batch)), [str(b) for b in batch])
    for n in range(len(hidden) + 1):
        axes.axvline(n - 0.5, color="white", linewidth=2)
    for n in range(len(batch) + 1):
        axes.axhline(n - 0.5, color="white", linewidth=2)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel("hidden size H", color=MUTED, fontsize=10)
    axes.set_ylabel("sequences B", color=MUTED, fontsize=10)
    bar = figure.add_axes((0.905, 0.165, 0.018, 0.665))
    scale = figure.colorbar(ScalarMappable(norm, colours), cax=bar, extend="min", extendfrac=0.03)
    ticks = [t for t in (1, 2, 3, 5, 10, 20, 30, 50, 100) if t <= highest]
    scale.set_ticks(ticks, labels=[f"{t}x" for t in ticks])
    scale.minorticks_off()
    scale.outline.set_visible(False)
    bar.tick_params(colors=MUTED, labelsize=9, length=0)
    return figure


if __name__ == "__main__":
    for path in draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])):
        print(path)
