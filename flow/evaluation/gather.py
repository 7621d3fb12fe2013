"""Evaluations, shared by the processes of a run: each scores its part of the clients and gets the scores of the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from flow.draws import Draw
from flow.evaluation.calibration import calibration
from flow.evaluation.registry import chosen as chosen_metrics
from flow.evaluation.score import Cost, Score, names_of, score_clients
from flow.evaluation.select import SIDES, Chosen, choose_clients
from flow.evaluation.summaries import client_rows, passages, routing_quantiles, side_summary
from flow.model.parameters import Rows
from flow.parallel.processes import shard
from flow.parallel.workers import Workers
from flow.terminal.progress import Progress
from flow.training.batches import groups

if TYPE_CHECKING:
    from flow.data import Client
    from flow.engine.run import RunState
    from flow.engine.task import Task

SLAB = 1024  # clients whose sequences are in memory at a time
RECORDS = "records"  # the name of the JSON text among the arrays


def evaluate(
    task: Task, workers: Workers, run: RunState, chosen: dict[str, Chosen], draw: Draw, bar: Progress[None] | None = None
) -> tuple[dict[str, Any], list[Score]]:
    """Summaries by side, and the scores of all clients, the same in every process."""
    summary, all_scores = {}, []
    counted = chosen_metrics(task.config.metric, bool(task.population.classes))
    for side, clients in chosen.items():
        own, scores = _share(task, run, clients), []
        for start in range(0, len(own), SLAB):
            slab = [task.population.clients[place] for place in own[start : start + SLAB].tolist()]
            scores += score_clients(task, workers, run.state, run.states, slab, draw, bar.update if bar else None)
        if run.ranks.size > 1:
            contents = run.ranks.contents(_encoded(scores))
            scores = [score for content in contents for score in _decoded(content)]
        scores.sort(key=lambda score: score.id)  # whoever shared a group: sums of shares depend on the order in the last bit
        summary[side] = side_summary(scores, clients.skipped, counted)
        all_scores += scores
    return summary, all_scores


def final_evaluation(task: Task, workers: Workers, run: RunState, progress: bool = True) -> dict[str, Any]:
    """The content of evaluation.json: every client that can be scored, or as many as the configuration says."""
    config, population = task.config, task.population
    chosen = choose_clients(task, config.final_clients, "final")
    count = sum(len(_share(task, run, clients)) for clients in chosen.values())
    with Progress[None](what="evaluation", unit="client", total=count, visible=progress) as bar:
        summary, scores = evaluate(task, workers, run, chosen, Draw(config.seed, config.rounds, "evaluation"), bar)
    return {
        "round": config.rounds,
        "algorithm": task.algorithm.name,
        "unit": population.vocabulary.unit,
        "classes": len(population.classes),
        "dataset": population.name,
        "about": population.about,
        "personalized": task.algorithm.personalize is not None,
        "validation_clients": int(population.validation.sum()),
        "eligible": {side: clients.eligible for side, clients in chosen.items()},
        "summary": summary,
        "clients": client_rows(scores, chosen_metrics(config.metric, bool(population.classes))),
        "calibration": {
            name: calibration([score.calibration for score in scores if score.held_out == side.held_out])
            for name, side in SIDES.items()
        },
        "routing": routing_quantiles(scores),
        "texts": passages(scores, names_of(population)),
    }


def company(task: Task, run: RunState, client: Client) -> list[Client]:
    """The clients beside whom the final evaluation of a run of one process scores a client, itself included; itself alone where
    it scores none of this id.

    Where the kernels do not compute, a client's numbers depend on its company in the last bits.
    """
    for clients in choose_clients(task, task.config.final_clients, "final").values():
        own = _share(task, run, clients)
        for start in range(0, len(own), SLAB):
            slab = [task.population.clients[place] for place in own[start : start + SLAB].tolist()]
            for group in groups(slab, task.chunk, task.workers):
                if any(member.id == client.id for member in group):
                    return group
    return [client]


def _share(task: Task, run: RunState, chosen: Chosen) -> Rows:
    """The places of the clients that this process scores."""
    costs = task.population.table.train[chosen.places] + 1
    return chosen.places[list(shard(costs.tolist(), run.ranks.size).places[run.ranks.rank])]


def _encoded(scores: Sequence[Score]) -> bytes:
    """Scores as the content of a safetensors file.

    Arrays of all scores lie one after the other under the name of their field. All other fields are JSON, in which the
    length of an array stands for it.
    """
    records = [{**score._asdict(), "cost": score.cost._asdict()} for score in scores]
    arrays = {}
    for name in Score._fields:
        parts = [record[name] for record in records if isinstance(record[name], np.ndarray)]
        if parts:
            arrays[name] = np.concatenate(parts)
            for record in records:
                record[name] = None if record[name] is None else len(record[name])
    return to_bytes({**arrays, RECORDS: np.frombuffer(json.dumps(records).encode(), dtype=np.uint8)})


def _decoded(content: bytes) -> list[Score]:
    """The scores of one process."""
    arrays = from_bytes(content)
    records = json.loads(arrays.pop(RECORDS).tobytes())
    for name, rest in arrays.items():
        for record in records:
            if record[name] is not None:
                record[name], rest = np.split(rest, [record[name]])
    return [Score(**{**record, "cost": Cost(**record["cost"])}) for record in records]
