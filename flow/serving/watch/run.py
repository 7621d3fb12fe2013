"""One run, followed: its curves, and in what state it is."""

from __future__ import annotations

import json
import os
import stat
from collections import deque
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from flow.evaluation.metrics import MODELS
from flow.evaluation.registry import all_metrics
from flow.evaluation.select import SIDES
from flow.reports.format import capitalized, number
from flow.serving.watch import rows
from flow.serving.watch.holder import Hold, Holder, holder
from flow.serving.watch.thinning import Thinned
from flow.storage.metrics import NAME as METRICS
from flow.storage.run_folder import DIVERGED

WINDOW = 50
"""Rounds over whose mean the time left is reckoned."""
PATIENCE = 10.0
"""Seconds without a row for which a run counts as running where the file system has no locks, at least."""
LARGEST_JSON = 1 << 20
"""Bytes of a small JSON file."""

Json = dict[str, Any]


def curve_of(metric: str, model: str, side: str) -> str:
    """The name of the curve of a metric."""
    return f"{metric}-{model}-{side}"


class File(NamedTuple):
    """A small JSON object that is read again where its file is another one."""

    path: Path
    known: list[Any]
    """[what the file was when it was read, its content]"""

    @classmethod
    def at(cls, path: Path) -> File:
        return cls(path, [None, {}])

    def content(self) -> Json:
        """The object; an empty one where there is none."""
        try:
            status = os.stat(self.path)
            now = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
            if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_JSON:
                return {}
            if now != self.known[0]:
                content = json.loads(self.path.read_text(encoding="utf-8"))
                self.known[:] = now, content if isinstance(content, dict) else {}
        except (OSError, ValueError, RecursionError):
            return {}
        result: Json = self.known[1]
        return result


class Run:
    """A run's folder as it is read again and again.

    Attributes:
        curves: by name.
        newest: the last value of every curve.
        state: one of waiting, reading, starting, running, evaluating, ended, stopped, diverged, gone.
        sentence: what that means, in words.
    """

    def __init__(self, folder: Path, version: int) -> None:
        self.folder = folder
        self.curves: dict[str, Thinned] = {}
        self.state, self.sentence = "waiting", ""
        self.config: Json = {}
        self._file, self._diverged = File.at(folder / "config.json"), File.at(folder / DIVERGED)
        self._rows = rows.Rows(folder / METRICS)
        self._keys = [
            (side, metric.summary_key(model, "token"), curve_of(metric.name, model, side), metric.scale)
            for side, metric, model in product(SIDES, all_metrics(), MODELS)
            if metric.charted
        ]
        self._was_free, self._unlocked_until = False, 0.0
        self._begin(version)

    def _begin(self, version: int) -> None:
        for name in self.curves:  # what is gone of them has to be told, so they stay
            self.curves[name] = Thinned(version)
        self._restarts, self._round, self._seconds = self._rows.restarts, 0, deque[float](maxlen=WINDOW)
        self.newest: dict[str, float | None] = {}

    @property
    def rounds(self) -> int:
        """How many it is to have; 0: not known."""
        value = self.config.get("rounds")
        return value if isinstance(value, int) and value is not True and 0 < value < rows.LARGEST else 0

    @property
    def report(self) -> Path | None:
        """Its report, where there is one."""
        path = self.folder / "report.html"
        return path if path.is_file() else None

    def refresh(self, version: int, now: float) -> bool:
        """Read what is new; returns whether there is more to read at once.

        Args:
            version: under which what is new goes.
            now: seconds of the epoch.
        """
        hold, before = holder(self.folder), self._round  # first: a process writes its last file before it gives up its lock
        config = self._file.content()
        if config and config.get("rounds") != self.config.get("rounds"):
            self._rows = rows.Rows(self.folder / METRICS)  # the time left is another one from the first round on
            self._begin(version)
        self.config = config or self.config
        new = self._rows.read()
        if self._rows.restarts != self._restarts:
            self._begin(version)
        for row in new:
            self._add(row, version)
        free, self._was_free = self._was_free, hold.hold is Hold.NONE and not self._rows.behind
        if free and self._was_free and before < self._round:
            self._unlocked_until = now + max(PATIENCE, 5 * self._mean())
        self.state, self.sentence = self._judged(hold, now)
        return self._rows.behind

    def _add(self, row: rows.Row, version: int) -> None:
        round = self._round = row["round"]
        self._put("loss", rows.number(row.get("loss")), version)
        self._put("speed", rows.number(row.get("sequences_per_second")), version)
        seconds = [rows.number(row.get(name)) or 0.0 for name in ("seconds", "evaluation_seconds")]
        self._seconds.append(sum(seconds))
        if self.rounds:
            self._put("left", max(0, self.rounds - round) * self._mean() / 60, version)
        for name in ("lr", "server_lr"):
            if name in row:
                self._put(name, rows.number(row[name]), version)
        evaluation = row.get("evaluation")
        if not isinstance(evaluation, dict):
            return
        for side, key, name, scale in self._keys:
            summary = evaluation.get(side)
            value = rows.number(summary.get(key)) if isinstance(summary, dict) else None
            if value is not None or name in self.curves:
                self._put(name, None if value is None else scale * value, version)

    def _put(self, name: str, value: float | None, version: int) -> None:
        self.newest[name] = value
        if name not in self.curves:
            self.curves[name] = Thinned(version)
        self.curves[name].add(self._round, value, version)

    def _mean(self) -> float:
        return sum(self._seconds) / len(self._seconds) if self._seconds else 0.0

    def _judged(self, hold: Holder, now: float) -> tuple[str, str]:
        """The state, and a sentence on it."""
        rounds, done = self.rounds, self._round
        if self._rows.behind:
            return "reading", f"Reading what the run has so far: round {done}."
        so_far = f"round {done} of {rounds}" if rounds else f"round {done}"
        if not self.folder.is_dir():
            if done:
                return "gone", f"The folder is no longer there. The curves show what it held up to {so_far}."
            return "waiting", "There is no such folder yet."
        if hold.hold is Hold.HERE or (hold.hold is Hold.NONE and now < self._unlocked_until):
            if not done:
                return "starting", "The data are being prepared, and no round has ended yet."
            if rounds and done >= rounds:
                return "evaluating", f"All {rounds} rounds are done. The final evaluation goes on."
            return "running", f"{so_far.capitalize()} is done."
        if hold.hold is Hold.ELSEWHERE:
            who = f"process {hold.process} on {hold.host}, which this machine cannot ask, has had it since {hold.since}"
            return ("running", f"{so_far.capitalize()} is done; {who}.") if done else ("starting", f"No round is done; {who}.")
        ends = (self.folder / "evaluation.json").is_file() and (not rounds or done >= rounds)
        if ends:
            return "ended", f"All is done, after round {done}."
        reason = self._diverged.content().get("reason")
        if isinstance(reason, str):
            return "diverged", f"{capitalized(reason)}."
        if not self._file.content():
            return ("gone", "The folder no longer holds the run.") if done else ("waiting", "The folder holds no run yet.")
        after = f"to {so_far}" if done else "not to the end of its first round"
        if hold.hold is Hold.LEFT:
            who = f"process {hold.process}, which began {hold.since}, " if hold.process else "its process "
            return "stopped", f"It got {after}; then {who}ended without giving up its lock, as one that was killed."
        return "stopped", f"It got {after}, and no process works on it."

    def status(self) -> Json:
        """What a page shows beside the curves; numbers as text."""
        rounds = self.rounds
        left = max(0, rounds - self._round) * self._mean() if rounds and self._seconds else None
        moving = self.state == "running"
        algorithm, data = self.config.get("algorithm"), self.config.get("data")
        return {
            "state": self.state,
            "sentence": self.sentence,
            "round": self._round,
            "rounds": rounds,
            "loss": number(self.newest.get("loss"), 4),
            "accuracy": number(self._accuracy(), 2),
            "speed": number(self.newest.get("speed"), 0),
            "left": left if moving else None,
            "written": self._rows.written if moving else None,
            "algorithm": str(algorithm.get("name", "")) if isinstance(algorithm, dict) else "",
            "data": Path(str(data.get("data", ""))).name if isinstance(data, dict) else "",
            "damaged": self._rows.damaged,
            "report": self.report is not None,
            "each": max((curve.each for curve in self.curves.values()), default=1),
        }

    def _accuracy(self) -> float | None:
        """The newest on unseen clients, else on seen ones, of the model that they predict with."""
        names = (curve_of("accuracy", model, side) for side in ("unseen", "seen") for model in ("personal", "global"))
        return next((value for name in names if (value := self.newest.get(name)) is not None), None)
