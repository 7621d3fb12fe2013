"""The layer over whole sequences against everything else: the sizes of the goals, then dtypes, one expert, many clients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.common.cases import Case
from benchmarks.layer.lab import EVERYTHING, Lab

SHAPES = [(4, 20, 64, 64), (16, 20, 96, 256), (16, 20, 96, 670), (64, 80, 128, 512)]  # B, T, I, H
SMALL, MIDDLE = Case(4, 20, 64, 64), Case(16, 20, 96, 256)
WITHOUT_COMPILING = tuple(kind for kind in EVERYTHING if not kind.startswith("compiled"))
CLIENTS = [(8, 16, 20, 96, 256), (64, 2, 20, 96, 64)]  # K, B, T, I, H


def name(shape: tuple[int, ...]) -> str:
    return " ".join(letter + str(size) for letter, size in zip("KBTIH"[-len(shape) :], shape, strict=True))


def run(lab: Lab, group: str, case: Case, against: tuple[str, ...], benchmark: Any) -> None:
    ours = lab.measure(group, case, against)
    benchmark.extra_info |= case.as_dict()
    benchmark.pedantic(ours.call, rounds=3, iterations=1)


@pytest.mark.parametrize("mode", ["training", "forward"])
@pytest.mark.parametrize("shape", SHAPES, ids=name)
def test_shapes(shape: tuple[int, int, int, int], mode: str, threads: int, lab: Lab, benchmark: Any) -> None:
    if lab.quick and shape[3] > 256:
        pytest.skip("quick: too long")
    case = Case(*shape, mode=mode, threads=threads)
    run(lab, mode, case, EVERYTHING, benchmark)


@pytest.mark.parametrize("mode", ["training", "forward"])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_dtypes(dtype: str, mode: str, threads: int, lab: Lab, benchmark: Any) -> None:
    case = replace(SMALL if lab.quick else MIDDLE, dtype=dtype, mode=mode, threads=threads)
    run(lab, "dtype", case, ("eager", "hoisted", "GRU", "jax scan", "jax hoisted"), benchmark)


@pytest.mark.parametrize("mode", ["training", "forward"])
def test_one_expert(mode: str, threads: int, lab: Lab, benchmark: Any) -> None:
    case = replace(SMALL if lab.quick else MIDDLE, route="global", mode=mode, threads=threads)
    run(lab, "route", case, WITHOUT_COMPILING, benchmark)


@pytest.mark.parametrize("shape", CLIENTS, ids=name)
def test_clients(shape: tuple[int, int, int, int, int], threads: int, lab: Lab, benchmark: Any) -> None:
    clients, batch, steps, inputs, hidden = shape
    if lab.quick and clients > 8:
        pytest.skip("quick: too long")
    case = Case(batch, steps, inputs, hidden, clients=clients, threads=threads)
    run(lab, "clients", case, WITHOUT_COMPILING, benchmark)


@pytest.mark.parametrize("shape", [(8, 16, 20, 96, 256), (16, 20, 96, 256)], ids=name)
def test_two_threads_against_one(shape: tuple[int, ...], lab: Lab, benchmark: Any) -> None:
    if lab.machine["cores"] < 2:
        pytest.skip("one core")
    *clients, batch, steps, inputs, hidden = shape
    two = lab.measure_threads(Case(batch, steps, inputs, hidden, clients=clients[0] if clients else 0))
    benchmark.pedantic(two.call, rounds=3, iterations=1)
