"""What a run tells, flat: the columns of a table, and the metrics and options under the names that loggers give them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flow.callbacks.protocol import Data
from flow.evaluation.metrics import AVERAGES, MODELS
from flow.evaluation.registry import all_metrics
from flow.evaluation.select import SIDES

COSTS = ("upload_bytes", "download_bytes", "flops", "client_state_bytes")


def leaves(content: Data, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of an object and of the objects in it, by its path; nothing for an evaluation that was not made."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        elif value is not None or path or key != "evaluation":
            yield path + key, value


def of_row(row: Data) -> dict[str, float]:
    """The numbers of a round by metric: ``train/loss``, ``time/seconds``, ``cost/upload_bytes``, ``evaluation/seen/accuracy``.

    row: of metrics.jsonl. What is null there is left out.
    """
    values = {}
    for key, value in row.items():
        if key not in ("round", "evaluation") and value is not None:
            part = "cost" if key in COSTS else "time" if "second" in key else "train"
            values[f"{part}/{key}"] = float(value)
    return values | ({} if row["evaluation"] is None else of_sides(row["evaluation"], "evaluation"))


def of_sides(evaluation: Data, part: str) -> dict[str, float]:
    """The numbers of an evaluation by metric: ``PART/seen/personal_accuracy`` and so on.

    A metric has the mean of the clients' own numbers, and behind ``_by_token`` the number over all their tokens. Without a
    model before it, it is of the model with which clients predict in the end: the personal one, or the global one where there
    is no other.

    Args:
        evaluation: with the summaries ``seen`` and ``unseen``, as evaluation.json has them.
        part: the first word of the names.
    """
    values = {}
    for side in SIDES:
        summary = dict(evaluation[side])
        for metric in all_metrics():
            for model in MODELS:
                for average in AVERAGES:
                    value = summary.pop(metric.summary_key(model, average), None)
                    ending = metric.name + ("_by_token" if average == "token" else "")
                    if value is not None:
                        values[f"{part}/{side}/{model}_{ending}"] = float(value)
                        if model == "personal" or (model == "global" and f"{part}/{side}/{ending}" not in values):
                            values[f"{part}/{side}/{ending}"] = float(value)
        values |= {f"{part}/{side}/{key}": float(value) for key, value in summary.items() if value is not None}
    return values


def of_config(run: Data) -> dict[str, bool | int | float | str]:
    """The options of a run by their path with points, as hyperparameters; "None" where one is null.

    run: what :meth:`flow.callbacks.Callback.run_started` gets.
    """
    plain = (bool, int, float, str)
    return {path: value if isinstance(value, plain) else str(value) for path, value in leaves(run["config"])}
