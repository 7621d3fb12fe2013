"""What is built beforehand for another machine, and what that machine takes of it. Compilers are stubs here."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from benchmarks.gpu import build, bundle, sources

SOABI = str(sysconfig.get_config_var("SOABI"))
pytest.importorskip("pybind11")


def program(place: Path, text: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"#!/bin/sh\n{text}\n")
    place.chmod(0o755)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout in which CMake notes what it is told, and fails where the file `fails` says so."""
    tools = tmp_path / "tools"
    fails = f'for word in $(cat {tmp_path}/fails 2>/dev/null); do case "$*" in *$word*) exit 7;; esac; done'
    program(tools / "cmake", f'echo "$@" >> {tmp_path}/told\n{fails}')
    program(tools / "ninja", "exit 1")
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    monkeypatch.setenv("FLOW_GPU_BUNDLE", str(tmp_path / "bundle"))
    for module in (build, bundle):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(build, "FOLDER", tmp_path / "build" / "gpu")
    monkeypatch.setattr(build, "PACKAGE", tmp_path / "flow_kernels")
    (tmp_path / "flow_kernels").mkdir()
    (tmp_path / "flow_kernels" / "__init__.py").write_text("backends = lambda: {'cuda': 'available'}")
    monkeypatch.setattr(sources, "digest", lambda names: "abc")
    return tmp_path


def told(root: Path) -> list[str]:
    """What CMake was told, in short."""
    lines = (root / "told").read_text().splitlines() if (root / "told").exists() else []
    kept = ("-DFLOW_CUDA", "-DFLOW_OBJECTS", "--build", "-k")
    return [" ".join(w for w in line.split() if w.startswith(kept) and w != "-DFLOW_OBJECTS=") for line in lines]


def bundled(root: Path, **changed: str) -> None:
    manifest = {"sources": "abc", "machine": platform.machine(), "soabi": SOABI, "glibc": "2.17"} | changed
    for name in ("modules", "objects"):
        (root / "bundle" / name).mkdir(parents=True, exist_ok=True)
    for name in ("_C", "_cuda"):
        (root / "bundle" / "modules" / f"{name}.{SOABI}.so").write_text("compiled")
    (root / "bundle" / "bundle.json").write_text(json.dumps(manifest))


def test_modules_that_fit_are_taken(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundled(root)
    assert build.main() == 0 and told(root) == []
    assert {file.name for file in (root / "flow_kernels").glob("*.so")} == {f"_C.{SOABI}.so", f"_cuda.{SOABI}.so"}
    assert "cuda: available" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"soabi": "cpython-299-x86_64-linux-gnu"}, f"built for cpython-299-x86_64-linux-gnu, and this is {SOABI}"),
        ({"soabi": ""}, "built for no Python, and this is"),
        ({"glibc": "9.99"}, "they need glibc 9.99, and this is"),
    ],
)
def test_otherwise_the_compiled_kernels_are_linked(
    root: Path, changed: dict[str, str], why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    bundled(root, **changed)
    assert build.main() == 0
    assert told(root) == [f"-DFLOW_CUDA=1 -DFLOW_OBJECTS={root}/bundle/objects", "--build -k"]
    assert why in capfd.readouterr().out and not list((root / "flow_kernels").glob("*.so"))


@pytest.mark.parametrize("changed", [{"sources": "def"}, {"machine": "aarch64"}])
def test_a_bundle_of_something_else_is_not_taken(
    root: Path, changed: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    bundled(root, **changed)
    assert build.main() == 0 and told(root) == ["-DFLOW_CUDA=1", "--build -k"]
    ((name, value),) = changed.items()
    assert f"are not taken: {name} {value}, and here" in capfd.readouterr().out


def test_modules_that_cannot_be_imported_are_removed(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundled(root)
    text = "import pathlib\nif list(pathlib.Path(__file__).parent.glob('*.so')): raise ImportError('undefined symbol')\n"
    (root / "flow_kernels" / "__init__.py").write_text(f"{text}backends = dict")
    assert build.main() == 0 and len(told(root)) == 2
    assert not list((root / "flow_kernels").glob("*.so")) and "they cannot be imported" in capfd.readouterr().out


def test_kernels_that_cannot_be_linked_are_compiled(root: Path) -> None:
    bundled(root, soabi="")
    (root / "fails").write_text("FLOW_OBJECTS=/")
    assert build.main() == 0
    assert told(root) == [f"-DFLOW_CUDA=1 -DFLOW_OBJECTS={root}/bundle/objects", "-DFLOW_CUDA=1", "--build -k"]


def test_a_module_that_does_not_build_leaves_the_other(root: Path) -> None:
    """CMake goes on past an error, so the CPU's module may be there; else it is built alone. The step stays a failed one."""
    (root / "fails").write_text("--build")
    assert build.main() == 7 and told(root) == ["-DFLOW_CUDA=1", "--build -k"]
    (root / "told").unlink()
    (root / "flow_kernels" / "__init__.py").write_text("import flow_kernels._C")
    assert build.main() == 1 and told(root) == ["-DFLOW_CUDA=1", "--build -k", "-DFLOW_CUDA=0", "--build -k"]


def test_an_interpreter_is_looked_for_where_it_may_be(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools, kept = root / "tools", root / "kept"
    (root / "include").mkdir()

    def python(place: Path, headers: bool) -> None:
        program(place, f'echo \'["cpython-299", "{root}/include", {str(headers).lower()}]\'')

    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    assert bundle.interpreter("2.99") == ("2.99", "no interpreter 2.99 is on PATH")
    assert bundle.interpreter("no-python") == ("no-python", "no interpreter no-python is on PATH")
    program(tools / "python2.99", "echo pyenv: command not found >&2; exit 127")  # a shim
    assert bundle.interpreter("2.99")[1].endswith("python2.99 does not run: pyenv: command not found")
    python(kept / "headless" / "bin" / "python2.99", False)
    program(tools / "pyenv", f'[ "$1 $2" = "prefix 2.99" ] && echo {kept}/headless')
    assert "but not its headers" in bundle.interpreter("2.99")[1]
    python(kept / "whole" / "python", True)
    program(tools / "uv", f'[ "$1 $2 $3" = "python find 2.99" ] && echo {kept}/whole/python')
    assert bundle.interpreter("2.99") == (f"{kept}/whole/python", "")
    assert bundle.interpreter(f"{kept}/whole/python") == (f"{kept}/whole/python", "")
    assert bundle.interpreter(sys.executable)[0] == sys.executable


@pytest.mark.parametrize("with_python", [True, False])
def test_a_bundle_holds_what_the_other_machine_asks_for(
    root: Path, monkeypatch: pytest.MonkeyPatch, with_python: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    objects, modules = root / "build" / "gpu-objects", root / "build" / "gpu-modules-2.99"
    for name in ("baseline", "avx2"):
        for part in ("routed_gru", "training"):
            file = objects / "CMakeFiles" / f"flow_{name}.dir" / "csrc" / "cpu" / part / "isa.cpp.o"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{name} {part}")
    (objects / "libflow_cluster.a").write_text("cluster")
    modules.mkdir()
    for name in ("_C", "_cuda"):
        (modules / f"{name}.{SOABI}.so").write_bytes(b"\0GLIBC_2.9\0GLIBC_2.17\0GLIBC_PRIVATE\0")
    answer = (sys.executable, "") if with_python else ("2.99", "no interpreter 2.99 is on PATH")
    monkeypatch.setattr(bundle, "interpreter", lambda name: answer)
    monkeypatch.chdir(root)
    assert bundle.main("2.99", root / "bundle") == 0
    built = {str(file.relative_to(root / "bundle" / "objects")) for file in (root / "bundle" / "objects").rglob("*.*")}
    assert built == {
        "libflow_cluster.a", "baseline/routed_gru.o", "baseline/training.o", "avx2/routed_gru.o", "avx2/training.o",
    }  # fmt: skip
    manifest, printed = json.loads((root / "bundle" / "bundle.json").read_text()), capfd.readouterr().out
    lines = (root / "told").read_text().splitlines()
    assert "-DFLOW_WERROR=ON" in lines[0] and "--target flow_objects" in lines[1]
    if with_python:
        assert bundle.unfit(manifest) == ("", "") and manifest["glibc"] == "2.17" and "glibc 2.17 or later" in printed
        assert len(lines) == 4 and f"-DFLOW_OBJECTS={root}/bundle/objects" in lines[2]
        assert build.main() == 0 and len(told(root)) == 4  # nothing more is built
    else:
        assert "no modules for 2.99: no interpreter 2.99 is on PATH" in printed and len(lines) == 2
        reason, objects_reason = bundle.unfit(manifest)
        assert reason.startswith("built for no Python") and not objects_reason


def test_a_failed_build_makes_no_bundle(root: Path) -> None:
    (root / "fails").write_text("--build")
    with pytest.raises(SystemExit, match="7"):
        bundle.main(sys.executable, root / "bundle")
    assert not (root / "bundle").exists()


def test_a_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.h").write_text("1")
    (tmp_path / "b.txt").write_text("2")
    digests = {sources.digest(("a", "b.txt"), tmp_path)}
    assert digests == {sources.digest(("b.txt", "a"), tmp_path)}
    (tmp_path / "a" / "note.md").write_text("not compiled")
    assert digests == {sources.digest(("a", "b.txt"), tmp_path)}
    (tmp_path / "a" / "x.h").write_text("3")
    digests.add(sources.digest(("a", "b.txt"), tmp_path))
    (tmp_path / "a" / "x.h").rename(tmp_path / "a" / "y.h")
    digests.add(sources.digest(("a", "b.txt"), tmp_path))
    assert len(digests) == 3
    assert all((sources.ROOT / name).exists() for name in sources.MEASURED)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_hands_the_version_on(tmp_path: Path) -> None:
    """And sets its own environment up with python3."""
    program(tmp_path / "bin" / "python", f'echo "$@" >> {tmp_path}/told')
    command = ["make", "-C", str(sources.ROOT), "gpu-bundle", "PYTHON=3.12", f"VENV={tmp_path}"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert (tmp_path / "told").read_text().splitlines()[-1] == "-m benchmarks.gpu.bundle 3.12"
    dry = subprocess.run([*command[:-1], f"VENV={tmp_path}/none", "-n"], capture_output=True, text=True).stdout
    assert f"python3 -m venv {tmp_path}/none" in dry


def configured(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    import pybind11

    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])  # where pip has put CMake and Ninja
    for tool in ("cmake", "ninja", "c++"):
        if shutil.which(tool, path=path) is None:
            pytest.skip(f"{tool} is not installed")
    command = ["cmake", "-S", str(sources.ROOT), "-B", str(folder), "-G", "Ninja", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    command += [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DPython_EXECUTABLE={sys.executable}", *options]
    return subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True)


def compiled(folder: Path) -> set[str]:
    """The sources that CMake would compile."""
    listed = json.loads((folder / "compile_commands.json").read_text())
    return {str(Path(entry["file"]).relative_to(sources.ROOT / "csrc")) for entry in listed}


def test_compiled_kernels_are_linked_and_not_compiled(tmp_path: Path) -> None:
    assert configured(tmp_path / "all").returncode == 0
    kernels = {source for source in compiled(tmp_path / "all") if source.endswith("isa.cpp")}
    query = subprocess.run(
        ["ninja", "-C", str(tmp_path / "all"), "-t", "query", "flow_objects"],
        env=os.environ | {"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert "flow_baseline" in query.stdout and "_C" not in query.stdout.replace("csrc", "")

    isas = ["baseline", *(("avx2", "avx512", "avx512bf16") if platform.machine() in ("x86_64", "AMD64") else ())]
    for isa in isas:
        (tmp_path / "objects" / isa).mkdir(parents=True)
        for name in ("routed_gru", "training"):
            (tmp_path / "objects" / isa / f"{name}.o").write_text("")
    done = configured(tmp_path / "linked", f"-DFLOW_OBJECTS={tmp_path}/objects")
    assert done.returncode == 0, done.stderr
    assert compiled(tmp_path / "linked") == compiled(tmp_path / "all") - kernels  # without AMX too: there is none to link
    ninja = (tmp_path / "linked" / "build.ninja").read_text()
    assert all(f"{tmp_path}/objects/{isa}/training.o" in ninja for isa in isas) and "FLOW_AMX" not in ninja

    shutil.rmtree(tmp_path / "objects" / "baseline")
    done = configured(tmp_path / "missing", f"-DFLOW_OBJECTS={tmp_path}/objects")
    assert done.returncode and "has no baseline/*.o; make it again with make gpu-bundle" in " ".join(done.stderr.split())
