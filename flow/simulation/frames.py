"""Results as pandas DataFrames. The extra `frames` of the distribution brings pandas, which is imported here alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flow.callbacks.values import leaves
from flow.data.readers.needs import package
from flow.evaluation import metrics
from flow.evaluation.registry import all_metrics
from flow.evaluation.score import Cost

if TYPE_CHECKING:
    import pandas

Json = dict[str, Any]
LEAST, GREATEST = -(2**63), 2**63 - 1  # of int64


def frame(columns: Mapping[str, Any], index: str | None, what: str) -> pandas.DataFrame:
    """A DataFrame of numbers and texts; NaN is in the place of a number that is None.

    Args:
        columns: by name, a value for each row: a list of numbers, of texts or of booleans, or a NumPy array.
        index: the column that becomes the index; None: rows are counted from 0.
        what: the name of the attribute, for the message.

    Raises:
        UserError: pandas is not installed.
    """
    library = package("pandas", "frames", what, "a pandas DataFrame")
    content = library.DataFrame({name: _column(values) for name, values in columns.items()})
    made: pandas.DataFrame = content if index is None else content.set_index(index)
    return made


def of_rounds(rows: Sequence[Json]) -> pandas.DataFrame:
    """One row per round, see :attr:`flow.simulation.loop.Result.rounds`.

    rows: those of metrics.jsonl, without checksums.
    """
    flat = [dict(leaves(row)) for row in rows]
    names = dict.fromkeys(name for row in flat for name in row)
    return frame({name: [row.get(name) for row in flat] for name in names}, "round", "Result.rounds")


def of_clients(evaluation: Json) -> pandas.DataFrame:
    """One row per scored client, see :attr:`flow.simulation.loop.Result.clients`.

    evaluation: the content of evaluation.json.
    """
    clients: list[Json] = evaluation["clients"]
    known = [m for m in all_metrics() if m.always or any(m.client_key("global") in client for client in clients)]
    keys = dict.fromkeys(metric.client_key(model) for metric in known for model in metrics.MODELS)
    columns: dict[str, Any] = {name: [client[name] for client in clients] for name in ("id", "group", "seen")}
    columns["seen"] = np.array(columns["seen"], dtype=np.bool_)  # a mask, also where nobody was scored
    for name in ("texts", "train_tokens", "tokens", *keys):
        columns[name] = [client[name] for client in clients]
    for metric in known:
        for model in metrics.MODELS:
            counts = columns[metric.client_key(model)]
            columns[f"{model}_{metric.name}"] = [
                None if count is None else metric.summary("token", [count], [own])
                for count, own in zip(counts, columns["tokens"], strict=True)
            ]
    for name in ("local_weight", *Cost._fields):
        columns[name] = [client[name] for client in clients]
    return frame(columns, "id", "Result.clients")


def _column(values: Any) -> Any:
    """bool or int64 where every value is one, else float64 with NaN for None; texts as they are."""
    if isinstance(values, np.ndarray):
        return values
    kinds = {type(value) for value in values}
    if str in kinds:
        return values
    if kinds == {bool}:
        return np.array(values, dtype=np.bool_)
    if kinds == {int} and min(values) >= LEAST and max(values) <= GREATEST:
        return np.array(values, dtype=np.int64)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
