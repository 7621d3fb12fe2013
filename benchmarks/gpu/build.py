"""Builds the extensions where Python finds them, with CMake alone: no network, no pip. `python -m benchmarks.gpu.build`"""

from __future__ import annotations

import shutil
import subprocess
import sys

import pybind11

from benchmarks.gpu.steps import ROOT, find

FOLDER = ROOT / "build" / "gpu"


def build(cuda: str) -> int:
    """Configure and build with FLOW_CUDA set to this; the exit status of what failed, else 0."""
    cmake, ninja = shutil.which("cmake"), shutil.which("ninja")
    if cmake is None or ninja is None:
        raise SystemExit("the build needs cmake and ninja on PATH: pip install cmake ninja")
    commands = [
        [
            cmake, "-S", str(ROOT), "-B", str(FOLDER), "-G", "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={ROOT / 'flow_kernels'}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_CUDA_COMPILER={find('nvcc')}",
            f"-DFLOW_CUDA={cuda}",
            "-DCMAKE_BUILD_TYPE=Release",
        ],
        [cmake, "--build", str(FOLDER), "--parallel"],
    ]  # fmt: skip
    for command in commands:
        print("$", *command, flush=True)
        if status := subprocess.run(command).returncode:
            return status
    return 0


def main() -> int:
    status = build("1")
    if status:  # the rest can still be tested and measured; the step stays a failed one
        print("the CUDA part does not build; without it:", flush=True)
        shutil.rmtree(FOLDER, ignore_errors=True)
        build("0")
    code = "import flow_kernels; print(*(f'{name}: {status}' for name, status in flow_kernels.backends().items()), sep='\\n')"
    imported = subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode
    return status or imported


if __name__ == "__main__":
    sys.exit(main())
