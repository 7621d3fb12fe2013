"""A curve that stays small however long it grows, and of which only what is new is sent."""

from __future__ import annotations

from bisect import bisect_right

MOST = 600
"""Points of a curve, at most."""
DIGITS = 6
"""Of a value that is sent."""


class Thinned:
    """A curve of at most MOST points, each the mean of as many neighbouring rounds.

    When it is full, neighbouring points become one, and every later point stands for twice as many rounds.

    Attributes:
        each: of how many rounds a point is the mean.

    Args:
        version: at which the curve begins, see :meth:`since`.
    """

    def __init__(self, version: int) -> None:
        self.each = 1
        self._began = version
        self._points: list[_Point] = []

    def add(self, x: float, y: float | None, version: int) -> None:
        """Add a round.

        Args:
            x: its number, above that of the round before.
            y: the value; None leaves a gap where all rounds of a point have none.
            version: at least that of the call before.
        """
        if not self._points or self._points[-1].rounds == self.each:
            if len(self._points) == MOST:
                self._halve(version)
            self._points.append(_Point())
        self._points[-1].add(x, y, version)

    def since(self, version: int) -> tuple[int, list[list[float | None]]] | None:
        """What changed after a version: (number of points before it, points [x, y] from there on); None: nothing did."""
        if self._began > version:
            return 0, [point.mean() for point in self._points]
        start = bisect_right(self._points, version, key=lambda point: point.version)
        return (start, [point.mean() for point in self._points[start:]]) if start < len(self._points) else None

    def _halve(self, version: int) -> None:
        pairs = zip(self._points[::2], self._points[1::2], strict=True)
        self._points = [first.joined(second) for first, second in pairs]
        self.each, self._began = 2 * self.each, version


class _Point:
    """Sums over neighbouring rounds."""

    __slots__ = ("known", "rounds", "version", "x", "y")

    def __init__(self) -> None:
        self.rounds = self.known = self.version = 0
        self.x = self.y = 0.0

    def add(self, x: float, y: float | None, version: int) -> None:
        self.rounds, self.x, self.version = self.rounds + 1, self.x + x, version
        if y is not None:
            self.known, self.y = self.known + 1, self.y + y

    def joined(self, other: _Point) -> _Point:
        both = _Point()
        for name in self.__slots__:
            setattr(both, name, getattr(self, name) + getattr(other, name))
        both.version = other.version
        return both

    def mean(self) -> list[float | None]:
        return [self.x / self.rounds, None if not self.known else float(f"{self.y / self.known:.{DIGITS}g}")]
