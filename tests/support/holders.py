"""Other processes on a folder, which wait where a test tells them to: this file is also what each of them executes."""

import select
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from forked import Forked

HERE = Path(__file__).parent
PATIENCE = 60.0  # seconds


class Holder:
    """A process that runs `simulate`, `resume` or `compare` on a folder. It prints a line wherever it waits for one.

    Args:
        task: the function.
        folder: its folder.
        stop: where it waits after it has started: "prepare", before anything but the lock is written, or the number of the
            round whose row it has just appended.
    """

    def __init__(self, task: str, folder: Path, stop: str = "1") -> None:
        self.process = Forked([__file__, task, str(folder), stop], paths=[str(HERE.parent), str(HERE)])

    def line(self) -> str:
        """The next line that the process prints."""
        assert select.select([self.process.stdout], [], [], PATIENCE)[0], "the process prints nothing"
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        """Let the process go on."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def started(self) -> "Holder":
        """The process, at its stop."""
        assert self.line() == "ready"
        self.go()
        assert self.line() == "waits"
        return self

    def ended(self) -> int:
        """Let the process go on to its end; its exit code."""
        _, errors = self.process.communicate("\n", timeout=PATIENCE)
        return self.process.wait() if "Traceback" not in errors else -1

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> "Holder":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()


def wait(word: str) -> None:
    print(word, file=sys.__stdout__, flush=True)  # a comparison hides what its runs print
    sys.stdin.readline()


def main(task: str, folder: str, stop: str) -> None:
    import pytest
    import torch
    from comparisons import QUIET, TINY
    from run_cases import KEPT, POPULATION

    import flow
    from flow.comparison import run as comparison_run
    from flow.engine import task as engine_task
    from flow.simulation import loop
    from flow.storage import run_folder

    torch.set_num_threads(1)
    patch = pytest.MonkeyPatch()
    patch.setattr(loop, "_write_report", lambda path: None)

    def prepare(*arguments: Any, original: Callable[..., Any] = engine_task.prepare) -> Any:
        if stop == "prepare":
            wait("waits")
        return original(*arguments)

    def append(folder: Path, row: Mapping[str, Any], original: Callable[..., None] = run_folder.append_metrics) -> None:
        original(folder, row)
        if str(row["round"]) == stop:
            wait("waits")

    patch.setattr(loop, "prepare", prepare)
    patch.setattr(comparison_run, "prepare", prepare)
    patch.setattr(run_folder, "append_metrics", append)
    wait("ready")
    try:
        if task == "compare":
            flow.compare(["fedavg"], folder, TINY, **QUIET)
        elif task == "resume":
            flow.resume(folder, population=POPULATION, progress=False)
        else:
            flow.simulate(KEPT, folder, population=POPULATION, progress=False)
    except flow.UserError as error:
        print(error, flush=True)
        sys.exit(2)


if __name__ == "__main__":
    main(*sys.argv[1:])
