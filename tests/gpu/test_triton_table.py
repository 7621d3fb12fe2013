"""Every line of the Triton backend's table of tiles, compiled for compute capability 8.0, 9.0 and 10.0: a few minutes.

``pytest -m slow tests/gpu/test_triton_table.py`` runs them. With ``-s`` they print what every kernel uses.
"""

from __future__ import annotations

from typing import Any

import pytest

from flow_kernels.backends.gpu.triton import tiles
from flow_kernels.backends.gpu.triton.tiles import Tile

pytestmark = [pytest.mark.slow, pytest.mark.triton]
DTYPES = {"half": ("bf16", "fp16"), "tf32": ("fp32",), "ieee": ("fp32",)}
LINES = [
    (direction, mode, tile, dtype, hidden)
    for mode, table in (
        ("step", {key: [(256, tile) for tile in line] for key, line in tiles.STEP.items()}),
        ("sequence", {key: line.items() for key, line in tiles.SEQUENCE.items()}),
    )
    for (direction, kind), line in table.items()
    for hidden, tile in line
    for dtype in DTYPES[kind]
]
VARIANTS: list[dict[str, Any]] = [
    dict(ROUTE="global"), dict(REVERSE=False, HAS_LENGTHS=False, lengths=None), dict(H=250), dict(H=257), dict(WIDE=True),
]  # fmt: skip


def ids(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, Tile) else str(value)


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize(("direction", "mode", "tile", "dtype", "hidden"), LINES, ids=ids)
def test_line(direction: str, mode: str, tile: Tile, dtype: str, hidden: int, arch: int) -> None:
    from triton_aot import check, compile_tile

    if mode == "sequence" and arch == 80:  # what is not a power of two costs more registers
        hidden -= 1
    print(direction, mode, ids(tile), dtype, f"sm_{arch}", compile_tile(direction, mode, tile, dtype, arch, hidden))
    check(direction, mode, tile, dtype, arch, hidden)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_variants_of_the_step_kernels(changes: dict[str, Any], direction: str) -> None:
    from triton_aot import check

    check(direction, "step", tiles.STEP[direction, "half"][0], "bf16", 90, 256, **changes)


@pytest.mark.parametrize("mode", ["step", "sequence"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_packed_rows(direction: str, mode: str) -> None:
    from triton_aot import compile_tile

    lines = tiles.STEP[direction, "half"] if mode == "step" else list(tiles.SEQUENCE[direction, "half"].values())
    for arch in (80, 90, 100):
        compile_tile(direction, mode, lines[-1], "bf16", arch, 64, PACKED=True)
