"""What makes a host wait for a GPU, counted on the CPU: numbers that are read or copied away, shapes that values decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READING = {
    "item", "tolist", "numpy", "cpu", "cuda", "__bool__", "__int__", "__float__", "__index__", "__array__", "__contains__",
    "nonzero", "argwhere", "unique", "masked_select", "equal", "allclose", "repeat_interleave", "bincount", "pin_memory",
}  # fmt: skip
FREE = {
    "view", "expand", "slice", "select", "t", "transpose", "unsqueeze", "detach", "alias", "squeeze", "split", "permute",
    "unbind", "_unsafe_view", "split_with_sizes", "empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided",
    "as_strided",
}  # fmt: skip
"""Operations that launch nothing: views, and memory without content."""
SHAPES = ("nonzero", "_local_scalar_dense", "masked_select", "_unique2", "unique_dim", "is_nonzero", "equal", "bincount")


class Waiting(TorchFunctionMode):
    """Counts calls of Tensor's methods that read numbers, and moves to a device or to the host."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts, self.paused = counts, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        if not self.paused and (name in READING or (name == "to" and _names_a_device(args, kwargs or {}))):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


class Ops(TorchDispatchMode):
    """Counts operations whose results a GPU's host has to know: sizes by values, masks as indices, other devices."""

    def __init__(self, counts: Counter[str], of: Waiting) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts, self.of = counts, of

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        if not self.of.paused:
            self.counts["launches"] += name not in FREE
            if name in SHAPES:
                self.counts[name] += 1
            if name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
                isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]
            ):
                self.counts[f"{name} by a mask"] += 1
        return func(*args, **(kwargs or {}))


def _names_a_device(args: Any, kwargs: Any) -> bool:
    return "device" in kwargs or any(isinstance(a, (str, torch.device)) for a in args[1:])


@contextmanager
def counted(launcher: Any) -> Iterator[Counter[str]]:
    """Count in here, but for what Triton's interpreter does to run a kernel; "launches" are those of kernels and operations.

    launcher: the interpreter's class of a kernel with a grid.
    """
    counts: Counter[str] = Counter()
    waiting = Waiting(counts)
    run: Callable[..., Any] = launcher.__call__

    def uncounted(self: Any, *args: Any, **kwargs: Any) -> Any:
        counts["launches"] += 1
        waiting.paused += 1
        try:
            return run(self, *args, **kwargs)
        finally:
            waiting.paused -= 1

    launcher.__call__ = uncounted
    try:
        with waiting, Ops(counts, waiting):
            yield counts
    finally:
        launcher.__call__ = run
