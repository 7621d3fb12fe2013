"""One runner of a race: a process of its own on a pipe. On request it trains for so many rounds from the first weights, and
answers with the seconds of every round and with the final weights. Imports neither torch nor JAX nor flow."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common.worker import ROOT, Worker
from benchmarks.simulation.workload import Plan, Weights

STAT = Path("/proc/stat")


class Turn(NamedTuple):
    """What a runner did in one turn."""

    seconds: list[float]
    """Of every round."""
    weights: Weights
    """The server's state after the last."""
    more: dict[str, Any] = {}  # noqa: RUF012 (never changed)


Runner = Callable[[int], Turn]
"""Number of rounds, from the first of the plan -> what was done"""


class Arguments(NamedTuple):
    plan: Plan
    algorithm: str
    processes: int
    processors: tuple[int, ...]
    dtype: str
    """Of what is multiplied: "float32" or "bfloat16"; the weights are float32."""


def arguments(argv: Sequence[str]) -> Arguments:
    """Of a runner's process."""
    given = dict(zip(argv[::2], argv[1::2], strict=True))
    processors = tuple(map(int, given["--processors"].split(",")))
    return Arguments(
        Plan.load(Path(given["--plan"])), given["--algorithm"], int(given["--processes"]), processors, given["--dtype"]
    )


def serve(turn: Runner, versions: dict[str, str], requests: Any, replies: Any) -> None:
    """A runner's side of the pipe: say what it runs on, then answer until the input ends."""

    def say(reply: dict[str, Any]) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    say({"versions": versions})
    for line in requests:
        request = json.loads(line)
        before, start = busy(), time.perf_counter()
        try:
            seconds, weights, more = turn(request["rounds"])
            cores = (busy() - before) / (time.perf_counter() - start)
            arrays: dict[str, Any] = {**weights}
            np.savez(request["out"], **arrays)
        except Exception as error:  # reported, and raised on the other side
            say({"error": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"})
        else:
            say({"seconds": seconds, "cores": cores, **more})


def busy() -> float:
    """Seconds that the machine's cores have worked, whoever they worked for; this process's own where the system does not
    say. (Some rivals compute in processes that they start.)"""
    if not STAT.exists():
        return time.process_time()
    user, nice, system, _, _, irq, softirq, steal = map(int, STAT.read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Child(Worker):
    """The host's side: `module` of this package, run by `python` on these processors alone.

    Raises:
        WorkerError: it did not come up; the message has its last words."""

    def __init__(
        self,
        module: str,
        plan: Path,
        *,
        algorithm: str = "fedavg",
        dtype: str = "float32",
        threads: int = 1,
        processes: int = 1,
        processors: Sequence[int],
        python: str = sys.executable,
        env: dict[str, str] | None = None,
    ) -> None:
        self.name = module
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the process)
        options = {
            "--plan": plan,
            "--algorithm": algorithm,
            "--dtype": dtype,
            "--threads": threads,
            "--processes": processes,
            "--processors": ",".join(map(str, processors)),
        }
        arguments = [str(part) for pair in options.items() for part in pair]
        settings = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [python, "-m", module, *arguments],
            cwd=ROOT,
            env=os.environ | settings | (env or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.versions: dict[str, str] = self.answer()["versions"]
        except BaseException:
            self.close()
            raise

    def turn(self, rounds: int, out: Path) -> dict[str, Any]:
        """Run so many rounds; the final weights go to `out`.

        Raises:
            WorkerError: it failed or died, and why."""
        return self.ask(rounds=rounds, out=str(out))
