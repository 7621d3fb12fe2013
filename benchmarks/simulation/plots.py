"""Two pictures of the results: `python -m benchmarks.simulation.plots simulation.json FOLDER` draws them again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.common.markdown import caption
from benchmarks.common.pictures import INK, MUTED, RULE, save
from benchmarks.simulation.tables import PEAK, by_population
from flow.storage.files import write

Row = dict[str, Any]
OURS, OTHERS, SECOND = "#0072B2", "#9aa5b1", "#E69F00"


def draw(report: Row, folder: Path) -> list[Path]:
    """Write the pictures there is data for; returns their paths."""
    return save({"simulation-speed.png": speed(report), "simulation-scaling.png": scaling(report)}, folder, write)


def speed(report: Row) -> Figure | None:
    """Sequences a second of everybody, by cores, and how many the peak would allow."""
    rows = report["parts"].get("fedavg", [])
    if not rows:
        return None
    panels = []
    for count in sorted({row["cores"] for row in rows}):
        own = [row for row in rows if row["cores"] == count]
        entries = [item for row in own for item in row["contenders"].items() if item[0] not in (PEAK, "ours")]
        bars = sorted(((name, entry["sequences_per_second"]) for name, entry in entries), key=lambda bar: bar[1])
        panels.append((count, own[0]["contenders"], bars))
    heights = [0.24 * (len(bars) + 1) for _, _, bars in panels]  # inches
    width, height = 8.4, 0.75 + sum(heights) + 0.45 * len(panels) + 0.2
    figure = _figure(
        "FedAvg: client sequences trained on per second",
        "same weights, same clients in the same order, same final loss; dashed: the measured FMA peak",
        report,
        (width, height),
    )
    top = height - 0.75
    for (count, contenders, bars), tall in zip(panels, heights, strict=True):
        top -= 0.3 + tall
        axes = figure.add_axes((0.36, top / height, 0.57, tall / height))
        top -= 0.15
        ours = contenders["ours"]["sequences_per_second"]
        bars.append(("ours", ours))
        colours = [OURS if name == "ours" else OTHERS for name, _ in bars]
        axes.barh([name for name, _ in bars], [rate for _, rate in bars], color=colours, height=0.72)
        for place, (_, rate) in enumerate(bars):
            axes.text(rate, place, f" {rate:,.0f}", va="center", fontsize=8, color=INK)
        if PEAK in contenders:
            axes.axvline(ours / contenders[PEAK]["ratio"]["median"], color=INK, linewidth=1.2, linestyle=(0, (5, 2)))
        axes.set_title(f"{count} core{'s' * (count > 1)}", loc="left", fontsize=10, color=INK, fontweight="bold", pad=3)
        axes.set_ylim(-0.5, len(bars) - 0.5)
        _plain(axes)
        axes.set_xticks([])
    return figure


def scaling(report: Row) -> Figure | None:
    """A round's seconds against the cohort and against the population, and the memory of both."""
    cohorts, populations = (report["parts"].get(part, []) for part in ("cohorts", "populations"))
    if not cohorts and not populations:
        return None
    subtitle = "FedAvg by flow.simulate, every point a fresh process"
    figure = _figure("A round's cost, by cohort and by population", subtitle, report, (10.2, 4.2))
    left, middle, right = (figure.add_axes((0.065 + n * 0.325, 0.20, 0.255, 0.56)) for n in range(3))
    for threads, colour in zip(sorted({row["threads"] for row in cohorts}), (SECOND, OURS), strict=False):
        own = sorted((row["cohort"], row["seconds"], row["peak_bytes"]) for row in cohorts if row["threads"] == threads)
        sizes, seconds, memory = zip(*own, strict=True)
        label = f"{threads} thread{'s' * (threads > 1)}"
        left.plot(sizes, seconds, "o-", color=colour, label=label, linewidth=2)
        straight = [seconds[-1] * size / sizes[-1] for size in sizes]
        left.plot(sizes, straight, color=colour, linewidth=1, linestyle=(0, (2, 2)), label=f"{label}, linear")
        right.plot(sizes, [m / 2**20 for m in memory], "o-", color=colour, label=f"cohort, {label}", linewidth=2)
    left.set(xscale="log", yscale="log", xlabel="clients in a cohort", title="seconds a round")
    if populations:
        points = sorted(by_population(populations).items())
        sequences = sum(sum(row["sequences"]) / len(row["sequences"]) for row in populations) / len(populations)
        populated = [size for size, _ in points]
        middle.plot(populated, [sequences / rate for _, (rate, _) in points], "o-", color=OURS, linewidth=2)
        right.plot(
            populated, [peak / 2**20 for _, (_, peak) in points], "s-", color=MUTED, linewidth=2, label="population on disk"
        )
        middle.set_ylim(0, 1.4 * max(sequences / rate for _, (rate, _) in points))
    middle.set(xscale="log", xlabel="clients in the population", title="seconds a round of 100 clients")
    right.set(xscale="log", xlabel="clients", title="peak resident memory, MiB")
    right.set_ylim(0, 1.5 * right.get_ylim()[1])
    for axes in (left, middle, right):
        _plain(axes)
        axes.title.set(fontsize=10, color=INK)
        axes.xaxis.label.set(fontsize=9, color=MUTED)
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}" if size < 1e4 else f"{size / 1e3:,.0f}k"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=7.5, labelcolor=INK)
    return figure


def _figure(title: str, subtitle: str, report: Row, size: tuple[float, float]) -> Figure:
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    inch = 1 / size[1]
    figure.text(0.02, 1 - 0.30 * inch, title, fontsize=14, fontweight="bold", color=INK)
    figure.text(0.02, 1 - 0.56 * inch, subtitle, fontsize=10, color=MUTED)
    figure.text(0.02, 0.11 * inch, caption(report), fontsize=7.5, color=MUTED)
    return figure


def _plain(axes: Any) -> None:
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0)


if __name__ == "__main__":
    for path in draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])):
        print(path)
