"""Which tiles the training kernels take: a table and a few rules, nothing measured on anybody's data. Plain Python."""

from __future__ import annotations

from typing import NamedTuple

from flow_kernels.backends.gpu.triton.tiles import STREAMING_MULTIPROCESSORS, power_of_two


class Tile(NamedTuple):
    """Rows x tokens of scores that a program has at once; columns of the features that a product sums over at once, and columns
    of a gradient that a program owns; stages of the pipeline that loads weights; warps; how float32 is multiplied."""

    rows: int
    tokens: int
    sum: int
    columns: int
    stages: int
    warps: int
    precision: str = "ieee"


SINGLE = 128
"""Columns up to which a program keeps all features of its rows."""

# By kernel and kind of operands; "half" is bfloat16 and float16. tests/gpu/test_training_on_gpu.py compiles every line.
HEAD: dict[tuple[str, str], Tile] = {
    ("forward", "half"): Tile(64, 64, 32, 0, 3, 4),
    ("forward", "tf32"): Tile(64, 64, 32, 0, 2, 8, "tf32"),
    ("forward", "ieee"): Tile(32, 32, 16, 0, 2, 4),
    ("features", "half"): Tile(32, 64, 64, 128, 2, 8),
    ("features", "tf32"): Tile(32, 32, 16, 128, 2, 8, "tf32"),
    ("features", "ieee"): Tile(32, 16, 16, 64, 1, 8),
    ("weights", "half"): Tile(32, 64, 32, 128, 1, 8),
    ("weights", "tf32"): Tile(32, 64, 16, 128, 1, 8, "tf32"),
    ("weights", "ieee"): Tile(32, 32, 16, 64, 1, 8),
}


class Launch(NamedTuple):
    """A tile fitted to a problem."""

    rows: int
    tokens: int
    sum: int
    columns: int
    single: bool
    stages: int
    warps: int
    precision: str


def head_tile(kernel: str, kind: str, features: int) -> Launch:
    """The tile of kernel "forward", "features" or "weights" for D=features; "ieee" never keeps all columns."""
    tile, width = HEAD[kernel, kind], power_of_two(features)
    single = kind != "ieee" and width <= SINGLE
    return Launch(
        tile.rows, tile.tokens, width if single else min(tile.sum, width), min(tile.columns, width), single, tile.stages,
        tile.warps, tile.precision,
    )  # fmt: skip


def vocabulary_parts(clients: int, blocks: int, vocabulary: int, tokens: int) -> tuple[int, int]:
    """(parts, tokens a part): the vocabulary is cut until every multiprocessor has two programs, or a part is one tile.

    Args:
        blocks: programs of a client without a cut.
        tokens: of a tile.
    """
    tiles = -(-vocabulary // tokens)
    parts = min(tiles, max(1, -(-2 * STREAMING_MULTIPROCESSORS // (clients * blocks))))
    each = -(-tiles // parts) * tokens
    return -(-vocabulary // each), each
