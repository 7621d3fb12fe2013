"""Held-out predictions of clients, counted: by the model as received, and by what each client makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flow.draws import Draw
from flow.evaluation import metrics
from flow.evaluation.calibration import reliability
from flow.evaluation.metrics import ACCURACY
from flow.evaluation.registry import chosen as chosen_metrics
from flow.model.interface import Model
from flow.model.parameters import Tensors
from flow.parallel.workers import Workers
from flow.training.batches import Data, gather, groups
from flow.training.messages import Personal, Visit
from flow.training.predict import Guess, predict

if TYPE_CHECKING:
    from flow.data.population import Client, Population
    from flow.engine.task import Task
    from flow.storage.client_states import ClientStates

PASSAGE = 200  # tokens of a client's test text that are kept to be shown


class Cost(NamedTuple):
    """What a client's evaluation took; predicting is not counted."""

    download_bytes: int
    upload_bytes: int
    flops: float


class Score(NamedTuple):
    """One client's held-out tokens, counted. It holds plain data and arrays only, so that it can pass between processes."""

    id: str
    group: str
    held_out: bool
    texts: int
    train_tokens: int
    """Of the sequences that it trains on. Here, so that nobody has to read them again."""
    tokens: int
    """Scored tokens, at least one."""
    counts: dict[str, dict[str, float]]
    """By model, the count of every metric by its name; without the models that the client does not have."""
    local_weights: npt.NDArray[np.float32] | None
    """[tokens]: weight of the GRU's local expert at every scored token under soft routing."""
    steps: npt.NDArray[np.int64]
    """[tokens]: the time step of each of them, from 0."""
    calibration: npt.NDArray[np.float64]
    """[3, bins]: :func:`flow.evaluation.calibration.reliability` of what the client predicts with in the end."""
    passage: dict[str, Any]
    """A part of the held-out text, as evaluation.json has it but for the predictions."""
    predicted: npt.NDArray[np.int32]
    """[n, 2]: what the global and the personal model take for the likeliest at the n places of the passage, by number;
    -1 where the client has no such model, or its numbers are none."""
    cost: Cost
    tables: dict[str, dict[str, list[list[int]]]] | None = None
    """By model, the table of classes [3, C] of every metric that has one, by its name; None where texts are not classified."""

    def gain(self) -> float:
        """Tokens that personalization gets right on balance; 0 where there is nothing to compare."""
        if not {"global", "personal"} <= self.counts.keys():
            return 0
        return self.counts["personal"][ACCURACY.name] - self.counts["global"][ACCURACY.name]


def score_clients(
    task: Task,
    workers: Workers,
    state: Tensors,
    states: ClientStates,
    clients: Sequence[Client],
    draw: Draw,
    progress: Callable[[int], object] | None = None,
) -> list[Score]:
    """Score clients by the engine that trains them, in groups of at most `task.chunk`.

    The global model is the general one before any step. The personal one follows the algorithm's own personalization, the
    same for seen and for unseen clients.

    Args:
        task: what is evaluated.
        workers: they compute the groups.
        state: the server's.
        states: what clients kept.
        clients: at least one scored token each.
        draw: the randomness of personalization.
        progress: it is called with the number of clients of every group that is done.

    Returns:
        A score of every client, in the order of the groups.
    """

    def of_group(model: Model, group: list[Client]) -> list[Score]:
        visit, personal = personalized(task, model, state, states, group, draw)
        return scores_of_group(task, model, state, group, visit, personal)

    all_scores = []
    for scores in workers.map(of_group, groups(clients, task.chunk, workers.count)):
        all_scores += scores
        if progress is not None:
            progress(len(scores))
    return all_scores


def personalized(
    task: Task, model: Model, state: Tensors, states: ClientStates, group: Sequence[Client], draw: Draw
) -> tuple[Visit, Personal | None]:
    """What a group of clients has at hand to predict, and what they predict with; None by the general model."""
    visit = task.visit(model, state, states, group, draw, "predict")
    personalize = task.algorithm.personalize
    return visit, None if personalize is None else personalize(task.config.algorithm, model, visit)


def scores_of_group(
    task: Task, model: Model, state: Tensors, group: Sequence[Client], visit: Visit, personal: Personal | None
) -> list[Score]:
    """The scores of clients with at least one scored token each, of what :func:`personalized` gave."""
    chosen = chosen_metrics(task.config.metric, bool(task.population.classes))
    test = gather(group, "test", task.config.model.device)
    guesses = _guesses(task, model, state, personal, test, any(metric.ranked for metric in chosen))
    costs = _costs(visit.nbytes, personal)
    return [
        _score(client, {name: _own(guess, rows) for name, guess in guesses.items()}, task.population, chosen, cost)
        for client, rows, cost in zip(group, test.rows, costs, strict=True)
    ]


def _guesses(task: Task, model: Model, state: Tensors, personal: Personal | None, test: Data, ranked: bool) -> dict[str, Guess]:
    """The predictions of the models that a group of clients has, by the names of flow.evaluation.metrics.MODELS."""
    guesses: dict[str, Guess] = {}
    general = task.algorithm.general(task.config.algorithm, model, state)
    if general is not None:  # one model for all: their sequences are one client's
        guesses["global"] = predict(
            model, general, test._replace(ids=("",), rows=(np.arange(len(test.lengths) - 1),)), ranked=ranked
        )
    if personal is not None:
        guesses["personal"] = predict(model, personal, test, ranked=ranked)
        if personal.route == "mixture" or personal.alone is not None:
            if personal.alone is not None:
                alone = personal._replace(route=personal.alone, routing="soft", answering=None)
                guesses["local"] = predict(model, alone, test, ranked=ranked)
            instance = task.algorithm.scope(task.config.algorithm).instance
            for routing in ("hard", "soft") if instance else ():
                own = personal.routing == routing
                guesses[routing] = guesses["personal"] if own else predict(model, personal, test, routing, ranked=ranked)
        if general is None and personal.before is not None:
            guesses["global"] = predict(model, personal.before, test, ranked=ranked)
    return guesses


def _own(guess: Guess, rows: npt.NDArray[np.int64]) -> Guess:
    """One client's part of the predictions of its group."""
    return Guess._make(part[rows] for part in guess)


def _costs(down: Sequence[int], personal: Personal | None) -> list[Cost]:
    """Of every client of a group: the download, and what personalization took beyond it."""
    up, flops = [0] * len(down), np.zeros(len(down))
    if personal is not None:
        flops = flops + sum(work.flops.cpu().numpy() for work in personal.phases)
        up = list(personal.sent or up)
        down = [a + b for a, b in zip(down, personal.received or [0] * len(down), strict=True)]
    return [Cost(*values) for values in zip(down, up, flops.tolist(), strict=True)]


def _score(
    client: Client, guesses: dict[str, Guess], population: Population, chosen: Sequence[metrics.Metric], cost: Cost
) -> Score:
    """Count one client's predictions."""
    targets, valid = client.test.targets, client.test.valid
    mask = valid & population.scored[targets]
    return Score(
        id=client.id,
        group=client.group,
        held_out=client.held_out,
        texts=client.texts,
        train_tokens=int(client.train.lengths.sum()),
        tokens=int(mask.sum()),
        counts={
            model: {metric.name: _counted(metric, guess, targets, mask) for metric in chosen}
            for model, guess in guesses.items()
        },
        tables={
            model: {
                metric.name: metrics.table_of_classes(guess, targets, mask, len(population.classes)).tolist()
                for metric in chosen
                if metric.of_classes
            }
            for model, guess in guesses.items()
        }
        if population.classes
        else None,
        local_weights=guesses["soft"].local_weight[mask] if "soft" in guesses else None,
        steps=np.nonzero(mask)[1],
        calibration=reliability(guesses.get("personal") or guesses["global"], targets, mask),
        passage=_passage(client, guesses, names_of(population), targets, valid),
        predicted=_predicted(guesses, valid),
        cost=cost,
    )


def _counted(metric: metrics.Metric, guess: Guess, targets: npt.NDArray[np.int32], scored: npt.NDArray[np.bool_]) -> float:
    """The count of a metric, whose function may be the user's own and cannot change what other metrics count."""
    predictions, (targets, scored) = Guess(*map(_unchanging, guess)), map(_unchanging, (targets, scored))
    return metrics.number(metric.name, "count", metric.count(predictions, targets, scored))


def _unchanging(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view of the array that cannot be written to."""
    view = array.view()
    view.flags.writeable = False
    return view


def _passage(
    client: Client,
    guesses: dict[str, Guess],
    names: Sequence[str],
    targets: npt.NDArray[np.int32],
    valid: npt.NDArray[np.bool_],
) -> dict[str, Any]:
    """The first PASSAGE targets of a client's held-out text, by their names, with what was predicted there."""

    def first(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values[valid][:PASSAGE]

    weights = first(guesses["soft"].local_weight) if "soft" in guesses else None
    hits = {model: first(guess.tokens == targets).tolist() for model, guess in guesses.items()}
    return {
        "client": client.id,
        "group": client.group,
        "seen": not client.held_out,
        "tokens": [names[target] for target in first(targets)],
        "local_weight": None if weights is None or not np.isfinite(weights).all() else [round(float(q), 4) for q in weights],
        "global_correct": hits.get("global"),
        "personal_correct": hits.get("personal"),
    }


def names_of(population: Population) -> Sequence[str]:
    """What is predicted, by its number: the classes of texts, or the tokens."""
    return population.classes or population.vocabulary.tokens


def _predicted(guesses: dict[str, Guess], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """What both models predict at the places of the passage, see :attr:`Score.predicted`."""
    count = min(PASSAGE, int(valid.sum()))
    nothing = np.full(count, -1, dtype=np.int32)
    models = [guesses[name].tokens[valid][:PASSAGE] if name in guesses else nothing for name in ("global", "personal")]
    return np.ascontiguousarray(np.stack(models, axis=1), dtype=np.int32)
