"""The Triton kernels in the interpreter, every tensor that they are given in guarded memory:
`guarded_triton.py end|start [FAULT]`

A process of its own: an access outside of a tensor ends it. A fault makes the kernels believe in one sequence, or one step,
more than there is."""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before triton is first imported

import guarded
import pytest
import torch
from problems import Problem, assert_same_bits, make
from torch import Tensor
from triton.runtime.interpreter import GridExecutor

from flow_kernels.backends.gpu.triton import launch, tiles
from flow_kernels.backends.gpu.triton.tiles import Tile

FAULTS = {"sequence": (0, 1, 0, 0, 0, 0), "step": (0, 0, 1, 1, 0, 0)}  # added to I, B, T, N and the strides


def guard(at_end: bool) -> list[int]:
    """Every launch's tensors are copied there and back; returns the number of tensors, which grows."""
    moved, init = [0], GridExecutor._init_args_hst

    def guarded_arguments(self: Any, args: Any, kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
        given, named = init(self, args, kwargs)
        storages: dict[int, torch.UntypedStorage] = {}

        def move(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.untyped_storage().nbytes():
                return value
            storage = value.untyped_storage()
            if storage.data_ptr() not in storages:
                storages[storage.data_ptr()] = guarded.like(storage, at_end)
                moved[0] += 1
            place = storages[storage.data_ptr()]
            return torch.empty(0, dtype=value.dtype).set_(place, value.storage_offset(), value.size(), value.stride())

        return [move(value) for value in given], {name: move(value) for name, value in named.items()}

    GridExecutor._init_args_hst = guarded_arguments
    return moved


def problems() -> list[tuple[str, Problem, torch.dtype]]:
    """Sizes that fill no tile, in both kernels."""
    packed = make(1, 4, 5, 3, 6, seed=1)
    sizes = torch.tensor([5, 3, 3, 1])
    rows = int(sizes.sum())
    packed = Problem(
        {name: t[0] for name, t in packed.tensors.items()} | {"input": torch.randn(rows, 3, dtype=torch.float64)},
        dict(batch_sizes=sizes, reverse=True),
        (torch.randn(rows, 6).double(), torch.randn(5, 6).double(), torch.randn(rows, 2).double()),
    )
    return [
        ("sequence", make(2, 3, 3, 4, 7, lengths=True, batch_first=True), torch.float32),
        ("sequence", make(1, 2, 17, 5, 20, routing="straight_through", reverse=True), torch.float16),
        ("sequence", make(1, 1, 1, 1, 1, bias=False), torch.float32),
        ("step", make(2, 3, 3, 4, 7, lengths=True), torch.float16),
        ("step", make(1, 2, 17, 7, 33, route="local"), torch.float32),
        ("step", make(1, 2, 3, 4, 34, routing="hard", recompute=True, lengths=True, reverse=True), torch.float32),
        ("step", packed, torch.float32),
    ]


def main(side: str, fault: str = "") -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        scan = [""]
        patch.setattr(tiles, "choose_tile", lambda *_: (scan[0], Tile(32, 16) if scan[0] == "sequence" else Tile(16, 16, 16)))
        todo, plain = problems(), []
        for scan[0], problem, dtype in todo:
            plain.append(problem.run("triton", dtype))
        moved = guard(side == "end")
        if fault:
            sizes = launch._sizes
            patch.setattr(launch, "_sizes", lambda call: tuple(map(sum, zip(sizes(call), FAULTS[fault], strict=True))))
        for (scan[0], problem, dtype), expected in zip(todo, plain, strict=True):
            before = moved[0]
            assert_same_bits(problem.run("triton", dtype), expected)
            print(f"{scan[0]}, {dtype}: {moved[0] - before} tensors guarded", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
