"""One call of benchmarks/gpu.sh: runs the steps and keeps what they leave in a folder: gpu.json (everything), tables.md,
summary.txt, log.txt and, where matplotlib is installed, two pictures. A call on a folder that has results goes on with them.
Only the standard library."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import runner, sources
from benchmarks.gpu.files import aside, write
from benchmarks.gpu.runner import PASSED, Clock, Outcome, Run, Session, Start, Step
from benchmarks.gpu.steps import DRAW, DRAWING, chosen, drawing, stages

BUDGET = 840.0  # seconds, of the quarter of an hour that one rents
MINIMUM = DRAWING + 10
SAME = ("gpu", "versions", "stand_in")  # of what the step "backends" writes
OF_ALL = ("date", "minutes", "calls", "device", "sources", "steps")  # in gpu.json; the rest of it are parts, by step


class Record:
    """What the folder holds: rows of the steps, parts by step, the log; of earlier calls and of this one."""

    def __init__(self, out: Path, device: str, names: Sequence[str]) -> None:
        self.out, self.device = out, device
        self._file, self._log = out / "gpu.json", out / "log.txt"
        self.earlier: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}
        self._log_before = self._log.read_text() if self.earlier and self._log.exists() else ""
        self._sources, self._started = sources.digest(sources.MEASURED), time.time()
        self._held = bool(self.earlier)
        others = [name for name in self.rows if name not in (*names, DRAW)]
        self._order = [*names, *others, DRAW]

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Of the earlier calls, by step."""
        return {row["step"]: row for row in self.earlier.get("steps", [])}

    @property
    def parts(self) -> dict[str, Any]:
        """Of the earlier calls."""
        return {name: part for name, part in self.earlier.items() if name not in OF_ALL}

    def settle(self, backends: dict[str, Any] | None) -> None:
        """Go on with the earlier results if they are of this machine, of these versions and sources; else put them aside.
        Until then nothing is written over them."""
        self._held = False
        if not self.earlier:
            return
        before, now = ({"sources": r.get("sources"), "device": r.get("device")} | _kind(b) for r, b in (
            (self.earlier, self.earlier.get("backends")), ({"sources": self._sources, "device": self.device}, backends)
        ))  # fmt: skip
        differs = [name for name, value in now.items() if before.get(name) != value or value is None]
        if differs:
            names = [path.name for path in (aside(self._file), aside(self._log)) if path is not None]
            print(f"the results in {self.out} differ in {', '.join(differs)}; they are now {' and '.join(names)}", flush=True)
            self.earlier, self._log_before = {}, ""

    def write(self, outcomes: list[Outcome], parts: dict[str, Any], log: str) -> None:
        if self._held:
            return
        rows = self.rows | {outcome.step: outcome.as_dict() for outcome in outcomes}
        steps = sorted(rows.values(), key=lambda row: self._order.index(row["step"]))
        minutes = (time.time() - self._started) / 60 + self.earlier.get("minutes", 0.0)
        content = {
            "date": time.strftime("%Y-%m-%d"),
            "minutes": round(minutes, 1),
            "calls": self.earlier.get("calls", 0) + 1,
            "device": self.device,
            "sources": self._sources,
            "steps": steps,
            **self.parts,
            **parts,
        }
        texts = {
            "gpu.json": json.dumps(content, indent=1),
            "summary.txt": runner.summary(steps),
            "log.txt": self._log_before + log,
        }
        for name, text in texts.items():
            write(self.out / name, f"{text}\n".encode())


def _kind(backends: dict[str, Any] | None) -> dict[str, Any]:
    return {name: (backends or {}).get(name) for name in SAME if name != "gpu" or not (backends or {}).get("stand_in")}


def run(
    out: Path,
    device: str,
    all_stages: Sequence[Sequence[Step]],
    seconds: float,
    named: Sequence[str] = (),
    clock: Clock | None = None,
    start: Start = Session,
) -> int:
    """Run the steps, but those that have passed in an earlier call and are not `named`; then draw. The exit status: 0 if every
    step is good."""
    out.mkdir(parents=True, exist_ok=True)
    names = [step.name for stage in all_stages for step in stage]
    record = Record(out, device, names)
    first = [stage for stage in all_stages if all(step.always for step in stage)]
    rest = [stage for stage in all_stages if stage not in first]
    last = drawing(str(out / "gpu.json"), str(out))
    with tempfile.TemporaryDirectory(prefix="flow-gpu-") as work:
        steps = Run(Path(work), sources.ROOT, seconds, record.write, clock, start)
        steps.stages(first, later=rest, reserve=DRAWING)
        record.settle(steps.parts.get("backends"))
        steps.parts = record.parts | steps.parts
        passed = {name for name, row in record.rows.items() if row["status"] == PASSED and name not in named}
        for name in names:
            if name in passed and name not in [step.name for stage in first for step in stage]:
                print(f"{name}: passed before", flush=True)
        todo = [[step for step in stage if step.name not in passed] for stage in rest]
        steps.stages([stage for stage in todo if stage], reserve=DRAWING)
        steps.stages([[last]])
    rows = record.rows | {outcome.step: outcome.as_dict() for outcome in steps.outcomes}
    print(runner.summary([rows[name] for name in (*names, DRAW) if name in rows]), flush=True)
    return 0 if all(Outcome(**row).good for row in rows.values()) else 1


def budget(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not MINIMUM <= seconds < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a number of at least {MINIMUM:g} seconds; leave it out for {BUDGET:g}"
        )
    return seconds


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu.sh", description="Builds, tests, checks and measures the GPU kernels on the machine it runs on."
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the results; one that has results is gone on with")
    parser.add_argument("steps", metavar="STEP", nargs="*", help="only these steps, whether or not they have passed before")
    parser.add_argument(
        "--budget",
        metavar="SECONDS",
        type=budget,
        default=BUDGET,
        help="time for everything, shared by the steps (%(default)g)",
    )
    given = parser.parse_args(arguments)
    device = os.environ.setdefault("FLOW_GPU_DEVICE", "cuda")
    if device not in ("cuda", "cpu"):
        raise SystemExit(
            f"FLOW_GPU_DEVICE={device!r}: it must be 'cuda', or 'cpu' to try the code on tiny sizes; unset it for 'cuda'"
        )
    selected = chosen(stages(device), given.steps)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is stopped too
    return run(given.out.resolve(), device, selected, given.budget, given.steps)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
