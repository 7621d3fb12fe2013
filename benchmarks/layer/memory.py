"""Peak memory of one training step, each in a fresh process:
`python -m benchmarks.layer.memory --what ours --sizes 64,80,128,512`

The process does a small step first, so that libraries, threads and their buffers are loaded. Then it notes its resident memory
and has the system forget the highest level so far. It does one forward + backward pass and reads the highest level again. What
is printed is the difference in bytes: everything that the pass holds at its worst moment, outputs and gradients included.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure(what: str, sizes: tuple[int, int, int, int], threads: int) -> dict[str, float]:
    """Run the child; returns {"bytes": .., "output": ..}, the peak and, to compare by, the norm of the output.

    Raises:
        subprocess.CalledProcessError: it failed; its message is on stderr."""
    command = [sys.executable, "-m", "benchmarks.layer.memory", "--what", what, "--threads", str(threads)]
    done = subprocess.run(
        [*command, "--sizes", ",".join(map(str, sizes))], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _resident() -> int:
    if STATUS.exists():
        return _status("VmRSS")
    return _highest()


def _highest() -> int:
    """Bytes, the highest level since the last reset, or since the start where the system cannot reset it."""
    if STATUS.exists() and "VmHWM" in STATUS.read_text():
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(key: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def _settle() -> int:
    """Give back what is free, forget the highest level; returns the level now."""
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    if CLEAR.exists() and os.access(CLEAR, os.W_OK):
        CLEAR.write_text("5")  # proc(5): resets VmHWM to the current level
    return _resident()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", required=True, choices=["ours", "ours, recompute", "eager", "hoisted", "GRU"])
    parser.add_argument("--sizes", required=True, help="B,T,I,H")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    import torch

    from benchmarks.common.baselines import build, task
    from benchmarks.common.cases import Case
    from benchmarks.layer.problem import Problem

    torch.set_num_threads(args.threads)

    def prepare(batch: int, steps: int, inputs: int, hidden: int) -> tuple[Problem, Callable[[], Any]]:
        problem = Problem(Case(batch, steps, inputs, hidden, threads=args.threads))
        if args.what.startswith("ours"):
            problem.layer.recompute = args.what != "ours"
            return problem, problem.ours().call
        module = build(args.what, problem.weights)
        return problem, task(module, list(module.parameters()), problem.x, problem.grad, "training")

    prepare(4, 4, 16, 16)[1]()
    _, call = prepare(*map(int, args.sizes.split(",")))
    before = _settle()
    results = call()
    peak = _highest() - before
    print(json.dumps({"bytes": peak, "output": float(results[0].double().norm())}))


if __name__ == "__main__":
    main()
