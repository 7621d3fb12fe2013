"""Our side of the race, by the public interface: `python -m benchmarks.simulation.ours` is a runner; `make_plan` says to the
others what flow.simulate will do, from the documented meaning of a seed."""

from __future__ import annotations

import sys
import time
from typing import Any

from benchmarks.common import worker
from benchmarks.simulation import workload
from benchmarks.simulation.runner import Runner, Turn, arguments, serve
from benchmarks.simulation.workload import Array, Plan, Sizes, Weights

if __name__ == "__main__":
    THREADS, REQUESTS, REPLIES = worker.start(sys.argv[1:])

import numpy as np
import torch

import flow
from flow.algorithms import REGISTRY
from flow.config import ModelOptions
from flow.data import Client, Population, Sequences, Vocabulary
from flow.data.tokens import SPECIALS
from flow.draws import Draw
from flow.engine.task import prepare
from flow.simulation.loop import sample
from flow.training.batches import Data, gather, split

SEED = 0
PARTS = ("data", "training", "aggregation")  # of a round's seconds; the rest is the server's loop


def population(sizes: Sizes, tokens: Array) -> Population:
    """The clients, in memory. Nobody has texts enough to be scored: a run ends with its last round."""
    nothing = Sequences(np.zeros((0, sizes.steps + 1), np.int32), np.zeros(0, np.int32))
    counts = workload.counts(sizes).tolist()
    full = [Sequences(own[:n], np.full(n, sizes.steps, np.int32)) for own, n in zip(tokens, counts, strict=True)]
    clients = tuple(Client(f"{n:06}", "", False, 1, own, nothing) for n, own in enumerate(full))
    words = (*SPECIALS, *(f"w{n}" for n in range(len(SPECIALS), sizes.vocabulary)))
    return Population("random words", clients, Vocabulary(words, "word"), sizes.steps, "made for a benchmark")


def config(sizes: Sizes, algorithm: str, rounds: int, threads: int, dtype: Any = "float32", **more: Any) -> flow.Config[Any]:
    """One epoch of plain SGD without clipping; of Flow the published variant, with random halves."""
    own = {"variant": "neurips", "personal_lr": sizes.lr} if algorithm == "flow" else {}
    options = REGISTRY[algorithm].options(lr=sizes.lr, epochs=1, batch_size=sizes.batch, clip=0.0, **own)
    model = ModelOptions(sizes.embedding, sizes.hidden, projection_dim=sizes.projection or None, dtype=dtype)
    return flow.Config(
        algorithm=options,
        model=model,
        rounds=rounds,
        cohort=sizes.cohort,
        validation_share=0.0,
        split="random",
        seed=SEED,
        evaluate_every=0,
        threads=threads,
        **more,
    )


def make_plan(sizes: Sizes, rounds: int) -> Plan:
    """What flow.simulate does in so many rounds."""
    tokens = workload.tokens(sizes)
    clients = population(sizes, tokens)
    tasks = {name: prepare(config(sizes, name, rounds, 1), clients) for name in ("fedavg", "flow")}
    weights: Weights = {}
    for name, task in tasks.items():
        state = task.algorithm.init(task.config.algorithm, task.model, SEED, len(task.clients))
        weights |= {("flow:" if name == "flow" else "") + key: tensor.numpy().copy() for key, tensor in state.items()}
    number = {client.id: n for n, client in enumerate(clients.clients)}
    cohorts: list[list[int]] = []
    by_phase: dict[str, list[list[Array]]] = {"order": [], "support": [], "query": []}
    for round in range(1, rounds + 1):
        cohort = sample(clients.clients, sizes.cohort, Draw(SEED, round, "cohort"))
        cohorts.append([number[client.id] for client in cohort])
        draw, data = Draw(SEED, round, "train"), gather(cohort, "train", "cpu")
        support, query = split(data, draw, rule="random")
        for name, phase, part in (("order", "global", data), ("support", "local", support), ("query", "global", query)):
            by_phase[name].append(_orders(part, data, draw, phase))
    gamma = tasks["flow"].config.algorithm.gamma
    orders = {name: _padded(rows) for name, rows in by_phase.items()}
    return Plan(sizes, tokens, workload.heldout(sizes), np.array(cohorts), weights=weights, gamma=gamma, **orders)


def _orders(part: Data, all: Data, draw: Draw, phase: str) -> list[Array]:
    """Every client's sequences of this part, numbered from 0, as the batches of this phase take them."""
    orders: list[Array] = []
    for id, rows, whole in zip(part.ids, part.rows, all.rows, strict=True):
        orders.append(rows[draw.stream("shuffle", phase, id).permutation(len(rows))] - whole[0])
    return orders


def _padded(rounds: list[list[Array]]) -> Array:
    """int64 [R, C, longest]; -1 after the end of a shorter one."""
    table = np.full((len(rounds), len(rounds[0]), max(len(order) for orders in rounds for order in orders)), -1)
    for round, orders in enumerate(rounds):
        for place, order in enumerate(orders):
            table[round, place, : len(order)] = order
    return table


def runner(plan: Plan, algorithm: str, threads: int, dtype: str = "float32") -> Runner:
    clients = population(plan.sizes, plan.tokens)

    def turn(rounds: int) -> Turn:
        start = time.perf_counter()
        own = config(plan.sizes, algorithm, rounds, threads, dtype)
        result = flow.simulate(own, population=clients, progress=False)
        wall = time.perf_counter() - start
        rows = result.metrics
        seconds = [row["seconds"] for row in rows]
        parts = {part: rows[-1][f"{part}_seconds"] for part in PARTS}
        counted = [row["flops"] for row in rows[1:] or rows]  # the first warms up
        more = {"outside": wall - sum(seconds), "flops": sum(counted) / len(counted), "parts": parts}
        return Turn(seconds, {name: tensor.numpy() for name, tensor in result.state.items()}, more)

    return turn


if __name__ == "__main__":
    given = arguments(sys.argv[1:])
    serve(runner(given.plan, given.algorithm, THREADS, given.dtype), {"torch": torch.__version__}, REQUESTS, REPLIES)
