"""Work that repeats with the same shapes, recorded as a CUDA graph. Not verified on hardware; tests put a stub in its place."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Recording(Protocol):
    """Recorded work."""

    def replay(self) -> None:
        """Do it again, with what its inputs hold now."""


Record = Callable[[Callable[[], Tensor]], tuple[Recording, Tensor]]
"""Makes a recording of work, and gives the tensor with its result; recording does not do the work."""


class Replayed:
    """Runs a function of some tensors, and from the second time with the same key on as a recording.

    A recording holds addresses. So the function may read and write, beside its arguments, only memory that stays where it is
    while this object lives, and everything that it allocates itself. The first call runs as it is: kernels are compiled then.

    Args:
        record: makes a recording of a function; None: a CUDA graph.
    """

    def __init__(self, record: Record | None = None) -> None:
        self._record: Record = _graph if record is None else record
        self._seen: set[Hashable] = set()
        self._kept: dict[Hashable, tuple[Sequence[Tensor], Recording, Tensor]] = {}

    def run(self, key: Hashable, inputs: Sequence[Tensor], function: Callable[[Sequence[Tensor]], Tensor]) -> Tensor:
        """function(inputs), a tensor of its own; key: what decides the work beside the inputs' shapes and dtypes."""
        key = (key, *((t.shape, t.dtype) for t in inputs))
        if key not in self._seen:
            self._seen.add(key)
            return function(inputs)
        if key not in self._kept:
            own = [t.clone(memory_format=torch.contiguous_format) for t in inputs]
            self._kept[key] = (own, *self._record(lambda: function(own)))
        static, recording, result = self._kept[key]
        torch._foreach_copy_(list(static), list(inputs))
        recording.replay()
        return result.clone()


def replays(device: torch.device) -> bool:
    """Whether work on this device is recorded; FLOW_GRAPHS=0 in the environment switches it off."""
    return device.type == "cuda" and os.environ.get("FLOW_GRAPHS", "1") != "0"


def _graph(work: Callable[[], Tensor]) -> tuple[Any, Tensor]:
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(side):  # the default stream cannot be recorded; nothing runs while recording
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            result = work()
        finally:
            graph.capture_end()
    return graph, result
