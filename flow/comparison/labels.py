"""Names of the lines of a picture in a column beside it, set so that none covers another or a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 8.0  # of the letters, in points of 1/72 inch
HEIGHT = 9.5  # from one name to the next


class Label(NamedTuple):
    """The name of a line, and where the line ends, in data coordinates."""

    name: str
    x: float
    y: float
    colour: str


def add_labels(axes: Axes, labels: Sequence[Label]) -> None:
    """Write the names to the right of the axes, each as high as its line ends or nearly so, with a dotted line from there.

    All else must have been drawn.
    """
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    height = axes.get_window_extent().height * 72 / axes.figure.dpi
    low, high = axes.get_ylim()
    order = sorted(labels, key=lambda label: label.y)
    wanted = [height * (label.y - low) / (high - low) for label in order]
    for label, place in zip(order, spread(wanted, HEIGHT, HEIGHT / 2, height - HEIGHT / 2), strict=True):
        axes.annotate(
            label.name,
            (label.x, label.y),
            xytext=(1.02, place / height),
            textcoords="axes fraction",
            fontsize=SIZE,
            va="center",
            color=label.colour,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": label.colour,
                "linewidth": 0.8,
                "alpha": 0.7,
                "linestyle": (0, (1, 2)),
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 3,
            },
        )


def spread(wanted: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Ascending places as near to the wanted ones as can be, by least squares, each at least a distance above the one before.

    They lie between low and high where there is room for all. With the distances taken off, this is isotonic regression, by
    pooling adjacent violators; bounds are met by clipping its solution.

    wanted: ascending.
    """
    blocks: list[tuple[float, int]] = []  # (mean, how many)
    for n, place in enumerate(wanted):
        mean, count = place - n * distance, 1
        while blocks and blocks[-1][0] >= mean:
            other, more = blocks.pop()
            mean, count = (mean * count + other * more) / (count + more), count + more
        blocks.append((mean, count))
    flat = [mean for mean, count in blocks for _ in range(count)]
    top = max(low, high - (len(flat) - 1) * distance)
    return [min(max(place, low), top) + n * distance for n, place in enumerate(flat)]
