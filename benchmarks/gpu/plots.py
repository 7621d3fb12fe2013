"""Two pictures of the sweep: time against H, and how many times faster than the stacked eager form over K and H."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.common.pictures import INK, MUTED, RULE, chart, save
from benchmarks.gpu.files import write
from benchmarks.gpu.names import NAMES, OURS, OURS_GRAPH
from benchmarks.gpu.tables import caption

Row = dict[str, Any]
BOX = (0.09, 0.16, 0.87, 0.66)
STYLE = {
    OURS: ("RoutedGRU", "#0072B2", "o"),
    OURS_GRAPH: ("RoutedGRU, CUDA graph", "#56B4E9", "^"),
    NAMES["loop"]: ("eager loop over clients", "#D55E00", "s"),
    NAMES["stacked"]: ("stacked eager", "#E69F00", "D"),
    NAMES["stacked graph"]: ("stacked eager, CUDA graph", "#CC79A7", "P"),
    NAMES["GRU"]: ("nn.GRU per client (no routing)", "#7f7f7f", "v"),
}
WHERE = {"mode": "training", "dtype": "bfloat16", "batch": 16}


def draw(report: Row, folder: Path) -> list[Path]:
    """Write the pictures there is data for; returns their paths."""
    rows = [row for row in report.get("sweep", {}).get("rows", []) if WHERE.items() <= row["case"].items()]
    makers = {"gpu-time.png": time_against_hidden, "gpu-speedup.png": speedup_map}
    return save({name: make(rows, report) for name, make in makers.items()}, folder, write)


def time_against_hidden(rows: list[Row], report: Row) -> Figure | None:
    rows = sorted((row for row in rows if row["case"]["clients"] == 32), key=lambda row: row["case"]["hidden"])
    if len(rows) < 2:
        return None
    subtitle = "microseconds a time step, forward + backward; K = 32, B = 16, T = 20, I = 96, bfloat16"
    figure, axes = chart("Time of a training step of 32 clients, by hidden size", subtitle, caption(report), BOX)
    axes.set(xscale="log", yscale="log")
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for name, (label, colour, marker) in STYLE.items():
        points = [
            (row["case"]["hidden"], row["contenders"][name]["seconds"]["median"] / row["case"]["steps"] * 1e6)
            for row in rows
            if name in row["contenders"]
        ]
        if points:
            axes.plot(
                *zip(*points, strict=True), color=colour, marker=marker, label=label, linewidth=2.8 if name == OURS else 1.5
            )
    axes.xaxis.set_major_locator(FixedLocator([row["case"]["hidden"] for row in rows]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda h, _: f"{h:.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}" if y >= 1 else f"{y:g}"))
    axes.set_xlabel("hidden size H", color=MUTED, fontsize=10)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, ncols=2, loc="upper left")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.3)  # room for the legend
    return figure


def speedup_map(rows: list[Row], report: Row) -> Figure | None:
    stacked = NAMES["stacked"]
    place: Callable[[Row], tuple[int, int]] = lambda row: (row["case"]["hidden"], row["case"]["clients"])  # noqa: E731
    ratios = {place(row): row["contenders"][stacked]["ratio"]["median"] for row in rows if stacked in row["contenders"]}
    if not ratios:
        return None
    hidden, clients = sorted({h for h, _ in ratios}), sorted({k for _, k in ratios})
    subtitle = "forward + backward, all gradients; B = 16, T = 20, I = 96, bfloat16; all clients in one batched product a step"
    figure, axes = chart("How many times faster than the stacked eager form", subtitle, caption(report), BOX)
    values = [[ratios.get((h, k), math.nan) for h in hidden] for k in clients]
    blues = LinearSegmentedColormap.from_list("speedup", ["#eef5fb", "#9cc8e6", "#3b93c9", "#0b5c96", "#052f52"])
    colours, norm = blues.with_extremes(under="#D55E00", bad="#f2f2f2"), LogNorm(1.0, max(2.0, *ratios.values()))
    axes.imshow(values, cmap=colours, norm=norm, aspect="auto", origin="lower")
    for n, line in enumerate(values):
        for m, value in enumerate(line):
            if math.isnan(value):
                axes.text(m, n, "-", ha="center", va="center", fontsize=12, color=MUTED)
                continue
            red, green, blue, _ = colours(norm(value))
            ink = INK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.5 else "white"
            axes.text(
                m, n, f"{value:.1f}" if value < 99.5 else f"{value:.0f}", ha="center", va="center", fontsize=12, color=ink
            )
    axes.set_xticks(range(len(hidden)), [str(h) for h in hidden])
    axes.set_yticks(range(len(clients)), [str(k) for k in clients])
    axes.set_xlabel("hidden size H", color=MUTED, fontsize=10)
    axes.set_ylabel("clients K", color=MUTED, fontsize=10)
    return figure
