"""Clients that a deadline cuts short: those that would be late stop after the last batch whose upload still comes in time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flow.engine.task import Task
from flow.model.interface import Model
from flow.model.parameters import nbytes
from flow.training import compression
from flow.training.batches import trained_after
from flow.training.messages import Upload, Visit

Flags = npt.NDArray[np.bool_]


def until_deadline(task: Task, options: Any, model: Model, visit: Visit) -> tuple[Visit, Flags | None]:
    """The same visit of K clients, whose data say after which batch each of them stops; and who stops early, bool [K].

    A client knows its speed and the bytes of its upload. Whoever would be in time does all of its work. Whoever cannot do a
    single batch in time does all of it too, and is late.

    Args:
        options: the algorithm's.

    Returns:
        None for the flags where late clients do no partial work.
    """
    if not task.config.deadline or task.config.late != "partial" or task.devices is None:
        return visit, None
    sizes, stopping, sent = visit.data.sizes(), task.algorithm.stopping(options), _sent(task, options, model, visit)
    most, early = [], np.zeros(len(sizes), dtype=np.bool_)
    for n, (row, received) in enumerate(zip(visit.rows.tolist(), visit.nbytes, strict=True)):
        if stopping.steps:
            trained = min(sizes[n], options.batch_size) * np.arange(stopping.steps + 1)
        else:
            trained = trained_after(sizes[n], options.batch_size, options.epochs)
        down, up = np.full(len(trained), float(received)), np.full(len(trained), float(sent))
        seconds = task.devices.seconds(np.full(len(trained), row), down, stopping.passes * trained.astype(np.float64), up)
        whole, in_time = len(trained) - 1, int((seconds[1:] <= task.config.deadline).sum())
        most.append(in_time or whole)
        early[n] = 0 < in_time < whole
    return (visit._replace(data=visit.data._replace(most=tuple(most))) if early.any() else visit), early


def _sent(task: Task, options: Any, model: Model, visit: Visit) -> int:
    """Bytes that each of these clients uploads, as many after no batch as after all."""
    nobody = visit._replace(data=visit.data._replace(most=(0,) * len(visit.rows)))
    upload: Upload = task.algorithm.local(options, model, nobody)
    way = compression.read(task.config.compress)
    if way is None:
        return nbytes(upload.tensors) // len(visit.rows)
    return compression.nbytes(way, {name: tensor[0] for name, tensor in upload.tensors.items()})
