"""The worker processes of one run: JAX, PyTorch with MKL's vendor check answered, and torch.compile, each for a number of
threads, started when they are first needed."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import mkl
from benchmarks.common.cases import Case
from benchmarks.common.compiler import Missing
from benchmarks.common.timing import Effort, compare
from benchmarks.common.worker import Remote, Worker, WorkerError
from benchmarks.layer.problem import Local, Problem

NAMES = {
    "compiled eager": "torch.compile of eager",
    "compiled hoisted": "torch.compile of hoisted",
    "jax scan": "JAX lax.scan",
    "jax hoisted": "JAX lax.scan, hoisted",
    "mkl eager": "eager, MKL's AVX-512 path",
}
# torch.compile unrolls the loop over time and takes about a minute, for every number of threads anew (a compiled kernel has it
# built in). So: forward + backward, and only these; and a step.
COMPILED = {
    "compiled eager": (
        Case(4, 20, 64, 64),
        Case(16, 20, 96, 256),
        Case(16, 20, 96, 670),
        Case(1, 1, 96, 256, mode="step"),
    ),
    "compiled hoisted": (Case(16, 20, 96, 256),),
}


class Crew:
    """`missing` says what is not to be had here and why; it grows when something is first asked for."""

    def __init__(self, folder: Path, compiles: bool, effort: Effort) -> None:
        self.missing: dict[str, str] = {}
        self.mkl_effect: dict[str, Any] | None = None
        self._folder, self._compiles, self._effort = folder, compiles, effort
        self._workers: dict[tuple[str, int], Worker] = {}
        self._compiling: list[tuple[Worker, str]] = []
        self._compiled: dict[str, str] = {}  # task -> why it failed, "" if it did not
        self._preload: Path | None = None
        if importlib.util.find_spec("jax") is None:
            self.missing["JAX"] = "jax is not installed (pip install 'flow-fl[bench]')"

    def contender(self, kind: str, problem: Problem, expected: list[torch.Tensor]) -> Remote:
        """A worker's task, ready to be timed and checked against `expected`.

        Raises:
            Missing: it is not to be had here, and why."""
        group, what = kind.split(" ")
        if group == "compiled":
            return self._contender_compiled(kind, problem, expected)
        if group == "jax" and "JAX" in self.missing:
            raise Missing(self.missing["JAX"])
        if group == "mkl":
            self._prepare_mkl()
        worker = self._worker(group, problem.case.threads)
        task = self._save(kind, problem)
        try:
            worker.ask(**self._request(task, what, problem.case))
        except WorkerError as error:
            raise Missing(str(error)) from error
        problem.check_file(NAMES[kind], self._file(task, "results"), expected)
        return Remote(NAMES[kind], worker, task)

    def start_compiling(self) -> None:
        """Tell one process for each number of threads to compile everything in COMPILED. They work side by side, and whoever
        asked goes on; `finish_compiling` waits for them. Without this, what is asked for is compiled then."""
        for kind, cases in COMPILED.items() if self._compiles else ():
            for case in cases:
                for threads in (1, 2) if case.steps > 1 else (1,):
                    self._compile(kind, Problem(replace(case, threads=threads)))

    def _compile(self, kind: str, problem: Problem) -> None:
        worker, task = self._worker("compiled", problem.case.threads), self._save(kind, problem)
        worker.tell(**self._request(task, kind, problem.case))
        self._compiling.append((worker, task))

    def finish_compiling(self) -> None:
        """Nothing is timed beside a compiler."""
        while self._compiling:
            worker, task = self._compiling.pop(0)
            try:
                worker.answer(1200)
                self._compiled[task] = ""
            except WorkerError as error:
                self._compiled[task] = f"torch.compile failed: {error}"

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()

    def _contender_compiled(self, kind: str, problem: Problem, expected: list[torch.Tensor]) -> Remote:
        case = problem.case
        if not self._compiles:
            raise Missing("not compiled in a quick run")
        if case.mode == "forward":
            raise Missing("compiled for forward + backward only, to end in time")
        if replace(case, threads=1) not in COMPILED[kind]:
            raise Missing("not compiled, to end in time: the loop is unrolled, which takes a minute at T=20 and more beyond")
        task = _name(kind, case)
        if task not in self._compiled:
            self._compile(kind, problem)
            self.finish_compiling()
        if why := self._compiled[task]:
            raise Missing(why)
        problem.check_file(NAMES[kind], self._file(task, "results"), expected)
        return Remote(NAMES[kind], self._worker("compiled", case.threads), task)

    def _worker(self, group: str, threads: int) -> Worker:
        if (group, threads) not in self._workers:
            module = "benchmarks.layer.jax_worker" if group == "jax" else "benchmarks.layer.torch_worker"
            env = {"jax": {"JAX_PLATFORMS": "cpu"}, "mkl": {"LD_PRELOAD": str(self._preload)}}.get(group, {})
            self._workers[group, threads] = Worker(module, threads=threads, pin=group == "jax", env=env)
        return self._workers[group, threads]

    def _prepare_mkl(self) -> None:
        """Build the library that answers for MKL and see what it does: to one product, with and without it in turn."""
        name = NAMES["mkl eager"]
        if name not in self.missing and self._preload is None:
            try:
                self._preload = mkl.vendor_library(self._folder, "plain eager has its best path")
            except Missing as missing:
                self.missing[name] = str(missing)
        if name in self.missing:
            raise Missing(self.missing[name])
        if self.mkl_effect is None:
            worker, (m, k, n) = self._worker("mkl", 1), (64, 512, 3072)
            worker.ask(do="prepare", task="there", what="preloaded")
            worker.ask(do="prepare", task="product", what="product", sizes=[m, k, n])
            a, b = torch.ones(m, k), torch.ones(k, n)
            compared = compare(Remote("forced", worker, "product"), [Local("plain", lambda: a @ b, 1)], self._effort)
            self.mkl_effect = {"product": f"[{m}, {k}] x [{k}, {n}]"} | compared["contenders"]["plain"]["ratio"]

    def _save(self, kind: str, problem: Problem) -> str:
        task = _name(kind, problem.case)
        problem.save(self._file(task, "task"))
        return task

    def _file(self, task: str, what: str) -> Path:
        return self._folder / f"{task}.{what}".replace(" ", "_")

    def _request(self, task: str, what: str, case: Case) -> dict[str, Any]:
        files = {"file": str(self._file(task, "task")), "results": str(self._file(task, "results"))}
        return {"do": "prepare", "task": task, "what": what, "mode": case.mode, **files}


def _name(kind: str, case: Case) -> str:
    return f"{kind} {case.shape} {case.dtype} {case.route} {case.mode} {case.threads}"
