"""Products of many clients by cuBLAS and by Triton, on the device: `python -m benchmarks.gpu.grouped FILE SECONDS`

Every product of the grid of flow_kernels/training/gpu/grouped.py is compared with float64 both ways, then timed, both taking
turns, as CUDA graphs: local training records its updates. At the end it prints the table that ought to replace the one in that
module, and what the model on paper had said. Products that FILE holds from an earlier call are not measured again.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.timing import Effort, compare
from benchmarks.gpu import device
from benchmarks.gpu.device import OnDevice, captured, first_line
from flow.storage.files import write_json
from flow_kernels.backends.gpu.triton import interpreted
from flow_kernels.training.gpu import grouped
from flow_kernels.training.gpu.grouped import KINDS, SHAPES, TABLE, Kind, Shape, Sizes
from flow_kernels.training.gpu.grouped import Path as Way

WAYS: tuple[Way, ...] = ("cublas", "triton")
EFFORT, STAND_IN = Effort(seconds=0.005, turns=(3, 3), budget=0.1), Effort(seconds=0.001, turns=(1, 1), budget=0.0)
AGREE = {"half": 1e-4, "rounded": 1e-4, "tf32": 5e-3, "ieee": 1e-5}
"""What the norm of the error may be, of the norm of the result: operands of 16 bits are rounded before, for float64 too."""
TINY: dict[Shape, tuple[Sizes, ...]] = {
    "thin": (Sizes(2, 3, 5, 7),), "narrow": (Sizes(2, 20, 18, 9),), "wide": (Sizes(1, 33, 40, 17),),
}  # fmt: skip


def todo(gpu: bool) -> list[tuple[Shape, Kind, Sizes]]:
    """Every product of the table's lines; those of a round's usual number of clients first."""
    listed = [(s, kind, sizes) for s in SHAPES for kind in KINDS for sizes in (grouped.grid(s) if gpu else TINY[s])]
    return sorted(listed, key=lambda product: abs(product[2].clients - 10))


def operands(sizes: Sizes, kind: Kind, where: torch.device) -> tuple[Tensor, Tensor, torch.dtype]:
    """Both operands, and the format in which they are multiplied: bfloat16, in the interpreter float16."""
    half = torch.float16 if interpreted() else torch.bfloat16
    form = half if kind in ("half", "rounded") else torch.float32
    k, m, n, depth = sizes
    a, b = (torch.randn(k, *side, device=where) for side in ((m, depth), (depth, n)))
    return (a.to(form), b.to(form), form) if kind == "half" else (a, b, form)


def measured(shape: Shape, kind: Kind, sizes: Sizes, where: torch.device) -> dict[str, Any]:
    """One product both ways: errors, times, and what was expected.

    Raises:
        RuntimeError: one of the ways computes something else.
    """
    a, b, form = operands(sizes, kind, where)
    exact, out = torch.bmm(a.to(form).double(), b.to(form).double()), torch.empty(*sizes[:3], device=where)
    torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
    row: dict[str, Any] = {"shape": shape, "kind": kind, "sizes": list(sizes), "errors": {}}
    contenders = []
    try:
        for way in WAYS:

            def call(way: Way = way) -> Tensor:
                return grouped.multiply(a, b, out, operands=form, path=way)

            error = float((call().double() - exact).norm() / exact.norm())
            row["errors"][way] = error
            if not error <= AGREE[kind]:
                raise RuntimeError(f"{shape}, {kind}, {list(sizes)}: {way} is off by {error:.1e} of the norm")
            contenders.append(OnDevice(way, captured(call, where) if where.type == "cuda" else call, where))
        result = compare(contenders[0], contenders[1:], EFFORT if where.type == "cuda" else STAND_IN)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    row["us"] = {way: 1e6 * result["contenders"][way]["seconds"]["median"] for way in WAYS}
    row["paper_us"] = {way: 1e6 * grouped.on_paper(sizes, kind, way).seconds for way in WAYS}
    return row


def table_of(rows: Sequence[dict[str, Any]]) -> dict[tuple[Shape, Kind], Way]:
    """What ought to decide by these rows: of the lines that were measured."""
    factors: dict[tuple[Shape, Kind], list[float]] = {}
    for row in rows:
        factors.setdefault((row["shape"], row["kind"]), []).append(math.log(row["us"]["triton"] / row["us"]["cublas"]))
    return {line: grouped.chosen_by(own) for line, own in factors.items()}


def as_source(table: dict[tuple[Shape, Kind], Way]) -> str:
    """The table in the words of the module; a line that differs from what stands there says so."""
    lines = [
        f'    ("{shape}", "{kind}"): "{way}",{"" if TABLE[shape, kind] == way else f"  # was {TABLE[shape, kind]}"}'
        for (shape, kind), way in table.items()
    ]
    return "\n".join(["TABLE: dict[tuple[Shape, Kind], Path] = {", *lines, "}"])


def main(file: Path, seconds: float) -> int:
    where = device.device()
    report: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"rows": []}
    report["failed"], deadline = [], time.monotonic() + seconds
    known = {(row["shape"], row["kind"], *row["sizes"]) for row in report["rows"]}
    products = todo(where.type == "cuda")
    report["products"] = len(products)
    for number, (shape, kind, sizes) in enumerate(products):
        if (shape, kind, *sizes) in known:
            continue
        if time.monotonic() > deadline:
            print(f"{len(products) - number} of {len(products)} products are left: no time")
            break
        try:
            report["rows"].append(measured(shape, kind, sizes, where))
        except RuntimeError as error:
            report["failed"].append(f"{shape}, {kind}, {list(sizes)}: {first_line(error)}")
        report["table"] = [[*line, way] for line, way in table_of(report["rows"]).items()]
        write_json(file, report)
    print("on paper:", grouped.explain_products(), sep="\n")
    print("by these measurements:", as_source(table_of(report["rows"])), *report["failed"], sep="\n")
    write_json(file, report)
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else math.inf))
