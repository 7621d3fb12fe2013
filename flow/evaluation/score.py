"""Held-out accuracy of the model as received and of what each client makes of it, seen and never-seen clients apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flow.draws import Draw
from flow.model.language_model import LanguageModel
from flow.model.parameters import Tensors
from flow.parallel.workers import Workers
from flow.training.batches import Data, gather, groups
from flow.training.messages import Personal
from flow.training.predict import Guess, predict

if TYPE_CHECKING:
    from flow.data.population import Client, Population
    from flow.engine.task import Task
    from flow.storage.client_states import ClientStates

QUANTILES = (0.10, 0.25, 0.50, 0.75, 0.90)
BINS = 20
PASSAGE = 200  # tokens of a client's test text that are kept to be shown


class Cost(NamedTuple):
    """What a client's evaluation took; predicting is not counted."""

    download_bytes: int
    upload_bytes: int
    flops: float


class Score(NamedTuple):
    """One client's held-out tokens, counted; a passage of them to be shown."""

    client: Client
    tokens: int
    global_correct: int | None
    """None where there is no model before personalization."""
    personal_correct: int | None
    soft_correct: int | None
    local_weights: npt.NDArray[np.float32] | None
    """Weight of the GRU's local expert at every scored token under soft routing."""
    steps: npt.NDArray[np.int64]
    """The time step of each of them, from 0."""
    passage: dict[str, Any]
    cost: Cost
    train_tokens: int
    """Of the sequences that it trains on. Here, so that nobody has to read them again."""

    def gain(self) -> int:
        """Tokens that personalization gets right on balance."""
        if self.personal_correct is None or self.global_correct is None:
            return 0
        return self.personal_correct - self.global_correct


def obstacle(client: Client, min_texts: int, min_sequences: int, scored: npt.NDArray[np.bool_]) -> str:
    """What a client that cannot be scored lacks first; empty for one that can."""
    if client.texts < min_texts:
        return f"fewer than min_texts={min_texts} texts"
    if len(client.train.lengths) < min_sequences:
        return f"fewer than the {min_sequences} training sequences needed"
    if not scored_mask(client.test.tokens[:, 1:], client.test.lengths, scored).any():
        return "no known token to be tested on"
    return ""


def nobody(population: Population, held_out: bool, min_texts: int, min_sequences: int) -> str:
    """Why one side has no accuracy, for the terminal."""
    side = [client for client in population.clients if client.held_out == held_out]
    kind, scored = "new" if held_out else "seen", population.vocabulary.scored
    if not side:
        return f"{kind} clients: no accuracy, the data have none; give more clients, or raise max_clients where it is set"
    counts = Counter(obstacle(client, min_texts, min_sequences, scored) for client in side)
    reasons = ", ".join(f"{count} with {reason}" for reason, count in counts.most_common())
    return (
        f"{kind} clients: no accuracy, none of the {len(side)} could be scored ({reasons}); "
        "lower min_texts, or give clients more text"
    )


def score(
    task: Task,
    workers: Workers,
    state: Tensors,
    states: ClientStates,
    clients: Sequence[Client],
    draw: Draw,
    progress: Callable[[int], object] | None = None,
) -> list[Score]:
    """Score clients by the engine that trains them, in groups of at most `task.chunk`.

    The global accuracy is that of the general model before any step. The personal one follows the algorithm's own
    personalization, the same for clients that took part in training and for clients never seen.
    """
    options, algorithm, population = task.config.algorithm, task.algorithm, task.population

    def of_group(model: LanguageModel, group: list[Client]) -> list[Score]:
        test = gather(group, "test", task.config.model.device)
        visit = task.visit(model, state, states, group, draw, "predict")
        before, personal = algorithm.general(options, model, state), None
        guesses: dict[str, Guess] = {}
        if before is not None:  # one model for all: their sequences are one client's
            everyone = test._replace(ids=("",), rows=(np.arange(len(test.lengths) - 1),))
            guesses["global"] = predict(model, before, everyone)
        if algorithm.personalize is not None:
            personal = algorithm.personalize(options, model, visit)
            guesses["personal"] = predict(model, personal, test)
            if personal.route == "mixture":
                soft = personal.routing == "soft"
                guesses["soft"] = guesses["personal"] if soft else predict(model, personal, test, "soft")
            if before is None and personal.before is not None:
                guesses["global"] = predict(model, personal.before, test)
        costs = _costs(visit.nbytes, personal)
        return [
            _count(client, rows, test, guesses, population, cost)
            for client, rows, cost in zip(group, test.rows, costs, strict=True)
        ]

    found = []
    for scores in workers.map(of_group, groups(clients, task.chunk, workers.count)):
        found += scores
        if progress is not None:
            progress(len(scores))
    return found


def _costs(down: Sequence[int], personal: Personal | None) -> list[Cost]:
    """Of every client of a group: the download, and what personalization took beyond it."""
    up, flops = [0] * len(down), np.zeros(len(down))
    if personal is not None:
        flops = flops + sum(work.flops.cpu().numpy() for work in personal.phases)
        up = list(personal.sent or up)
        down = [a + b for a, b in zip(down, personal.received or [0] * len(down), strict=True)]
    return [Cost(*one) for one in zip(down, up, flops.tolist(), strict=True)]


def _count(
    client: Client,
    rows: npt.NDArray[np.int64],
    test: Data,
    guesses: dict[str, Guess],
    population: Population,
    cost: Cost,
) -> Score:
    targets, scored = client.test.tokens[:, 1:], population.vocabulary.scored
    mask = scored_mask(targets, client.test.lengths, scored)
    right = {name: guess.tokens[rows] == targets for name, guess in guesses.items()}
    correct = {name: int((hit & mask).sum()) for name, hit in right.items()}
    weights = guesses["soft"].local_weight[rows] if "soft" in guesses else None
    valid = np.arange(targets.shape[1]) < client.test.lengths[:, None]
    names = population.vocabulary.tokens
    passage = {
        "client": client.id,
        "group": client.group,
        "seen": not client.held_out,
        "tokens": [names[token] for token in targets[valid][:PASSAGE]],
        "local_weight": None if weights is None else [round(float(q), 4) for q in weights[valid][:PASSAGE]],
        **{
            f"{name}_correct": right[name][valid][:PASSAGE].tolist() if name in right else None
            for name in ("global", "personal")
        },
    }
    return Score(
        client, int(mask.sum()), correct.get("global"), correct.get("personal"), correct.get("soft"),
        None if weights is None else weights[mask], np.nonzero(mask)[1], passage, cost, int(client.train.lengths.sum()),
    )  # fmt: skip


def scored_mask(
    targets: npt.NDArray[np.int32], lengths: npt.NDArray[np.int32], scored: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """[n, T]: the targets that count for accuracy, valid and not special."""
    mask: npt.NDArray[np.bool_] = (np.arange(targets.shape[1]) < lengths[:, None]) & scored[targets]
    return mask


def summary(scores: Sequence[Score], skipped: int) -> dict[str, Any]:
    """Accuracies of one side: over tokens and as the plain mean over clients; the shares of clients helped and hurt."""
    tokens = sum(s.tokens for s in scores)
    result: dict[str, Any] = {"clients": len(scores), "skipped": skipped, "tokens": tokens}
    for name in ("global", "personal", "soft"):
        correct = [getattr(s, name + "_correct") for s in scores]
        known = bool(correct) and correct[0] is not None
        result[name + "_token"] = sum(correct) / tokens if known else None
        result[name + "_client"] = (
            float(np.mean([c / s.tokens for c, s in zip(correct, scores, strict=True)])) if known else None
        )
    compared = bool(scores) and scores[0].personal_correct is not None and scores[0].global_correct is not None
    result["helped"] = float(np.mean([s.gain() > 0 for s in scores])) if compared else None
    result["hurt"] = float(np.mean([s.gain() < 0 for s in scores])) if compared else None
    for name in Cost._fields:  # mean over clients
        result[name] = float(np.mean([getattr(s.cost, name) for s in scores])) if scores else None
    return result


def routing(scores: Sequence[Score]) -> dict[str, Any] | None:
    """How much the GRU's local expert is used at all scored tokens, by time step and altogether; None if not routed."""
    routed = [(s.local_weights, s.steps) for s in scores if s.local_weights is not None]
    if not routed:
        return None
    weights, steps = np.concatenate([w for w, _ in routed]), np.concatenate([t for _, t in routed])
    order = np.argsort(steps, kind="stable")
    ends = np.cumsum(np.bincount(steps))
    rows = []
    for step, own in enumerate(np.split(weights[order], ends[:-1]), start=1):
        if len(own):
            quantiles = np.quantile(own, QUANTILES).astype(float).tolist()
            rows.append({"step": step, "tokens": len(own), "mean": float(own.mean(dtype=np.float64)), "quantiles": quantiles})
    counts, edges = np.histogram(weights, bins=BINS, range=(0, 1))
    return {"steps": rows, "histogram": {"edges": edges.tolist(), "counts": counts.tolist()}}


def passages(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Held-out text of the clients with the most scored tokens and of those with the largest gain, both sides."""
    chosen: dict[str, Score] = {}
    for held_out in (False, True):
        side = sorted((s for s in scores if s.client.held_out == held_out), key=lambda s: (-s.tokens, s.client.id))
        gained = sorted((s for s in side if s.gain() > 0), key=lambda s: (-s.gain() / s.tokens, s.client.id))
        for s in (*side[:2], *gained[:2]):
            chosen.setdefault(s.client.id, s)
    return [s.passage for s in chosen.values()]


def rows(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """One object per client, as evaluation.json has them."""
    return [
        {
            "id": s.client.id,
            "group": s.client.group,
            "seen": not s.client.held_out,
            "texts": s.client.texts,
            "train_tokens": s.train_tokens,
            "tokens": s.tokens,
            "global_correct": s.global_correct,
            "personal_correct": s.personal_correct,
            "soft_correct": s.soft_correct,
            "local_weight": None if s.local_weights is None else float(s.local_weights.mean(dtype=np.float64)),
            **s.cost._asdict(),
        }
        for s in sorted(scores, key=lambda s: s.client.id)
    ]


def table(summaries: dict[str, dict[str, Any]]) -> str:
    """The summary as a table for the terminal, in per cent."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f}"

    lines = [f"{'accuracy, %':<26}{'seen clients':>14}{'new clients':>14}"]
    for label, key in (
        ("global, over tokens", "global_token"),
        ("personal, over tokens", "personal_token"),
        ("  soft routing", "soft_token"),
        ("global, mean of clients", "global_client"),
        ("personal, mean of clients", "personal_client"),
        ("  soft routing", "soft_client"),
        ("clients helped", "helped"),
        ("clients hurt", "hurt"),
    ):
        values = [percent(summaries[side][key]) for side in ("seen", "unseen")]
        if any(value != "-" for value in values):
            lines.append(f"{label:<26}{values[0]:>14}{values[1]:>14}")
    lines.append(
        f"{'clients (left out)':<26}" + "".join(f"{s['clients']} ({s['skipped']})".rjust(14) for s in summaries.values())
    )
    return "\n".join(lines)
