"""Progress: a bar where a terminal can be drawn over and in notebooks, elsewhere a line on stderr now and then."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from flow.terminal.looks import aside, in_notebook, is_drawn_over

Item = TypeVar("Item")
FIRST = 10.0
"""Seconds until the first line."""
LONGEST = 120.0
"""Seconds between two lines, at most: every pause is half as long again as the one before."""
COLUMNS, PAUSE = 90, 0.5
"""Of a bar in a notebook: its width, and seconds between two drawings at least."""
MOST_CHARACTERS = 30
"""Of what a bar says is being done, its end; in a narrow terminal a quarter of the columns."""


class Progress(Generic[Item]):
    """How far a piece of work is, over items or by calls of :meth:`update`; a context manager.

    Args:
        items: what is gone through; None: :meth:`update` is called.
        what: is being done.
        unit: of what is counted; "": bytes and the like, written with SI prefixes.
        total: how many there are; None: not known, or as many as `items` says.
        before: how many were done before.
        delay: seconds of work until a bar is drawn.
        visible: whether anything is written at all.
    """

    def __init__(
        self,
        items: Iterable[Item] = (),
        *,
        what: str,
        unit: str,
        total: int | None = None,
        before: int = 0,
        delay: float = 0.0,
        visible: bool = True,
    ) -> None:
        self._items, self.count = items, before
        self._bar: Any = None
        self._lines: _Lines | None = None
        if visible and (in_notebook() or is_drawn_over(sys.stderr)):
            most = max(8, min(MOST_CHARACTERS, shutil.get_terminal_size().columns // 4))
            short = what if len(what) <= most else f"...{what[3 - most :]}"
            options: dict[str, Any] = {"unit": unit, "unit_scale": unit in ("", "B")}
            # A cell has no width that could be asked for, and every drawing is a message to the browser
            options |= {"ncols": COLUMNS, "mininterval": PAUSE} if in_notebook() else {"dynamic_ncols": True}
            self._bar = tqdm(desc=short, total=total, initial=before, delay=delay, file=aside(), **options)
        elif visible:
            self._lines = _Lines(what, unit, total, before)

    def update(self, count: int = 1) -> None:
        """So many more are done."""
        self.count += count
        if self._bar is not None:
            self._bar.update(count)
        if self._lines is not None:
            self._lines.update(self.count)

    def say(self, fields: Mapping[str, str]) -> None:
        """What is known beside the count, by name, from now on."""
        if self._bar is not None:
            self._bar.set_postfix(fields, refresh=False)  # the next update draws it
        if self._lines is not None:
            self._lines.beside = dict(fields)

    def close(self) -> None:
        """Leave the bar as it is and go to the next line; in a pipe say the last state where earlier ones were said."""
        if self._bar is not None:
            self._bar.close()
        if self._lines is not None:
            self._lines.close(self.count)

    def __iter__(self) -> Iterator[Item]:
        with self:
            for item in self._items:
                yield item
                self.update()

    def __enter__(self) -> Progress[Item]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Lines:
    """Lines of text in place of a bar."""

    def __init__(self, what: str, unit: str, total: int | None, before: int) -> None:
        self.beside: dict[str, str] = {}
        self._what, self._unit, self._total, self._before = what, unit, total, before
        self._started = self._last = time.monotonic()
        self._pause, self._written = FIRST, before

    def update(self, count: int) -> None:
        """Write a line where the last one is long ago."""
        now = time.monotonic()
        if now - self._last >= self._pause:
            self._last, self._pause = now, min(1.5 * self._pause, LONGEST)
            self._write(count, now - self._started)

    def close(self, count: int) -> None:
        """Write the last line, where there was one before."""
        if self._pause > FIRST and count != self._written:
            self._write(count, time.monotonic() - self._started)

    def _write(self, count: int, seconds: float) -> None:
        self._written = count
        parts = [f"{self._what}: {_amount(count, self._total, self._unit)} in {_duration(seconds)}"]
        new = count - self._before
        if self._total and new > 0 and count < self._total:
            parts.append(f"about {_duration(seconds / new * (self._total - count))} left")
        parts += [f"{name} {value}" for name, value in self.beside.items()]
        print(", ".join(parts), file=sys.stderr, flush=True)


def _amount(count: int, total: int | None, unit: str) -> str:
    """ "12 of 80 rounds", or "45 %" where bytes are counted."""
    if unit in ("", "B"):
        return f"{100 * count / total:.0f} %" if total else f"{count / 1e6:,.1f} MB" if unit else f"{count:,}"
    return f"{count:,} of {total:,} {unit}s" if total else f"{count:,} {unit}s"


def _duration(seconds: float) -> str:
    """ "0:07", "1:05:00"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
