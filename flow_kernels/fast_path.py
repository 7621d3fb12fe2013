"""The fast path of a call on the CPU, where no compiler, transform, mode or profiler is active. It bypasses the checks in
Python and torch's dispatcher, which together take longer than one step of a small layer. The kernels look at every tensor
themselves; what they refuse takes the long way, and gets its error or its conversion there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler
from torch.nn import Parameter

from flow_kernels.backends import cpu
from flow_kernels.call import Options, Weights

_PLAIN = (Tensor, Parameter)


def _watched() -> bool:
    """Whether something wants to see the registered op: a compiler, a transform, a mode, a tracer, a profiler."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._get_tracing_state() is not None
        or profiler._is_profiler_enabled
        or forward_ad._current_level >= 0
    )


class _Refused(Exception):
    """The kernels do not take these tensors as they are."""


class _Short(torch.autograd.Function):
    """What ``cpu.family.function`` computes, by a call of the kernels instead of the registered op.

    The arguments and what is kept for the backward pass are the same, and so is the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        *tensors, lengths, offsets, route, routing, temperature, batch_first, reverse, save = args
        x, h0 = tensors[:2]
        rows, hidden = x.shape[:-1], h0.shape[-1]
        gates = x.new_empty((*rows, *cpu.gates_shape(hidden, route)) if save else 0)
        y, h_n, q = _run(tensors, lengths, Options(route, routing, temperature, batch_first, reverse), gates if save else None)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y, q, gates, *tensors, lengths, offsets)
        ctx.options = (route, routing, temperature, batch_first, reverse)
        return y.clone(), h_n, q.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        return cpu.family.function.backward(ctx, *gradients)


def _run(
    tensors: Sequence[Tensor | None], lengths: Tensor | None, options: Options, gates: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """y, h_n and q; raises _Refused where the kernels do not take the tensors."""
    x, h0 = tensors[:2]
    assert x is not None and h0 is not None  # for the type checker
    rows = x.shape[:-1]
    y, h_n, q = x.new_empty((*rows, h0.shape[-1])), torch.empty_like(h0), x.new_empty((*rows, 2))
    if cpu._kernels.try_forward(
        tuple(tensors), lengths, None, *options, False, False, torch.get_num_threads(), y, h_n, q, gates
    ):
        raise _Refused
    return y, h_n, q


def _zeros(x: Tensor, weights: Weights, options: Options) -> Tensor | None:
    """The initial state of a call that gives none."""
    weight_hh = weights.local_weight_hh if options.route == "local" else weights.weight_hh
    if weight_hh is None or not weight_hh.dim():
        return None
    batch = x.shape[-3 if options.batch_first else -2]
    return x.new_zeros((*x.shape[:-3], batch, weight_hh.shape[-1]))


def forward(
    x: Tensor, h0: Tensor | None, weights: Weights, lengths: Tensor | None, options: Options, recompute: bool = False
) -> tuple[Tensor, Tensor, Tensor] | None:
    """y, h_n and q of padded rows, or None: take the long way."""
    if cpu._C is None or _watched():
        return None
    for t in (x, h0, *weights):
        if t is not None and type(t) not in _PLAIN:
            return None
    if not x.is_cpu or x.dim() not in (3, 4) or (lengths is not None and type(lengths) is not Tensor):
        return None
    if h0 is None:
        h0 = _zeros(x, weights, options)
    if h0 is None or h0.dim() != x.dim() - 1:
        return None
    tensors = (x, h0, *weights)
    try:
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            return _Short.apply(*tensors, lengths, None, *options, not recompute)  # type: ignore[no-any-return, no-untyped-call]
        return _run(tensors, lengths, options, None)
    except _Refused:
        return None
