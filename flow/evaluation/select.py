"""Which clients an evaluation takes, and how several processes share it; flow/evaluation/score.py says what is measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes
from tqdm import tqdm

from flow.draws import Draw
from flow.evaluation import score as evaluate
from flow.evaluation.score import Cost, Score
from flow.model.parameters import Rows
from flow.parallel.processes import shard
from flow.parallel.workers import Workers

if TYPE_CHECKING:
    from flow.engine.run import RunState
    from flow.engine.task import Task

SIDES = {"seen": False, "unseen": True}  # of an evaluation, and whether their clients are held out
SLAB = 1024  # clients whose sequences are in memory at a time
Placed = tuple[int, Score]  # of the client at this place in the population
COUNTS = ("tokens", "global_correct", "personal_correct", "soft_correct", "train_tokens")


class Chosen(NamedTuple):
    """The clients of one side that are scored."""

    places: Rows
    """int64 [n]: their places in the population."""
    eligible: int
    """How many could be."""
    skipped: int
    """How many could not."""


def choose(task: Task, most: int, what: str) -> dict[str, Chosen]:
    """At most so many clients of each side, drawn at random, the same ones every time; 0: all that can be scored."""
    config, table, found = task.config, task.population.table, {}
    enough = (table.texts >= config.min_texts) & (table.train >= task.minimum) & (table.scored > 0)
    for side, held_out in SIDES.items():
        there = table.held_out == held_out
        places = np.flatnonzero(there & enough)
        able = len(places)
        if most and (most < able or what == "curve"):
            stream = Draw(config.seed, 0, f"{what} {side}").stream()
            places = places[stream.choice(able, min(most, able), replace=False)]
        found[side] = Chosen(places, able, int(there.sum()) - able)
    return found


def score(
    task: Task, workers: Workers, run: RunState, who: dict[str, Chosen], draw: Draw, bar: tqdm[Any] | None = None
) -> tuple[dict[str, Any], list[Score]]:
    """Summary by side, and the scores of all clients; every process scores its share and gets those of the others."""
    summary, scores = {}, []
    for side, chosen in who.items():
        own = _share(task, run, chosen)
        found: list[Placed] = []
        for start in range(0, len(own), SLAB):
            part = {task.population.clients[place]: place for place in own[start : start + SLAB].tolist()}
            for one in evaluate.score(task, workers, run.state, run.states, list(part), draw, bar.update if bar else None):
                place = part[one.client]
                # Not the client that was scored, which holds its sequences in memory.
                found.append((place, one._replace(client=task.population.clients[place])))
        if run.ranks.size > 1:
            found = _brought_together(task, run, found)
        summary[side] = evaluate.summary([one for _, one in found], chosen.skipped)
        scores += [one for _, one in found]
    return summary, scores


def fully(task: Task, workers: Workers, run: RunState, progress: bool = True) -> dict[str, Any]:
    """The content of evaluation.json: every client that can be scored, or as many as the configuration says."""
    config, population = task.config, task.population
    who = choose(task, config.final_clients, "final")
    count = sum(len(_share(task, run, chosen)) for chosen in who.values())
    with tqdm(total=count, desc="evaluation", unit="client", disable=not progress) as bar:
        summary, scores = score(task, workers, run, who, Draw(config.seed, config.rounds, "evaluation"), bar)
    return {
        "round": config.rounds,
        "algorithm": task.algorithm.name,
        "unit": population.vocabulary.unit,
        "dataset": population.name,
        "about": population.about,
        "personalized": task.algorithm.personalize is not None,
        "eligible": {side: chosen.eligible for side, chosen in who.items()},
        "summary": summary,
        "clients": evaluate.rows(scores),
        "routing": evaluate.routing(scores),
        "texts": evaluate.passages(scores),
    }


def _share(task: Task, run: RunState, chosen: Chosen) -> Rows:
    """The places of the clients that this process scores."""
    costs = task.population.table.train[chosen.places] + 1
    return chosen.places[list(shard(costs.tolist(), run.ranks.size).places[run.ranks.rank])]


def _brought_together(task: Task, run: RunState, own: Sequence[Placed]) -> list[Placed]:
    """The scores of all processes, in the order of the clients."""
    contents = run.ranks.contents(_encoded(own))
    return sorted((one for content in contents for one in _decoded(task, content)), key=lambda one: one[0])


def _encoded(scores: Sequence[Placed]) -> bytes:
    """Scores as the content of a safetensors file; -1 stands for None."""
    values = [[-1 if value is None else value for value in (getattr(s, name) for name in COUNTS)] for _, s in scores]
    weights = [s.local_weights for _, s in scores if s.local_weights is not None]
    texts = json.dumps([s.passage for _, s in scores]).encode()
    arrays = {
        "places": np.array([place for place, _ in scores], dtype=np.int64),
        "counts": np.array(values, dtype=np.int64).reshape(len(scores), len(COUNTS)),
        "costs": np.array([s.cost for _, s in scores], dtype=np.float64).reshape(len(scores), len(Cost._fields)),
        "steps": np.concatenate([np.zeros(0, np.int64), *(s.steps for _, s in scores)]),
        "weights": np.concatenate([np.zeros(0, np.float32), *weights]),
        "texts": np.frombuffer(texts, dtype=np.uint8),
    }
    return to_bytes(arrays)


def _decoded(task: Task, content: bytes) -> list[Placed]:
    arrays = from_bytes(content)
    passages, ends = json.loads(arrays["texts"].tobytes()), np.cumsum(arrays["counts"][:, 0])[:-1]
    steps, weights = np.split(arrays["steps"], ends), np.split(arrays["weights"], ends)
    found: list[Placed] = []
    for n, place in enumerate(arrays["places"].tolist()):
        right = [None if value < 0 else value for value in arrays["counts"][n, 1:4].tolist()]
        down, up, flops = arrays["costs"][n].tolist()
        own = None if len(weights[n]) < len(steps[n]) else weights[n]
        client, cost = task.population.clients[place], Cost(int(down), int(up), flops)
        tokens, train_tokens = int(arrays["counts"][n, 0]), int(arrays["counts"][n, 4])
        score = Score(client, tokens, right[0], right[1], right[2], own, steps[n], passages[n], cost, train_tokens)
        found.append((place, score))
    return found
