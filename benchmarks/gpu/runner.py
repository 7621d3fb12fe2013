"""Steps of a run, each a process with a part of the time: one that fails or hangs costs itself and nothing else. Only the
standard library, so that it runs where nothing is built yet."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

PASSED, LEFT_OUT, RUNNING = "passed", "left out", "running"
LEAST = 5.0  # seconds; a step that would get less is not started
GRACE = 3.0  # between being asked to end and being killed
NOTE = 10.0  # seconds after which a step's results are reported while it runs: a machine may go away at any time
TEXT = 6000  # characters of a failed step's output that are kept with its outcome


@dataclass(frozen=True)
class Step:
    """A command with its share of the time, in seconds of a run that has time for all. In the command {seconds} stands for what
    it gets, {part} for the JSON file that it writes (as it goes on, so that a step that is stopped leaves what it has). That
    file holds what an earlier call left, where there was one. least: seconds under which it is of no use. left_out: why it is
    not run here. always: it is run again though it has passed."""

    name: str
    about: str
    command: tuple[str, ...]
    share: float
    least: float = LEAST
    left_out: str = ""
    always: bool = False


@dataclass
class Outcome:
    """How a step ended: "passed", "failed (exit status 1)", "out of time (60 s)", "not started: ...", "left out: ...", or
    "running". text: the end of what a bad one printed."""

    step: str
    status: str
    seconds: float
    text: str = ""

    @property
    def good(self) -> bool:
        return self.status.startswith((PASSED, LEFT_OUT))

    def as_dict(self) -> dict[str, Any]:
        row: dict[str, Any] = {"step": self.step, "status": self.status, "seconds": self.seconds}
        return row | ({"text": self.text} if self.text else {})


class Process(Protocol):
    """A command that runs."""

    def poll(self) -> int | None:
        """Its exit status, minus a signal's number; None while it runs."""

    def end(self, signal_number: signal.Signals) -> None:
        """Send this to it and to all that it has started."""

    def wait(self, seconds: float | None) -> None:
        """Until it has ended, or for so long."""


class Session:
    """A process with all that it starts, in a session of its own.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, command: Sequence[str], root: Path, output: IO[bytes]) -> None:
        self._process = subprocess.Popen(
            command, cwd=root, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )

    def poll(self) -> int | None:
        return self._process.poll()

    def end(self, signal_number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # nothing of it is left
            os.killpg(self._process.pid, signal_number)

    def wait(self, seconds: float | None) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)


class Clock:
    """The machine's clock; the tests have one of their own."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


Start = Callable[[Sequence[str], Path, IO[bytes]], Process]


class Running:
    """A step that has been started."""

    def __init__(self, step: Step, seconds: float, work: Path, root: Path, clock: Clock, start: Start) -> None:
        self.step, self.seconds, self.part = step, seconds, work / f"{step.name}.json"
        self.log = work / f"{step.name}.log"
        values = {"{seconds}": f"{max(1.0, seconds - GRACE):.0f}", "{part}": str(self.part)}
        command = [values.get(word, word) for word in step.command]
        self._clock, self._started = clock, clock.now()
        self._output: IO[bytes] = self.log.open("wb")
        self._output.write(f"$ {' '.join(command)}\n".encode())
        self._output.flush()
        self._process: Process | None = None
        try:
            self._process = start(command, root, self._output)
        except OSError as error:
            self._output.write(f"cannot be started: {error}\n".encode())

    @property
    def elapsed(self) -> float:
        return self._clock.now() - self._started

    def outcome(self) -> Outcome | None:
        """How it ended, None while it runs within its time; past that it is stopped."""
        elapsed = self.elapsed
        if self._process is None:
            status = "failed (cannot be started)"
        elif (code := self._process.poll()) is not None:
            status = PASSED if code == 0 else f"failed ({f'signal {-code}' if code < 0 else f'exit status {code}'})"
            self._process.end(signal.SIGKILL)  # what it may have left behind
        elif elapsed >= self.seconds:
            self.stop()
            status = f"out of time ({self.seconds:.0f} s)"
        else:
            return None
        self._output.close()
        text = "" if status == PASSED else self.log.read_text(errors="replace")[-TEXT:]
        return Outcome(self.step.name, status, round(elapsed, 1), text)

    def stop(self) -> None:
        """Ask the whole session to end, then end it."""
        if self._process is not None:
            self._process.end(signal.SIGTERM)
            self._process.wait(GRACE)
            self._process.end(signal.SIGKILL)
            self._process.wait(None)


def allotted(stages: Sequence[Sequence[Step]], left: float) -> float:
    """Seconds of the first of these stages: its share of what is left for all, and more where that is of no use to it. What a
    stage does not need is shared by those after it."""
    shares = [max(step.share for step in stage) for stage in stages]
    least = max(step.least for step in stages[0])
    return min(left, max(least, left * shares[0] / sum(shares)))


class Run:
    """Stages of steps: those of one stage run side by side, the stages one after the other, until the time is up.

    `report` is called after every stage, and while a step goes on writing results, with what there is: the outcomes, the parts
    by step, and the logs. `parts` are those of an earlier call: a step finds its own in its file.
    """

    def __init__(
        self,
        work: Path,
        root: Path,
        seconds: float,
        report: Callable[[list[Outcome], dict[str, Any], str], None],
        clock: Clock | None = None,
        start: Start = Session,
    ) -> None:
        self.work, self.root, self._report = work, root, report
        self._clock, self._start = clock or Clock(), start
        self._deadline = self._clock.now() + seconds
        self.outcomes: list[Outcome] = []
        self.parts: dict[str, Any] = {}
        self._logs: list[str] = []
        self._noted = {"": 0.0}

    def stages(self, stages: Sequence[Sequence[Step]], later: Sequence[Sequence[Step]] = (), reserve: float = 0.0) -> None:
        """Run them. The stages of `later` have their shares of the time too; `reserve` seconds are kept back beside that."""
        waiting = [[step for step in stage if not step.left_out] for stage in (*stages, *later)]
        for number, stage in enumerate(stages):
            left = self._deadline - self._clock.now() - reserve
            sharing = [others for others in waiting[number:] if others]
            seconds = allotted(sharing, left) if waiting[number] else 0.0
            running: list[Running] = []
            try:
                for step in stage:
                    if step.left_out:
                        self._note(Outcome(step.name, f"{LEFT_OUT}: {step.left_out}", 0.0))
                    elif left < step.least:
                        status = f"not started: it needs {step.least:.0f} s, and {max(0.0, left):.0f} s are left"
                        self._note(Outcome(step.name, status, 0.0))
                    else:
                        print(f"{step.name}: {step.about} ({seconds:.0f} s)", flush=True)
                        running.append(self._started(step, seconds))
                while running:
                    self._clock.sleep(0.05)
                    for started in list(running):
                        if (outcome := started.outcome()) is not None:
                            running.remove(started)
                            self._note(outcome, started)
                    self._report_on(running)
            finally:  # interrupted: nothing outlives the run
                for started in running:
                    started.stop()
            self.report()

    def report(self, under_way: Sequence[Outcome] = ()) -> None:
        self._report([*self.outcomes, *under_way], self.parts, "\n".join(self._logs))

    def _started(self, step: Step, seconds: float) -> Running:
        if step.name in self.parts:
            (self.work / f"{step.name}.json").write_text(json.dumps(self.parts[step.name]))
        return Running(step, seconds, self.work, self.root, self._clock, self._start)

    def _report_on(self, running: Sequence[Running]) -> None:
        """What steps that are still running have written, every now and then."""
        now = self._clock.now()
        if now - self._noted[""] < NOTE:
            return
        self._noted[""] = now
        written = {started.step.name: started.part.stat().st_mtime for started in running if started.part.exists()}
        if any(self._noted.get(name) != at for name, at in written.items()):
            self._noted |= written
            self.parts |= {s.step.name: json.loads(s.part.read_text()) for s in running if s.step.name in written}
            self.report([Outcome(s.step.name, RUNNING, round(s.elapsed, 1)) for s in running])

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


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of the steps."""
    width = max((len(row["step"]) for row in rows), default=0)
    lines = [f"{row['step']:<{width}}  {row['seconds']:>6.1f} s  {row['status']}" for row in rows]
    counts = [f"{sum(row['status'].startswith(kind) for row in rows)} {kind}" for kind in (PASSED, LEFT_OUT)]
    bad = [row["step"] for row in rows if not row["status"].startswith((PASSED, LEFT_OUT))]
    lines.append(", ".join([*counts, f"{len(bad)} bad"]) + (f": {', '.join(bad)}" if bad else ""))
    return "\n".join(lines)
