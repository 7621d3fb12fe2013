"""The registered torch ops and their autograd: for every backend a family of two, ``flow_kernels::routed_gru`` and
``flow_kernels::routed_gru_backward`` for the C++ kernels, the same with ``_triton`` or ``_cuda`` in the name for the others.

The ops are opaque: an implementation, a fake kernel (shapes only) and a vmap rule (fold the mapped dimension into the
clients). What forward keeps for backward is a tensor whose layout the backend chooses. Autograd is an
``autograd.Function`` in the setup_context form around them, because a formula registered on the op itself does not compose
with torch.func.grad; it is left out altogether when no gradient is wanted.

Twelve tensors are differentiable, always in this order (any weight may be None): x, h0, then w_ih, w_hh, b_ih, b_hh of the
global and of the local expert, then router weight and bias. All of them have a leading K, or none has. Packed rows, with
offsets, are x [N, I] or [K, N, I].
"""

from __future__ import annotations

import inspect
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


def _refuse_mapped_offsets(dim: int | None) -> None:
    if dim is not None:
        raise RuntimeError("routed_gru: vmap over batch_sizes is not possible; pad the input and pass lengths")


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

    saved(x, h0, route) makes the uninitialised tensor that forward keeps for backward, with a leading K if h0 has one.
    """

    def __init__(self, name: str, saved: Callable[[Tensor, Tensor, str], Tensor]) -> None:
        self.name, self._saved = name, saved
        _library.define(f"{name}({_TENSORS}, {_OPTIONS}, bool save) -> (Tensor, Tensor, Tensor, Tensor)")
        _library.define(
            f"{name}_backward(Tensor? dy, Tensor? dh_n, Tensor? dq, Tensor y, Tensor q, Tensor saved, {_TENSORS}, {_OPTIONS}, "
            "bool[] wanted) -> Tensor[]"
        )
        forward, backward = f"flow_kernels::{name}", f"flow_kernels::{name}_backward"
        torch.library.register_fake(forward, self._fake_forward, lib=_library)
        torch.library.register_fake(backward, _fake_backward, lib=_library)
        torch.library.register_vmap(forward, self._vmap_forward, lib=_library)
        torch.library.register_vmap(backward, self._vmap_backward, lib=_library)
        self.forward_op = getattr(torch.ops.flow_kernels, name).default
        self.backward_op = getattr(torch.ops.flow_kernels, f"{name}_backward").default
        self.function, self.function_without_forward_mode = _functions(self.forward_op, self.backward_op)

    def register(self, device: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
        """Give both ops their implementation on one kind of device ("CPU", "CUDA")."""
        _library.impl(self.name, forward, device)
        _library.impl(f"{self.name}_backward", backward, device)

    def empty_outputs(self, x: Tensor, h0: Tensor, route: str, save: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Uninitialised y, h_n, q and what backward reads (without elements unless it is to be saved)."""
        rows, h = x.shape[:-1], h0.shape[-1]
        saved = self._saved(x, h0, route) if save else x.new_empty(0)
        return x.new_empty((*rows, h)), h0.new_empty(h0.shape), x.new_empty((*rows, 2)), saved

    def run(
        self, tensors: Optional12, lengths: Tensor | None, offsets: Tensor | None, *options: Any, recompute: bool = False
    ) -> tuple[Tensor, ...]:
        """Run the registered op, through autograd only when a gradient can be asked for; returns y, h_n, q. The options are
        those of the op, in its order; recompute: save nothing but the outputs for backward."""
        if torch.compiler.is_compiling() and _transformed():  # traced, the Function would lose its backward: zero gradients
            raise RuntimeError(COMPILED)
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            function = self.function if forward_ad._current_level < 0 else self.function_without_forward_mode
            return function.apply(*tensors, lengths, offsets, *options, not recompute)[:3]  # type: ignore[no-any-return]
        return self.forward_op(*tensors, lengths, offsets, *options, False)[:3]  # type: ignore[no-any-return]

    def _fake_forward(self, x: Tensor, h0: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        *_, route, _routing, _temperature, _batch_first, _reverse, save = args
        return self.empty_outputs(x, h0, route, save)

    def _vmap_forward(self, info: Any, dims: Any, *args: Any) -> tuple[Any, Any]:
        _refuse_mapped_offsets(dims[COUNT + 1])
        folding = _Folding(info.batch_size, args[1], dims[1])
        folded = folding.fold(args[: COUNT + 1], dims[: COUNT + 1])
        y, h_n, q, saved = self.forward_op(*folded, *args[COUNT + 1 :])
        save = args[-1]
        outputs = [folding.unfold(t) for t in (y, h_n, q)]
        return (*outputs, folding.unfold(saved) if save else saved), (0, 0, 0, 0 if save else None)

    def _vmap_backward(self, info: Any, dims: Any, *args: Any) -> tuple[Any, Any]:
        tensors = 6 + COUNT + 1
        _refuse_mapped_offsets(dims[tensors])
        folding = _Folding(info.batch_size, args[7], dims[7])
        folded = folding.fold(args[:tensors], dims[:tensors])
        grads = self.backward_op(*folded, *args[tensors:])
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
            ctx.save_for_backward(*saved, *inputs[: COUNT + 2])
            ctx.options = inputs[COUNT + 2 : -1]

        @staticmethod
        def backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dq: Tensor | None, *_: None) -> tuple[Any, ...]:
            wanted = list(ctx.needs_input_grad[:COUNT])
            nothing = (None,) * (len(ctx.options) + 3)
            if dy is None and dh_n is None and dq is None:
                return (*(None for _ in wanted), *nothing)
            args = (dy, dh_n, dq, *ctx.saved_tensors, *ctx.options, wanted)
            found = iter(RoutedGRUBackward.apply(*args) if torch.is_grad_enabled() else backward_op(*args))
            return (*(next(found) if want else None for want in wanted), *nothing)

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
