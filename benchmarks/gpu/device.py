"""Where the measurements run: a GPU, or, to try the code on tiny sizes, the CPU in its place."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.common import timing
from benchmarks.common.compiler import Missing
from benchmarks.common.timing import Sample
from flow_kernels.plan import Plan

NAME = os.environ.get("FLOW_GPU_DEVICE", "cuda")
BACKEND = os.environ.get("FLOW_GPU_BACKEND", "auto")  # of what is called ours


def device() -> torch.device:
    """The device of FLOW_GPU_DEVICE.

    Raises:
        SystemExit: there is no GPU.
    """
    if NAME == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "torch.cuda.is_available() is False: there is no GPU, no driver or a torch without CUDA; on a machine without one "
            "FLOW_GPU_DEVICE=cpu tries the same code on tiny sizes"
        )
    # One machine, two meanings of float32: the strict one, for everybody.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch.device(NAME)


def planned(plan: Plan) -> Plan:
    """The plan, unless it is to do without a kernel: nothing may be timed under its name.

    Raises:
        RuntimeError: it is, and why.
    """
    if plan.backend == "reference":
        raise RuntimeError(f"no kernel runs this here, only the reference: {plan}")
    return plan


class OnDevice:
    """A contender: on a GPU between two events of its stream, over as many calls as fill the time; else by the clock."""

    def __init__(self, name: str, call: Callable[[], object], where: torch.device) -> None:
        self.name, self.call, self._gpu = name, call, where.type == "cuda"

    def sample(self, seconds: float) -> Sample:
        if not self._gpu:
            return timing.sample(self.call, seconds)
        first = self._between_events(1)  # warms what another contender has cooled
        if first.seconds >= seconds:
            return first
        return self._between_events(max(1, int(seconds / max(first.seconds, 1e-6))))

    def _between_events(self, calls: int) -> Sample:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        busy, clock = time.process_time(), time.perf_counter()
        start.record()
        for _ in range(calls):
            self.call()
        end.record()
        end.synchronize()
        cores = (time.process_time() - busy) / (time.perf_counter() - clock)
        return Sample(start.elapsed_time(end) / 1e3 / calls, cores)


def captured(call: Callable[[], Any], where: torch.device) -> Callable[[], Any]:
    """The same call as one CUDA graph: launched once, its results in the same tensors every time.

    Raises:
        Missing: there is no GPU, or the call cannot be captured, and why.
    """
    if where.type != "cuda":
        raise Missing("a CUDA graph needs a GPU")
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    try:
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            results = call()
    except RuntimeError as error:
        torch.cuda.synchronize()
        raise Missing(f"cannot be captured in a CUDA graph: {first_line(error)}") from error

    def replay() -> Any:
        graph.replay()
        return results

    return replay


def kernels(call: Callable[[], Any], where: torch.device, calls: int = 5) -> dict[str, dict[str, float]]:
    """Microseconds and launches of every kernel in a call, the costliest first; nothing without a GPU."""
    if where.type != "cuda":
        return {}
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
    costs = {
        event.key: {"us": event.self_device_time_total / calls, "launches": event.count / calls}
        for event in profiler.key_averages()
        if event.self_device_time_total > 0
    }
    return dict(sorted(costs.items(), key=lambda item: -item[1]["us"]))


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
