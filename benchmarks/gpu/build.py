"""Builds the extensions where Python finds them, with CMake alone: no network, no pip. `python -m benchmarks.gpu.build`

What `make gpu-bundle` has built beforehand is taken where it fits: both modules, or else the compiled kernels."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu import bundle
from benchmarks.gpu.sources import ROOT

FOLDER = ROOT / "build" / "gpu"
PACKAGE = ROOT / "flow_kernels"
IMPORT = "import flow_kernels; print(*(f'{name}: {status}' for name, status in flow_kernels.backends().items()), sep='\\n')"


def imported() -> int:
    """Whether the package can be imported: the exit status of a process that tries."""
    return subprocess.run([sys.executable, "-c", IMPORT], cwd=ROOT).returncode


def from_bundle(folder: Path) -> str | None:
    """Take the modules of a bundle if they fit: returns None. Else the folder of compiled kernels, "" where there is none."""
    file = folder / bundle.MANIFEST
    if not file.exists():
        print(f"nothing was built beforehand: {file} is not there", flush=True)
        return ""
    modules, objects = bundle.unfit(json.loads(file.read_text()))
    if not modules:
        copied = [Path(shutil.copy2(module, PACKAGE)) for module in (folder / "modules").iterdir()]
        if imported() == 0:
            print(f"taken from {folder}: {', '.join(module.name for module in copied)}", flush=True)
            return None
        modules = "they cannot be imported"
        for module in copied:
            module.unlink()
    print(f"the modules of {folder} are not taken: {modules}", flush=True)
    if objects:
        return ""
    print(f"compiled kernels taken from {folder}", flush=True)
    return str(folder / "objects")


def build(cuda: str, objects: str = "") -> int:
    """Configure and build with FLOW_CUDA set to this; the exit status of what failed, else 0. An error in one file does not
    keep the module that it is no part of from being built."""
    options = [f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={PACKAGE}", f"-DFLOW_CUDA={cuda}", f"-DFLOW_OBJECTS={objects}"]
    commands = [
        bundle.configured(FOLDER, sys.executable, *options),
        ["cmake", "--build", str(FOLDER), "--parallel", "--", "-k", "0"],
    ]
    for command in commands:
        print("$", *command, flush=True)
        if status := subprocess.run(command).returncode:
            return status
    return 0


def main() -> int:
    objects = from_bundle(Path(os.environ.get("FLOW_GPU_BUNDLE", bundle.FOLDER)))
    if objects is None:
        return 0
    status = build("1", objects)
    if status and objects:
        print("the compiled kernels cannot be linked; all is compiled:", flush=True)
        shutil.rmtree(FOLDER, ignore_errors=True)
        status = build("1")
    if status and imported():  # the rest can still be tested and measured; the step stays a failed one
        print("the CUDA part does not build; without it:", flush=True)
        shutil.rmtree(FOLDER, ignore_errors=True)
        build("0")
    return imported() or status


if __name__ == "__main__":
    sys.exit(main())
