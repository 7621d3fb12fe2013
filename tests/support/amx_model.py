"""Builds the CPU kernels against the model of AMX in tests/support/amx_model, and lets flow_kernels run on them."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from flow_kernels.backends import cpu

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
MODEL = Path(__file__).parent / "amx_model"
# What the compiler would say of itself with -mavx512bf16 -mamx-tile -mamx-bf16; vectors of 64 bytes it makes of smaller ones.
INSTRUCTIONS = ("-D__AVX512F__", "-D__AVX512BF16__", "-D__AMX_TILE__", "-D__AMX_BF16__", f"-I{MODEL}")
FLAGS = ("-std=gnu++17", "-ffp-contract=fast", "-fno-math-errno", "-Wall", "-Wextra", "-Werror", "-Wno-psabi")


def compiler() -> str:
    program = shutil.which("c++")
    if program is None:
        pytest.skip("c++ is not installed")
    return program


class Model:
    """The extension, and what the model of the instructions has seen."""

    def __init__(self, extension: Path) -> None:
        spec = importlib.util.spec_from_file_location("_C", extension)
        assert spec is not None and spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.isa = lambda: "avx512amx"  # the only one it has; it calls it the baseline
        self.module = module
        self.library = ctypes.CDLL(str(extension))
        self.library.flow_model_broken.restype = ctypes.c_char_p
        self.library.flow_model_products.restype = ctypes.c_int64
        self.library.flow_model_configured.restype = ctypes.c_int64

    def products(self) -> int:
        """How many products of tiles there were. Every rule was kept, and no thread holds tiles now."""
        broken = self.library.flow_model_broken()
        assert broken is None, broken.decode()
        assert self.library.flow_model_configured() == 0, "a thread never released its tiles"
        return int(self.library.flow_model_products())


def build(folder: Path) -> Path:
    """What chooses an instruction set sees the baseline alone, and that is compiled for the model: products of bfloat16."""
    import pybind11

    program = compiler()
    python = [f"-I{sysconfig.get_path('include')}", f"-I{pybind11.get_include()}", "-fvisibility=hidden"]
    own = "-Dflow=modelled"  # a namespace: pybind11 knows the classes of flow_kernels._C by their names
    kernels = ("routed_gru", "training")
    sources = [
        *((name, CSRC / f"{name}.cpp", (*python, own, "-O0")) for name in ("bindings", "training_bindings")),
        *((f"{k}_dispatch", CSRC / "cpu" / k / "dispatch.cpp", ("-O1",)) for k in kernels),
        *((f"{k}_model", CSRC / "cpu" / k / "isa.cpp", ("-O1", *INSTRUCTIONS, "-DFLOW_ISA=baseline")) for k in kernels),
        ("threads", CSRC / "cpu" / "common" / "threads.cpp", ("-O1",)),
        ("report", MODEL / "report.cpp", ("-O1",)),
    ]
    objects = []
    for name, source, options in sources:
        objects.append(str(folder / f"{name}.o"))
        subprocess.run([program, *FLAGS, "-fPIC", *options, "-c", str(source), "-o", objects[-1]], check=True)
    out = folder / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run([program, "-shared", "-pthread", *objects, "-o", str(out)], check=True)
    return out


@contextmanager
def on(model: Model) -> Iterator[Model]:
    """flow_kernels runs on the model while this is in use."""
    with pytest.MonkeyPatch.context() as patch:
        kernels = model.module.Kernels(Tensor)
        kernels.poison = True
        patch.setattr(cpu, "_C", model.module)
        patch.setattr(cpu, "_kernels", kernels)
        yield model
