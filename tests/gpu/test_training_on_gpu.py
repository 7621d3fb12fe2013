"""Local training on a GPU, tested without one: its kernels in Triton's interpreter and through the compiler, and its plans."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from flow.data import Population, Vocabulary
from flow.data.tokens import SPECIALS
from flow.engine.task import clients_at_once
from flow.model.language_model import LanguageModel, parameter_counts
from flow_kernels import training
from flow_kernels.training import UpdateSizes, plan
from flow_kernels.training.gpu import tiles

HERE = Path(__file__).parent
KINDS = {"half": ("bf16", "fp16"), "tf32": ("fp32",), "ieee": ("fp32",)}
WIDTHS = (96, 256)  # one block of columns that a program keeps, and several


def interpreted(file: str, least: int, marker: str = "not slow") -> None:
    """The tests of a file with this marker, with TRITON_INTERPRET=1, which must be set before triton is first imported."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-m", marker, "-p", "no:cacheprovider", str(HERE / file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= least and "skipped" not in done.stdout


@pytest.mark.long
@pytest.mark.triton
def test_kernels_in_the_interpreter() -> None:
    interpreted("test_training_interpreter.py", 30)


@pytest.mark.long
@pytest.mark.triton
def test_rounds_in_the_interpreter() -> None:
    interpreted("test_rounds_interpreter.py", 24)


@pytest.mark.slow
@pytest.mark.triton
def test_more_rounds_in_the_interpreter() -> None:
    interpreted("test_rounds_interpreter.py", 15, "slow")


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
    "adam": ("adam_kernels", dict(CLIP=True, PRESENT=True, PAD=32, SIZE=2048)),
    "links": ("sgd_kernels", dict(BN=32)),
    "add_rows": ("sgd_kernels", dict(DENSE=False, BW=128)),
    "accumulate": ("sgd_kernels", dict(FRESH=False, SIZE=512)),
}
ONES = {
    "rows": dict(PARTS=1), "features": dict(PARTS=1, D=1, F_ROW=1), "norms": dict(COUNT=1, BLOCKS=1),
    "update": dict(COUNT=1, BLOCKS=1), "adam": dict(COUNT=1, BLOCKS=1), "links": dict(N=1, V=1),
    "add_rows": dict(N=1, V=1, WIDTH=1),
    "accumulate": dict(K=1, N=1),
}  # fmt: skip
"""Numbers of a launch that Triton takes as constants where they are 1."""
WARPS = {"norms": 8, "update": 8, "adam": 8, "add_rows": 1}


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
    if name in ONES and arch == 90:
        compiled(kernel, "fp32", arch, WARPS.get(name, 4), **constants, **ONES[name])


def test_which_tile_a_head_gets() -> None:
    assert tiles.head_tile("forward", "half", 96).single and tiles.head_tile("forward", "half", 96).sum == 128
    assert not tiles.head_tile("forward", "half", 129).single and not tiles.head_tile("forward", "ieee", 16).single
    assert tiles.head_tile("features", "half", 17).columns == 32
    for clients, blocks, vocabulary in ((1, 1, 1), (1, 1, 10_004), (10, 5, 10_004), (100, 10, 86), (3, 700, 300)):
        parts, each = tiles.vocabulary_parts(clients, blocks, vocabulary, 64)
        assert each % 64 == 0 and (parts - 1) * each < vocabulary <= parts * each
        assert parts == 1 or clients * blocks * (parts - 1) < 2 * 132


STACKOVERFLOW = UpdateSizes(10, 16, 20, 96, 670, 10_004, 96, filled=0.7)
"""10 clients of the sizes of google-research/federated."""


def test_the_memory_of_an_update() -> None:
    counts = parameter_counts(10_004, 96, 670, 96)
    own = STACKOVERFLOW.parameters(2, 2)
    for group in own:
        numbers = sum(count for name, count in counts.items() if name.startswith(group) and "router" not in name)
        assert own[group] == numbers, group
    single, many = (training.update_memory(dataclasses.replace(STACKOVERFLOW, clients=k)) for k in (1, 10))
    assert all(many[part] <= 10 * single[part] for part in single)
    assert many["parameters"] == 10 * single["parameters"]
    small = parameter_counts(10_004, 96, 670, 96, routed_head=False)
    plain = sum(count for name, count in small.items() if "local" not in name and "router" not in name)
    assert many["parameters"] == 4 * 10 * 2 * plain
    pulled = training.update_memory(STACKOVERFLOW, momentum=True, anchor=True)
    assert pulled["gradients"] > many["gradients"] and pulled["momentum and anchor"] == 2 * pulled["gradients"]
    routers = training.update_memory(dataclasses.replace(STACKOVERFLOW, trained=frozenset(), experts=2, head_experts=2))
    assert not routers["gradients"] and routers["parameters"] > many["parameters"]


def test_the_parts_of_an_update_add_up() -> None:
    """Operations are those of flow/model/flops.py for the rows that are computed, but for scores that are computed again."""
    own = {part.name: part for part in plan.parts(STACKOVERFLOW)}
    h, rows = 670, 10 * 16 * 20
    assert own["gru: scan forward"].operations == rows * 6 * h * h and own["gru: scan forward"].launches == 20
    assert own["gru: products before"].operations == rows * 6 * h * 96
    assert own["head: loss"].operations == pytest.approx(0.7 * rows * 2 * 96 * 10_004)
    assert own["head: gradients of weights"].operations == pytest.approx(2 * own["head: loss"].operations, rel=0.02)
    times = [plan.seconds(dataclasses.replace(STACKOVERFLOW, products=kind)) for kind in ("half", "tf32", "ieee")]
    assert times == sorted(times) and 2e-4 < times[0] < 2e-3
    assert plan.seconds(STACKOVERFLOW, graph=False) > times[0]
    routers = {part.name for part in plan.parts(dataclasses.replace(STACKOVERFLOW, trained=frozenset(), head_experts=2))}
    assert "gru: scan backward" not in routers and "head: gradients of weights" not in routers
    table = training.explain_update(STACKOVERFLOW)
    assert table.splitlines()[0].split() == ["part", "MB", "GFLOP", "launches", "us"]


def test_a_run_on_paper() -> None:
    local = dataclasses.replace(STACKOVERFLOW, trained=frozenset[plan.Group](("gru", "head")))
    routers = dataclasses.replace(STACKOVERFLOW, experts=2, head_experts=2, trained=frozenset[plan.Group]())
    text = training.explain_run(STACKOVERFLOW, rounds=2000, sequences=400)
    for name, products in plan.PRODUCTS.items():
        graphs, python = (
            sum(
                count * plan.seconds(dataclasses.replace(sizes, products=products), graph=graph)
                for sizes, count in ((STACKOVERFLOW, 75), (local, 114), (routers, 7))
            )
            for graph in (True, False)
        )
        line = next(line for line in text.splitlines() if line.startswith(name))
        times = [f"{1000 * graphs:.0f}", "ms", f"{1000 * python:.0f}", "ms"]
        times += [f"{2000 * graphs / 60:.1f}", "min", f"{2000 * python / 60:.1f}", "min"]
        assert line.removeprefix(name).split() == times
    gate = 7 * max(plan.GATE_OPERATIONS * 12e-6, 3 * plan.GATE_PASSES * 4 * 3200 * 10_004 / 4.8e12)
    assert f"gate at the output: {1000 * gate:.0f} ms a round, {2000 * gate / 60:.1f} min" in text
    last = text.splitlines()[-1]
    assert last.startswith("in all, bfloat16: ") and last.endswith(" min from Python")
    assert all(float(minutes) < 30 for minutes in last.split()[3::4]), "the goal"


def test_how_many_clients_are_trained_at_once() -> None:
    population = Population("tiny", (), Vocabulary((*SPECIALS, *map(str, range(10_000))), "word"), 20, "made up")
    model = LanguageModel(10_004, 96, 670, projection_dim=96, device="meta")
    many = [clients_at_once(model, 16, population, free) for free in (10**9, 10**10, 141 * 10**9)]
    assert many[0] < many[1] < many[2] and many[0] >= 1 and 100 < many[2] < 2000
    assert clients_at_once(model, 16, population, 10**6) == 0


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
