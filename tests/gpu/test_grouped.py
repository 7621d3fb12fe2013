"""Products of many clients: the table that decides what multiplies, the model on paper behind it, and Triton's kernel compiled.

What they compute is tested in test_training_interpreter.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import grouped as measured
from benchmarks.gpu import tables
from flow_kernels import training
from flow_kernels.training.gpu import grouped
from flow_kernels.training.gpu.grouped import KINDS, SHAPES, Kind, Shape

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_table_of_products_is_what_the_model_on_paper_says(shape: Shape, kind: Kind) -> None:
    assert grouped.TABLE[shape, kind] == grouped.best_on_paper(shape, kind)
    assert all(sizes.shape == shape for sizes in grouped.grid(shape)), "the grid stands for its line"


def test_products_on_paper_by_hand() -> None:
    """One product, all of it counted: 10 clients of 320 x 2 by 96."""
    sizes = grouped.Sizes(10, 320, 2, 96)
    library, own = (grouped.on_paper(sizes, "ieee", path) for path in ("cublas", "triton"))
    assert library.operations == pytest.approx(1 * 2 * 64 * 64 * 96 / (0.6 * 60e12 / 132))  # 50 programs, one wave
    assert own.operations == pytest.approx(1 * 2 * 64 * 16 * 96 / (0.4 * 60e12 / 132))
    assert library.traffic == own.traffic == pytest.approx(4 * 10 * (96 * 322 + 640) / 4.8e12)
    rounded = [grouped.on_paper(sizes, "rounded", path) for path in ("cublas", "triton")]
    assert [cost.launches for cost in rounded] == pytest.approx([3 * 1.7e-6, 1.7e-6]) and rounded[0].limit == "launches"
    text = training.explain_products()
    assert len(text.splitlines()) == 1 + len(grouped.TABLE)
    assert text in (ROOT / "docs" / "gpu-kernels.md").read_text(encoding="utf-8")


@pytest.mark.triton
@pytest.mark.parametrize("arch", [pytest.param(80, marks=pytest.mark.slow), 90, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_products_compile_without_spills(kind: Kind, arch: int) -> None:
    import triton.language as tl
    from training_aot import SHARED, compiled

    from flow_kernels.training.gpu import grouped_kernels

    half = kind in ("half", "rounded")
    for sides in ((1, 670, 320), (320, 2, 96), (320, 24, 96), (320, 670, 96)):
        tile = grouped.tile_of(grouped.Sizes(10, *sides), kind)
        used = compiled(
            grouped_kernels.grouped, "bf16" if kind == "half" else "fp32", arch, tile.warps, ADD=True,
            FORMAT=tl.bfloat16 if half else tl.float32, PRECISION="tf32" if kind == "tf32" else "ieee", BM=tile.rows,
            BN=tile.columns, BK=tile.sum, STAGES=tile.stages, a_sum=1, b_column=1, out_column=1,
        )  # fmt: skip
        print(kind, sides, f"sm_{arch}", used)
        assert used.stack == 0 and used.spills == 0 and used.shared <= SHARED[arch], used
        assert any(used.products[name] for name in ("HMMA", "HGMMA", "UTCHMMA")) == (kind != "ieee"), used


def test_products_measured_either_way_make_a_table(tmp_path: Path) -> None:
    """The benchmark's step on tiny sizes, Triton in its interpreter; a second call measures nothing again."""
    file = tmp_path / "products.json"
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "FLOW_GPU_DEVICE": "cpu"}
    command = [sys.executable, "-m", "benchmarks.gpu.grouped", str(file), "120"]
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        report = json.loads(file.read_text())
        assert len(report["rows"]) == report["products"] == len(grouped.TABLE) and not report["failed"]
    assert {(shape, kind) for shape, kind, _ in report["table"]} == set(grouped.TABLE)
    assert all(max(row["errors"].values()) < 1e-5 for row in report["rows"])
    assert training.explain_products() in done.stdout
    text = "\n".join(tables.products(report))
    assert "| thin | half | 1 |" in text and "12 of 12 products were measured." in text


def test_the_faster_one_is_taken_and_a_change_is_marked() -> None:
    def row(shape: Shape, kind: Kind, cublas: float, triton: float) -> dict[str, Any]:
        return {"shape": shape, "kind": kind, "us": {"cublas": cublas, "triton": triton}}

    rows = [row("thin", "ieee", 10, 5), row("thin", "ieee", 10, 12), row("wide", "ieee", 10, 5), row("thin", "half", 10, 9.5)]
    table = measured.table_of(rows)
    assert table == {("thin", "ieee"): "triton", ("wide", "ieee"): "triton", ("thin", "half"): "cublas"}
    source = measured.as_source(table)
    assert '("wide", "ieee"): "triton",  # was cublas' in source and '("thin", "ieee"): "triton",\n' in source


def test_a_product_that_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(a: Tensor, b: Tensor, out: Tensor, **_: Any) -> Tensor:
        return torch.bmm(a.float(), b.float(), out=out).mul_(1.01)

    monkeypatch.setattr(grouped, "multiply", spoilt)
    with pytest.raises(RuntimeError, match=r"thin, ieee, \[2, 3, 5, 7\]: cublas is off by 1.0e-02 of the norm"):
        measured.measured("thin", "ieee", grouped.Sizes(2, 3, 5, 7), torch.device("cpu"))
