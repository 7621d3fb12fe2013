"""Asynchronous aggregation (FedBuff; Nguyen et al., AISTATS 2022): the server takes a step whenever its buffer is full.

As many clients as the cohort has are at work all the time. One that is done uploads, and another takes its place, with the
model as it is then. After every step those who may start are drawn anew among all who are not at work, so nobody starts twice
from the same model. Those that will start from it before the next step are trained together, ahead of their time: their numbers
depend on the model and on nothing that happens before they start.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from flow.draws import Draw
from flow.engine import flights
from flow.engine.flights import Flight
from flow.engine.participation import Turnout, turnout
from flow.engine.run import RunState
from flow.engine.task import Task
from flow.model.parameters import Rows, Tensors
from flow.server.uploads import Received, Uploads, collect, combine
from flow.simulation import summary, virtual

Trainer = Callable[[Task, Turnout, Draw], Iterator[Received]]
"""(task with the rates of the round, who, draw) -> what the groups of this process did, as they are done."""


class Step(NamedTuple):
    """What came in until a step of the server."""

    uploads: Uploads
    counts: summary.Counts
    staleness: float | None
    """Steps that the uploads lag behind, on average; None where nothing came."""


class Asynchronous:
    """The clients at work and the virtual time, from step to step.

    Args:
        work: trains clients.
        needs_each: whether the server needs every single upload.
    """

    def __init__(self, task: Task, run: RunState, work: Trainer, needs_each: bool) -> None:
        assert task.devices is not None
        self._task, self._run, self._work, self._needs_each = task, run, work, needs_each
        self._devices = task.devices
        self.now = 0.0
        """Virtual seconds."""
        self._flights: list[tuple[float, int, Flight]] = []  # a heap
        self._bases: dict[int, Tensors] = {}  # by version, the model from which clients at work started
        self._started = 0
        self._ahead: list[tuple[Flight, float]] = []  # trained, and not started yet; with the seconds that each takes
        self._out = np.zeros(0, dtype=np.bool_)  # who cannot start before the next step
        self._batches = 0
        self._data_seconds = self._training_seconds = 0.0
        if run.flights:
            at_work, self.now, self._bases = flights.unpacked(run.flights, run.ranks.rank, run.ranks.size)
            self._flights = [(flight.end, flight.order, flight) for flight in at_work]
            heapq.heapify(self._flights)
            self._started = 1 + max((flight.order for flight in at_work), default=-1)
            run.flights = {}

    def round(self, round: int) -> tuple[Uploads, summary.Counts, dict[str, Any]]:
        """What came in until this step of the server, and what its row of metrics.jsonl has more."""
        uploads, counts, staleness = self.step(round)
        available = int(self._devices.available(self.now).sum())
        return uploads, counts, {"virtual_seconds": self.now, "available": available, "staleness": staleness}

    def step(self, round: int) -> Step:
        """Let time pass until the buffer is full, and hand over what is in it. The states that clients keep are written.

        round: of the step, counted from 1.
        """
        self._out = np.zeros(len(self._task.clients), dtype=np.bool_)
        self._out[[flight.row for _, _, flight in self._flights]] = True
        self._ahead, self._batches = [], 0
        landed: list[Flight] = []
        arrived = 0
        while arrived < self._task.config.async_buffer:
            if self._flights and self._flights[0][0] <= self.now:
                flight = heapq.heappop(self._flights)[2]
                landed.append(flight)
                arrived += not (flight.lost or flight.idle)
            elif self._fill(round, self._task.config.async_buffer - arrived):
                continue
            elif self._flights:
                self.now = self._flights[0][0]
            elif not self._wait():
                break  # everybody was drawn, and too few uploads came
        return self._handed_over(round, landed)

    def at_work(self) -> Tensors:
        """The clients at work, for a checkpoint; by one exchange of the processes."""
        return flights.packed([entry[2] for entry in sorted(self._flights)], self.now, self._bases, self._run.ranks)

    def _fill(self, round: int, needed: int) -> bool:
        """Start clients in all places that are free, as far as any can be reached; returns whether one started.

        needed: uploads that the buffer lacks.
        """
        free, started = self._task.config.cohort - len(self._flights), False
        reachable = self._devices.available(self.now)
        while free:
            if not self._ahead and not self._draw(round, free if not self._batches else max(free, needed)):
                break
            flight, seconds = self._ahead.pop(0)
            if not reachable[flight.row]:
                continue  # it could be reached when it was drawn
            flight = flight._replace(order=self._started, end=self.now + seconds)
            heapq.heappush(self._flights, (flight.end, flight.order, flight))
            self._bases[flight.version] = self._run.state
            self._started, free, started = self._started + 1, free - 1, True
        return started

    def _draw(self, round: int, size: int) -> bool:
        """Draw clients that start next, and train them; returns whether there are any."""
        who = np.flatnonzero(~self._out & self._devices.available(self.now))
        if not len(who):
            return False
        draw = Draw(self._task.config.seed, round, "cohort")
        stream = draw.stream("later", str(self._batches)) if self._batches else draw.stream()
        rows: Rows = who[stream.choice(len(who), min(size, len(who)), replace=False)]
        self._out[rows] = True
        self._batches += 1
        self._ahead = self._trained(rows, round)
        return True

    def _wait(self) -> bool:
        """With nobody at work, let time pass until somebody can be reached who may start; returns whether there is any."""
        opening = self._devices.opening(self.now, ~self._out, 1) if not self._out.all() else None
        if opening is None:
            return False
        self.now = opening
        return True

    def _trained(self, rows: Rows, round: int) -> list[tuple[Flight, float]]:
        """Train these clients from the model as it is, every process its share; in their order, with the seconds they take."""
        task, run = self._task.in_round(round), self._run
        clients, draw = [task.clients[row] for row in rows.tolist()], Draw(task.config.seed, round, "train")
        who = turnout(task.config, clients, task.minimum, rows, round, run.ranks.size)
        own: dict[int, flights.Cargo] = {}
        seconds: dict[int, float] = {}
        for group in virtual.noted(self._work(task, who, draw), seconds):
            own |= zip(group.rows.tolist(), flights.cargoes(group), strict=True)
            self._data_seconds += group.data_seconds
            self._training_seconds += group.training_seconds
        holders = {row: rank for rank, part in enumerate(who.trained()) for row in part.tolist()}
        takes = dict(zip(who.rows.tolist(), virtual.shared(run.ranks, who, seconds).tolist(), strict=True))
        lost = dict(zip(who.rows.tolist(), who.lost.tolist(), strict=True))
        received = task.download(task.model, run.state, task.members(clients, run.states, draw, "train")).nbytes
        ahead = []
        for row, nbytes in zip(rows.tolist(), received, strict=True):
            idle = row not in takes
            cost = takes[row] if not idle else nbytes / float(self._devices.download[row])
            flight = Flight(row, round - 1, 0, 0.0, lost.get(row, False), idle, nbytes, holders.get(row, 0), own.get(row))
            ahead.append((flight, cost))
        return ahead

    def _handed_over(self, round: int, landed: Sequence[Flight]) -> Step:
        """What came in, the same in every process; models on which nobody works any more are forgotten."""
        run, ranks = self._run, self._run.ranks
        ended = [[flight for flight in landed if not flight.idle and flight.holder == rank] for rank in range(ranks.size)]
        received = [flight.received_upload(self._as_it_counts(flight, round - 1)) for flight in ended[ranks.rank]]
        uploads = collect(received, self._needs_each, run.sums)
        uploads.data_seconds += self._data_seconds
        uploads.training_seconds += self._training_seconds
        self._data_seconds = self._training_seconds = 0.0
        arrived = [np.sort(np.array([f.row for f in part if not f.lost], dtype=np.int64)) for part in ended]
        combine(ranks, uploads, arrived)
        for group in received:
            run.keep(group.rows, group.upload.kept, group.residual, round)
        parts = [np.array([flight.row for flight in part], dtype=np.int64) for part in ended]
        run.share(parts)
        idle = [flight for flight in landed if flight.idle]
        uploads.download_bytes += sum(flight.received for flight in idle)
        versions = {entry[2].version for entry in self._flights}
        self._bases = {version: state for version, state in self._bases.items() if version in versions}
        lags = [round - 1 - flight.version for flight in landed if not (flight.idle or flight.lost)]
        counts = summary.Counts(len(idle), sum(flight.lost for flight in landed), 0)
        return Step(uploads, counts, sum(lags) / len(lags) if lags else None)

    def _as_it_counts(self, flight: Flight, version: int) -> Tensors:
        """An upload [1, ..] moved to the model as it is now: w + (w_m - w_start) / sqrt(1 + s), for a lag of s steps.

        One that does not lag behind is left as it is, to the bit.
        """
        assert flight.cargo is not None
        tensors, state = flight.cargo.tensors, self._run.state
        lag = version - flight.version
        if not lag:
            return {name: tensors[name] for name in state if name in tensors}
        share, base = (1 + lag) ** -0.5, self._bases[flight.version]
        return {
            name: (state[name].double() + share * (tensors[name].double() - base[name].double())).to(state[name].dtype)
            for name in state
            if name in tensors
        }
