"""Launches that repeat with the very same arguments, replayed as a CUDA graph.

A step of a small layer takes less time than its launch, so the step kernels' launches are recorded. A recording holds
addresses and numbers and nothing else, so it is valid exactly when all of them come again. In a training loop they do: torch's
allocator hands out the same addresses in every iteration. So the key is everything the launches are called with,
nothing is copied into buffers of our own, and what does not repeat is launched as it is. Not verified on hardware.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch

LEAST = 4  # launches worth a graph
SEEN = 512  # keys remembered
KEPT = 64  # graphs kept


class Recorder:
    """Runs launches, records them when their key comes for the second time, and replays from then on."""

    def __init__(self, record: Callable[[Callable[[], None]], Any], seen: int = SEEN, kept: int = KEPT) -> None:
        self._record, self._most_seen, self._most_kept = record, seen, kept
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        self._graphs: OrderedDict[Hashable, Any] = OrderedDict()

    def run(self, key: Hashable, launch: Callable[[], None]) -> None:
        graph = self._graphs.get(key)
        if graph is None and key not in self._seen:  # the first time kernels may have to be compiled and loaded
            self._seen[key] = None
            if len(self._seen) > self._most_seen:
                self._seen.popitem(last=False)
            launch()
            return
        if graph is None:
            graph = self._graphs[key] = self._record(launch)
            if len(self._graphs) > self._most_kept:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        graph.replay()


def _record(launch: Callable[[], None]) -> Any:
    graph = torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # the default stream cannot be recorded; nothing runs while recording
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            launch()
        finally:
            graph.capture_end()
    return graph


_recorder = Recorder(_record)


def run(key: Hashable, launches: int, device: torch.device, launch: Callable[[], None]) -> None:
    """Launch, or replay. FLOW_GRAPHS=0 in the environment: always launch."""
    if (
        device.type != "cuda"
        or launches < LEAST
        or os.environ.get("FLOW_GRAPHS", "1") == "0"
        or torch.cuda.is_current_stream_capturing()  # of a graph of the caller's
    ):
        launch()
    else:
        _recorder.run((device, key), launch)
