"""The steps of benchmarks/gpu.sh, in the order of their weight, and what they leave in the folder: gpu.json (everything),
tables.md, summary.txt, log.txt and, where matplotlib is installed, two pictures."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import runner
from benchmarks.gpu.runner import Outcome, Run, Step

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 500.0  # for all steps but the drawing; with that the whole ends within 9 minutes
DRAWING = 25.0
# Every tensor an allocation of its own, every kernel a launch of its own: a checker sees no further.
WATCHED = ("PYTORCH_NO_CUDA_MEMORY_CACHING=1", "FLOW_GRAPHS=0")


def module(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"benchmarks.gpu.{name}", *arguments)


def stages(device: str) -> list[list[Step]]:
    """All of them but the drawing. Only what measures no time runs side by side."""
    no_gpu = "" if device == "cuda" else f"FLOW_GPU_DEVICE={device}, and this needs a GPU"
    cores = os.cpu_count() or 1
    small, gpu_tests = module("small"), pytest(("-m", "gpu", "tests/gpu"), min(5, cores))

    def sanitizer(tool: str) -> tuple[str, ...]:
        return (
            "env",
            *WATCHED,
            find("compute-sanitizer"),
            "--tool",
            tool,
            "--error-exitcode",
            "86",
            "--print-limit",
            "20",
            *small,
        )

    def measure(group: str) -> tuple[str, ...]:
        return module("measure", group, "{part}", "{seconds}")

    return [
        [Step("build", "the extensions, in place", module("build"), 170, no_gpu and "a stand-in runs what is built")],
        [Step("machine", "device, driver, versions, bandwidth and matrix rate", module("machine", "{part}"), 40)],
        [Step("small", "small cases, before anything else", small, 70)],
        [Step("cohort", "the goals' 32 clients", measure("cohort"), 130)],
        [Step("alone", "the goals' one client", measure("alone"), 40)],
        [
            Step("tests", "the GPU backends against the float64 reference", gpu_tests, 150),
            Step("memcheck", "the small cases: memory", sanitizer("memcheck"), 150, no_gpu),
            Step("racecheck", "the small cases: races", sanitizer("racecheck"), 150, no_gpu),
            Step("suite", "all other tests", module("suite", str(max(1, cores - 7))), 150, no_gpu and "make test runs it"),
        ],
        [Step("probes", "latencies that the design rests on", module("latencies", "{part}"), 45, no_gpu)],
        [Step("federated", "flow.simulate here, on the CPU, and PyTorch", module("federated", "{part}", "{seconds}"), 70)],
        [Step("sweep", "K, H, B and dtype", measure("sweep"), SECONDS)],
    ]


def find(tool: str) -> str:
    """A tool of the CUDA toolkit, where PATH or CUDA_HOME have it; else its bare name, which then cannot be started."""
    places = [os.environ.get("PATH", ""), os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin")]
    return shutil.which(tool, path=os.pathsep.join(places)) or tool


def pytest(selection: Sequence[str], workers: int) -> tuple[str, ...]:
    """The command that runs this selection, on several processes where pytest-xdist is installed."""
    side_by_side = ("-n", str(workers)) if workers > 1 and importlib.util.find_spec("xdist") else ()
    return (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *side_by_side, *selection)


def chosen(all_stages: Sequence[Sequence[Step]], names: Sequence[str]) -> list[list[Step]]:
    """Only the steps of these names; all for none.

    Raises:
        SystemExit: there is no step of a name.
    """
    known = [step.name for stage in all_stages for step in stage]
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"no step is called {', '.join(map(repr, unknown))}; the steps are {', '.join(known)}")
    kept = [[step for step in stage if not names or step.name in names] for stage in all_stages]
    return [stage for stage in kept if stage]


def write(path: Path, data: bytes) -> None:
    """Whole or not at all; without torch, which takes seconds to import."""
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(data)
    os.replace(beside, path)


def run(out: Path, device: str, all_stages: Sequence[Sequence[Step]], seconds: float) -> int:
    """Run them, then draw; the exit status: 0 if every step is good."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.time()

    def report(outcomes: list[Outcome], parts: dict[str, Any], log: str) -> None:
        content = {
            "date": time.strftime("%Y-%m-%d"),
            "minutes": round((time.time() - started) / 60, 1),
            "device": device,
            "steps": runner.as_rows(outcomes),
            **parts,
        }
        files = {"gpu.json": json.dumps(content, indent=1), "summary.txt": runner.summary(outcomes), "log.txt": log}
        for name, text in files.items():
            write(out / name, f"{text}\n".encode())

    drawing = Step("draw", "tables and pictures", module("draw", str(out / "gpu.json"), str(out)), DRAWING)
    with tempfile.TemporaryDirectory(prefix="flow-gpu-") as work:
        steps = Run(Path(work), ROOT, seconds + DRAWING, report)
        steps.stages(all_stages, reserve=DRAWING)
        steps.stages([[drawing]])
    print(runner.summary(steps.outcomes), flush=True)
    return 0 if all(outcome.good for outcome in steps.outcomes) else 1


def main(arguments: Sequence[str]) -> int:
    device = os.environ.setdefault("FLOW_GPU_DEVICE", "cuda")
    if device not in ("cuda", "cpu"):
        raise SystemExit(
            f"FLOW_GPU_DEVICE={device!r}: it must be 'cuda', or 'cpu' to try the code on tiny sizes; unset it for 'cuda'"
        )
    given = os.environ.get("FLOW_GPU_SECONDS", str(SECONDS))
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not runner.LEAST <= seconds < float("inf"):
        raise SystemExit(
            f"FLOW_GPU_SECONDS={given!r}: it must be a number of at least {runner.LEAST:g}; unset it for {SECONDS:g}"
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is stopped too
    return run(Path(arguments[0]), device, chosen(stages(device), arguments[1:]), seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
