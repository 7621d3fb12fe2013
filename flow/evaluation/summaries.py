"""Scores of clients as evaluation.json and metrics.jsonl have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flow.evaluation.metrics import AVERAGES, MODELS, Metric
from flow.evaluation.score import Cost, Score
from flow.evaluation.select import SIDES
from flow.storage.metrics import LARGEST

QUANTILES = (0.10, 0.25, 0.50, 0.75, 0.90)
BINS = 20  # of the histogram of routing weights


def finite(value: float) -> float | None:
    """A number that files may hold; None for one that is not finite, as the loss of a model that diverged, or enormous."""
    return value if abs(value) <= LARGEST else None


def averages(metric: Metric, model: str, counts: Sequence[float], tokens: Sequence[int]) -> dict[str, float | None]:
    """Both summaries of a metric of one model, by their keys; None without counts, and where they are not finite.

    counts: of every client, likewise tokens.
    """
    by_token, by_client = (metric.summary_key(model, average) for average in AVERAGES)
    return {
        by_token: finite(metric.summary("token", counts, tokens)) if counts else None,
        by_client: finite(metric.summary("client", counts, tokens)) if counts else None,
    }


def helped_and_hurt(gains: Sequence[float]) -> dict[str, float | None]:
    """The shares of clients with a gain above and below zero; None where there is nothing to compare."""
    return {
        "helped": float(np.mean([gain > 0 for gain in gains])) if gains else None,
        "hurt": float(np.mean([gain < 0 for gain in gains])) if gains else None,
    }


def side_summary(scores: Sequence[Score], skipped: int, chosen: Sequence[Metric]) -> dict[str, Any]:
    """One side's metrics, over tokens and over clients, the shares of clients helped and hurt, and the mean costs."""
    tokens = [score.tokens for score in scores]
    result: dict[str, Any] = {"clients": len(scores), "skipped": skipped, "tokens": sum(tokens)}
    models = scores[0].counts.keys() if scores else ()
    for metric in chosen:
        for model in MODELS:
            counts = [score.counts[model][metric.name] for score in scores] if model in models else []
            result |= averages(metric, model, counts, tokens)
            if counts and metric.of_table is not None:
                together = np.sum([score.tables[model][metric.name] for score in scores if score.tables], axis=0)
                result[metric.summary_key(model, "token")] = finite(metric.of_table(together))
    compared = {"global", "personal"} <= set(models)
    result |= helped_and_hurt([score.gain() for score in scores] if compared else [])
    for name in Cost._fields:
        result[name] = float(np.mean([getattr(score.cost, name) for score in scores])) if scores else None
    return result


def routing_quantiles(scores: Sequence[Score]) -> dict[str, Any] | None:
    """How much the GRU's local expert is used at all scored tokens, by time step and altogether; None if not routed.

    Tokens are left out whose weight is no number, as that of a model that diverged.
    """
    routed = [(score.local_weights, score.steps) for score in scores if score.local_weights is not None]
    if not routed:
        return None
    weights, steps = np.concatenate([w for w, _ in routed]), np.concatenate([t for _, t in routed])
    known = np.isfinite(weights)
    weights, steps = weights[known], steps[known]
    if not len(weights):
        return None
    order = np.argsort(steps, kind="stable")
    ends = np.cumsum(np.bincount(steps))
    rows = []
    for step, own in enumerate(np.split(weights[order], ends[:-1]), start=1):
        if len(own):
            quantiles = np.quantile(own, QUANTILES).astype(float).tolist()
            rows.append({"step": step, "tokens": len(own), "mean": float(own.mean(dtype=np.float64)), "quantiles": quantiles})
    counts, edges = np.histogram(weights, bins=BINS, range=(0, 1))
    return {"steps": rows, "histogram": {"edges": edges.tolist(), "counts": counts.tolist()}}


def passages(scores: Sequence[Score], names: Sequence[str]) -> list[dict[str, Any]]:
    """Held-out text of the clients with the most scored tokens and of those with the largest gain, both sides.

    names: of what is predicted, by its number.
    """
    chosen: dict[str, Score] = {}
    for side in SIDES.values():
        own = sorted((s for s in scores if s.held_out == side.held_out), key=lambda s: (-s.tokens, s.id))
        gained = sorted((s for s in own if s.gain() > 0), key=lambda s: (-s.gain() / s.tokens, s.id))
        for score in (*own[:2], *gained[:2]):
            chosen.setdefault(score.id, score)
    return [{**score.passage, **_predictions(score, names)} for score in chosen.values()]


def _predictions(score: Score, names: Sequence[str]) -> dict[str, list[str | None] | None]:
    """What both models of a client predict in its passage; None for a model that it does not have, or that has no numbers."""
    columns = zip(("global", "personal"), score.predicted.T.tolist(), strict=True)
    return {
        f"{model}_predicted": [names[token] if token >= 0 else None for token in tokens] if model in score.counts else None
        for model, tokens in columns
    }


def client_rows(scores: Sequence[Score], chosen: Sequence[Metric]) -> list[dict[str, Any]]:
    """One object per client, in the order of their ids."""
    return [
        {
            "id": score.id,
            "group": score.group,
            "seen": not score.held_out,
            "texts": score.texts,
            "train_tokens": score.train_tokens,
            "tokens": score.tokens,
            **{
                metric.client_key(model): finite(score.counts[model][metric.name]) if model in score.counts else None
                for metric in chosen
                for model in MODELS
            },
            "local_weight": None if score.local_weights is None else finite(float(score.local_weights.mean(dtype=np.float64))),
            **score.cost._asdict(),
        }
        for score in sorted(scores, key=lambda score: score.id)
    ]
