"""FLOW_CUDA, as far as it can be seen without nvcc."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def configure(folder: Path, option: str) -> subprocess.CompletedProcess[str]:
    """CMake on a machine whose nvcc does not work."""
    pybind11 = pytest.importorskip("pybind11")
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])  # where pip has put CMake and Ninja
    for tool in ("cmake", "ninja", "c++"):
        if shutil.which(tool, path=path) is None:
            pytest.skip(f"{tool} is not installed")
    return subprocess.run(
        [
            "cmake",
            "-S",
            ROOT,
            "-B",
            folder,
            "-G",
            "Ninja",
            f"-DFLOW_CUDA={option}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ],
        env=os.environ | {"PATH": path, "CUDACXX": shutil.which("false") or "/bin/false"},
        capture_output=True,
        text=True,
    )


def test_insisting_without_nvcc_is_an_error(tmp_path: Path) -> None:
    done = configure(tmp_path, "1")
    message = " ".join(done.stderr.split())
    assert done.returncode and "FLOW_CUDA=1 needs a working nvcc" in message and "or set FLOW_CUDA=0" in message


def test_auto_without_nvcc_builds_the_rest(tmp_path: Path) -> None:
    done = configure(tmp_path, "auto")
    assert not done.returncode, done.stderr
    assert "flow_kernels._cuda is not built" in done.stdout
    targets = subprocess.run(["cmake", "--build", tmp_path, "--target", "help"], capture_output=True, text=True).stdout
    assert "_C:" in targets and "_cuda" not in targets


def test_other_values_are_errors(tmp_path: Path) -> None:
    done = configure(tmp_path, "yes")
    assert done.returncode and "FLOW_CUDA must be auto, 0 or 1, got 'yes'" in done.stderr
    setup = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", tmp_path, "--build-temp", tmp_path],
        cwd=ROOT / "packaging" / "flow-kernels",
        env=os.environ | {"FLOW_CUDA": "yes"},
        capture_output=True,
        text=True,
    )
    assert setup.returncode and "FLOW_CUDA must be auto, 0 or 1, got 'yes'" in setup.stderr
