"""The turn over the rounds, shared by the rivals that have no server of their own. It runs in one process, or in several that
divide a cohort's clients by their sequences and exchange weights through shared memory. Needs numpy alone."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks.simulation.runner import Runner, Turn
from benchmarks.simulation.workload import Array, Plan, Weights

Train = Callable[[Weights, int, Sequence[int]], Weights]
"""(server's weights, round, places in its cohort) -> sum of these clients' weights, each times its share of the round"""
Make = Callable[[Plan, str], Train]
"""(plan, algorithm) -> what trains clients in a process; a function of a module, or a `partial` of one, for other processes"""


def runner(make: Make, plan: Plan, algorithm: str, processes: int, pinned: Sequence[int] = ()) -> Runner:
    """processes: 1 computes here. pinned: the processor of each, where it is to keep to one."""
    train = make(plan, algorithm) if processes == 1 else Crew(make, plan, algorithm, processes, pinned)

    def turn(rounds: int) -> Turn:
        weights, seconds = plan.start(algorithm), []
        for round in range(rounds):
            start = time.perf_counter()
            weights = train(weights, round, range(plan.sizes.cohort))
            seconds.append(time.perf_counter() - start)
        return Turn(seconds, weights)

    return turn


class Crew:
    """Processes that stay, each with its own copy of everything but the weights that are exchanged."""

    def __init__(self, make: Make, plan: Plan, algorithm: str, processes: int, pinned: Sequence[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self._names = {name: array.shape for name, array in plan.start(algorithm).items()}
        size = sum(array.size for array in plan.start(algorithm).values())
        shared = [context.RawArray("f", size) for _ in range(processes + 1)]
        self._received, *self._sums = (np.frombuffer(memory, np.float32) for memory in shared)
        self._pipes: list[Connection] = []
        for n in range(processes):
            ours, theirs = context.Pipe()
            place = (n, processes)
            given = (make, plan, algorithm, self._names, shared[0], shared[n + 1], theirs, place, list(pinned[n : n + 1]))
            context.Process(target=_work, args=given, daemon=True).start()
            theirs.close()
            self._pipes.append(ours)

    def __call__(self, weights: Weights, round: int, places: Sequence[int]) -> Weights:
        pack(weights, self._received, self._names)
        for pipe in self._pipes:
            pipe.send(round)
        for pipe in self._pipes:
            pipe.recv()
        return unpack(np.sum(self._sums, axis=0), self._names)


def _work(
    make: Make,
    plan: Plan,
    algorithm: str,
    names: dict[str, Any],
    received: Any,
    sums: Any,
    pipe: Connection,
    place: tuple[int, int],
    pinned: list[int],
) -> None:
    if pinned:
        os.sched_setaffinity(0, pinned)
    number, processes = place
    train = make(plan, algorithm)
    weights = unpack(np.frombuffer(received, np.float32), names)
    while True:
        try:
            round = pipe.recv()
        except EOFError:
            return
        pack(train(weights, round, plan.deal(round, processes)[number]), np.frombuffer(sums, np.float32), names)
        pipe.send(True)


def pack(weights: Weights, flat: Array, names: Iterable[str]) -> None:
    """All weights, in the order of these names, into one array."""
    end = 0
    for name in names:
        array = np.asarray(weights[name])
        flat[end : end + array.size] = array.ravel()
        end += array.size


def unpack(flat: Array, names: dict[str, tuple[int, ...]]) -> Weights:
    """Views of the array, by name."""
    views, end = {}, 0
    for name, shape in names.items():
        size = int(np.prod(shape))
        views[name] = flat[end : end + size].reshape(shape)
        end += size
    return views
