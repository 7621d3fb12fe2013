"""The devices of all clients that may train: how fast each is, and at which hours of a day it can be reached."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

DAY = 86400
"""Seconds of a day; a run begins at hour 0 of one."""

Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Devices(NamedTuple):
    """N devices, by the clients' numbers among those that may train."""

    speed: Numbers
    """[N]: sequences trained on in a second."""
    download: Numbers
    """[N]: bytes received in a second."""
    upload: Numbers
    """[N]: bytes sent in a second."""
    opens: Numbers
    """[N, W]: whole seconds of the day from which a device can be reached, in W windows that do not overlap; DAY for a window
    that a device does not have. With W = 0 every device can be reached at any time."""
    closes: Numbers
    """[N, W]: whole seconds of the day up to which it can; at most DAY."""

    def seconds(self, rows: npt.NDArray[np.int64], received: Numbers, sequences: Numbers, sent: Numbers) -> Numbers:
        """How long these clients take for a download, their work and an upload: float64 [n].

        Args:
            rows: int64 [n], the clients' numbers.
            received: [n], bytes.
            sequences: [n], trained on, each epoch counted.
            sent: [n], bytes.
        """
        return received / self.download[rows] + sequences / self.speed[rows] + sent / self.upload[rows]

    def available(self, now: float) -> Flags:
        """bool [N]: which devices can be reached at this time, in seconds since the run began."""
        if not self.opens.shape[1]:
            return np.ones(len(self.speed), dtype=np.bool_)
        second = now % DAY
        return np.asarray(((self.opens <= second) & (second < self.closes)).any(1))

    def opening(self, now: float, among: Flags, count: int) -> float | None:
        """The earliest time from now on at which so many of these devices can be reached; None: there is none.

        among: bool [N].
        """
        if int((self.available(now) & among).sum()) >= count:
            return now
        opens, closes = (np.sort(edges[among].ravel()) for edges in (self.opens, self.closes))
        starts = np.unique(opens[opens < DAY])
        reachable = np.searchsorted(opens, starts, side="right") - np.searchsorted(closes, starts, side="right")
        starts = starts[reachable >= count]
        if not len(starts):
            return None
        day, second = divmod(now, DAY)
        later = starts[starts > second]
        return float(day * DAY + later[0]) if len(later) else float((day + 1) * DAY + starts[0])

    def digest(self) -> str:
        """SHA-256 of all numbers."""
        sha = hashlib.sha256()
        for part in self:
            sha.update(f"{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        return sha.hexdigest()


def windows(rows: list[list[tuple[int, int]]]) -> tuple[Numbers, Numbers]:
    """`opens` and `closes` [N, W] of the windows of every device; W = 0 where every device has the whole day.

    rows: by device its windows, (first second, second after the last one) of the day.
    """
    if all(own == [(0, DAY)] for own in rows):
        return np.zeros((len(rows), 0)), np.zeros((len(rows), 0))
    width = max(map(len, rows))
    filled = np.array([own + [(DAY, DAY)] * (width - len(own)) for own in rows], dtype=np.float64).reshape(len(rows), width, 2)
    return np.ascontiguousarray(filled[..., 0]), np.ascontiguousarray(filled[..., 1])
