"""Charts as small SVG: complete without a script, and with the data beside every mark, so that page.js can zoom and explain.

A mark has its data in `data-p` ("x,y x,y", a semicolon at a gap) and its colour by a class `c-NAME`, for which style.css.j2
has a CSS variable: one drawing serves light, dark and paper. Nothing has a style attribute, which the page's policy forbids.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from markupsafe import Markup, escape

from flow.reports.labels import HEIGHT, spread

WIDTH, PLOT = 440.0, 210.0
"""Of a drawing, and how high its axes are, in its own units: as wide as a column of a page, letters have 12."""
LETTER = 6.6
"""The width of a letter that is wider than most."""
ROW = 19.0
"""From one line of the legend to the next."""

Point = tuple[float, float]
Place = Callable[[float, float], Point]
"""Data -> where they are drawn."""


class Axis(NamedTuple):
    """One axis; `low` may be above `high`, which turns it round."""

    label: str
    low: float
    high: float
    digits: int = 2
    """After the point, of a value that is pointed at."""
    whole: bool = False
    """Whether only whole numbers have ticks."""
    names: tuple[str, ...] = ()
    """In the place of the numbers 0, 1 and so on."""


class Mark(Protocol):
    """What is drawn between the axes."""

    def drawn(self, place: Place) -> str:
        """SVG of it."""
        ...

    def sample(self) -> tuple[str, str] | None:
        """(SVG of 22 by 10 around its middle, name) in the legend; None: it is not there."""
        ...


class Line(NamedTuple):
    """Points of one name: a line through them, dots on them, or both."""

    name: str
    """In the legend, where one points, and in the CSV file."""
    points: Sequence[Point]
    """A gap is where y is no number."""
    colour: str
    line: str = "solid"
    """solid, dashed, thin, hidden (for its data alone), or empty: dots only."""
    dots: str = ""
    """full, hollow or diamond; empty: none."""
    sizes: Sequence[float] = ()
    """The radius of every dot, in place of the usual one."""
    notes: Sequence[str] = ()
    """Further words on every point."""
    in_legend: bool = True

    def drawn(self, place: Place) -> str:
        notes = f' data-notes="{escape(json.dumps(list(self.notes), ensure_ascii=False))}"' if self.notes else ""
        parts = [f'<g class="series c-{self.colour}" data-name="{escape(self.name)}"{notes}>']
        if self.line:
            parts.append(_path(f"line {self.line}", self.points, place))
        for n, point in enumerate(self.points if self.dots else ()):
            if math.isfinite(point[1]):
                at = " ".join(map(_px, place(*point)))
                shape = _dot(self.dots, self.sizes[n] if self.sizes else 3.4)
                parts.append(f'<g class="dot" data-p="{_data(point)}" transform="translate({at})">{shape}</g>')
        return "".join([*parts, "</g>"])

    def sample(self) -> tuple[str, str] | None:
        if not self.in_legend or self.line == "hidden":
            return None
        line = f'<path class="line {self.line}" d="M-11 0H11"/>' if self.line else ""
        dot = _dot(self.dots, 3.4) if self.dots else ""
        return f'<g class="c-{self.colour}">{line}{dot}</g>', self.name


class Bars(NamedTuple):
    """Bars that stand side by side, each from an edge to the next."""

    name: str
    edges: Sequence[float]
    heights: Sequence[float]
    colours: Sequence[str]

    def drawn(self, place: Place) -> str:
        parts = [f'<g class="series bars" data-name="{escape(self.name)}">']
        for n, (height, colour) in enumerate(zip(self.heights, self.colours, strict=True)):
            low, high = self.edges[n], self.edges[n + 1]
            corners = [(low, 0.0), (low, height), (high, height), (high, 0.0)]
            parts.append(_path(f"bar c-{colour}", corners, place, closed=True))
        return "".join([*parts, "</g>"])

    def sample(self) -> tuple[str, str] | None:
        return None


class Area(NamedTuple):
    """What lies between two lines."""

    name: str
    """Empty: it is not in the legend."""
    lower: Sequence[Point]
    upper: Sequence[Point]
    strength: str
    """pale or strong."""

    def drawn(self, place: Place) -> str:
        return _path(f"area {self.strength}", [*self.lower, *reversed(self.upper)], place, closed=True)

    def sample(self) -> tuple[str, str] | None:
        return (f'<path class="area {self.strength}" d="M-11-5H11V5H-11Z"/>', self.name) if self.name else None


class Rule(NamedTuple):
    """A line that is no data: a boundary, or a bar of deviation."""

    points: Sequence[Point]
    kind: str
    """dotted, plain, joint (between two dots), or c- and a colour."""

    def drawn(self, place: Place) -> str:
        return _path(f"rule {self.kind}", self.points, place)

    def sample(self) -> tuple[str, str] | None:
        return None


class Chart(NamedTuple):
    """A pair of axes and what is between them."""

    name: str
    """Of the file that it is saved as, and the beginning of every id in it."""
    about: str
    """For those who cannot see it."""
    x: Axis
    y: Axis
    marks: Sequence[Mark]
    columns: int = 0
    """Of the legend; 0: there is none."""
    shared: bool = False
    """Whether all lines have their points at the same x, so that where one points all are told."""
    ends: Sequence[Line] = ()
    """Lines whose names stand at their right ends, in place of a legend."""
    strip: Sequence[str] = ()
    """Colours of a scale that stands beside the vertical axis, from below."""
    height: float = PLOT
    grid: str = "y"
    """The axis whose ticks have lines: x or y."""

    def svg(self) -> Markup:
        """The drawing; all text of the data is escaped."""
        x_ticks, y_ticks = _ticks_of(self.x, 6), _ticks_of(self.y, 5)
        widest = max((len(text) for _, text in y_ticks), default=0)
        longest = max((len(line.name) for line in self.ends), default=0)
        left, right = 12 + LETTER * widest, WIDTH - (18 + LETTER * longest if self.ends else 12)
        top = 28.0 if self.y.label else 8.0
        bottom = top + self.height

        def place(x: float, y: float) -> Point:
            across, up = (x - self.x.low) / (self.x.high - self.x.low), (y - self.y.low) / (self.y.high - self.y.low)
            return left + across * (right - left), bottom - up * self.height

        samples = [sample for mark in self.marks if (sample := mark.sample()) is not None] if self.columns else []
        legend = _legend(samples, self.columns, bottom + 58)
        whole = bottom + 42 + (ROW * math.ceil(len(samples) / self.columns) + 8 if samples else 0)
        frame = {
            "name": self.name,
            "shared": self.shared,
            "grid": self.grid,
            "x": self.x._asdict() | {"from": round(left, 1), "to": round(right, 1), "count": 6},
            "y": self.y._asdict() | {"from": round(bottom, 1), "to": round(top, 1), "count": 5},
        }
        parts = [
            f'<svg class="chart" viewBox="0 0 {WIDTH:g} {_px(whole)}" role="img" aria-label="{escape(self.about)}" '
            f'data-chart="{escape(json.dumps(frame, ensure_ascii=False))}">',
            f'<text class="label" x="{_px(left)}" y="14">{escape(self.y.label)}</text>' if self.y.label else "",
            f'<g class="ticks">{self._ticks(x_ticks, y_ticks, place)}</g>',
            f'<clipPath id="{self.name}-clip"><path d="M{_px(left - 5)} {_px(top - 5)}H{_px(right + 5)}V{_px(bottom + 5)}'
            f'H{_px(left - 5)}Z"/></clipPath>',
            f'<g class="plot" clip-path="url(#{self.name}-clip)">{"".join(mark.drawn(place) for mark in self.marks)}</g>',
            f'<path class="base" d="M{_px(left)} {_px(bottom)}H{_px(right)}"/>',
            f'<text class="label middle" x="{_px((left + right) / 2)}" y="{_px(bottom + 36)}">{escape(self.x.label)}</text>',
            f'<g class="fixed">{self._strip(right, top)}{"".join(self._names(right, top, place))}</g>',
            *legend,
            "</svg>",
        ]
        return Markup("".join(parts))

    def _ticks(self, x_ticks: list[tuple[float, str]], y_ticks: list[tuple[float, str]], place: Place) -> str:
        (left, bottom), (right, top) = place(self.x.low, self.y.low), place(self.x.high, self.y.high)
        parts = []
        for value, text in x_ticks:
            at = _px(place(value, 0)[0])
            grid = f'<path class="grid" d="M{at} {_px(top)}V{_px(bottom)}"/>' if self.grid == "x" else ""
            parts.append(f'{grid}<text class="middle" x="{at}" y="{_px(bottom + 17)}">{escape(text)}</text>')
        for value, text in y_ticks:
            up = place(0, value)[1]
            grid = f'<path class="grid" d="M{_px(left)} {_px(up)}H{_px(right)}"/>' if self.grid == "y" else ""
            parts.append(f'{grid}<text class="end" x="{_px(left - 6)}" y="{_px(up + 4)}">{escape(text)}</text>')
        return "".join(parts)

    def _strip(self, right: float, top: float) -> str:
        each = self.height / max(1, len(self.strip))
        bottom = top + self.height
        return "".join(
            f'<path class="bar c-{colour}" d="M{_px(right + 4)} {_px(bottom - n * each)}h7v{_px(-each)}h-7Z"/>'
            for n, colour in enumerate(self.strip)
        )

    def _names(self, right: float, top: float, place: Place) -> Iterator[str]:
        """Of the lines, beside their ends, each with a dotted line from there."""
        lasts = sorted(((place(*line.points[-1]), line) for line in self.ends), key=lambda pair: pair[0][1])
        wanted = [y for (_, y), _ in lasts]
        heights = spread(wanted, HEIGHT, top + 2, top + self.height - 2)
        for ((x, y), line), height in zip(lasts, heights, strict=True):
            yield (
                f'<g class="c-{line.colour}"><path class="leader" d="M{_px(x + 5)} {_px(y)}L{_px(right + 10)} {_px(height)}"/>'
                f'<text class="name" x="{_px(right + 13)}" y="{_px(height + 4)}">{escape(line.name)}</text></g>'
            )


def limits(values: Sequence[float], least: float = 0.0, margin: float = 0.06) -> tuple[float, float]:
    """The ends of an axis for these values: at least so far apart, with a margin as a share of that; (0, 1) for none."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    least = max(least, 1e-9 * max(abs(low), abs(high)), 1e-12)
    if high - low < least:
        low, high = (low + high - least) / 2, (low + high + least) / 2
    return low - margin * (high - low), high + margin * (high - low)


def ticks(low: float, high: float, count: int, whole: bool = False) -> tuple[list[float], int]:
    """(about so many round numbers between two, the digits after the point that they need). page.js has the same."""
    low, high = min(low, high), max(low, high)
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    steps = (1, 2, 5, 10) if whole or power < 1e-9 else (1, 2, 2.5, 5, 10)
    step = power * next((m for m in steps if m * power * count >= 0.999 * (high - low)), 10)
    if whole:
        step = max(1.0, round(step))
    digits = next((n for n in range(12) if abs(step * 10**n - round(step * 10**n)) < 1e-6 * step * 10**n), 12)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)], digits


def _ticks_of(axis: Axis, count: int) -> list[tuple[float, str]]:
    if axis.names:
        return list(enumerate(axis.names))
    values, digits = ticks(axis.low, axis.high, count, axis.whole)
    return [(value, f"{value + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")) for value in values]


def _px(value: float) -> str:
    """A length in the drawing's units, to a tenth."""
    text = f"{value:.1f}"
    return text.removesuffix(".0") if text != "-0.0" else "0"


def _data(point: Point) -> str:
    return f"{point[0]:.6g},{point[1]:.6g}"


def _path(classes: str, points: Sequence[Point], place: Place, closed: bool = False) -> str:
    """A path through points, in pieces where a point is no number; a piece of one point is a dot, by its round ends."""
    pieces: list[list[Point]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            pieces[-1].append(point)
        elif pieces[-1]:
            pieces.append([])
    pieces = [piece for piece in pieces if piece]
    data = ";".join(" ".join(map(_data, piece)) for piece in pieces)
    drawn = []
    for piece in pieces:
        at = ["{} {}".format(*map(_px, place(*point))) for point in piece]
        drawn.append("M" + "L".join(at) + ("h0" if len(at) == 1 else "Z" if closed else ""))
    return f'<path class="{classes}" data-p="{data}" d="{"".join(drawn)}"/>'


def _dot(kind: str, radius: float) -> str:
    if kind == "diamond":
        r = _px(1.35 * radius)
        return f'<path class="full" d="M0-{r}L{r} 0L0 {r}L-{r} 0Z"/>'
    return f'<circle class="{kind}" r="{_px(radius)}"/>'


def _legend(samples: Sequence[tuple[str, str]], columns: int, top: float) -> list[str]:
    """Samples with their names, in columns as wide as the longest name, in the middle below the axes."""
    if not samples:
        return []
    columns = min(columns, len(samples))
    width = min(40 + LETTER * max(len(name) for _, name in samples), WIDTH / columns)
    left = (WIDTH - columns * width) / 2
    parts = []
    for n, (sample, name) in enumerate(samples):
        x, y = left + n % columns * width + 12, top + n // columns * ROW
        parts.append(
            f'<g class="key-of" transform="translate({_px(x)} {_px(y)})">{sample}<text x="17" y="4">{escape(name)}</text></g>'
        )
    return parts
