"""--log csv: a row for each round, with the columns of Result.rounds."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flow.callbacks.base import Logger
from flow.callbacks.protocol import Data
from flow.callbacks.values import leaves
from flow.storage import files


class CSV(Logger):
    """Writes ``rounds.csv``: one row per round, the columns of ``Result.rounds``; a cell without a value is empty.

    Rows are added as rounds are done. Where a round has a new column, the file is written once more as a whole.
    """

    name, writes = "csv", True

    def run_started(self, run: Data) -> None:
        """Begin the file with the rounds that were done before."""
        place = self.place(run)
        assert place is not None, "refused when the run started"
        place.mkdir(parents=True, exist_ok=True)
        self.path: Path = place / "rounds.csv"
        self._columns: list[str] = []
        rows = [dict(leaves(row)) for row in run["earlier"]]
        self._columns = list(dict.fromkeys(name for row in rows for name in row)) or ["round"]
        self._write_anew([self._cells(row) for row in rows])

    def round_done(self, row: Data) -> None:
        """Add a row."""
        flat = dict(leaves(row))
        new = [name for name in flat if name not in self._columns]
        if new:
            with self.path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))[1:]
            self._columns += new
            self._write_anew([cells + [""] * len(new) for cells in rows] + [self._cells(flat)])
            return
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_lines([self._cells(flat)]))

    def _cells(self, row: Data) -> list[Any]:
        return [row.get(name) for name in self._columns]

    def _write_anew(self, rows: list[list[Any]]) -> None:
        files.write(self.path, _lines([self._columns, *rows]).encode())


def _lines(rows: Iterable[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
