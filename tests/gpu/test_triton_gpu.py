"""The cases of tests/triton_cases.py on a GPU, compiled. Has not run on one yet."""

from __future__ import annotations

import os

import pytest
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # the products of the tests are to be repeatable too

if not torch.cuda.is_available():
    pytest.skip("no GPU: torch.cuda.is_available() is False", allow_module_level=True)
pytest.importorskip("triton")

from triton_cases import *  # noqa: F403
