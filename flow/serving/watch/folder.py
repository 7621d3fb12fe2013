"""The runs of a folder, and what is new of them for a page that has the rest."""

from __future__ import annotations

import json
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from flow.reports.charts import routing_histogram, steps_chart
from flow.reports.files import read_evaluation
from flow.reports.words import words_of
from flow.serving.watch import pictures
from flow.serving.watch.holder import Hold, holder
from flow.serving.watch.run import File, Run
from flow.storage import lock
from flow.storage.metrics import NAME as METRICS

MOST_RUNS = 84
"""That are drawn; as many as a comparison of 28 algorithms with three seeds has."""
MOST_ENTRIES = 5000
"""Of a folder that is looked through for runs."""
PAUSE = 0.3
"""Seconds for which what was read is new enough."""
BUDGET = 0.5
"""Seconds of reading before an answer is given; what is left comes with the next one."""
RECORD, COMPARISON = "comparison.json", "comparison.html"
SIGNS = ("config.json", METRICS, lock.NAME)
"""Of which the folder of a run has at least one."""

Json = dict[str, Any]


class Watched:
    """A folder that is looked at again and again: that of a run, of a comparison, or of several runs.

    Every change has a version, and :meth:`news` tells what came after one.

    Args:
        folder: need not be there yet.
        monotonic: seconds, by which reading is paced.
        now: seconds of the epoch.
    """

    def __init__(
        self, folder: Path, monotonic: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time
    ) -> None:
        self.folder = folder
        self._monotonic, self._now = monotonic, now
        self._epoch, self._version = secrets.token_hex(8), 0
        self._kind = ""
        self._runs: dict[str, tuple[int, Run]] = {}
        self._numbers: dict[str, int] = {}
        self._left_out, self._turn, self._behind = 0, 0, False
        self._read_at: float | None = None
        self._told: dict[str, tuple[int, str]] = {}
        self._plan = File.at(folder / RECORD)
        self._routing: tuple[Any, list[Json]] = (None, [])
        self._lock = threading.Lock()

    def news(self, epoch: str, version: int) -> Json:
        """What changed after a version, as JSON.

        Args:
            epoch: of the answer that had this version; with another one than this process's the answer is whole.
            version: of the last answer; 0: none.
        """
        with self._lock:
            self._refresh()
            since = version if epoch == self._epoch and 0 <= version <= self._version else 0
            curves = {
                number: own
                for number, run in self._runs.values()
                if (own := {name: new for name, curve in run.curves.items() if (new := curve.since(since)) is not None})
            }
            status = self._status()
            return {
                "epoch": self._epoch,
                "version": self._version,
                "whole": since == 0,
                "charts": self._changed("charts", self._signature()),
                "status": status if self._changed("status", json.dumps(status)) > since else None,
                "curves": curves,
                "behind": self._behind,
            }

    def charts(self) -> list[Json]:
        """The charts without their points."""
        with self._lock:
            self._refresh()
            names = {number: name for name, (number, _) in self._runs.items()}
            curves = {number: run.curves for number, run in self._runs.values()}
            classes = int(any(self._classes(run) for _, run in self._runs.values()))
            if self._kind == "run":
                ((number, run),) = self._runs.values()
                return [*(picture.plain() for picture in pictures.of_run(number, run.curves, classes)), *self._routed(run)]
            return [picture.plain() for picture in pictures.of_runs(names, curves, classes)]

    def report(self, name: str) -> Path | None:
        """The page that a run with this number, or the comparison, has written; None: there is none."""
        with self._lock:
            if name == "comparison":
                path = self.folder / COMPARISON
                return path if path.is_file() else None
            return next((run.report for number, run in self._runs.values() if str(number) == name), None)

    def _refresh(self) -> None:
        began = self._monotonic()
        if self._read_at is not None and began - self._read_at < PAUSE and not self._behind:
            return
        self._version += 1
        self._discover()
        runs = [run for _, run in self._runs.values()]
        self._behind = False
        for place in range(len(runs)):
            run = runs[(self._turn + place) % len(runs)]
            self._behind |= run.refresh(self._version, self._now())
            if self._monotonic() - began > BUDGET and place + 1 < len(runs):
                self._turn, self._behind = (self._turn + place + 1) % len(runs), True
                break
        self._read_at = self._monotonic()

    def _discover(self) -> None:
        """Look for runs; what was there once stays where the folder is gone."""
        kind, paths = self._looked_through()
        if kind == "nothing" and self._runs:
            return
        if kind != self._kind:
            self._kind, self._runs = kind, {}
        for name, path in paths.items():
            if name not in self._runs:
                number = self._numbers.setdefault(name, len(self._numbers))
                self._runs[name] = number, Run(path, self._version)
        self._runs = dict(sorted(self._runs.items(), key=lambda item: item[0]))

    def _looked_through(self) -> tuple[str, dict[str, Path]]:
        folder = self.folder
        if (folder / RECORD).is_file():
            return "comparison", self._below(folder / "runs")
        if any((folder / sign).exists() for sign in SIGNS):
            return "run", {str(folder): folder}
        below = self._below(folder)
        return ("runs", below) if below else ("nothing", {})

    def _below(self, folder: Path) -> dict[str, Path]:
        """The runs in the folders of a folder, by their names."""
        try:
            with os.scandir(folder) as entries:
                names = sorted(
                    entry.name for entry in islice(entries, MOST_ENTRIES) if not entry.name.startswith(".") and entry.is_dir()
                )
        except OSError:
            return {}
        runs = [name for name in names if any((folder / name / sign).exists() for sign in SIGNS)]
        self._left_out = max(0, len(runs) - MOST_RUNS)
        return {name: folder / name for name in runs[:MOST_RUNS]}

    def _changed(self, name: str, content: str) -> int:
        """Since which version something is as it is."""
        version, before = self._told.get(name, (0, None))
        if before != content:
            version = self._version
            self._told[name] = version, content
        return version

    def _signature(self) -> str:
        routed = [run.state == "ended" for _, run in self._runs.values()] if self._kind == "run" else []
        return json.dumps([self._kind, routed, {name: list(run.curves) for name, (_, run) in self._runs.items()}])

    def _status(self) -> Json:
        runs = [{"number": number, "name": name, **run.status()} for name, (number, run) in self._runs.items()]
        state, sentence = self._whole(runs)
        return {
            "folder": str(self.folder),
            "kind": self._kind,
            "state": state,
            "sentence": sentence,
            "report": self._kind == "comparison" and (self.folder / COMPARISON).is_file(),
            "left_out": self._left_out,
            "runs": runs,
        }

    def _whole(self, runs: list[Json]) -> tuple[str, str]:
        """The state of all that is watched, and a sentence on it."""
        folder = self.folder
        if self._kind == "run":
            remedy = f" Go on with `flow run --resume {folder}`." if runs[0]["state"] == "stopped" else ""
            return runs[0]["state"], runs[0]["sentence"] + remedy
        if not folder.is_dir():
            return (
                ("gone", f"There is no folder {folder} any more.")
                if runs
                else (
                    "waiting",
                    f"There is no folder {folder} yet.",
                )
            )
        if self._kind == "nothing":
            return "waiting", f"{folder} holds no run yet."
        counts = [(state, sum(run["state"] == state for run in runs)) for state in dict.fromkeys(run["state"] for run in runs)]
        parts = ", ".join(f"{count} {state}" for state, count in counts) or "none has begun"
        if self._kind == "runs":
            busy = any(run["state"] in ("starting", "running", "evaluating", "reading") for run in runs)
            return "running" if busy else "ended", f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}: {parts}."
        return self._comparison(len(runs), parts)

    def _comparison(self, begun: int, parts: str) -> tuple[str, str]:
        plan, hold = self._plan.content(), holder(self.folder).hold
        algorithms, seeds = plan.get("algorithms"), plan.get("seeds")
        known = isinstance(algorithms, list) and isinstance(seeds, int)
        planned = len(algorithms) * seeds if known and isinstance(algorithms, list) and isinstance(seeds, int) else begun
        runs = f"{begun} of {planned} runs have begun: {parts}."
        if hold in (Hold.HERE, Hold.ELSEWHERE):
            tries = (
                sum(path.is_dir() for path in islice((self.folder / "tuning").glob("[!.]*"), MOST_ENTRIES)) if not begun else 0
            )
            return "running", f"It is tuning, with {tries} tries so far." if tries else runs
        if (self.folder / COMPARISON).is_file():
            return "ended", f"{runs}"
        return "stopped", f"{runs} Go on with `flow compare --resume {self.folder}`."

    def _classes(self, run: Run) -> bool:
        data = run.config.get("data")
        return isinstance(data, dict) and bool(data.get("label_column"))

    def _routed(self, run: Run) -> list[Json]:
        """The charts of the router, which a run has when it has ended."""
        path = run.folder / "evaluation.json"
        try:
            status = os.stat(path)
            now = status.st_ino, status.st_mtime_ns
            if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
                return []
            if now == self._routing[0]:
                return self._routing[1]
            evaluation = read_evaluation(run.folder)
        except (OSError, ValueError):  # UserError is one: the report says what is wrong with the file
            return []
        routing, words = evaluation["routing"], words_of(evaluation["unit"], evaluation["classes"])
        drawn = (
            {}
            if routing is None
            else {
                "Router at the end: where in a sequence": steps_chart(routing),
                "Router at the end: weight of the local expert": routing_histogram(routing, words),
            }
        )
        charts = [{"title": title, "svg": str(svg), "lines": []} for title, svg in drawn.items() if svg is not None]
        self._routing = now, charts
        return charts
