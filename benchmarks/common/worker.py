"""Baselines that need a process of their own and still take turns with everything else: JAX on so many cores, MKL with a
library preloaded, torch.compile, which takes minutes. The process is told over a pipe how long to run, and answers with the
time. While it waits it takes no processor time.

One JSON object a line each way. A task is a safetensors file (input, gradient, weights) and a few options. The worker writes
its results beside it, so that they can be compared before anything is timed.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.timing import Sample, sample

ROOT = Path(__file__).resolve().parents[2]
Prepare = Callable[[dict[str, Any]], Callable[[], object]]


class WorkerError(RuntimeError):
    """The worker said why it cannot do a task, or died."""


class Worker:
    """The host's side. `command` is a module of this package; `cores` pins the process to that many processors."""

    def __init__(self, command: str, *, threads: int, pin: bool, env: dict[str, str] | None = None) -> None:
        self.name = f"{command}, {threads} thread{'s' * (threads > 1)}"
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the worker)
        pins = sorted(os.sched_getaffinity(0))[-threads:] if pin else []
        arguments = ["--threads", str(threads), "--processors", ",".join(map(str, pins))]
        self._process = subprocess.Popen(
            [sys.executable, "-m", command, *arguments],
            cwd=ROOT,
            env=os.environ | (env or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")  # the end

    def tell(self, **request: Any) -> None:
        """Send a request; whoever sends one has to fetch its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerError(f"worker {self.name} died: {self._last_words()}") from error

    def answer(self, timeout: float = 600.0) -> dict[str, Any]:
        """The answer to the oldest request that has none.

        Raises:
            WorkerError: the task failed, the worker died or says nothing for so many seconds."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            self._process.kill()
            raise WorkerError(f"worker {self.name} gave no answer within {timeout:.0f} s and was ended") from None
        if not line:
            raise WorkerError(f"worker {self.name} died: {self._last_words()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def ask(self, **request: Any) -> dict[str, Any]:
        self.tell(**request)
        return self.answer()

    def _last_words(self) -> str:
        self._process.wait(10)
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return f"exit status {self._process.returncode}" + (f", {lines[-1]}" if lines else "")

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()  # a worker ends with its input
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._log.close()


class Remote:
    """A task of a worker, as a contender."""

    def __init__(self, name: str, worker: Worker, task: str) -> None:
        self.name, self._worker, self._task = name, worker, task

    def sample(self, seconds: float) -> Sample:
        return Sample(**self._worker.ask(do="sample", task=self._task, seconds=seconds))

    def forget(self) -> None:
        self._worker.ask(do="forget", task=self._task)


def serve(prepare: Prepare, requests: Any, replies: Any) -> None:
    """The worker's side: answer until the input ends. `prepare` makes the call of a task and writes its results."""
    calls: dict[str, Callable[[], object]] = {}
    for line in requests:
        request = json.loads(line)
        reply: dict[str, Any] = {}
        try:
            if request["do"] == "prepare":
                calls[request["task"]] = prepare(request)
            elif request["do"] == "sample":
                taken = sample(calls[request["task"]], request["seconds"])
                reply = {"seconds": taken.seconds, "cores": taken.cores}
            elif request["do"] == "forget":
                calls.pop(request["task"], None)
            else:
                raise ValueError(f"unknown request {request['do']!r}")
        except Exception as error:  # reported, and raised on the other side
            reply = {"error": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def start(argv: Sequence[str]) -> tuple[int, Any, Any]:
    """First thing in a worker, before torch or JAX is imported: pin it, keep stdout for answers alone. Returns the number of
    threads, where requests come from and where answers go."""
    options = dict(zip(argv[::2], argv[1::2], strict=True))
    if options["--processors"]:
        os.sched_setaffinity(0, set(map(int, options["--processors"].split(","))))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    return int(options["--threads"]), sys.stdin, replies
