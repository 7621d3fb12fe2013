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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import sources
from benchmarks.gpu.sources import ROOT
from benchmarks.gpu.steps import find

FOLDER = ROOT / "build" / "gpu-bundle"
MANIFEST = "bundle.json"
ASK = (
    "import json, os, sysconfig; include = sysconfig.get_path('include'); "
    "print(json.dumps([sysconfig.get_config_var('SOABI'), include, os.path.exists(include + '/Python.h')]))"
)


def interpreter(name: str) -> tuple[str, str]:
    """The interpreter that is meant, and an empty text; or its name and why there is none to build for."""
    is_version = re.fullmatch(r"\d+\.\d+", name)
    path = shutil.which(f"python{name}" if is_version else name)
    if path is None and is_version and (uv := shutil.which("uv")):
        asked = subprocess.run([uv, "python", "find", name], capture_output=True, text=True)
        path = asked.stdout.strip() if asked.returncode == 0 else None
    if path is None:
        return name, f"no interpreter {name} is on PATH" + (f"; uv python install {name} may bring one" if is_version else "")
    asked = subprocess.run([path, "-c", ASK], capture_output=True, text=True)
    if asked.returncode:
        return path, f"{path} cannot be asked for its headers: {asked.stderr.strip()[-300:]}"
    _, include, there = json.loads(asked.stdout)
    return (
        path,
        "" if there else f"{path} is there, but not its headers: {include}/Python.h is missing; install its -dev package",
    )


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


def collected(build: Path, folder: Path, modules: Sequence[Path], soabi: str, python: str) -> dict[str, Any]:
    """Copy what was built, and say in a file what it is."""
    shutil.rmtree(folder, ignore_errors=True)
    for made in (build / "CMakeFiles").glob("flow_*.dir/csrc/cpu/*/isa.cpp.o"):
        name = made.relative_to(build / "CMakeFiles").parts[0].removeprefix("flow_").removesuffix(".dir")
        place = folder / "objects" / name
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy2(made, place / f"{made.parent.name}.o")
    shutil.copy2(build / "libflow_cluster.a", folder / "objects")
    for module in modules:
        (folder / "modules").mkdir(exist_ok=True)
        shutil.copy2(module, folder / "modules")
    manifest = {
        "sources": sources.digest(sources.COMPILED),
        "machine": platform.machine(),
        "python": python,
        "soabi": soabi,
        "glibc": glibc_needed(modules),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


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


def main(name: str, folder: Path) -> int:
    python, missing = interpreter(name)
    build = ROOT / "build" / f"bundle-{Path(name).name}"
    targets = []
    if missing:
        print(f"without modules for {name}: {missing}", flush=True)
        listed = re.findall(r"^\s*flow_add_isa\((\w+)", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE)
        x86 = platform.machine() in ("x86_64", "AMD64")
        targets = ["flow_cluster", *(f"flow_{isa}" for isa in listed if x86 or isa == "baseline")]
    commands = [
        configured(build, sys.executable if missing else python, "-DFLOW_CUDA=1", "-DFLOW_WERROR=ON"),
        ["cmake", "--build", str(build), "--parallel", *(["--target", *targets] if targets else []), "--", "-k", "0"],
    ]
    for command in commands:
        print("$", *command, flush=True)
        if status := subprocess.run(command).returncode:
            return status
    modules, soabi = [], ""
    if not missing:
        soabi = json.loads(subprocess.run([python, "-c", ASK], capture_output=True, text=True, check=True).stdout)[0]
        modules = [build / f"{module}.{soabi}.so" for module in ("_C", "_cuda")]
    manifest = collected(build, folder, modules, soabi, name)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
    what = f"modules for {soabi}, glibc {manifest['glibc']} or later, and " if modules else ""
    print(f"{os.path.relpath(folder)}: {what}compiled kernels for any Python, {size:.0f} MiB; sources {manifest['sources']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else FOLDER))
