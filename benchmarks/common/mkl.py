"""The library that answers MKL's question for the vendor, so that an AMD processor gets its AVX-512 path."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.common import compiler, machine
from benchmarks.common.compiler import Missing


def vendor_library(folder: Path, elsewhere: str) -> Path:
    """Compile it in `folder`; preloaded, it answers.

    elsewhere: who has MKL's best path where nothing has to be answered, for the message.

    Raises:
        Missing: another processor or a torch without MKL, or no compiler."""
    if machine.describe()["vendor"] != "AuthenticAMD" or not torch.backends.mkl.is_available():
        raise Missing(f"only for torch with MKL on an AMD processor; elsewhere {elsewhere}")
    path, _ = compiler.library("mkl_vendor.c", folder)
    return path
