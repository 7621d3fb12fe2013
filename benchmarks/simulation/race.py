"""Runners in turns: each a process of its own, checked before it is timed, and after every turn."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.common import mkl
from benchmarks.common.compiler import Missing
from benchmarks.common.probe import AtPeak, Probe
from benchmarks.common.timing import Contender, Effort, Sample, Spread, compare
from benchmarks.common.worker import WorkerError
from benchmarks.simulation import torch_loop
from benchmarks.simulation.runner import Child
from benchmarks.simulation.workload import Plan, Weights

HERE = "benchmarks.simulation"
# Every step rounds a float32 weight near 1 by up to 6e-8; over 700,000 weights and tens of steps that is 1.7e-3 of the way they
# go: so far the PyTorch loop was from itself on another number of threads.
LOSS, STEP = 1e-4, 5e-3  # largest difference of the final held-out losses; of the final weights, relative to the way they went
MIXED_LOSS, MIXED_STEP = 2e-2, 5e-2  # where factors are bfloat16, of 8 bits: 0.3 % of a loss of 7.6
PEAK = "at the FMA peak"


@dataclass(frozen=True)
class Rival:
    """Whom to race, on how many cores."""

    name: str
    module: str
    cores: int
    threads: int = 1
    processes: int = 1
    algorithm: str = "fedavg"
    dtype: str = "float32"
    """Of what is multiplied."""
    needs: tuple[str, ...] = ()
    """What has to be installed."""
    mkl: bool = False
    """With MKL's vendor check answered."""


def ours(cores: int, algorithm: str = "fedavg", name: str = "ours", dtype: str = "float32") -> Rival:
    return Rival(name, f"{HERE}.ours", cores, threads=cores, algorithm=algorithm, dtype=dtype)


def in_bfloat16(rival: Rival) -> Rival:
    """The same, which multiplies bfloat16."""
    return replace(rival, name=f"{rival.name}, bfloat16", dtype="bfloat16")


def loops(cores: int, algorithm: str = "fedavg") -> list[Rival]:
    """The plain loop in the ways in which so many cores can run it, and what changes on other processors than Intel's."""
    ways = [("", 1, 1)] if cores == 1 else [(f", {cores} threads", cores, 1), (f", {cores} processes", 1, cores)]
    return [
        Rival(f"PyTorch loop{way}{', MKL AVX-512' * mkl}", f"{HERE}.torch_loop", cores, threads, processes, algorithm, mkl=mkl)
        for mkl in (False, True)
        for way, threads, processes in ways
    ]


def scans(cores: int) -> list[Rival]:
    ways = [("", 1)] if cores == 1 else [(f", {cores} threads", 1), (f", {cores} pinned processes", cores)]
    return [Rival(f"JAX scan{way}", f"{HERE}.jax_scan", cores, cores, n, needs=("jax",)) for way, n in ways]


def flower(cores: int) -> list[Rival]:
    """Apart from the others, and each in a race of its own: Ray's services never sleep entirely."""
    names = {False: "Flower simulation", True: "Flower simulation, MKL AVX-512"}
    module, needs = f"{HERE}.flower_app", ("flwr", "ray")
    return [Rival(name, module, cores, processes=cores, needs=needs, mkl=mkl) for mkl, name in names.items()]


def others(cores: int) -> list[Rival]:
    """Frameworks that have environments of their own, in the ways in which they can use so many cores."""
    fedjax, pfl = f"{HERE}.fedjax_app", f"{HERE}.pfl_app"
    if cores == 1:
        return [
            Rival("FedJAX", fedjax, 1, needs=("fedjax",)),
            Rival("pfl", pfl, 1, needs=("pfl",)),
            Rival("pfl, MKL AVX-512", pfl, 1, needs=("pfl",), mkl=True),
        ]
    return [
        Rival(f"FedJAX, {cores} threads", fedjax, cores, cores, needs=("fedjax",)),
        Rival(f"FedJAX, {cores} devices", fedjax, cores, processes=cores, needs=("fedjax",)),
        Rival(f"pfl, {cores} threads", pfl, cores, cores, needs=("pfl",)),
        Rival(f"pfl, {cores} processes", pfl, cores, processes=cores, needs=("pfl",)),
        Rival(f"pfl, {cores} processes, MKL AVX-512", pfl, cores, processes=cores, needs=("pfl",), mkl=True),
    ]


class Differs(RuntimeError):
    """A runner computed something else than the reference; the message says how far off."""


class Racer:
    """A contender of `timing.compare`: a sample is a turn of `rounds` rounds after one that warms up."""

    def __init__(self, rival: Rival, child: Child, arena: Arena) -> None:
        self.name, self.rival, self.child, self._arena = rival.name, rival, child, arena
        self.loss = float("nan")
        self.first: float | None = None
        """Seconds of the first round of all."""
        self.answer: dict[str, Any] = {}

    def sample(self, seconds: float) -> Sample:
        out = self._arena.folder / "final.npz"
        self.answer = self.child.turn(1 + self._arena.rounds, out)
        with np.load(out) as file:
            weights = {name: file[name] for name in file.files}
        self.loss = self._arena.check(self.rival, weights)
        taken: list[float] = self.answer["seconds"]
        self.first = taken[0] if self.first is None else self.first
        return Sample(statistics.fmean(taken[1:]), self.answer["cores"])


@dataclass
class Arena:
    """What all races of one benchmark share. `reference`: of each algorithm the final loss and weights of the plain loop."""

    folder: Path
    plan: Plan
    rounds: int
    effort: Effort
    pythons: dict[str, str] = field(default_factory=dict)
    """Interpreters in which what is asked for is installed, by the first name of `Rival.needs`."""
    unavailable: dict[str, str] = field(default_factory=dict)
    """Why there is no such interpreter, likewise."""
    versions: dict[str, str] = field(default_factory=dict)
    reference: dict[str, tuple[float, Weights]] = field(default_factory=dict)
    probe: Probe | None = None
    failed: dict[str, str] = field(default_factory=dict)
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)

    def __post_init__(self) -> None:
        self.path = self.folder / "plan.npz"
        self.plan.save(self.path)
        self._mkl: Path | None = None

    def enter(self, rival: Rival) -> Racer:
        """Start a runner and see that it computes what the reference does; the first of an algorithm is the reference.

        Raises:
            Missing: it is not to be had here, and why.
            Differs, WorkerError: it failed."""
        python = self._python(rival)
        env = {"LD_PRELOAD": str(self._library())} if rival.mkl else {}
        child = Child(
            rival.module,
            self.path,
            algorithm=rival.algorithm,
            dtype=rival.dtype,
            threads=rival.threads,
            processes=rival.processes,
            processors=processors(rival.cores),
            python=python,
            env=env,
        )
        self.versions |= child.versions
        racer = Racer(rival, child, self)
        try:
            racer.sample(0.0)
        except BaseException:
            child.close()
            raise
        return racer

    def set_reference(self, algorithm: str) -> None:
        """What the plain loop on one core computes is right; without it nothing is known to be.

        Raises:
            WorkerError: it failed."""
        self.enter(loops(1, algorithm)[0]).child.close()

    def check(self, rival: Rival, weights: Weights) -> float:
        """The held-out loss of a runner's final weights.

        Raises:
            Differs: it, or the weights, are not those of the reference."""
        start = self.plan.start(rival.algorithm)
        if set(weights) != set(start):
            raise Differs(f"final weights {sorted(weights)} instead of {sorted(start)}")
        loss = heldout_loss(self.plan, weights)
        expected, reference = self.reference.setdefault(rival.algorithm, (loss, weights))
        way = _norm({name: reference[name] - start[name] for name in start})
        off = _norm({name: weights[name] - reference[name] for name in start}) / way
        most = (LOSS, STEP) if rival.dtype == "float32" else (MIXED_LOSS, MIXED_STEP)
        if not (abs(loss - expected) <= most[0] and off <= most[1]):
            raise Differs(
                f"held-out loss {loss:.6f} against {expected:.6f}, and weights {off:.1e} of their way from the reference's; "
                f"at most {most[0]:g} and {most[1]:g} pass"
            )
        return loss

    def start(self, rivals: Iterable[Rival], where: str) -> tuple[list[Racer], dict[str, str], dict[str, str]]:
        """Those that are ready to race, and of the others why they are missing and why they failed."""
        ready: list[Racer] = []
        missing: dict[str, str] = {}
        failed: dict[str, str] = {}
        for rival in rivals:
            self.say(f"  {where}: {rival.name}")
            try:
                ready.append(self.enter(rival))
            except Missing as why:
                missing[rival.name] = str(why)
            except (Differs, WorkerError) as why:
                failed[rival.name] = self.failed[f"{where}: {rival.name}"] = str(why)
        return ready, missing, failed

    def _python(self, rival: Rival) -> str:
        if not rival.needs:
            return sys.executable
        if why := self.unavailable.get(rival.needs[0]):
            raise Missing(why)
        python = self.pythons.get(rival.needs[0], sys.executable)
        look = f"import importlib.util as u; print(*(n for n in {rival.needs!r} if u.find_spec(n) is None))"
        asked = subprocess.run([python, "-c", look], capture_output=True, text=True)
        if asked.returncode:
            raise Missing(f"{python} does not run: {(asked.stderr.strip().splitlines() or ['no message'])[-1]}")
        if absent := asked.stdout.split():
            raise Missing(f"not installed: {', '.join(absent)}")
        return python

    def _library(self) -> Path:
        if self._mkl is None:
            self._mkl = mkl.vendor_library(self.folder, "the plain loop has MKL's best path")
        return self._mkl


def processors(count: int) -> list[int]:
    """The last ones that this process may use."""
    return sorted(os.sched_getaffinity(0))[-count:]


def heldout_loss(plan: Plan, weights: Weights) -> float:
    """Mean cross-entropy in nats of the global model on the held-out sequences."""
    model = torch_loop.Words(plan.sizes)
    own = {name: torch.from_numpy(np.asarray(weights[name])) for name in model.state_dict()}
    model.load_state_dict(own)
    with torch.no_grad():
        tokens = torch.from_numpy(plan.heldout).long()
        return float(torch_loop.loss_of(model(tokens[:, :-1]), tokens[:, 1:]))


def _norm(weights: Weights) -> float:
    return float(np.sqrt(sum(float((array.astype(np.float64) ** 2).sum()) for array in weights.values())))


def race(arena: Arena, we: Rival, rivals: Sequence[Rival], title: str, turns: int | None = None) -> dict[str, Any]:
    """All in turn, and the time of the arithmetic at the peak that the same cores reach in that moment. At most so many turns.

    Raises:
        Differs, WorkerError: we failed; there is nothing to compare."""
    cores = we.cores
    where = f"{title}, {cores} core{'s' * (cores > 1)}"
    racers, missing, failed = arena.start(rivals, where)
    try:
        arena.say(f"  {where}: ours")
        us = arena.enter(we)
        try:
            sequences = arena.plan.sequences(range(1, 1 + arena.rounds))
            flops = us.answer["flops"] if we.algorithm == "flow" else arena.plan.sizes.flops * sequences
            others: list[Contender] = [*racers]
            if arena.probe is not None:
                work: Any = SimpleNamespace(flops=flops, dtype=we.dtype, threads=cores)
                others.append(AtPeak(arena.probe, work))
            effort = arena.effort
            if turns is not None:
                effort = replace(effort, turns=(min(turns, effort.turns[0]), min(turns, effort.turns[1])))
            arena.say(f"  {where}: {effort.turns[1]} turns of {len(others) + 1}")
            compared = compare(us, others, effort)
        finally:
            us.child.close()
        for racer in (us, *racers):
            entry = compared["contenders"][racer.name]
            entry |= {"loss": racer.loss, "first_round_seconds": racer.first}
            entry["sequences_per_second"] = sequences / entry["seconds"]["median"]
            entry["last_round_seconds"] = racer.answer["seconds"][-1]
            entry |= {name: racer.answer[name] for name in ("flops", "outside", "parts") if name in racer.answer}
    finally:
        for racer in racers:
            racer.child.close()
    row = {"title": title, "cores": cores, "algorithm": we.algorithm, "flops": flops, "sequences": sequences}
    row["sizes"] = asdict(arena.plan.sizes)
    return row | compared | {"missing": missing, "failed": failed}


def busy_machine(arena: Arena, rivals: Sequence[Rival], pairs: int) -> list[dict[str, Any]]:
    """Each contender's round while a foreign process computes without a pause, against its quiet round just before."""
    rows = []
    for rival in rivals:
        (ready, missing, failed) = arena.start([rival], "busy machine")
        row: dict[str, Any] = {"name": rival.name, "cores": rival.cores, "missing": missing, "failed": failed}
        for racer in ready:
            try:
                taken = [(racer.sample(0.0).seconds, _beside_a_neighbour(racer)) for _ in range(pairs)]
            finally:
                racer.child.close()
            quiet, busy = zip(*taken, strict=True)
            ratios = [slow / calm for calm, slow in taken]
            spreads = {"quiet": quiet, "busy": busy, "ratio": ratios}
            row |= {name: asdict(Spread.of(values)) for name, values in spreads.items()} | {"pairs": pairs}
        rows.append(row)
    return rows


def _beside_a_neighbour(racer: Racer) -> float:
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        return racer.sample(0.0).seconds
    finally:
        neighbour.kill()
        neighbour.wait()
