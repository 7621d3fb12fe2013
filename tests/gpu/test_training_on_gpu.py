"""Local training on a GPU, tested without one: its kernels in Triton's interpreter and through the compiler, and its plans."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from flow_kernels import training
from flow_kernels.training.gpu import tiles

HERE = Path(__file__).parent
KINDS = {"half": ("bf16", "fp16"), "tf32": ("fp32",), "ieee": ("fp32",)}
WIDTHS = (96, 256)  # one block of columns that a program keeps, and several


def interpreted(file: str, least: int) -> None:
    """All tests of a file with TRITON_INTERPRET=1, which must be set before triton is first imported."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", str(HERE / file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= least and "skipped" not in done.stdout


@pytest.mark.triton
def test_kernels_in_the_interpreter() -> None:
    interpreted("test_training_interpreter.py", 30)


@pytest.mark.triton
def test_rounds_in_the_interpreter() -> None:
    interpreted("test_rounds_interpreter.py", 15)


def compiled_head(kernel: str, kind: str, operands: str, arch: int, features: int, two: bool = True) -> Any:
    """What the assembler used for a kernel of the head."""
    from training_aot import compiled

    from flow_kernels.training.gpu import head_kernels

    tile = tiles.head_tile(kernel, kind, features)
    constants: dict[str, Any] = dict(
        TWO=two, SINGLE=tile.single, PRECISION=tile.precision, BM=tile.rows, BV=tile.tokens, BK=tile.sum, STAGES=tile.stages
    )
    if kernel == "forward":
        return compiled(head_kernels.forward, operands, arch, tile.warps, BEST=True, **constants)
    constants["BD"] = tile.columns
    if kernel == "features":
        return compiled(head_kernels.backward_features, operands, arch, tile.warps, **constants)
    wanted = dict(DW0=True, DB0=True, DW1=two, DB1=two)
    return compiled(head_kernels.backward_weights, operands, arch, tile.warps, **wanted, **constants)


def check_head(kernel: str, kind: str, operands: str, arch: int, features: int, two: bool = True) -> None:
    """Nothing is spilled, it fits, and products of 16 bits and TF32 are made by tensor cores."""
    from training_aot import SHARED

    used = compiled_head(kernel, kind, operands, arch, features, two)
    print(kernel, kind, operands, f"sm_{arch}", f"D={features}", used)
    assert used.stack == 0 and used.spills == 0 and used.registers <= 255, used
    assert used.shared <= SHARED[arch], used
    on_tensor_cores = any(used.products[name] for name in ("HMMA", "HGMMA", "UTCHMMA"))
    assert on_tensor_cores == (kind != "ieee"), used


@pytest.mark.triton
@pytest.mark.parametrize("kernel", ["forward", "features", "weights"])
def test_a_kernel_of_the_head_compiles_for_hopper(kernel: str) -> None:
    check_head(kernel, "half", "bf16", 90, 96)


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("features", WIDTHS)
@pytest.mark.parametrize(("kernel", "kind"), tiles.HEAD)
def test_the_table_of_the_head(kernel: str, kind: str, features: int, arch: int) -> None:
    for operands in KINDS[kind]:
        for two in (True, False):
            check_head(kernel, kind, operands, arch, features, two)


SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "prepare": ("head_kernels", dict(BN=128)),
    "rows": ("head_kernels", dict(BEST=True, BN=128)),
    "features": ("head_kernels", dict(TWO=True, HAS_DF=True, HAS_DQ=True, BM=32, BD=64)),
    "forward": ("router_kernels", dict(HARD=False, BM=32, BK=64)),
    "backward_rows": ("router_kernels", dict(BM=32, BK=64)),
    "backward_weights": ("router_kernels", dict(DW=True, DB=True, BM=32, BK=64)),
    "norms": ("sgd_kernels", dict(PAD=32, SIZE=2048)),
    "update": ("sgd_kernels", dict(CLIP=True, PRESENT=True, PULLED=True, MOMENTUM=True, PAD=32, SIZE=2048)),
    "links": ("sgd_kernels", dict(BN=32)),
    "add_rows": ("sgd_kernels", dict(DENSE=False, BW=128)),
    "accumulate": ("sgd_kernels", dict(FRESH=False, SIZE=512)),
}
WARPS = {"norms": 8, "update": 8, "add_rows": 1}


@pytest.mark.triton
@pytest.mark.parametrize("arch", [pytest.param(80, marks=pytest.mark.slow), 90, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SMALL)
def test_what_multiplies_no_matrices_compiles_without_spills(name: str, arch: int) -> None:
    import importlib

    from training_aot import compiled

    module, constants = SMALL[name]
    kernel = getattr(importlib.import_module(f"flow_kernels.training.gpu.{module}"), name)
    used = compiled(kernel, "fp32", arch, WARPS.get(name, 4), **constants)
    print(name, f"sm_{arch}", used)
    assert used.stack == 0 and used.spills == 0, used


def test_which_tile_a_head_gets() -> None:
    assert tiles.head_tile("forward", "half", 96).single and tiles.head_tile("forward", "half", 96).sum == 128
    assert not tiles.head_tile("forward", "half", 129).single and not tiles.head_tile("forward", "ieee", 16).single
    assert tiles.head_tile("features", "half", 17).columns == 32
    for clients, blocks, vocabulary in ((1, 1, 1), (1, 1, 10_004), (10, 5, 10_004), (100, 10, 86), (3, 700, 300)):
        parts, each = tiles.vocabulary_parts(clients, blocks, vocabulary, 64)
        assert each % 64 == 0 and (parts - 1) * each < vocabulary <= parts * each
        assert parts == 1 or clients * blocks * (parts - 1) < 2 * 132


def test_why_the_kernels_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert training.refusal(torch.float32, cpu) == training.refusal(torch.float64, cpu, "cpu") == ""
    assert training.refusal(torch.float32, cpu, "reference") == "the model asks for backend='reference'"
    assert "they take float32 and the input is torch.float64" in training.refusal(torch.float64, cuda)
    assert "dtype='bfloat16' asks for" in training.refusal(torch.float32, cuda, "cuda")
    if not torch.cuda.is_available():
        assert "no GPU" in training.refusal(torch.float32, cuda) and "no GPU" in training.refusal(torch.float32, cuda, "triton")
        assert training.cell_of(cuda, "auto", True, 256) == "triton"
    assert training.cell_of(cpu, "auto", False, 256) == "auto" and training.cell_of(cuda, "triton", True, 64) == "triton"
    training.finish(cpu)
