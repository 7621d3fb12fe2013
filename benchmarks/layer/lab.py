"""One run of the benchmark: what it has measured, and what it had to leave out and why."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import machine
from benchmarks.common.baselines import build, task
from benchmarks.common.cases import Case
from benchmarks.common.compiler import Missing
from benchmarks.common.probe import AtBandwidth, AtPeak, Probe
from benchmarks.common.timing import Contender, Effort, compare
from benchmarks.common.worker import Remote
from benchmarks.layer import crew
from benchmarks.layer.crew import Crew
from benchmarks.layer.problem import Local, Problem

FULL = Effort(seconds=0.03, turns=(5, 11), budget=8.0)
QUICK = Effort(seconds=0.005, turns=(3, 3), budget=0.0)
LOCAL = {"eager": "eager", "hoisted": "hoisted", "GRU": "torch.nn.GRU"}
EVERYTHING = (*LOCAL, *crew.NAMES)


class Lab:
    def __init__(self, quick: bool) -> None:
        self.quick, self.effort = quick, QUICK if quick else FULL
        self.rows: list[dict[str, Any]] = []
        self.memory: list[dict[str, Any]] = []
        self.missing: dict[str, str] = {}
        self.peaks: dict[str, Any] | None = None
        self.machine, self.versions = machine.describe(), machine.versions()
        self._started, self._folder = time.time(), tempfile.TemporaryDirectory(prefix="flow-bench-")
        folder = Path(self._folder.name)
        self.crew = Crew(folder, compiles=not quick, effort=self.effort)
        self._probe: Probe | None = None
        try:
            self._probe = Probe(folder)
        except Missing as missing:
            self.missing["shares of peak and bandwidth"] = str(missing)
        else:
            threads = sorted({1, min(2, self.machine["cores"])})
            self.peaks = self._probe.table(self.machine["caches"], threads, 0.01 if quick else 0.05)

    def measure(
        self,
        group: str,
        case: Case,
        against: Sequence[str],
        own: Callable[[Problem], Sequence[Local]] | None = None,
        effort: Effort | None = None,
    ) -> Local:
        """Time the layer in turn with the baselines named in `against` and with those that `own` makes, after a check that all
        that compute the same function agree. Add a row to the results and return the layer's side."""
        self.crew.finish_compiling()
        torch.set_num_threads(case.threads)
        problem = Problem(case)
        ours = problem.ours()
        expected = _as_list(ours.call())
        others: list[Contender] = []
        for variant in own(problem) if own else ():
            problem.check(variant.name, _as_list(variant.call()), expected)
            others.append(variant)
        missing: dict[str, str] = {}
        for kind in against:
            if self.quick and kind not in LOCAL and group not in ("training", "step"):
                missing[crew.NAMES[kind]] = "left out of a quick run"
                continue
            try:
                others.append(self._contender(kind, problem, expected))
            except Missing as why:
                missing[LOCAL.get(kind) or crew.NAMES[kind]] = str(why)
        others += self._ideals(case)
        compared = compare(ours, others, effort or self.effort)
        for other in others:
            if isinstance(other, Remote) and not other.name.startswith("torch.compile"):
                other.forget()
        work = {"flops": case.flops, "weight_bytes": case.weight_bytes, "least_bytes": case.least_bytes}
        row = {"group": group, "shape": case.shape, "case": case.as_dict(), "backend": problem.backend, **work, **compared}
        self.rows.append(row | {"missing": missing})
        return ours

    def measure_threads(self, case: Case) -> Local:
        """Two threads against one: the same problem, in turn."""
        problems = [Problem(replace(case, threads=n)) for n in (1, 2)]
        single, double = (problem.ours() for problem in problems)
        single.name, double.name = "1 thread", "2 threads"
        problems[1].check(single.name, _as_list(single.call()), _as_list(double.call()))
        self.add("threads", case.shape, 2, double, [single])
        return double

    def add(self, group: str, name: str, threads: int, ours: Local, others: Sequence[Contender]) -> None:
        """A row of something else than a case."""
        self.crew.finish_compiling()
        torch.set_num_threads(threads)
        compared = compare(ours, others, self.effort)
        self.rows.append({"group": group, "shape": name, "case": {"threads": threads}, **compared, "missing": {}})

    def _contender(self, kind: str, problem: Problem, expected: list[Tensor]) -> Contender:
        case = problem.case
        if kind not in LOCAL:
            return self.crew.contender(kind, problem, expected)
        module = build(kind, problem.weights)
        name = LOCAL[kind] + (" twice" if kind == "GRU" and case.route == "mixture" else "")
        call = task(module, list(module.parameters()), problem.x, problem.grad, case.mode)
        if not (kind == "GRU" and case.route == "mixture"):
            problem.check(name, call(), expected)
        return Local(name, call, case.threads, case.mode == "training")

    def _ideals(self, case: Case) -> list[Contender]:
        if self._probe is None:
            return []
        ideals: list[Contender] = []
        if self._probe.flops(case.dtype, case.threads) is not None:
            ideals.append(AtPeak(self._probe, case))
        ideals.append(AtBandwidth(self._probe, case))
        return ideals

    def report(self) -> dict[str, Any]:
        """Everything, as it goes into the JSON file."""
        return {
            "date": machine.today(),
            "minutes": round((time.time() - self._started) / 60, 1),
            "quick": self.quick,
            "machine": self.machine,
            "versions": self.versions,
            "probe": self.peaks,
            "mkl_effect": self.crew.mkl_effect,
            "missing": self.missing | self.crew.missing,
            "memory": self.memory,
            "rows": self.rows,
        }

    def close(self) -> None:
        self.crew.close()
        self._folder.cleanup()


def _as_list(results: Any) -> list[Tensor]:
    return results if isinstance(results, list) else [results]
