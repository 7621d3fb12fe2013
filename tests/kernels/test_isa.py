"""One instruction set forced for a whole process, as a user would force it: each must stand on its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import forked
import pytest

from flow_kernels.backends import cpu

ISAS = [isa for isa in cpu.ISAS if cpu._C.has_isa(isa)]  # slowest first

# K, T, B, I, H around the edges: of a vector (4, 8, 16 lanes) in I and H, of a panel of three, of 4 or 8 rows in B, of K, B and
# T on 2 threads, one of everything
SIZES = [
    (1, 1, 1, 1, 1), (1, 3, 2, 2, 3), (1, 2, 3, 15, 4), (2, 2, 4, 16, 5), (1, 3, 5, 17, 8), (3, 2, 7, 4, 9), (1, 2, 8, 31, 12),
    (1, 4, 9, 3, 15), (1, 2, 11, 33, 16), (2, 1, 13, 8, 17), (1, 2, 16, 47, 24), (5, 2, 3, 48, 31), (1, 3, 17, 49, 33),
    (1, 2, 19, 5, 47), (4, 1, 2, 24, 48), (1, 2, 6, 63, 49), (1, 1, 25, 1, 65), (1, 17, 1, 65, 7),
]  # fmt: skip

WORK = """
import itertools, json, sys
import torch
from problems import assert_as_exact_as_torch, make
import flow_kernels

sizes = json.loads(sys.argv[1])
routings = [("mixture", "soft"), ("mixture", "hard"), ("mixture", "straight_through"), ("global", "soft"), ("local", "soft")]
for n, size in enumerate(sizes):
    torch.set_num_threads(1 + n % 2)
    route, routing = routings[n % 5]
    bias, lengths, batch_first, reverse = (bool(n & bit) for bit in (1, 2, 4, 8))
    problem = make(
        *size, bias=bias, lengths=lengths, batch_first=batch_first, reverse=reverse, route=route, routing=routing,
        temperature=1.3, seed=n,
    )
    dtypes = (torch.float32, torch.float64)
    assert_as_exact_as_torch(problem, {t: {f"{size} {t} {problem.options}": problem.run("cpu", t)} for t in dtypes})
print(flow_kernels.backends()["cpu"], len(sizes))
"""


def python(code: str, *arguments: str, **env: str) -> CompletedProcess[str]:
    env = {n: v for n, v in os.environ.items() if n != "FLOW_CPU_ISA"} | env
    return forked.python(code, *arguments, env=env, paths=[str(Path(__file__).parents[1] / "support")])


@pytest.mark.parametrize("isa", ISAS)
def test_forward_and_every_gradient_with_one_forced(isa: str) -> None:
    done = python(WORK, json.dumps(SIZES), FLOW_CPU_ISA=isa)
    assert done.stdout.split("\n")[0] == f"available ({isa}, {cpu._C.threads()}) {len(SIZES)}", done.stderr


def test_the_baseline_is_always_there_and_the_fastest_is_taken() -> None:
    assert ISAS[0] == "baseline"
    done = python("import flow_kernels; print(flow_kernels.backends()['cpu'])")
    assert done.stdout.strip() == f"available ({ISAS[-1]}, {cpu._C.threads()})", done.stderr


def test_a_name_nobody_knows_in_the_environment_is_refused() -> None:
    done = python("import flow_kernels", FLOW_CPU_ISA="mmx")
    assert done.returncode and "FLOW_CPU_ISA='mmx'" in done.stderr and "baseline" in done.stderr


def test_one_that_this_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(has_isa=lambda name: name == "baseline", select_isa=lambda name: pytest.fail(f"selected {name}"))
    monkeypatch.setattr(cpu, "_C", old)
    monkeypatch.setenv("FLOW_CPU_ISA", "avx512")
    with pytest.raises(RuntimeError, match="FLOW_CPU_ISA='avx512': this processor and build have baseline; set it to one"):
        cpu._select_isa()


@pytest.mark.parametrize("name", ["", "mmx", "AVX2", "avx2 ", "avx51"])
def test_a_name_nobody_knows_changes_nothing(name: str) -> None:
    before = cpu._C.isa()
    assert not cpu._C.has_isa(name)
    assert cpu._C.select_isa(name) != 0
    assert cpu._C.isa() == before
