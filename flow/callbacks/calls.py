"""The run's side of callbacks: it tells them what happens, and goes on where one of them fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from flow.callbacks.base import Logger, name_of
from flow.callbacks.protocol import Callback, Data
from flow.callbacks.registry import logger
from flow.errors import UserError, one_line
from flow.evaluation.select import SIDES
from flow.terminal.looks import clean_line

EVENTS = ("run_started", "round_done", "evaluation_done", "run_ended")


def opened(callbacks: Sequence[Callback | str]) -> list[Callback]:
    """Callbacks as they were given, with the logger in the place of each name.

    Raises:
        UserError: one is neither a callback nor the name of a logger, or a logger's library is not installed.
    """
    if isinstance(callbacks, str) or not isinstance(callbacks, Sequence):
        raise UserError(f"callbacks must be a list, got {callbacks!r}; write callbacks=[{callbacks!r}]")
    made: list[Callback] = []
    for callback in callbacks:
        if isinstance(callback, str):
            made.append(logger(callback))
            continue
        missing = [event for event in EVENTS if not callable(getattr(callback, event, None))]
        if missing or isinstance(callback, type):
            why = "is a class, not an object of it" if isinstance(callback, type) else f"has no method {missing[0]}"
            raise UserError(f"callbacks has {callback!r}, which {why}; give an object of a class that inherits flow.Callback")
        made.append(callback)
    return made


class Calls:
    """The callbacks of one run; a context manager, within which the run ends. False where there is nobody to tell anything."""

    def __init__(self, callbacks: Sequence[Callback | str], folder: Path | None, first: bool) -> None:
        """Open the loggers.

        Args:
            callbacks: those of the run, or names of loggers.
            folder: of the run.
            first: whether this process tells them.

        Raises:
            UserError: as :func:`opened`; a logger has nowhere to write.
        """
        self._left = opened(callbacks) if first else []
        self._folder, self._done, self._open = folder, 0, False
        self.warnings: list[str] = []
        """A sentence for every callback that failed."""
        for callback in self._left:
            if isinstance(callback, Logger):
                callback.check(folder)

    def __bool__(self) -> bool:
        return bool(self._left)

    def begin(self, algorithm: str, config: Data, rows: list[Data]) -> None:
        """The run begins, or goes on after these rows.

        config: as config.json has it.
        """
        self._done, self._open = len(rows), True
        run = {"name": name_of(self._folder, algorithm), "algorithm": algorithm, "config": config, "rounds": config["rounds"]}
        run |= {"folder": None if self._folder is None else str(self._folder.absolute()), "done": len(rows), "earlier": rows}
        self._tell("run_started", run, "at the start of the run")

    def round(self, row: Data) -> None:
        """A round is done, with the evaluation that its row may have."""
        self._done = row["round"]
        if row["evaluation"] is not None:
            self._evaluation(row["evaluation"], f"in the evaluation of round {row['round']}", final=False)
        self._tell("round_done", row, f"in round {row['round']}")

    def end(self, evaluation: Data, about: Data) -> None:
        """The run is finished.

        Args:
            evaluation: the content of evaluation.json.
            about: the content of run.json.
        """
        self._evaluation(evaluation["summary"], "in the final evaluation", final=True)
        self._end("finished", None, about)

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            text = one_line(str(error))
            reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
            self._end("failed" if isinstance(error, Exception) else "stopped", reason, None)

    def _evaluation(self, sides: Data, where: str, final: bool) -> None:
        self._tell("evaluation_done", {"round": self._done, "final": final, **{side: sides[side] for side in SIDES}}, where)

    def _end(self, outcome: str, reason: str | None, about: Data | None) -> None:
        if self._open:
            self._open = False
            content = {"outcome": outcome, "reason": reason, "rounds": self._done, "run": about}
            self._tell("run_ended", content, "at the end of the run")

    def _tell(self, event: str, content: Data, where: str) -> None:
        """Call a method of every callback, each with a copy of its own; leave out from now on those that fail."""
        if not self._left:
            return
        text = json.dumps(content)
        for callback in list(self._left):
            try:
                getattr(callback, event)(json.loads(text))
            except Exception as error:
                self._left.remove(callback)
                self._warn(callback, where, error)

    def _warn(self, callback: Any, where: str, error: Exception) -> None:
        what = callback.name if isinstance(callback, Logger) else type(callback).__qualname__
        text = one_line(" ".join(str(error).split()))
        reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
        self.warnings.append(
            f"the callback {what} failed {where} ({reason}) and was called no more; the run went on without it"
        )
        with suppress(OSError, ValueError):  # a closed stderr
            clean_line()
            print(f"flow: warning: {self.warnings[-1]}", file=sys.stderr, flush=True)
