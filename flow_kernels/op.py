"""The registered torch ops, ``flow_kernels::routed_gru`` and ``flow_kernels::routed_gru_backward``, and their autograd.

The ops are opaque: a CPU implementation, a fake kernel (shapes only) and a vmap rule (fold the mapped dimension into the
clients). Autograd is an ``autograd.Function`` in the setup_context form around them, because a formula registered on the op
itself does not compose with torch.func.grad; it is left out altogether when no gradient is wanted.

Twelve tensors are differentiable, always in this order (all with a leading K, any weight may be None):
x, h0, then w_ih, w_hh, b_ih, b_hh of the global and of the local expert, then router weight and bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

Optional12 = Sequence[Tensor | None]

_TENSORS = (
    "Tensor x, Tensor h0, Tensor? w_ih, Tensor? w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? local_w_ih, Tensor? local_w_hh, "
    "Tensor? local_b_ih, Tensor? local_b_hh, Tensor? router_w, Tensor? router_b, Tensor? lengths, Tensor? offsets"
)
_OPTIONS = "str route, str routing, float temperature, bool batch_first, bool reverse"
COUNT = 12  # differentiable tensors

_library = torch.library.Library("flow_kernels", "DEF")
_library.define(f"routed_gru({_TENSORS}, {_OPTIONS}, bool save) -> (Tensor, Tensor, Tensor, Tensor)")
_library.define(
    f"routed_gru_backward(Tensor? dy, Tensor? dh_n, Tensor? dq, Tensor y, Tensor q, Tensor gates, {_TENSORS}, {_OPTIONS}, "
    "bool[] wanted) -> Tensor[]"
)


def register(device: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
    """Give both ops their implementation on one kind of device ("CPU", "CUDA")."""
    _library.impl("routed_gru", forward, device)
    _library.impl("routed_gru_backward", backward, device)


def sizes(x: Tensor, h0: Tensor, offsets: Tensor | None, batch_first: bool) -> tuple[int, int, int, int, int]:
    """K, T, B, I, H"""
    k, t, b, i = x.shape
    if offsets is not None:  # packed: x [K, N, 1, I]
        return k, len(offsets) - 1, h0.shape[1], i, h0.shape[-1]
    return (k, b, t, i, h0.shape[-1]) if batch_first else (k, t, b, i, h0.shape[-1])


def empty_outputs(x: Tensor, h0: Tensor, route: str, save: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Uninitialised y, h_n, q and gates (the layout of csrc/routed_gru.h; without elements unless they are saved)."""
    y, h_n, q, gates = output_shapes(x, h0, route)
    return x.new_empty(y), x.new_empty(h_n), x.new_empty(q), x.new_empty(gates if save else (0,))


def output_shapes(x: Tensor, h0: Tensor, route: str) -> tuple[tuple[int, ...], ...]:
    """Of y, h_n, q and gates."""
    h, experts = h0.shape[-1], 2 if route == "mixture" else 1
    rows = tuple(x.shape[:-1])
    return (*rows, h), tuple(h0.shape), (*rows, 2), (*rows, experts * 4, (h + 15) // 16 * 16)


@torch.library.register_fake("flow_kernels::routed_gru", lib=_library)
def _fake_forward(x: Tensor, h0: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *_, route, _routing, _temperature, _batch_first, _reverse, save = args
    return empty_outputs(x, h0, route, save)


@torch.library.register_fake("flow_kernels::routed_gru_backward", lib=_library)
def _fake_backward(dy: Tensor, dh_n: Tensor, dq: Tensor, y: Tensor, q: Tensor, gates: Tensor, *args: Any) -> list[Tensor]:
    tensors, wanted = args[:COUNT], args[-1]
    return [t.new_empty(t.shape) for t, want in zip(tensors, wanted, strict=True) if want]


def check_lengths(lengths: Tensor, steps: int) -> None:
    """Raise ValueError unless every length lies in 1..steps. Reads the values, so backends call it where that is cheap."""
    low, high = int(lengths.min()), int(lengths.max())
    if low < 1 or high > steps:
        bad = low if low < 1 else high
        raise ValueError(
            f"lengths: every length must lie in 1..T = 1..{steps}, got {bad}; drop empty sequences and cut longer ones"
        )


def _fold(tensors: Sequence[Any], dims: Sequence[Any], size: int) -> list[Any]:
    """Move every mapped dimension to the front and merge it with the clients; expand what is not mapped."""
    folded = []
    for t, dim in zip(tensors, dims, strict=True):
        if isinstance(t, Tensor):
            t = t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
            t = t.flatten(0, 1)
        folded.append(t)
    return folded


def _refuse_mapped_offsets(dim: int | None) -> None:
    if dim is not None:
        raise RuntimeError("routed_gru: vmap over batch_sizes is not possible; pad the input and pass lengths")


def _vmap_forward(info: Any, dims: Any, *args: Any) -> tuple[Any, Any]:
    n = info.batch_size
    _refuse_mapped_offsets(dims[COUNT + 1])
    folded = _fold(args[: COUNT + 1], dims[: COUNT + 1], n)
    y, h_n, q, gates = torch.ops.flow_kernels.routed_gru(*folded, *args[COUNT + 1 :])
    save = args[-1]
    outputs = [t.unflatten(0, (n, -1)) for t in (y, h_n, q)]
    return (*outputs, gates.unflatten(0, (n, -1)) if save else gates), (0, 0, 0, 0 if save else None)


def _vmap_backward(info: Any, dims: Any, *args: Any) -> tuple[Any, Any]:
    n, tensors = info.batch_size, 6 + COUNT + 1
    _refuse_mapped_offsets(dims[tensors])
    folded = _fold(args[:tensors], dims[:tensors], n)
    grads = torch.ops.flow_kernels.routed_gru_backward(*folded, *args[tensors:])
    return [g.unflatten(0, (n, -1)) for g in grads], [0] * len(grads)


torch.library.register_vmap("flow_kernels::routed_gru", _vmap_forward, lib=_library)
torch.library.register_vmap("flow_kernels::routed_gru_backward", _vmap_backward, lib=_library)


SECOND = "routed_gru: this backend has no second derivative; use backend='reference', which is differentiable twice"
FORWARD = "routed_gru: this backend has no forward-mode derivative; use backend='reference', which has one"


class _RoutedGRU(torch.autograd.Function):
    """The twelve tensors, lengths, offsets, dimensions of size 1 to drop from the outputs, options -> y, h_n, q.

    Backward reads y and q, so what is handed out are copies: a caller may change its output in place, as that of torch's
    own layers. Beside the gates that are saved anyway (8 H a row) the copy of y (H a row) is small.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        tensors, drop, options = args[: COUNT + 2], args[COUNT + 2], args[COUNT + 3 :]
        y, h_n, q, gates = torch.ops.flow_kernels.routed_gru(*tensors, *options, True)
        return y.squeeze(drop).clone(), h_n.squeeze(drop[:1]).clone(), q.squeeze(drop).clone(), y, q, gates

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        saved = output[3:]
        ctx.mark_non_differentiable(*saved)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*saved, *inputs[: COUNT + 2])
        ctx.options = inputs[COUNT + 3 :]

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dq: Tensor | None, *_: None) -> tuple[Any, ...]:
        wanted = list(ctx.needs_input_grad[:COUNT])
        nothing = (None,) * (len(ctx.options) + 3)
        if dy is None and dh_n is None and dq is None:
            return (*(None for _ in wanted), *nothing)
        y, q, gates, *tensors = ctx.saved_tensors
        shapes = ((dy, y), (dh_n, tensors[1]), (dq, q))
        grads = (None if d is None else d.reshape(like.shape) for d, like in shapes)
        args = (*grads, y, q, gates, *tensors, *ctx.options, wanted)
        if torch.is_grad_enabled():
            found = iter(_RoutedGRUBackward.apply(*args))
        else:
            found = iter(torch.ops.flow_kernels.routed_gru_backward(*args))
        return (*(next(found) if want else None for want in wanted), *nothing)


class _RoutedGRUBackward(torch.autograd.Function):
    """The backward op where a graph of it is being recorded: there is no formula for its own gradient, and it says so."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return tuple(torch.ops.flow_kernels.routed_gru_backward(*args))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(SECOND)


class _NoForwardMode(_RoutedGRU):
    """Used while forward-mode derivatives are computed. A class of its own: torch.compile refuses whatever has a jvp."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise RuntimeError(FORWARD)


def routed_gru(
    tensors: Optional12,
    lengths: Tensor | None,
    offsets: Tensor | None,
    drop: tuple[int, ...],
    route: str,
    routing: str,
    temperature: float,
    batch_first: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the registered op, through autograd only when a gradient can be asked for; returns y, h_n, q without the
    dimensions ``drop``, which have size 1 (of h_n only the first of them)."""
    options = (route, routing, temperature, batch_first, reverse)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        function = _RoutedGRU if forward_ad._current_level < 0 else _NoForwardMode
        y, h_n, q, *_ = function.apply(*tensors, lengths, offsets, drop, *options)
        return y, h_n, q
    y, h_n, q, _ = torch.ops.flow_kernels.routed_gru(*tensors, lengths, offsets, *options, False)
    return y.squeeze(drop), h_n.squeeze(drop[:1]), q.squeeze(drop)
