"""Builds tests/support/cuda_model.cpp and lets backend="cuda" run on it, on tensors of the CPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flow_kernels import plan
from flow_kernels.backends.gpu import cuda

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc" / "cuda"


class Model:
    """The same functions as the extension flow_kernels._cuda."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.flow_cluster_size.restype = ctypes.c_int64
        self.library.flow_cluster_error.restype = ctypes.c_char_p
        self.library.flow_model_wavefronts.restype = ctypes.c_char_p
        self.faults = self.library.flow_model_faults()

    def size(self) -> int:
        return int(self.library.flow_cluster_size())

    def forward(self, problem: int, stream: int) -> int:
        return int(self.library.flow_cluster_forward(ctypes.c_void_p(problem), None))

    def backward(self, problem: int, stream: int) -> int:
        return int(self.library.flow_cluster_backward(ctypes.c_void_p(problem), None))

    def error(self, code: int) -> str:
        return str(self.library.flow_cluster_error(code).decode())

    def set(self, fault: int = 0, order: int = 0) -> None:
        """Plant a fault (0: none), choose the order in which warps and copies take turns."""
        self.library.flow_model_set(fault, order)

    def count(self, counting: bool) -> None:
        """Count the wavefronts of accesses to shared memory from now on, or no longer."""
        self.library.flow_model_count(counting)

    def wavefronts(self) -> dict[str, tuple[int, int]]:
        """By function and line of the kernels' text: the wavefronts that a warp's worst access took, and how many it needs."""
        lines = (line.rsplit(maxsplit=2) for line in self.library.flow_model_wavefronts().decode().splitlines())
        return {where: (int(taken), int(needed)) for where, taken, needed in lines}


def build(folder: Path, sources: Path = CSRC) -> Path:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("c++ is not installed")
    out = folder / "model.so"
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-clobbered"]  # the last: getcontext
    subprocess.run(
        [
            compiler,
            "-std=c++17",
            "-Og",
            "-fno-strict-aliasing",
            *warnings,
            "-shared",
            "-fPIC",
            f"-I{sources}",
            str(ROOT / "tests" / "support" / "cuda_model.cpp"),
            "-o",
            str(out),
        ],
        check=True,
    )
    return out


def use(model: Model) -> Iterator[Model]:
    """backend="cuda" is the model, and on the CPU, while this runs."""
    kernels = cuda.Kernels(model)
    library = torch.library.Library("flow_kernels", "IMPL")
    cuda.family.register("CPU", kernels.forward, kernels.backward, library)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "refusal", lambda dtype, device: "")
        patch.setattr(cuda, "limit", lambda hidden, capability: "")
        plan._kept_name.cache_clear()
        yield model
    plan._kept_name.cache_clear()
    library._destroy()
