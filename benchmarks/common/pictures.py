"""What all pictures share: colours, the frame of one chart, and how they are written. Imports nothing of the project."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, MUTED, RULE = "#1b1f24", "#5c6670", "#d9dee3"
SIZE, DPI = (8.4, 5.0), 200


def save(figures: Mapping[str, Figure | None], folder: Path, write: Callable[[Path, bytes], object]) -> list[Path]:
    """Write the figures there are as PNG files of these names; returns their paths."""
    drawn = []
    for name, figure in figures.items():
        if figure is not None:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
            write(folder / name, buffer.getvalue())
            drawn.append(folder / name)
    return drawn


def chart(title: str, subtitle: str, caption: str, box: tuple[float, float, float, float]) -> tuple[Figure, Any]:
    """A figure with one pair of axes in this box (left, bottom, width, height; shares of the figure)."""
    figure = Figure(figsize=SIZE)
    FigureCanvasAgg(figure)
    axes = figure.add_axes(box)
    figure.text(0.02, 0.945, title, fontsize=14, fontweight="bold", color=INK)
    figure.text(0.02, 0.893, subtitle, fontsize=10, color=MUTED)
    figure.text(0.02, 0.022, caption, fontsize=7.5, color=MUTED)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=9.5, length=0)
    return figure, axes
