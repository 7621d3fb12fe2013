"""How long it takes from the start of `flow run` to its first trained round, with its data prepared."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common.worker import ROOT

PATIENCE = 120.0  # seconds


def first_round(arguments: list[str], folder: Path) -> dict[str, Any]:
    """Start a run in a new folder, wait for the first line of its metrics, stop it.

    Raises:
        RuntimeError: the run ended before that, or there was none in two minutes."""
    metrics = folder / "metrics.jsonl"
    with folder.with_suffix(".log").open("w+") as log:
        start = time.perf_counter()
        command = [sys.executable, "-m", "flow", "run", *arguments, "--folder", str(folder)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log)
        try:
            while not (metrics.exists() and "\n" in metrics.read_text()):
                elapsed = time.perf_counter() - start
                if process.poll() is not None or elapsed > PATIENCE:
                    log.seek(0)
                    words = log.read().strip().splitlines() or ["no message"]
                    raise RuntimeError(f"flow run {' '.join(arguments)}: no round after {elapsed:.0f} s: {words[-1]}")
                time.sleep(0.002)
            seconds = time.perf_counter() - start
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    row = json.loads(metrics.read_text().splitlines()[0])
    return {"seconds": seconds, "of_the_round": row["seconds"]}
