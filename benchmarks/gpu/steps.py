"""The steps of benchmarks/gpu.sh, the worthiest first, with their shares of the time. Only the standard library."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

from benchmarks.gpu.runner import Step

DRAW, DRAWING = "draw", 20.0  # the last step, and its seconds
# Every tensor an allocation of its own, every kernel a launch of its own: a checker sees no further.
WATCHED = ("PYTORCH_NO_CUDA_MEMORY_CACHING=1", "FLOW_GRAPHS=0")


def module(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"benchmarks.gpu.{name}", *arguments)


def stages(device: str) -> list[list[Step]]:
    """All of them but the drawing. Only what measures no time runs side by side."""
    no_gpu = "" if device == "cuda" else f"FLOW_GPU_DEVICE={device}, and this needs a GPU"
    cores = os.cpu_count() or 1
    watched = module("small", "1")

    def checks(selection: str, processes: int = cores) -> tuple[str, ...]:
        return module("checks", "{part}", str(processes), "-m", "gpu", "-k", selection, "tests/gpu")

    def sanitizer(tool: str) -> tuple[str, ...]:
        tool_options = ("--tool", tool, "--error-exitcode", "86", "--print-limit", "20")
        return ("env", *WATCHED, find("compute-sanitizer"), *tool_options, *watched)

    def measure(group: str) -> tuple[str, ...]:
        return module("measure", group, "{part}", "{seconds}")

    products = module("grouped", "{part}", "{seconds}")
    if no_gpu:  # Triton in its interpreter, and one thread, as the products are tiny
        products = ("env", "TRITON_INTERPRET=1", "OMP_NUM_THREADS=1", *products)
    built = no_gpu and "a stand-in runs what is built"
    return [
        [Step("build", "the extensions, in place", module("build"), 110, 60, built, always=True)],
        [Step("backends", "device, versions, clusters at once", module("machine", "backends", "{part}"), 15, 40, always=True)],
        [Step("probes", "latencies that the design rests on", module("latencies", "{part}"), 45, 30, no_gpu)],
        [Step("cuda tests", "the CUDA kernels against the float64 reference", checks("cuda"), 90, 40, no_gpu)],
        [Step("machine", "bandwidth and matrix rate", module("machine", "rates", "{part}"), 15, 25)],
        [Step("alone", "the goals' one client", measure("alone"), 55, 30)],
        [Step("cohort", "the goals' 32 clients", measure("cohort"), 125, 40)],
        [Step("small", "small cases through every GPU backend", module("small", str(cores)), 30, 30)],
        [Step("triton tests", "the Triton kernels against the reference", checks("not cuda"), 100, 40)],
        [Step("products", "products of many clients by cuBLAS and by Triton", products, 40, 20)],
        [Step("federated", "flow.simulate here, on the CPU, and PyTorch", module("federated", "{part}", "{seconds}"), 70, 30)],
        [
            Step("memcheck", "the small cases: memory", sanitizer("memcheck"), 85, 40, no_gpu),
            Step("racecheck", "the small cases: races", sanitizer("racecheck"), 85, 40, no_gpu),
            Step(
                "suite", "all other tests", module("suite", "{part}", str(max(1, cores - 2))), 85, 30,
                no_gpu and "make test runs it",
            ),
        ],
        [Step("sweep", "K, H, B and dtype", measure("sweep"), 40, 20)],
    ]  # fmt: skip


def drawing(report: str, folder: str) -> Step:
    return Step(DRAW, "tables and pictures", module("draw", report, folder), DRAWING, always=True)


def find(tool: str) -> str:
    """A tool of the CUDA toolkit, where PATH or CUDA_HOME have it; else its bare name, which then cannot be started."""
    places = [os.environ.get("PATH", ""), os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin")]
    return shutil.which(tool, path=os.pathsep.join(places)) or tool


def chosen(all_stages: Sequence[Sequence[Step]], names: Sequence[str]) -> list[list[Step]]:
    """Only the steps of these names, and what says which machine they ran on; all for none.

    Raises:
        SystemExit: there is no step of a name.
    """
    known = [step.name for stage in all_stages for step in stage]
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"no step is called {', '.join(map(repr, unknown))}; the steps are {', '.join(map(repr, known))}")
    kept = [[step for step in stage if not names or step.name in (*names, "backends")] for stage in all_stages]
    return [stage for stage in kept if stage]
