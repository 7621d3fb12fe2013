"""Products of torch whose bits may not depend on the number of threads, nor on where a client's tensors lie in memory.

torch's matrix products are MKL's on x86. It cuts small ones by the number of threads, and a cut changes the order of the sums:
on an AMD EPYC of the Zen 4 generation [5, 19] times [19, 30] has other bits on two threads than on one. Products with a vector
depend there on the alignment of the vector as well. The kernels of flow_kernels have neither trait.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's operations of this process on one thread; afterwards the number is what it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W^T + b of one client, on one thread, with W at the start of memory of its own.

    Args:
        x: [n, I].
        weight: [V, I], which may be a part of the weights of several clients.
        bias: [V].

    Returns:
        [n, V]
    """
    with one_thread():
        return F.linear(x, aligned(weight), bias)


def aligned(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of it where it does not begin at a multiple of 64 bytes, as torch's own memory does.

    In a graph that is being made of the code no tensor has a place yet.
    """
    return tensor if torch.compiler.is_compiling() or tensor.data_ptr() % 64 == 0 else tensor.clone()
