"""The registered torch ops and their autograd: for every backend a family of two, ``flow_kernels::routed_gru`` and
``flow_kernels::routed_gru_backward`` for the C++ kernels, the same with ``_triton`` or ``_cuda`` in the name for the others.

The ops are opaque: an implementation, a fake kernel (shapes only) and a vmap rule (fold the mapped dimension into the
clients). What forward keeps for backward is a tensor whose layout the backend chooses. Autograd is an
``autograd.Function`` in the setup_context form around them, because a formula registered on the op itself does not compose
with torch.func.grad; it is left out altogether when no gradient is wanted.

The ops take tensors and options one by one. This module alone knows their places: an implementation is given
:class:`flow_kernels.call.Inputs`, and everything outside the ops is written with names.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

import torch
from torch import Tensor
from torch.autograd import forward_ad

from flow_kernels.call import NAMES, Inputs, Options, OutputGradients, Outputs, Saved, Weights

Forward = Callable[[Inputs, bool], Outputs]
"""inputs, whether backward will follow -> y, h_n, q and gates"""
Backward = Callable[[OutputGradients, Saved, Inputs, Sequence[bool]], list[Tensor]]
"""gradients of the outputs, what forward saved, its inputs, which of the twelve gradients are wanted -> those in order"""

_BEFORE = (*OutputGradients._fields, *Saved._fields)  # what the backward op takes before the tensors of the forward op
_TENSORS = (*NAMES, "lengths", "offsets")
_COUNT = len(_TENSORS)

_library = torch.library.Library("flow_kernels", "DEF")


def _tensors_of_schema() -> str:
    short = [name.replace("weight", "w").replace("bias", "b") for name in Weights._fields]
    return ", ".join(["Tensor x", "Tensor h0", *(f"Tensor? {name}" for name in (*short, "lengths", "offsets"))])


def _options_of_schema() -> str:
    return ", ".join(f"{kind.__name__} {name}" for name, kind in get_type_hints(Options).items())


def _unpack(x: Tensor, h0: Tensor, *rest: Any) -> Inputs:
    """The arguments that both ops share, by name."""
    values = iter(rest)
    weights = Weights(*itertools.islice(values, len(Weights._fields)))
    return Inputs(x, h0, weights, next(values), next(values), Options(*values))


def _unpack_forward(*args: Any) -> tuple[Inputs, bool]:
    *shared, save = args
    return _unpack(*shared), save


def _unpack_backward(*args: Any) -> tuple[OutputGradients, Saved, Inputs, list[bool]]:
    dy, dh_n, dq, y, q, gates, *shared, wanted = args
    return OutputGradients(dy, dh_n, dq), Saved(y, q, gates), _unpack(*shared), wanted


def _fake_backward(*args: Any) -> list[Tensor]:
    _, _, inputs, wanted = _unpack_backward(*args)
    return [t.new_empty(t.shape) for t, want in zip(inputs.tensors, wanted, strict=True) if want and t is not None]


class _Folding:
    """A vmapped dimension as clients: the only ones, or merged with those that are there."""

    def __init__(self, size: int, h0: Tensor, dim: int | None) -> None:
        self.size = size
        self.stacked = h0.dim() - (dim is not None) == 3  # [K, B, H] without the mapped dimension

    def fold(self, tensors: Sequence[Any], dims: Sequence[Any]) -> list[Any]:
        """Every tensor with its mapped dimension in front, expanded where it has none."""
        folded = []
        for t, dim in zip(tensors, dims, strict=True):
            if isinstance(t, Tensor):
                t = t.expand(self.size, *t.shape) if dim is None else t.movedim(dim, 0)
                t = t.flatten(0, 1) if self.stacked else t
            folded.append(t)
        return folded

    def unfold(self, t: Tensor) -> Tensor:
        return t.unflatten(0, (self.size, -1)) if self.stacked else t


def _folded(names: Sequence[str], size: int, dims: Sequence[Any], args: Sequence[Any]) -> tuple[_Folding, list[Any]]:
    """The arguments of an op, whose first ones have these names, with the mapped dimension in the clients."""
    h0, offsets = names.index("hx"), names.index("offsets")
    if dims[offsets] is not None:
        raise RuntimeError("routed_gru: vmap over batch_sizes is not possible; pad the input and pass lengths")
    folding = _Folding(size, args[h0], dims[h0])
    return folding, [*folding.fold(args[:offsets], dims[:offsets]), *args[offsets:]]


SECOND = "routed_gru: this backend has no second derivative; use backend='reference', which is differentiable twice"
COMPILED = (
    "routed_gru: torch.compile cannot trace this backend under vmap, grad and the other transforms of torch.func; compile "
    "without them, transform without compiling, or use backend='reference'"
)
FORWARD = "routed_gru: this backend has no forward-mode derivative; use backend='reference', which has one"


def _transformed() -> bool:
    """Whether a transform of torch.func is at work; under torch.compile, at the time of tracing."""
    return torch._C._are_functorch_transforms_active()


# What torch.compiler.assume_constant_result does, without the second that its import of the compiler takes.
_transformed._dynamo_marked_constant = True  # type: ignore[attr-defined]


class Family:
    """The two ops of one backend and the autograd around them.

    gates(hidden, route) is the shape, of one row of x, of the tensor that forward keeps for backward.
    """

    def __init__(self, name: str, gates: Callable[[int, str], tuple[int, ...]]) -> None:
        self.name, self._gates = name, gates
        shared = f"{_tensors_of_schema()}, {_options_of_schema()}"
        _library.define(f"{name}({shared}, bool save) -> (Tensor, Tensor, Tensor, Tensor)")
        _library.define(
            f"{name}_backward(Tensor? dy, Tensor? dh_n, Tensor? dq, Tensor y, Tensor q, Tensor saved, {shared}, bool[] wanted) "
            "-> Tensor[]"
        )
        forward, backward = f"flow_kernels::{name}", f"flow_kernels::{name}_backward"
        torch.library.register_fake(forward, self._fake_forward, lib=_library)
        torch.library.register_fake(backward, _fake_backward, lib=_library)
        torch.library.register_vmap(forward, self._vmap_forward, lib=_library)
        torch.library.register_vmap(backward, self._vmap_backward, lib=_library)
        self.forward_op = getattr(torch.ops.flow_kernels, name).default
        self.backward_op = getattr(torch.ops.flow_kernels, f"{name}_backward").default
        self.function, self.function_without_forward_mode = _functions(self.forward_op, self.backward_op)

    def register(self, device: str, forward: Forward, backward: Backward, library: torch.library.Library = _library) -> None:
        """Give both ops their implementation on one kind of device ("CPU", "CUDA")."""
        library.impl(self.name, lambda *args: forward(*_unpack_forward(*args)), device)
        library.impl(f"{self.name}_backward", lambda *args: backward(*_unpack_backward(*args)), device)

    def empty_outputs(self, inputs: Inputs, save: bool) -> Outputs:
        """Uninitialised y, h_n, q and what backward reads (without elements unless it is to be saved)."""
        x, h0 = inputs.x, inputs.h0
        rows, hidden = x.shape[:-1], h0.shape[-1]
        gates = x.new_empty((*rows, *self._gates(hidden, inputs.options.route)) if save else 0)
        return x.new_empty((*rows, hidden)), h0.new_empty(h0.shape), x.new_empty((*rows, 2)), gates

    def run(self, inputs: Inputs, recompute: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Run the registered op, through autograd only when a gradient can be asked for; returns y, h_n, q. recompute: save
        nothing but the outputs for backward."""
        if torch.compiler.is_compiling() and _transformed():  # traced, the Function would lose its backward: zero gradients
            raise RuntimeError(COMPILED)
        tensors = inputs.tensors
        shared = (*tensors, inputs.lengths, inputs.offsets, *inputs.options)
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            function = self.function if forward_ad._current_level < 0 else self.function_without_forward_mode
            return function.apply(*shared, not recompute)[:3]  # type: ignore[no-any-return]
        return self.forward_op(*shared, False)[:3]  # type: ignore[no-any-return]

    def _fake_forward(self, *args: Any) -> Outputs:
        return self.empty_outputs(*_unpack_forward(*args))

    def _vmap_forward(self, info: Any, dims: Any, *args: Any) -> tuple[Any, Any]:
        folding, folded = _folded(_TENSORS, info.batch_size, dims, args)
        *outputs, gates = self.forward_op(*folded)
        save = args[-1]
        outputs = [folding.unfold(t) for t in outputs]
        return (*outputs, folding.unfold(gates) if save else gates), (0, 0, 0, 0 if save else None)

    def _vmap_backward(self, info: Any, dims: Any, *args: Any) -> tuple[Any, Any]:
        folding, folded = _folded((*_BEFORE, *_TENSORS), info.batch_size, dims, args)
        grads = self.backward_op(*folded)
        return [folding.unfold(g) for g in grads], [0] * len(grads)


def _functions(forward_op: Any, backward_op: Any) -> tuple[Any, Any]:
    """The autograd.Function over two ops, and the one used while forward-mode derivatives are computed."""

    class RoutedGRU(torch.autograd.Function):
        """The twelve tensors, lengths, offsets, options, whether to save -> y, h_n, q.

        Backward reads y and q, so what is handed out are copies: a caller may change its output in place, as that of
        torch's own layers. Beside the gates that are mostly saved (8 H a row) the copy of y (H a row) is small.
        """

        generate_vmap_rule = True

        @staticmethod
        def forward(*args: Any) -> tuple[Tensor, ...]:
            y, h_n, q, saved = forward_op(*args)
            return y.clone(), h_n, q.clone(), y, q, saved

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
            saved = output[3:]
            ctx.mark_non_differentiable(*saved)
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*saved, *inputs[:_COUNT])
            ctx.options = inputs[_COUNT:-1]

        @staticmethod
        def backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dq: Tensor | None, *_: None) -> tuple[Any, ...]:
            wanted = list(ctx.needs_input_grad[: len(NAMES)])
            nothing = (None,) * (len(ctx.options) + 3)
            if dy is None and dh_n is None and dq is None:
                return (*(None for _ in wanted), *nothing)
            args = (dy, dh_n, dq, *ctx.saved_tensors, *ctx.options, wanted)
            grads = iter(RoutedGRUBackward.apply(*args) if torch.is_grad_enabled() else backward_op(*args))
            return (*(next(grads) if want else None for want in wanted), *nothing)

    class RoutedGRUBackward(torch.autograd.Function):
        """The backward op where a graph of it is being recorded: no formula for its own gradient, and it says so."""

        generate_vmap_rule = True

        @staticmethod
        def forward(*args: Any) -> tuple[Tensor, ...]:
            return tuple(backward_op(*args))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            raise RuntimeError(SECOND)

    class NoForwardMode(RoutedGRU):
        """A class of its own: torch.compile refuses whatever has a jvp."""

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            raise RuntimeError(FORWARD)

    # Function.apply asks for these at every call; found here, that takes 1 us and not 15.
    for function in (RoutedGRU, RoutedGRUBackward):
        function.forward.__signature__ = inspect.signature(function.forward)  # type: ignore[attr-defined]
    return RoutedGRU, NoForwardMode
