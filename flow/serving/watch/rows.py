"""The rows of a metrics.jsonl that is being written: read on from where the last reading ended, and anew where the file is new.

A row counts once its line has ended, so what a killed process left half written is none. A resumed run puts another file in the
place of the first.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

PIECE = 4 << 20
"""Bytes that are read at a time."""
ANCHOR = 128
"""Bytes before the place where reading goes on that must be those of the reading before."""
LARGEST = 1e100
"""What is larger is no value of a curve."""

Row = dict[str, Any]


class Rows:
    """The rows of a file, piece by piece.

    Attributes:
        restarts: how often the file was another one than before, so that everything read of it is void.
        damaged: lines that are no rows, since the last restart.
        behind: whether there is more to read at once.
        written: when the file was last changed, in seconds of the epoch; None: there is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.restarts = self.damaged = 0
        self.behind = False
        self.written: float | None = None
        self._path = path
        self._file: tuple[int, int] | None = None
        self._at, self._anchor, self._last = 0, b"", 0

    def read(self) -> list[Row]:
        """The rows that the next PIECE of the file has, in their order; none where there is nothing new."""
        try:
            with open(self._path, "rb", opener=_opened) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    return self._none()
                self.written = status.st_mtime
                if self._is_another(file, status):
                    self._restart()
                    self._file = status.st_dev, status.st_ino
                file.seek(self._at)
                piece = file.read(PIECE)
        except OSError:  # it is not there, or no longer
            return self._none()
        return self._rows(piece)

    def _is_another(self, file: Any, status: os.stat_result) -> bool:
        if self._file != (status.st_dev, status.st_ino) or status.st_size < self._at:
            return True
        file.seek(self._at - len(self._anchor))
        return bool(file.read(len(self._anchor)) != self._anchor)

    def _none(self) -> list[Row]:
        self._file, self.written, self.behind = None, None, False
        return []

    def _restart(self) -> None:
        self.restarts += self._at > 0
        self.damaged, self._at, self._anchor, self._last = 0, 0, b"", 0

    def _rows(self, piece: bytes) -> list[Row]:
        full = len(piece) == PIECE
        whole, end, _ = piece.rpartition(b"\n")
        if not end and not full:
            self.behind = False
            return []
        if not end:  # no row of a run is as long
            whole = piece
            self.damaged += 1
        self._at += len(whole) + len(end)
        self._anchor = (self._anchor + whole + end)[-ANCHOR:]
        self.behind = full
        return [row for line in whole.split(b"\n") if end and (row := self._row(line)) is not None]

    def _row(self, line: bytes) -> Row | None:
        try:
            row = json.loads(line)
            number = row["round"]
            good = isinstance(number, int) and not isinstance(number, bool) and self._last < number < LARGEST
        except (ValueError, TypeError, KeyError, RecursionError):
            good = False
        if not good:
            self.damaged += 1
            return None
        self._last = number
        return dict(row)


def number(value: object) -> float | None:
    """A value as a finite number; None for whatever is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST <= value <= LARGEST:  # nan is neither
        return None
    return float(value)


def _opened(path: str, flags: int) -> int:
    """Open for reading without waiting, as for the writer of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
