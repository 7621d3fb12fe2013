"""Builds beforehand what a machine with a GPU would take minutes to build: `python -m benchmarks.gpu.bundle PYTHON [FOLDER]`

PYTHON is a version such as 3.12, or the path of an interpreter: where it is found with its headers, both extension modules are
built for it. Where it is not, and in any case, the folder gets the compiled kernels, which know nothing of Python: the other
machine then compiles the few lines that do. FOLDER is build/gpu-bundle, where benchmarks/gpu.sh looks for it."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import sources
from benchmarks.gpu.files import write
from benchmarks.gpu.sources import ROOT
from benchmarks.gpu.steps import find

FOLDER = ROOT / "build" / "gpu-bundle"
MANIFEST = "bundle.json"
ASK = (
    "import json, os, sysconfig; include = sysconfig.get_path('include'); "
    "print(json.dumps([sysconfig.get_config_var('SOABI'), include, os.path.exists(include + '/Python.h')]))"
)


def interpreter(name: str) -> tuple[str, str]:
    """The interpreter that is meant, and an empty text; or the last one that was tried and why there is none to build for."""
    path, why = name, f"no interpreter {name} is on PATH"
    for path in candidates(name):
        asked = subprocess.run([path, "-c", ASK], capture_output=True, text=True)
        if asked.returncode:
            why = f"{path} does not run: {asked.stderr.strip()[:300]}"
            continue
        _, include, headers = json.loads(asked.stdout)
        if headers:
            return path, ""
        why = f"{path} is there, but not its headers: {include}/Python.h is missing; install its -dev package"
    return path, why


def candidates(name: str) -> Iterator[str]:
    """Where an interpreter may be: on PATH, and for a version also where pyenv or uv keep theirs."""
    version = re.fullmatch(r"\d+\.\d+", name)
    if path := shutil.which(f"python{name}" if version else name):
        yield path
    if not version:
        return
    for command, within in ((("pyenv", "prefix", name), f"bin/python{name}"), (("uv", "python", "find", name), "")):
        if shutil.which(command[0]) is not None:
            asked = subprocess.run(command, capture_output=True, text=True)
            if asked.returncode == 0:
                yield str(Path(asked.stdout.strip(), within))


def configured(folder: Path, python: str, *options: str) -> list[str]:
    """The command that configures a build with CMake: no network, no pip.

    Raises:
        SystemExit: a tool is missing, and which.
    """
    import pybind11

    cmake, ninja = shutil.which("cmake"), shutil.which("ninja")
    if cmake is None or ninja is None:
        raise SystemExit("the build needs cmake and ninja on PATH: pip install cmake ninja")
    return [
        cmake, "-S", str(ROOT), "-B", str(folder), "-G", "Ninja",
        f"-DCMAKE_MAKE_PROGRAM={ninja}",
        f"-DPython_EXECUTABLE={python}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DCMAKE_CUDA_COMPILER={find('nvcc')}",
        "-DCMAKE_BUILD_TYPE=Release",
        *options,
    ]  # fmt: skip


def glibc_needed(modules: Sequence[Path]) -> str:
    """The oldest glibc that has every symbol that the modules ask for."""
    versions = {
        tuple(map(int, number.split(b".")))
        for module in modules
        for number in re.findall(rb"GLIBC_(\d+\.\d+)", module.read_bytes())
    }
    return ".".join(map(str, max(versions, default=(0,))))


def collect(build: Path, folder: Path) -> None:
    """Copy the compiled kernels to where CMake's FLOW_OBJECTS expects them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for made in (build / "CMakeFiles").glob("flow_*.dir/csrc/cpu/*/isa.cpp.o"):
        place = folder / made.relative_to(build / "CMakeFiles").parts[0].removeprefix("flow_").removesuffix(".dir")
        place.mkdir(exist_ok=True)
        shutil.copy2(made, place / f"{made.parent.name}.o")
    shutil.copy2(build / "libflow_cluster.a", folder)


def described(modules: Sequence[Path], soabi: str) -> dict[str, Any]:
    """What a bundle is for."""
    return {
        "sources": sources.digest(sources.COMPILED),
        "machine": platform.machine(),
        "soabi": soabi,
        "glibc": glibc_needed(modules),
    }


def unfit(manifest: dict[str, Any]) -> tuple[str, str]:
    """Why the modules, and why the objects, of a bundle are not for this Python on this machine; empty where they are."""
    own = {"sources": sources.digest(sources.COMPILED), "machine": platform.machine()}
    objects = "; ".join(f"{name} {manifest[name]}, and here {value}" for name, value in own.items() if manifest[name] != value)
    here, soabi = platform.libc_ver()[1] or "0", sysconfig.get_config_var("SOABI")
    modules = objects
    if not modules and manifest["soabi"] != soabi:
        modules = f"built for {manifest['soabi'] or 'no Python'}, and this is {soabi}"
    if not modules and _numbers(manifest["glibc"]) > _numbers(here):
        modules = f"they need glibc {manifest['glibc']}, and this is {here}"
    return modules, objects


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def run(*commands: Sequence[str]) -> None:
    """Raises SystemExit with the exit status of the first that fails."""
    for command in commands:
        print("$", *command, flush=True)
        if status := subprocess.run(command).returncode:
            raise SystemExit(status)


def main(name: str, folder: Path) -> int:
    python, missing = interpreter(name)
    compiled, linked, objects = (
        ROOT / "build" / "gpu-objects",
        ROOT / "build" / f"gpu-modules-{Path(name).name}",
        folder / "objects",
    )
    build = ("--parallel", "--target")
    run(
        configured(compiled, sys.executable, "-DFLOW_CUDA=1", "-DFLOW_WERROR=ON"),
        ["cmake", "--build", str(compiled), *build, "flow_objects", "--", "-k", "0"],
    )
    shutil.rmtree(folder, ignore_errors=True)
    collect(compiled, objects)
    modules, soabi = list[Path](), ""
    if missing:
        print(f"no modules for {name}: {missing}", flush=True)
    else:
        run(
            configured(linked, python, "-DFLOW_CUDA=1", "-DFLOW_WERROR=ON", f"-DFLOW_OBJECTS={objects}"),
            ["cmake", "--build", str(linked), *build, "_C", "_cuda", "--", "-k", "0"],
        )
        soabi = json.loads(subprocess.run([python, "-c", ASK], capture_output=True, text=True, check=True).stdout)[0]
        (folder / "modules").mkdir()
        modules = [Path(shutil.copy2(linked / f"{module}.{soabi}.so", folder / "modules")) for module in ("_C", "_cuda")]
    manifest = described(modules, soabi)
    write(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
    what = f"modules for {soabi}, glibc {manifest['glibc']} or later, and " if modules else ""
    print(f"{os.path.relpath(folder)}: {what}compiled kernels for any Python, {size:.0f} MiB; sources {manifest['sources']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else FOLDER))
