"""What evaluating clients costs beside their work in a round: `python -m benchmarks.simulation.evaluation [ALGORITHM ...]`.

The same clients do a round's local work, then are evaluated, in turns, by the engine of `flow run` with all cores. The third
column is an evaluation over a round. The fourth is an evaluation over the personalization in it, which is the clients' own work
before they predict; what is above 1 there are predictions and counting.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.common.markdown import table
from flow.algorithms import NAMES
from flow.config import Config
from flow.data import Client, DataOptions
from flow.draws import Draw
from flow.engine.run import begin
from flow.engine.task import Task, prepare
from flow.evaluation.score import score_clients
from flow.evaluation.select import choose_clients
from flow.model.interface import Model
from flow.parallel.workers import Workers
from flow.server.uploads import Received, collect
from flow.training.batches import groups
from flow.training.messages import Visit


@dataclass
class Clock:
    """Adds up the seconds that calls take, in all threads."""

    seconds: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its calls counted."""

        def timed(*given: Any) -> Any:
            start = time.perf_counter()
            result = function(*given)
            with self._lock:
                self.seconds += time.perf_counter() - start
            return result

        return timed


def measure(name: str, options: DataOptions, count: int, turns: int) -> tuple[int, float, float, float]:
    """Clients, seconds of a round, of an evaluation and of the personalization in it; each the least of all turns."""
    algorithm = NAMES[name].algorithm
    task = prepare(Config(algorithm=algorithm.options(), data=options, cohort=8))
    clients = scored(task, count)
    run, clock = begin(task, None), Clock()
    if algorithm.personalize is not None:
        task = task._replace(algorithm=replace(algorithm, personalize=clock.around(algorithm.personalize)))
    rounds, evaluations, personalizations = [], [], []
    with Workers(task.model, task.workers) as workers:
        for turn in range(turns + 1):  # the first one warms up, and fills what clients keep
            start = time.perf_counter()
            received = local_work(task, workers, run.state, run.states, clients, Draw(0, turn + 1, "train"))
            rounds.append(time.perf_counter() - start)
            for upload in received:
                if upload.upload.kept is not None:
                    run.states.write(upload.rows, upload.upload.kept, turn + 1)
            run.states.commit(turn + 1)
            if turn == 0:
                uploads = collect(received, algorithm.one_by_one)
                run.state, _ = algorithm.server_step(
                    task.config.algorithm, run.state, run.moments, uploads, task.config.server, Draw(0, 1, "server")
                )
            clock.seconds, start = 0.0, time.perf_counter()
            score_clients(task, workers, run.state, run.states, clients, Draw(0, turn + 1, "evaluation"))
            evaluations.append(time.perf_counter() - start)
            personalizations.append(clock.seconds / task.workers)
    return len(clients), min(rounds[1:]), min(evaluations[1:]), min(personalizations[1:])


def scored(task: Task, count: int) -> list[Client]:
    """The first clients that may train and can be scored."""
    return [task.population.clients[place] for place in choose_clients(task, 0, "final")["seen"].places[:count].tolist()]


def local_work(task: Task, workers: Workers, state: Any, states: Any, clients: Sequence[Client], draw: Draw) -> list[Received]:
    """A round's work of these clients."""

    def of_group(model: Model, group: list[Client]) -> Received:
        visit: Visit = task.visit(model, state, states, group, draw, "train")
        return Received(visit.rows, task.algorithm.local(task.config.algorithm, model, visit), 0)

    return list(workers.map(of_group, groups(clients, task.chunk, workers.count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("algorithms", nargs="*", default=[], help="names; none means all of them")
    parser.add_argument("--data", default="shakespeare")
    parser.add_argument("--clients", type=int, default=160, help="how many train and are scored (160)")
    parser.add_argument("--turns", type=int, default=2, help="turns, of which the fastest counts (2)")
    chosen = parser.parse_args()
    head = ["algorithm", "clients", "round, s", "evaluation, s", "evaluation / round", "evaluation / personalization"]
    rows = []
    for name in chosen.algorithms or NAMES:
        clients, round, evaluation, own = measure(name, DataOptions(data=chosen.data), chosen.clients, chosen.turns)
        ratio = f"{evaluation / own:.2f}" if own else "-"
        rows.append([name, str(clients), f"{round:.2f}", f"{evaluation:.2f}", f"{evaluation / round:.2f}", ratio])
        print(rows[-1], flush=True)
    print("\n".join(table(head, rows)))


if __name__ == "__main__":
    main()
