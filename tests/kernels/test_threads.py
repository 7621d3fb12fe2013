"""Threads: the kernels' own, and several of Python's that call at once."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import forked
import pytest
import torch
from problems import NAMES, Problem, make
from torch import Tensor

import flow_kernels
from flow_kernels.backends import cpu

ISAS = [isa for isa in cpu.ISAS if cpu._C.has_isa(isa)]


def gradients(problem: Problem, leaves: dict[str, Tensor]) -> list[Tensor]:
    """The outputs and the gradients of leaves that other threads use at the same time."""
    outputs = flow_kernels.routed_gru(*(leaves[n] for n in NAMES), **problem.options, backend="cpu")
    first, *others = ((o * g).sum() for o, g in zip(outputs, problem.output_grads, strict=True))
    return [*outputs, *torch.autograd.grad(sum(others, first), list(leaves.values()))]


@pytest.mark.parametrize("threads", [1, 2])
def test_python_threads_that_call_at_once(threads: int) -> None:
    problems = [make(k, 5, b, 6, 33, lengths=True, seed=k) for k, b in ((1, 19), (2, 5), (3, 9), (5, 1))]
    leaves = [{n: t.clone().requires_grad_() for n, t in p.tensors.items()} for p in problems]
    alone = [gradients(p, tensors) for p, tensors in zip(problems, leaves, strict=True)]

    def run(n: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        return gradients(problems[n % 4], leaves[n % 4])

    with ThreadPoolExecutor(4) as pool:
        for n, got in enumerate(pool.map(run, range(32))):
            assert all(torch.equal(a, b) for a, b in zip(got, alone[n % 4], strict=True)), n


def python(code: str, **env: str) -> str:
    paths = [str(Path(__file__).parents[1] / "support"), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | env
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False, timeout=300)
    assert not done.returncode, done.stderr
    return done.stdout


def test_fewer_threads_than_asked_for_finish_the_same_work() -> None:
    """OpenMP may supply fewer, and the thread pool obeys the same limit; nobody may wait for a thread that never came."""
    code = """if True:
        import torch
        from problems import make
        problem = make(3, 5, 19, 6, 33, lengths=True)
        torch.set_num_threads(1)
        alone = problem.run("cpu")
        torch.set_num_threads(4)
        assert all(torch.equal(a, b) for a, b in zip(alone.values(), problem.run("cpu").values(), strict=True))
    """
    for limit in ("1", "3"):
        python(code, OMP_THREAD_LIMIT=limit)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_of_one_step_do_not_depend_on_threads(isa: str, dtype: torch.dtype) -> None:
    """Few sequences of one step read the weights where they lie, and how many share a thread depends on how many there are."""
    cpu._C.select_isa(isa)  # put back by conftest
    before = torch.get_num_threads()
    try:
        for hidden, batch in [(95, 3), (128, 4), (95, 6), (128, 7), (95, 9), (95, 31), (128, 32), (95, 33)]:
            problem = make(1, 1, batch, hidden, hidden, seed=batch)
            torch.set_num_threads(1)
            alone = problem.run("cpu", dtype)
            for threads in (2, 3, 4, 7):
                torch.set_num_threads(threads)
                for a, b in zip(alone.values(), problem.run("cpu", dtype).values(), strict=True):
                    assert a is not None and b is not None and torch.equal(a, b), (hidden, batch, threads)
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_no_more_threads_than_torch_uses(threads: int) -> None:
    """A thread pool has workers of its own beside torch's, one fewer than threads."""
    own = threads - 1 if cpu._C.threads() == "thread pool" else 0
    code = f"""if True:
        import os
        import torch
        from problems import make
        assert len(os.listdir("/proc/self/task")) == 1
        problems = [make(k, 3, 33, 6, 33) for k in (1, 4, 9)]
        torch.set_num_threads({threads})
        torch.randn(200, 200).mm(torch.randn(200, 200)).sigmoid()
        torch.randn(1000000).requires_grad_().sigmoid().sum().backward()
        before = len(os.listdir("/proc/self/task"))
        for problem in problems:
            problem.run("cpu")
        print(len(os.listdir("/proc/self/task")) - before)
    """
    done = forked.python(code, paths=[str(Path(__file__).parents[1] / "support")])
    assert not done.returncode and int(done.stdout) <= own, done.stderr


@pytest.mark.skipif(cpu._C.threads() == "OpenMP", reason="GNU OpenMP hangs in a child of a process that used its threads")
def test_a_forked_process_computes_on_threads_again() -> None:
    code = """if True:
        import multiprocessing, os, signal
        import torch, flow_kernels
        torch.set_num_threads(3)
        layer, x = flow_kernels.RoutedGRU(6, 33), torch.randn(5, 19, 6)

        def computed(_):
            signal.alarm(60)
            return layer(x)[0], len(os.listdir("/proc/self/task"))

        with torch.no_grad():
            before = len(os.listdir("/proc/self/task"))
            expected, threads = computed(0)
            assert threads == before + 2, (before, threads)
            child = os.fork()
            if not child:
                y, threads = computed(0)
                os._exit(not (torch.equal(y, expected) and threads == 3))
            assert os.waitpid(child, 0)[1] == 0
            with multiprocessing.get_context("fork").Pool(2) as pool:
                for y, threads in pool.map(computed, range(4), chunksize=1):
                    assert torch.equal(y, expected) and threads >= 3
            assert torch.equal(computed(0)[0], expected)
    """
    python(code)
