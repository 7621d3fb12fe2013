"""One group of clients per core: every worker is a thread that computes with one thread of torch.

Groups share nothing, so no core ever waits for another inside an operation. Splitting single operations over cores instead
makes every one of them end in a barrier, where a core that something else keeps busy holds up all the others.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import torch

from flow.model.interface import Model
from flow.parallel.processes import Stopped

Item = TypeVar("Item")
Out = TypeVar("Out")


class Workers:
    """A pool of `count` threads, each with a model of its own (a call puts parameters into it); a context manager."""

    def __init__(self, model: Model, count: int) -> None:
        self.count = count
        self._model = model
        self._own = threading.local()
        self._before = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(count, "flow", self._prepare)

    def _prepare(self) -> None:
        torch.set_num_threads(1)
        self._own.model = copy.deepcopy(self._model)

    def __enter__(self) -> Workers:
        torch.set_num_threads(1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # Groups at work are waited for; not where the launcher ends this process, which has only seconds left to say why.
        self._pool.shutdown(wait=not isinstance(error, Stopped), cancel_futures=True)
        torch.set_num_threads(self._before)

    def map(self, function: Callable[[Model, Item], Out], items: Iterable[Item]) -> Iterator[Out]:
        """The results in the order of the items; at most twice as many as there are workers are held at a time."""
        pending: deque[Future[Out]] = deque()
        for item in items:
            pending.append(self._pool.submit(self._call, function, item))
            if len(pending) >= 2 * self.count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _call(self, function: Callable[[Model, Item], Out], item: Item) -> Out:
        return function(self._own.model, item)
