"""The registered torch ops and their autograd: every backend has a family of two.

Those of the C++ kernels are ``flow_kernels::routed_gru`` and ``flow_kernels::routed_gru_backward``. The other backends have the
same names with ``_triton`` or ``_cuda`` in them.

The ops are opaque: an implementation, a fake kernel (shapes only) and a vmap rule (mapping.py: fold the mapped dimension into
the clients or the sequences). What forward keeps for backward is a tensor whose layout the backend chooses. Autograd is an
``autograd.Function`` in the setup_context form around them, because a formula registered on the op itself does not compose with
torch.func.grad. It is left out altogether when no gradient is wanted.

The ops take tensors and options one by one. This module and mapping.py alone know their places: an
implementation is given :class:`flow_kernels.call.Inputs`, and everything outside the ops is written with names.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

import torch
from torch import Tensor
from torch.autograd import forward_ad

from flow_kernels import mapping
from flow_kernels.call import NAMES, Inputs, Options, OutputGradients, Outputs, Saved, Weights
from flow_kernels.tracing import constant_when_compiled

Forward = Callable[[Inputs, bool], Outputs]
"""inputs, whether backward will follow -> y, h_n, q and gates"""
Backward = Callable[[OutputGradients, Saved, Inputs, Sequence[bool]], list[Tensor]]
"""gradients of the outputs, what forward saved, its inputs, which of the twelve gradients are wanted -> those in order"""

_COUNT = len(mapping.TENSORS)

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


SECOND = "routed_gru: this backend has no second derivative; use backend='reference', which is differentiable twice"
COMPILED = (
    "routed_gru: torch.compile cannot trace this backend under vmap, grad and the other transforms of torch.func; compile "
    "without them, transform without compiling, or use backend='reference'"
)
ONNX = (
    "routed_gru: this backend is an operator of its own, which ONNX does not have; export with backend='reference', which "
    "consists of PyTorch's operators, or use torch.export"
)
TRACED = (
    "routed_gru: torch.jit.trace records this backend without gradients only; trace under torch.no_grad(), or use torch.export "
    "or backend='reference'"
)
FORWARD = "routed_gru: this backend has no forward-mode derivative; use backend='reference', which has one"


@constant_when_compiled
def _transformed() -> bool:
    """Whether a transform of torch.func is at work; under torch.compile, at the time of tracing."""
    return torch._C._are_functorch_transforms_active()


@constant_when_compiled  # it cannot trace this
def _refuse_onnx() -> None:
    """Raise where the call is recorded for ONNX."""
    if torch.onnx.is_in_onnx_export():
        raise RuntimeError(ONNX)


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
        self.forward_op = getattr(torch.ops.flow_kernels, name).default
        self.backward_op = getattr(torch.ops.flow_kernels, f"{name}_backward").default
        self._map(name, mapping.rule_of_forward(self.forward_op), tuple)
        self._map(f"{name}_backward", mapping.rule_of_backward(self.backward_op), list)
        self.function, self.function_without_forward_mode = _functions(self.forward_op, self.backward_op)

    def _map(self, name: str, rule: mapping.Rule, form: type) -> None:
        """Register the rule of an op that returns this form (tuple, list), for both of torch's vmaps."""

        def of_newer_vmap(info: Any, dims: Any, *args: Any) -> tuple[Any, Any]:
            results, places = rule(info.batch_size, dims, args)
            return form(results), form(places)

        kernel = mapping.kernel_of_older_vmap(rule)
        torch.library.register_vmap(f"flow_kernels::{name}", of_newer_vmap, lib=_library)
        _library.impl(name, lambda *args: form(kernel(*args)), "Batched")

    def register(self, device: str, forward: Forward, backward: Backward, library: torch.library.Library = _library) -> None:
        """Give both ops their implementation on one kind of device ("CPU", "CUDA"). It is never given an empty batch."""

        def forward_kernel(*args: Any) -> Outputs:
            inputs, save = _unpack_forward(*args)
            return self.empty_outputs(inputs, save) if inputs.empty else forward(inputs, save)

        def backward_kernel(*args: Any) -> list[Tensor]:
            gradients, saved, inputs, wanted = _unpack_backward(*args)
            if not inputs.empty:
                return backward(gradients, saved, inputs, wanted)
            wanted_tensors = (t for t, want in zip(inputs.tensors, wanted, strict=True) if want)
            return [t.new_zeros(t.shape) for t in wanted_tensors if t is not None]

        library.impl(self.name, forward_kernel, device)
        library.impl(f"{self.name}_backward", backward_kernel, device)

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
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            _refuse_onnx()
        tensors = inputs.tensors
        shared = (*tensors, inputs.lengths, inputs.offsets, *inputs.options)
        # Inside of vmap a tensor does not say whether a gradient is wanted outside of it.
        if torch.is_grad_enabled() and (_transformed() or any(t is not None and t.requires_grad for t in tensors)):
            if torch._C._get_tracing_state() is not None:
                raise RuntimeError(TRACED)
            function = self.function if forward_ad._current_level < 0 else self.function_without_forward_mode
            return function.apply(*shared, not recompute)[:3]  # type: ignore[no-any-return]
        return self.forward_op(*shared, False)[:3]  # type: ignore[no-any-return]

    def _fake_forward(self, *args: Any) -> Outputs:
        return self.empty_outputs(*_unpack_forward(*args))


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
