"""Places in a column for names that would rather stand elsewhere, so that none covers another."""

from __future__ import annotations

from collections.abc import Sequence

HEIGHT = 13.0
"""From one name to the next, in the units of a drawing."""


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
