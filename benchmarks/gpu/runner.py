"""Steps of a run, each a process with a budget: one that fails or hangs costs itself and nothing else. Only the standard
library, so that it runs where nothing is built yet."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

PASSED, LEFT_OUT = "passed", "left out"
LEAST = 5.0  # seconds; a step that would get less is not started
GRACE = 3.0  # between being asked to end and being killed


@dataclass(frozen=True)
class Step:
    """A command with the most seconds that it may take. In the command {seconds} stands for what it gets, {part} for the JSON
    file that it writes (as it goes on, so that a step that is stopped leaves what it has). left_out: why it is not run here."""

    name: str
    about: str
    command: tuple[str, ...]
    seconds: float
    left_out: str = ""


@dataclass
class Outcome:
    """How a step ended: "passed", "failed (exit status 1)", "out of time (60 s)", "not started: ...", "left out: ..."."""

    step: str
    status: str
    seconds: float

    @property
    def good(self) -> bool:
        return self.status.startswith((PASSED, LEFT_OUT))


class Running:
    """A step's process with all that it starts, in a session of its own."""

    def __init__(self, step: Step, seconds: float, work: Path, root: Path) -> None:
        self.step, self.seconds, self.part = step, seconds, work / f"{step.name}.json"
        self.log = work / f"{step.name}.log"
        values = {"{seconds}": f"{max(1.0, seconds - GRACE):.0f}", "{part}": str(self.part)}
        command = [values.get(word, word) for word in step.command]
        self._started = time.monotonic()
        self._output: IO[bytes] = self.log.open("wb")
        self._output.write(f"$ {' '.join(command)}\n".encode())
        self._output.flush()
        try:
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                command,
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._output.write(f"cannot be started: {error}\n".encode())
            self._process = None

    def outcome(self) -> Outcome | None:
        """How it ended, None while it runs within its time; past that it is stopped."""
        elapsed = time.monotonic() - self._started
        if self._process is None:
            status = "failed (cannot be started)"
        elif (code := self._process.poll()) is not None:
            status = PASSED if code == 0 else f"failed ({f'signal {-code}' if code < 0 else f'exit status {code}'})"
            self._end(signal.SIGKILL)  # what it may have left behind
        elif elapsed >= self.seconds:
            self.stop()
            status = f"out of time ({self.seconds:.0f} s)"
        else:
            return None
        self._output.close()
        return Outcome(self.step.name, status, round(elapsed, 1))

    def stop(self) -> None:
        """Ask the whole session to end, then end it."""
        self._end(signal.SIGTERM)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it is killed next
                self._process.wait(GRACE)
            self._end(signal.SIGKILL)
            self._process.wait()

    def _end(self, signal_number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # nothing of it is left
                os.killpg(self._process.pid, signal_number)


class Run:
    """Stages of steps: those of one stage run side by side, the stages one after the other, until the clock has run out.

    After every stage `report` is called with what has been collected: the outcomes, the parts by step, and the logs.
    """

    def __init__(
        self, work: Path, root: Path, seconds: float, report: Callable[[list[Outcome], dict[str, Any], str], None]
    ) -> None:
        self.work, self.root, self._report = work, root, report
        self._deadline = time.monotonic() + seconds
        self.outcomes: list[Outcome] = []
        self.parts: dict[str, Any] = {}
        self._logs: list[str] = []

    def stages(self, stages: Sequence[Sequence[Step]], reserve: float = 0.0) -> None:
        """Run them; `reserve` seconds are kept back for what comes after."""
        for stage in stages:
            left = self._deadline - time.monotonic() - reserve
            running: list[Running] = []
            try:
                for step in stage:
                    if step.left_out:
                        self._note(Outcome(step.name, f"{LEFT_OUT}: {step.left_out}", 0.0))
                    elif left < LEAST:
                        self._note(Outcome(step.name, "not started: no time left", 0.0))
                    else:
                        print(f"{step.name}: {step.about}", flush=True)
                        running.append(Running(step, min(step.seconds, left), self.work, self.root))
                while running:
                    time.sleep(0.05)
                    for started in list(running):
                        if (outcome := started.outcome()) is not None:
                            running.remove(started)
                            self._note(outcome, started)
            finally:  # interrupted: nothing outlives the run
                for started in running:
                    started.stop()
            self._report(self.outcomes, self.parts, "\n".join(self._logs))

    def _note(self, outcome: Outcome, ended: Running | None = None) -> None:
        self.outcomes.append(outcome)
        print(f"  {outcome.step}: {outcome.status}, {outcome.seconds:.1f} s", flush=True)
        if ended is None:
            return
        text = ended.log.read_text(errors="replace")
        self._logs.append(f"===== {outcome.step}: {outcome.status} =====\n{text}")
        if not outcome.good:
            print("\n".join(f"    | {line}" for line in text.splitlines()[-15:]), flush=True)
        if ended.part.exists():
            self.parts[outcome.step] = json.loads(ended.part.read_text())  # written whole or not at all


def summary(outcomes: Sequence[Outcome]) -> str:
    """A table of the steps."""
    width = max((len(o.step) for o in outcomes), default=0)
    lines = [f"{o.step:<{width}}  {o.seconds:>6.1f} s  {o.status}" for o in outcomes]
    counts = [f"{sum(o.status.startswith(kind) for o in outcomes)} {kind}" for kind in (PASSED, LEFT_OUT)]
    bad = [o.step for o in outcomes if not o.good]
    lines.append(", ".join([*counts, f"{len(bad)} bad"]) + (f": {', '.join(bad)}" if bad else ""))
    return "\n".join(lines)


def as_rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    return [asdict(outcome) for outcome in outcomes]
