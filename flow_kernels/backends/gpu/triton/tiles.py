"""Which kernel and which tiles a problem gets: a table and a few rules, no measuring on anybody's data. Plain Python."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

STREAMING_MULTIPROCESSORS = 132  # of an H100 or H200; a rule of thumb for how many programs keep a GPU busy


class Tile(NamedTuple):
    """units x sequences a program owns, how much of a sum it takes at once, stages of the pipeline that loads it, warps; how
    products treat float32: ``"ieee"`` or ``"tf32"``."""

    units: int
    sequences: int
    sum: int = 0
    stages: int = 1
    warps: int = 4
    precision: str = "ieee"


# The table. "ieee" and "tf32" are float32, "half" float16 and bfloat16. Largest tiles first. tests/gpu/test_triton_table.py
# compiles every line for compute capability 8.0, 9.0 and 10.0 and sees to it that no register is spilled.
STEP: dict[tuple[str, str], tuple[Tile, ...]] = {
    ("forward", "half"): (Tile(32, 64, 32, 3, 8), Tile(64, 16, 32, 3, 4), Tile(32, 16, 64, 3, 4), Tile(16, 16, 64, 3, 2)),
    ("forward", "tf32"): (
        Tile(32, 64, 16, 3, 8, "tf32"), Tile(64, 16, 16, 3, 4, "tf32"),
        Tile(32, 16, 32, 3, 4, "tf32"), Tile(16, 16, 32, 3, 2, "tf32"),
    ),
    ("forward", "ieee"): (Tile(32, 32, 16, 2, 8), Tile(32, 16, 16, 2, 4), Tile(16, 16, 16, 2, 8)),
    ("backward", "half"): (Tile(64, 32, 64, 3, 8), Tile(64, 16, 64, 3, 4), Tile(32, 16, 64, 3, 4), Tile(16, 16, 64, 3, 2)),
    ("backward", "tf32"): (
        Tile(64, 32, 32, 3, 8, "tf32"), Tile(64, 16, 32, 3, 4, "tf32"),
        Tile(32, 16, 32, 3, 4, "tf32"), Tile(16, 16, 32, 3, 2, "tf32"),
    ),
    ("backward", "ieee"): (Tile(32, 32, 16, 2, 4), Tile(32, 16, 16, 2, 4), Tile(16, 16, 16, 2, 4)),
}  # fmt: skip
# Whole-sequence kernels by H rounded up to a power of two; what is not there does not fit into the registers of 8.0 or 9.0.
# Backward in TF32 would not either, and would gain nothing at these sizes.
SEQUENCE: dict[tuple[str, str], dict[int, Tile]] = {
    ("forward", "half"): {16: Tile(16, 16, warps=2), 32: Tile(32, 16, warps=8), 64: Tile(64, 16, warps=8)},
    ("forward", "tf32"): {
        16: Tile(16, 16, warps=2, precision="tf32"), 32: Tile(32, 16, warps=8, precision="tf32"),
        64: Tile(64, 16, warps=8, precision="tf32"),
    },
    ("forward", "ieee"): {16: Tile(16, 16, warps=8), 32: Tile(32, 16)},
    ("backward", "half"): {16: Tile(16, 16, warps=2), 32: Tile(32, 16, warps=8)},
    ("backward", "tf32"): {16: Tile(16, 16, warps=8), 32: Tile(32, 16)},
    ("backward", "ieee"): {16: Tile(16, 16, warps=8), 32: Tile(32, 16)},
}  # fmt: skip


def kind_of(dtype: torch.dtype, tf32: bool) -> Literal["half", "tf32", "ieee"]:
    return "half" if dtype != torch.float32 else "tf32" if tf32 else "ieee"


def power_of_two(n: int, least: int = 16) -> int:
    """The smallest that is at least n, and at least ``least``, the smallest side of a tensor core's product."""
    return max(least, 1 << (n - 1).bit_length())


def choose_tile(direction: str, kind: str, k: int, b: int, h: int) -> tuple[str, Tile]:
    """``"sequence"`` or ``"step"`` and the tile, for K=k clients, B=b, H=h and direction ``"forward"`` or ``"backward"``.

    Of the step kernel's tiles the largest that neither computes more than twice the batch nor leaves multiprocessors
    without a program; the smallest if all do.
    """
    tile = SEQUENCE[direction, kind].get(power_of_two(h))
    if tile is not None:
        return "sequence", tile
    for tile in STEP[direction, kind]:
        programs = k * -(-b // tile.sequences) * -(-h // tile.units)
        if tile.sequences < 2 * max(b, 9) and programs >= STREAMING_MULTIPROCESSORS:
            return "step", tile
    return "step", STEP[direction, kind][-1]


def describe(k: int, b: int, h: int, kind: str) -> str:
    sentences = []
    for direction in ("forward", "backward"):
        scan, tile = choose_tile(direction, kind, k, b, h)
        programs = k * -(-b // tile.sequences) * (1 if scan == "sequence" else -(-h // tile.units))
        what = "one kernel for the sequence" if scan == "sequence" else "one kernel a step"
        loaded = f", sums in {tile.sum}s, {tile.stages} stages" if scan == "step" else ""
        sentences.append(
            f"{direction} {what}, {programs} program{'s' * (programs > 1)} of {tile.units} units x {tile.sequences} "
            f"sequences{loaded}, {tile.warps} warps"
        )
    return "; ".join(sentences)
