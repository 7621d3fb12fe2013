"""Tests by pytest, on as many processes as are given, with what each came to in a file while they run: whoever stops them loses
no failure. `python -m benchmarks.gpu.checks FILE PROCESSES [pytest's arguments]`

Tests that have passed according to the file are not run again."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.files import write

EVERY = 2.0  # seconds between two writings of the file


class Noted:
    """A plugin of pytest's that writes outcomes to a file, and prints the text of a failure when it comes."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.passed: list[str] = json.loads(file.read_text())["passed"] if file.exists() else []
        self.failed: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self._written = 0.0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed[report.nodeid] = self.failed.get(report.nodeid, "") + report.longreprtext
            print(f"\n{report.nodeid} failed ({report.when}):\n{report.longreprtext}\n", flush=True)
        elif report.skipped:
            reason = report.longrepr
            self.skipped[report.nodeid] = str(reason[2] if isinstance(reason, tuple) else reason)
        elif report.when == "call":
            self.passed.append(report.nodeid)
        if report.failed or time.monotonic() - self._written > EVERY:
            self.write()

    def write(self) -> None:
        self._written = time.monotonic()
        self.passed = [name for name in self.passed if name not in self.failed]  # a failure may come after the call
        write(self.file, json.dumps({"passed": self.passed, "failed": self.failed, "skipped": self.skipped}).encode())


def run(file: Path, processes: int, arguments: Sequence[str]) -> int:
    """The exit status: 0 if all pass now or have passed before."""
    noted = Noted(file)
    before = [f"--deselect={name}" for name in noted.passed]
    if before:
        print(f"{len(before)} tests have passed before and are not run again", flush=True)
    side_by_side = ["-n", str(processes)] if processes > 1 and importlib.util.find_spec("xdist") else []
    options: list[Any] = ["-v", "-p", "no:cacheprovider", *side_by_side, *before, *arguments]
    status = int(pytest.main(options, plugins=[noted]))
    noted.write()
    print(f"{len(noted.passed)} passed, {len(noted.failed)} failed, {len(noted.skipped)} skipped", flush=True)
    if status == pytest.ExitCode.NO_TESTS_COLLECTED and before and not noted.failed:
        return 0
    return status


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
