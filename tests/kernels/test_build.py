"""What CMake would compile, and what one instruction set's object shows to the others."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "packaging" / "flow-kernels"
TOOLS = ("cmake", "ninja", "nm", "c++")


@pytest.fixture(scope="module", autouse=True)
def _tools() -> Iterator[None]:
    pytest.importorskip("pybind11")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)  # where pip has put CMake and Ninja
        for tool in TOOLS:
            if shutil.which(tool) is None:
                pytest.skip(f"{tool} is not installed")
        yield


def commands(folder: Path, *options: str) -> dict[str, list[str]]:
    """The arguments of every compilation, by the object it makes."""
    import pybind11

    subprocess.run(
        [
            "cmake",
            "-S",
            ROOT,
            "-B",
            folder,
            "-G",
            "Ninja",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            "-DCMAKE_BUILD_TYPE=Release",
            "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
            *options,
        ],
        check=True,
        capture_output=True,
    )
    listed = json.loads((folder / "compile_commands.json").read_text())
    arguments = [shlex.split(c["command"]) for c in listed]  # older CMake does not name the "output" beside it
    return {a[a.index("-o") + 1]: a for a in arguments}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return commands(tmp_path_factory.mktemp("here"))


def isa_of(output: str) -> str | None:
    kernel = re.search(r"flow_(\w+)\.dir/csrc/cpu/(?:routed_gru|training)/isa\.cpp\.o$", output)
    return kernel and kernel[1]


def test_only_the_kernels_are_compiled_for_an_instruction_set(here: dict[str, list[str]]) -> None:
    assert {"baseline", None} <= {isa_of(output) for output in here}
    for output, arguments in here.items():
        flags = [a for a in arguments if a.startswith("-m")]
        assert bool(flags) == (isa_of(output) not in (None, "baseline")), (output, flags)
        assert {"-Wall", "-Wextra"} <= set(arguments) and "-Werror" not in arguments, output


def test_warnings_are_errors_where_asked_for(tmp_path: Path) -> None:
    strict = commands(tmp_path, "-DFLOW_WERROR=ON")
    assert len(strict) > 5 and all({"-Wall", "-Wextra", "-Werror"} <= set(arguments) for arguments in strict.values())


def test_what_the_project_builds_for_itself_is_strict(tmp_path: Path) -> None:
    """setup.py passes FLOW_WERROR and FLOW_OPENMP on; `make test` and `make lint` set it, `make run` does not, CI does."""
    noted = tmp_path / "noted"
    for tool in ("cmake", "ninja"):
        (tmp_path / tool).write_text(f'#!/bin/sh\necho "$@" >> {noted}\n')
        (tmp_path / tool).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    build = [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path), "--build-temp", str(tmp_path)]
    for given, passed, openmp in (({}, "0", "auto"), ({"FLOW_WERROR": "1", "FLOW_OPENMP": "0"}, "1", "0")):
        noted.unlink(missing_ok=True)
        env = {name: value for name, value in os.environ.items() if name not in ("FLOW_WERROR", "FLOW_OPENMP")}
        subprocess.run(build, cwd=KERNELS, env=env | {"PATH": path} | given, check=True, capture_output=True)
        assert f"-DFLOW_WERROR={passed}" in noted.read_text() and f"-DFLOW_OPENMP={openmp}" in noted.read_text()
        assert "-- -k 0" in noted.read_text()
    wrong = subprocess.run(build, cwd=KERNELS, env=os.environ | {"FLOW_WERROR": "on"}, capture_output=True, text=True)
    assert wrong.returncode and "FLOW_WERROR must be 0 or 1, got 'on'" in wrong.stderr
    assert "export FLOW_WERROR=1" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize(("asked", "openmp"), [("0", False), ("1", True), ("auto", True)])
def test_openmp_or_a_pool(tmp_path: Path, asked: str, openmp: bool) -> None:
    """FLOW_OPENMP, on a system whose compiler has OpenMP. What threads.h calls alone depends on it."""
    probe = subprocess.run(["c++", "-fopenmp", "-fsyntax-only", "-x", "c++", "-"], input="#include <omp.h>", text=True)
    if openmp and (probe.returncode or sys.platform == "darwin"):
        pytest.skip("this compiler has no OpenMP, or torch brings another")
    built = commands(tmp_path, f"-DFLOW_OPENMP={asked}")
    threads = next(arguments for output, arguments in built.items() if output.endswith("threads.cpp.o"))
    assert ("-fopenmp" in threads) == ("-DFLOW_OPENMP" in threads) == openmp
    assert not [output for output, arguments in built.items() if isa_of(output) and "-fopenmp" in arguments]


def test_what_setup_passes_of_openmp(tmp_path: Path) -> None:
    build = [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path), "--build-temp", str(tmp_path)]
    wrong = subprocess.run(build, cwd=KERNELS, env=os.environ | {"FLOW_OPENMP": "on"}, capture_output=True, text=True)
    assert wrong.returncode and "FLOW_OPENMP must be auto, 0 or 1, got 'on'" in wrong.stderr
    with pytest.raises(subprocess.CalledProcessError) as refused:
        commands(tmp_path / "cmake", "-DFLOW_OPENMP=on")
    assert b"FLOW_OPENMP must be auto, 0 or 1, got 'on'" in refused.value.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(("target", "strict"), [("test", "1"), ("lint", "1"), ("run", ""), ("demo", "")])
def test_make_is_strict_where_it_tests(tmp_path: Path, target: str, strict: str) -> None:
    """With a Python that only notes what it is called with. Runs need no tools of the tests."""
    noted, python = tmp_path / "noted", tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho "$FLOW_WERROR: $*" >> {noted}\n')
    python.chmod(0o755)
    for tool in ("ruff", "flow"):
        (python.parent / tool).symlink_to("/bin/true")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FLOW_", "MAKE"))}
    subprocess.run(
        ["make", "-C", ROOT, target, f"VENV={tmp_path}", f"RUN={tmp_path}/run", f"DEMO={tmp_path}/run"],
        env=env,
        capture_output=True,
    )
    called = noted.read_text().splitlines()
    built = [line for line in called if line.endswith("--editable packaging/flow-kernels")]
    assert len(built) == 1 and built[0].startswith(f"{strict}: ")
    assert any("--editable .[test,lint]" in line for line in called) == bool(strict)


def test_no_x86_flag_on_another_processor(tmp_path: Path) -> None:
    """A cross build as far as CMake goes: no compiler for the other processor is needed to see what it would be told."""
    cross = commands(tmp_path, "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")
    assert [isa_of(output) for output in cross if isa_of(output)] == ["baseline"] * 2  # routed_gru/isa.cpp and training/isa.cpp
    for output, arguments in cross.items():
        assert not [a for a in arguments if a.startswith("-m") or "X86" in a], output


@pytest.mark.long
def test_objects_of_instruction_sets_share_nothing(here: dict[str, list[str]], tmp_path: Path) -> None:
    """An inline function that two of these objects have would be linked once, with whichever instructions came first: on an
    older processor the baseline would then run into them. Without optimisation every function that is used is in the object."""
    kernels = [(isa, output, arguments) for output, arguments in here.items() if (isa := isa_of(output))]
    assert sum(isa == "baseline" for isa, _, _ in kernels) == 2
    for isa, output, arguments in kernels:
        exported = f"flow_training_{isa}" if "/training/" in output else f"flow_kernels_{isa}"
        obj = tmp_path / f"{exported}.o"
        slow = [a for a in arguments if not a.startswith("-O")]
        slow[slow.index("-o") + 1] = str(obj)
        subprocess.run([*slow, "-O0", "-w"], check=True, capture_output=True, text=True)
        symbols = subprocess.run(["nm", "-P", "-g", obj], check=True, capture_output=True, text=True).stdout.splitlines()
        defined = [s.split()[0] for s in symbols if s.split()[1] not in "Uw"]
        assert [s.lstrip("_") for s in defined] == [exported]
        assert not [s for s in symbols if s.startswith(("_Z", "__Z"))], "C++ symbols from elsewhere"


def test_the_kernels_alone_need_no_python(tmp_path: Path) -> None:
    """What `make mingw` and `make cross` build, for this processor."""
    alone = commands(
        tmp_path, "-DFLOW_PYTHON=OFF", "-DFLOW_WERROR=ON", "-DPython_EXECUTABLE=/nowhere", "-Dpybind11_DIR=/nowhere"
    )
    assert sum(output.endswith("kernels_alone.cpp.o") for output in alone) == 1
    assert not [
        arguments for arguments in alone.values() if any("python" in a.lower() for a in arguments if a.startswith("-I"))
    ]
