"""The layer against what else computes it, on the device: `python -m benchmarks.gpu.measure cohort|alone|sweep FILE SECONDS`

Before it is timed a contender's numbers are compared with the float64 reference's. A rival that has others is timed and marked;
ours is not timed. All contenders of a row take turns (benchmarks/common/timing.py). The file is written after every row, and
cases that it holds from an earlier call are not measured again.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import flow_kernels
from benchmarks.common.baselines import build, task
from benchmarks.common.cases import Case
from benchmarks.common.compiler import Missing
from benchmarks.common.timing import Effort, compare
from benchmarks.gpu import cases, device
from benchmarks.gpu.device import OnDevice, captured, first_line
from benchmarks.gpu.names import NAMES, OURS, OURS_GRAPH, SIDE_BY_SIDE
from benchmarks.gpu.problem import Problem, Wrong
from benchmarks.gpu.rivals import SideBySide, StackedLoop
from flow.storage.files import write_json
from flow_kernels.backends.gpu import cuda

GOAL, SWEEP = Effort(seconds=0.04, turns=(3, 9), budget=5.0), Effort(seconds=0.015, turns=(3, 5), budget=0.8)
STAND_IN = Effort(seconds=0.002, turns=(2, 2), budget=0.0)


class Rivals:
    """The calls of one problem, each made and checked when it is first asked for."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.case = problem, problem.case
        self.errors: dict[str, dict[str, float]] = {}
        self.wrong: dict[str, str] = {}
        """Rivals that compute something else, and how far they are off."""

    def contender(self, kind: str) -> OnDevice:
        """A rival, checked.

        Raises:
            Missing: it cannot be had here.
        """
        what, _, graph = kind.partition(" ")
        call, name = self._call(what), NAMES[kind]
        if what == "GRU" and self.case.clients == 1:
            name = NAMES["GRU graph"] if graph else SIDE_BY_SIDE
        return self.ready(name, captured(call, self.problem.where) if graph else call, self._check_of(what), rival=True)

    def ready(
        self, name: str, call: Callable[[], Any], check: Callable[[str, Any], dict[str, float]], rival: bool = False
    ) -> OnDevice:
        """A contender, its errors noted.

        Raises:
            Missing: it cannot be had here; Wrong: it is ours and computes something else.
        """
        try:
            self.errors[name] = check(name, call())
        except Wrong as why:
            if not rival:
                raise
            # torch itself may be wrong, and its time is a fact all the same
            self.errors[name], self.wrong[name] = why.errors, str(why)
        except (RuntimeError, NotImplementedError) as error:
            raise Missing(first_line(error)) from error
        return OnDevice(name, call, self.problem.where)

    def _call(self, what: str) -> Callable[[], list[Tensor]]:
        case, problem = self.case, self.problem
        if what == "GRU" and case.clients == 1:
            return SideBySide(problem.weights).call(problem.x, problem.grad, case.mode)
        if what in ("loop", "GRU"):
            with torch.device(problem.where):
                module = build("eager", problem.weights) if what == "loop" else build("GRU", problem.weights[:4])
            return task(module, list(module.parameters()), problem.x, problem.grad, case.mode)
        stacked = StackedLoop(problem.weights)
        function: Callable[..., Tensor] = stacked
        if what == "compiled":
            if problem.where.type != "cuda":
                raise Missing("not compiled in a stand-in run")
            torch._dynamo.reset()
            function = torch.compile(stacked, fullgraph=True, dynamic=False)
        return task(function, list(stacked.parameters()), problem.x, problem.grad, case.mode)

    def _check_of(self, what: str) -> Callable[[str, Any], dict[str, float]]:
        problem = self.problem
        if what != "GRU":
            return problem.check
        if self.case.clients > 1:
            return lambda name, results: problem.check(name, results, "global")

        def both(name: str, results: list[Tensor]) -> dict[str, float]:
            first, second, *gradients = results
            half = len(gradients) // 2
            errors = problem.check(f"{name}, first", [first, *gradients[:half]], "global")
            others = problem.check(f"{name}, second", [second, *gradients[half:]], "local")
            return {part: max(error, others[part]) for part, error in errors.items()}

        return both


def row(group: str, problem: Problem, against: Sequence[str], effort: Effort) -> dict[str, Any]:
    """Ours in turn with everything in `against`; whoever is missing, or has wrong numbers, is named with the reason."""
    case, rivals = problem.case, Rivals(problem)
    plan, missing, wrong = device.planned(problem.explain()), {}, {}
    ours = rivals.ready(OURS, problem.ours(device.BACKEND), problem.check)
    others: list[OnDevice] = []

    def add(name: str, make: Callable[[], OnDevice]) -> None:
        try:
            others.append(make())
        except Missing as why:
            missing[name] = str(why)
        except Wrong as why:  # ours in another form
            wrong[name] = str(why)
        except torch.OutOfMemoryError as why:
            missing[name] = first_line(why)

    def own(backend: str) -> Callable[[], OnDevice]:
        name = OURS_GRAPH if backend == device.BACKEND else f"ours, {backend}, CUDA graph"
        return lambda: rivals.ready(name, captured(problem.ours(backend), problem.where), problem.check)

    add(OURS_GRAPH, own(device.BACKEND))
    if plan.backend == "cuda":
        add("ours, triton, CUDA graph", own("triton"))
    for kind in against:
        add(NAMES[kind], partial(rivals.contender, kind))
    compared = compare(ours, others, effort)
    spent = {} if group == "sweep" else device.kernels(ours.call, problem.where)
    return {
        "group": group,
        "against": list(against),
        "shape": case.shape,
        "case": case.as_dict(),
        "plan": str(plan),
        "flops": case.flops,
        **compared,
        "division": division(problem),
        "kernels": spent,
        "errors": rivals.errors,
        "missing": missing,
        "wrong": wrong,
        "wrong_rivals": rivals.wrong,
    }


def division(problem: Problem) -> dict[str, int] | None:
    """How the CUDA backend lays the problem on the chip; None for the others."""
    if problem.explain().backend != "cuda":
        return None
    case = problem.case
    backward = case.mode == "training"
    divided = cuda.division(case.clients, case.batch, case.hidden, problem.dtype, backward, problem.where)
    return divided._asdict() | {"waves": divided.waves}


def measure(group: str, todo: Sequence[tuple[Case, Sequence[str]]], effort: Effort, file: Path, seconds: float) -> int:
    """Forward + backward and forward alone of every case until the time is up; the exit status."""
    where, started, slowest = device.device(), time.monotonic(), 0.0
    rows, done = measured_before(file, todo)
    report: dict[str, Any] = {"rows": rows, "failed": [], "too_large": [], "cases": len(todo), "done": len(done)}
    report["backends"] = flow_kernels.backends()
    problem: Problem | None = None
    for number, (case, against) in enumerate(todo):
        if number in done:
            continue
        begun = time.monotonic()
        if begun - started + 1.5 * slowest > seconds:
            break
        try:
            problem = Problem(case, where)
            for mode in ("training", "forward"):
                measured = row(group, problem.with_mode(mode), against, effort)
                report["rows"].append(measured)
                report["failed"] += measured["wrong"].values()
                write_json(file, report)
                print(say(measured), flush=True)
        except torch.OutOfMemoryError as error:
            report["too_large"].append(f"{case.shape} {case.dtype}: {first_line(error)}")
            print(report["too_large"][-1], flush=True)
        except RuntimeError as error:  # ours, wrong or not possible: said, and the step fails; the other cases go on
            report["failed"].append(f"{case.shape} {case.dtype}: {first_line(error)}")
            print(report["failed"][-1], flush=True)
        finally:
            report["done"] += 1
            write_json(file, report)
            problem = None  # its memory, before the next
            if where.type == "cuda":
                torch.cuda.empty_cache()
            slowest = max(slowest, time.monotonic() - begun)
    print(f"{report['done']} of {len(todo)} cases, {len(report['failed'])} failed")
    return 1 if report["failed"] or not report["done"] else 0


def measured_before(file: Path, todo: Sequence[tuple[Case, Sequence[str]]]) -> tuple[list[dict[str, Any]], set[int]]:
    """Rows of an earlier call, and the places in `todo` of the cases that they complete."""
    earlier = json.loads(file.read_text())["rows"] if file.exists() else []
    kept, done = list[dict[str, Any]](), set[int]()
    for number, (case, against) in enumerate(todo):
        modes = [case.as_dict() | {"mode": mode} for mode in ("training", "forward")]
        rows = [row for row in earlier if row["against"] == list(against) and row["case"] in modes]
        if len(rows) == len(modes) and not any(row["wrong"] for row in rows):
            kept, done = kept + rows, done | {number}
    return kept, done


def say(row: dict[str, Any]) -> str:
    case, contenders = row["case"], row["contenders"]
    times = [f"{name} {_time(entry['seconds']['median'])}" for name, entry in contenders.items()]
    return f"{row['shape']} {case['dtype']} {case['mode']}: {', '.join(times)}" + "".join(
        f"\n    {name}: {why}" for name, why in (row["missing"] | row["wrong"] | row["wrong_rivals"]).items()
    )


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


if __name__ == "__main__":
    group, file, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else math.inf
    gpu = device.NAME == "cuda"
    todo = cases.sweep(gpu) if group == "sweep" else cases.goal(group, gpu)
    sys.exit(measure(group, todo, (SWEEP if group == "sweep" else GOAL) if gpu else STAND_IN, file, seconds))
