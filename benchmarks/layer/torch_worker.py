"""Worker process for baselines of PyTorch: `python -m benchmarks.layer.torch_worker --threads 1 --processors ""`."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.common import worker

if __name__ == "__main__":
    threads, requests, replies = worker.start(sys.argv[1:])

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.common.baselines import CellLoop, build, task


def prepare(request: dict[str, Any]) -> Callable[[], object]:
    what = request["what"]
    if what == "product":
        return product(request["sizes"])
    if what == "preloaded":
        if not ctypes.CDLL(None).mkl_serv_intel_cpu_true():
            raise RuntimeError("the preloaded function is not in this process")
        return lambda: None
    tensors = load_file(request["file"])
    x, grad = tensors.pop("x"), tensors.pop("grad")
    weights = [tensors[name] for name in sorted(tensors)]
    module = build(what.removeprefix("compiled "), weights)
    timed: Callable[..., Tensor] = module
    if request["mode"] == "step":
        assert isinstance(module, CellLoop), f"what={what!r}: one step alone is computed by a loop of cells without clients"
        timed = module.step
    if what.startswith("compiled "):
        timed = torch.compile(timed, dynamic=False)
    run = task(timed, list(module.parameters()), x, grad, request["mode"])
    if request["mode"] == "step":
        run = torch.no_grad()(run)
    save_file({f"{n:04}": t.detach().contiguous() for n, t in enumerate(run())}, request["results"])
    return run


def product(sizes: list[int]) -> Callable[[], object]:
    """One product [m, k] x [k, n], to see which path MKL takes."""
    m, k, n = sizes
    a, b = torch.ones(m, k), torch.ones(k, n)
    return lambda: a @ b


if __name__ == "__main__":
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    worker.serve(prepare, requests, replies)
