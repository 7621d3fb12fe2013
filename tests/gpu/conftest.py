"""Shared by the tests of the GPU backends: products of cuBLAS that give the same bits every time."""

import os

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its start, which is after the collection
