"""Products of K clients with matrices of their own: by cuBLAS' batched calls or by a kernel in Triton, as a table says.

The table is data. It follows from a model on paper, :func:`on_paper`, and tests hold it to that. Nothing is timed on anybody's
data. `benchmarks/gpu.sh OUT products` measures both on a device and prints the table that ought to replace this one. That has
not happened yet.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from flow_kernels.backends.gpu import products
from flow_kernels.backends.gpu.triton import interpreted
from flow_kernels.backends.gpu.triton.tiles import STREAMING_MULTIPROCESSORS, kind_of, power_of_two
from flow_kernels.training.gpu.arguments import rounded
from flow_kernels.training.gpu.paper import H200, Device

Path = Literal["cublas", "triton"]
Shape = Literal["thin", "narrow", "wide"]
Kind = Literal["half", "rounded", "tf32", "ieee"]
SHAPES: tuple[Shape, ...] = ("thin", "narrow", "wide")
KINDS: tuple[Kind, ...] = ("half", "rounded", "tf32", "ieee")
THIN, NARROW = 16, 32

TABLE: dict[tuple[Shape, Kind], Path] = {
    ("thin", "half"): "cublas", ("narrow", "half"): "cublas", ("wide", "half"): "cublas",
    ("thin", "rounded"): "triton", ("narrow", "rounded"): "triton", ("wide", "rounded"): "triton",
    ("thin", "tf32"): "cublas", ("narrow", "tf32"): "cublas", ("wide", "tf32"): "cublas",
    ("thin", "ieee"): "triton", ("narrow", "ieee"): "triton", ("wide", "ieee"): "cublas",
}  # fmt: skip
"""What decides. Shapes by the smaller side of the result: "thin" up to 16, "narrow" up to 32, "wide" beyond. Kinds: "half", 16
bits; "rounded", float32 that is multiplied as 16 bits, for which cuBLAS needs a copy before; "tf32" and "ieee", float32."""

GRID: dict[Shape, tuple[tuple[int, int, int], ...]] = {
    "thin": ((1, 96, 320), (1, 670, 320), (320, 2, 96), (320, 16, 96), (16, 96, 320)),
    "narrow": ((320, 24, 96), (24, 96, 320), (320, 32, 96), (96, 32, 320)),
    "wide": ((320, 96, 670), (96, 670, 320), (320, 670, 96), (670, 96, 320), (1340, 96, 320), (2010, 670, 320)),
}
"""Rows, columns and the length of the sums of products that stand for their shape: those of local training, 16 sequences of 20
tokens, with 96 features and 670 units, and with few units."""
CLIENTS = (1, 10, 100)
MARGIN = 0.9
"""Triton is taken where it needs at most this share of the time of cuBLAS, which others have tuned."""


class Sizes(NamedTuple):
    """[K, m, k] x [K, k, n]"""

    clients: int
    rows: int
    columns: int
    sum: int

    @property
    def shape(self) -> Shape:
        """Its line of the table."""
        least = min(self.rows, self.columns)
        return "thin" if least <= THIN else "narrow" if least <= NARROW else "wide"


class Tile(NamedTuple):
    """What a program owns of the result, and how much of a sum it takes at once; stages of the pipeline that loads it."""

    rows: int
    columns: int
    sum: int
    stages: int
    warps: int


LIBRARY = Tile(64, 64, 32, 1, 4)
"""The smallest tile that cuBLAS is assumed to have."""


def tile_of(sizes: Sizes, kind: Kind) -> Tile:
    """The tile of Triton's kernel."""
    rows, columns = (min(64, power_of_two(n)) for n in (sizes.rows, sizes.columns))
    return Tile(rows, columns, 16 if kind == "ieee" else 32, 2, 4)


class Cost(NamedTuple):
    """A product on paper, in seconds of each of the three that may limit it; it takes as long as the largest."""

    operations: float
    traffic: float
    launches: float

    @property
    def seconds(self) -> float:
        """The largest."""
        return max(self)

    @property
    def limit(self) -> str:
        """The name of the largest."""
        return self._fields[self.index(self.seconds)]


def on_paper(sizes: Sizes, kind: Kind, path: Path, device: Device = H200) -> Cost:
    """What a product costs.

    Operations are those of whole tiles, in whole waves of programs over the multiprocessors. Bytes are those of both operands
    and the result once, and of the copies before, which are launches as well.
    """
    k, m, n, depth = sizes
    tile = LIBRARY if path == "cublas" else tile_of(sizes, kind)
    programs = k * math.ceil(m / tile.rows) * math.ceil(n / tile.columns)
    of_one = 2 * tile.rows * tile.columns * math.ceil(depth / tile.sum) * tile.sum
    rate = device.rate("half" if kind == "rounded" else kind, path == "cublas") / STREAMING_MULTIPROCESSORS
    numbers, copies = k * depth * (m + n), 0
    each = 2 if kind == "half" else 4
    if kind == "rounded" and path == "cublas":
        each, copies = 4 + 2 + 2, 2
    moved = each * numbers + 4 * k * m * n
    operations = math.ceil(programs / STREAMING_MULTIPROCESSORS) * of_one / rate
    return Cost(operations, moved / device.bandwidth, (1 + copies) * device.node)


def best_on_paper(shape: Shape, kind: Kind, device: Device = H200) -> Path:
    """What the model says of a line of the table: the times of its grid, relative to cuBLAS' and averaged as factors."""
    factors = [
        math.log(on_paper(sizes, kind, "triton", device).seconds / on_paper(sizes, kind, "cublas", device).seconds)
        for sizes in grid(shape)
    ]
    return chosen_by(factors)


def chosen_by(factors: list[float]) -> Path:
    """The path of a line; factors: the logarithms of Triton's time over that of cuBLAS, one a product of the grid."""
    return "triton" if math.exp(sum(factors) / len(factors)) <= MARGIN else "cublas"


def grid(shape: Shape) -> list[Sizes]:
    """The products that stand for a shape."""
    return [Sizes(k, *sides) for k, sides in itertools.product(CLIENTS, GRID[shape])]


def explain_products(device: Device = H200) -> str:
    """The table with the times on paper behind it, of a product of each line with 10 clients; nothing was measured."""
    lines = [
        f"{'shape':<8}{'operands':<10}{'by':<8}{'example':<20}{'cublas, us':>12}{'limit':>12}{'triton, us':>12}{'limit':>12}"
    ]
    for (shape, kind), path in TABLE.items():
        sizes = Sizes(10, *GRID[shape][0 if shape != "thin" else 2])
        library, own = (on_paper(sizes, kind, way, device) for way in ("cublas", "triton"))
        example = f"{sizes.rows} x {sizes.columns} by {sizes.sum}"
        lines.append(
            f"{shape:<8}{kind:<10}{path:<8}{example:<20}{1e6 * library.seconds:>12.1f}{library.limit:>12}"
            f"{1e6 * own.seconds:>12.1f}{own.limit:>12}"
        )
    return "\n".join(lines)


def multiply(
    a: Tensor, b: Tensor, out: Tensor | None = None, *, operands: torch.dtype | None = None, add: bool = False,
    path: Path | None = None,
) -> Tensor:  # fmt: skip
    """[K, m, k] x [K, k, n] -> float32 [K, m, n]; on tensors of the CPU for Triton's interpreter alone.

    Args:
        a, b: of any strides.
        out: where to write; None: a new tensor.
        operands: the format in which they are multiplied, float32 or one of 16 bits; None: that of `a`, which is that of `b`.
        add: whether `out` is added to.
        path: what multiplies; None: what the table says.
    """
    form = a.dtype if operands is None else operands
    kind: Kind = kind_of(form, products.tf32())
    if kind == "half" and (a.dtype, b.dtype) != (form, form):
        kind = "rounded"
    sizes = Sizes(len(a), a.shape[1], b.shape[2], a.shape[2])
    if path is None:
        path = TABLE[sizes.shape, kind] if a.is_cuda or interpreted() else "cublas"
    if out is None:
        out, add = a.new_empty(sizes[:3], dtype=torch.float32), False
    if path == "triton":
        return _by_triton(a, b, out, form, kind, sizes, add)
    return _by_library(rounded(a, form), rounded(b, form), out, add)


def _by_library(a: Tensor, b: Tensor, out: Tensor, add: bool) -> Tensor:
    """torch's batched products, which are those of cuBLAS on a GPU."""
    if not a.is_cuda:  # on the CPU torch multiplies 16 bits into 16 bits only
        a, b = a.float(), b.float()
    if a.dtype == torch.float32:
        return out.baddbmm_(a, b) if add else torch.bmm(a, b, out=out)
    if not add and out.is_contiguous():
        return torch.bmm(a, b, out_dtype=torch.float32, out=out)
    made = torch.bmm(a, b, out_dtype=torch.float32)  # whether that form writes a part of a tensor was never tried
    return out.add_(made) if add else out.copy_(made)


def _by_triton(a: Tensor, b: Tensor, out: Tensor, form: torch.dtype, kind: Kind, sizes: Sizes, add: bool) -> Tensor:
    import triton.language as tl

    from flow_kernels.training.gpu import grouped_kernels

    k, m, n, depth = sizes
    tile = tile_of(sizes, kind)
    grouped_kernels.grouped[math.ceil(m / tile.rows) * math.ceil(n / tile.columns), k](
        a, b, out, m, n, depth, *a.stride(), *b.stride(), *out.stride(), ADD=add,
        FORMAT={torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}[form],
        PRECISION="tf32" if kind == "tf32" else "ieee", BM=tile.rows, BN=tile.columns, BK=tile.sum, STAGES=tile.stages,
        num_warps=tile.warps,
    )  # fmt: skip
    return out
