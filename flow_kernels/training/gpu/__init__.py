"""Kernels of local training on a GPU: Triton's, and cuBLAS' products for stacks of clients. None of it has run on a GPU yet.

Importing the package needs neither Triton nor a GPU; the modules in it are imported by the first call.
"""
