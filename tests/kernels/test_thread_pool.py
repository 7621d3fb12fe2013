"""What shares the work of a call, by a program of its own (threads_alone.cpp): the thread pool, and OpenMP beside it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT / "tests" / "kernels" / "threads_alone.cpp", ROOT / "csrc" / "cpu" / "common" / "threads.cpp")
FLAGS = ("-std=gnu++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread")
BOTH = ("exact", "asleep", "nested", "many", "callers")
LINUX = platform.system() == "Linux"


def compiler() -> str:
    program = shutil.which(os.environ.get("CXX", "c++"))
    if program is None:
        pytest.skip("c++ is not installed")
    return program


def compiled(out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([compiler(), *FLAGS, *flags, *SOURCES, "-o", out], capture_output=True, text=True)


def built(out: Path, *flags: str) -> Path:
    done = compiled(out, *flags)
    assert not done.returncode, done.stderr
    return out


def ran(program: Path, *cases: str, kind: str = "thread pool", **env: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")} | env
    done = subprocess.run([program, *cases], env=env, capture_output=True, text=True, timeout=240)
    assert not done.returncode, done.stderr
    assert done.stdout.splitlines() == [f"{kind}: {case}" for case in cases]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("pool") / "pool")


@pytest.mark.parametrize("case", [*BOTH, "all_come"])
def test_the_pool(pool: Path, case: str) -> None:
    ran(pool, case)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("case", ["forks", "forks_among_callers"])
def test_a_child_has_a_pool_of_its_own(pool: Path, case: str) -> None:
    ran(pool, case)


@pytest.mark.skipif(not LINUX, reason="counts threads and limits memory as Linux does")
@pytest.mark.parametrize("case", ["ended", "affinity", "no_more"])
def test_the_pool_and_the_system(pool: Path, case: str) -> None:
    ran(pool, case)


def test_the_pool_obeys_openmps_limit(pool: Path) -> None:
    ran(pool, "limited", OMP_THREAD_LIMIT="2")
    ran(pool, "all_come", OMP_THREAD_LIMIT="none")


def test_an_exception_ends_the_process(pool: Path) -> None:
    assert subprocess.run([pool, "throws"], timeout=60).returncode == 42


def test_work_that_could_throw_is_not_compiled(tmp_path: Path) -> None:
    done = compiled(tmp_path / "throwing", "-DFLOW_MAY_THROW", "-fsyntax-only")
    assert done.returncode and "work that threads share must be noexcept" in done.stderr


@pytest.mark.skipif(not LINUX, reason="ThreadSanitizer is tried with GCC and clang on Linux")
def test_the_pool_under_thread_sanitizer(tmp_path: Path) -> None:
    program = built(tmp_path / "tsan", "-fsanitize=thread")
    ran(program, *BOTH, "all_come", TSAN_OPTIONS="halt_on_error=1")


def needs_openmp() -> None:
    probe = subprocess.run([compiler(), "-fopenmp", "-fsyntax-only", "-x", "c++", "-"], input="#include <omp.h>", text=True)
    if probe.returncode:
        pytest.skip("this compiler has no OpenMP")


def test_openmp_does_the_same(tmp_path: Path) -> None:
    needs_openmp()
    out = built(tmp_path / "openmp", "-fopenmp", "-DFLOW_OPENMP")
    ran(out, *BOTH, kind="OpenMP")
    ran(out, "limited", kind="OpenMP", OMP_THREAD_LIMIT="2")
    assert subprocess.run([out, "throws"], timeout=60).returncode == 42


@pytest.mark.skipif(not LINUX, reason="a library of the process is looked for on Linux")
def test_openmp_of_the_process_is_used_where_there_is_one(tmp_path: Path) -> None:
    """As torch's is: the program is linked to it, the sources are compiled without. A child of a fork has the pool."""
    needs_openmp()
    out = tmp_path / "borrowed"
    libraries = ("-Wl,--no-as-needed", "-fopenmp")
    objects = [tmp_path / f"{source.stem}.o" for source in SOURCES]
    for source, target in zip(SOURCES, objects, strict=True):
        subprocess.run([compiler(), *FLAGS, "-c", source, "-o", target], check=True)
    subprocess.run([compiler(), "-pthread", *objects, *libraries, "-ldl", "-o", out], check=True)
    ran(out, *BOTH, "forks", "forks_among_callers", kind="OpenMP of torch")
    ran(out, "limited", kind="OpenMP of torch", OMP_THREAD_LIMIT="2")
    assert subprocess.run([out, "throws"], timeout=60).returncode == 42
