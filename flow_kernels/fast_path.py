"""The fast path of a call on the CPU without gradients, where no compiler, transform, mode or profiler is active. It bypasses
the checks in Python and torch's dispatcher, which together take longer than one step of a small layer. The kernels look at
every tensor themselves; what they refuse takes the long way, and gets its error or its conversion there."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import profiler
from torch.nn import Parameter

from flow_kernels.backends import cpu
from flow_kernels.call import Options, Weights

_PLAIN = (Tensor, Parameter)


def _watched() -> bool:
    """Whether something wants to see the registered op: autograd, a compiler, a transform, a mode, a tracer, a profiler."""
    return (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
        or profiler._is_profiler_enabled
    )


def forward(
    x: Tensor, h0: Tensor, weights: Weights, lengths: Tensor | None, options: Options
) -> tuple[Tensor, Tensor, Tensor] | None:
    """y, h_n and q of padded rows, or None: take the long way."""
    if cpu._C is None or _watched():
        return None
    tensors = (x, h0, *weights)
    for t in tensors:
        if t is not None and type(t) not in _PLAIN:
            return None
    if (
        not x.is_cpu
        or x.dim() not in (3, 4)
        or h0.dim() != x.dim() - 1
        or (lengths is not None and type(lengths) is not Tensor)
    ):
        return None
    rows = x.shape[:-1]
    y, h_n, q = x.new_empty((*rows, h0.shape[-1])), torch.empty_like(h0), x.new_empty((*rows, 2))
    refused = cpu._kernels.try_forward(tensors, lengths, None, *options, False, False, torch.get_num_threads(), y, h_n, q, None)
    return None if refused else (y, h_n, q)
