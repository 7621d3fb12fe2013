"""routed_gru: the functional form. Every check of an argument lives here, once; then the plan, then the backend."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.autograd import forward_ad

from flow_kernels import plan, quick
from flow_kernels.backends import load
from flow_kernels.op import FORWARD
from flow_kernels.reference import ROUTES, ROUTINGS

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def routed_gru(
    input: Tensor,
    hx: Tensor | None,
    weight_ih: Tensor | None,
    weight_hh: Tensor | None,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    local_weight_ih: Tensor | None = None,
    local_weight_hh: Tensor | None = None,
    local_bias_ih: Tensor | None = None,
    local_bias_hh: Tensor | None = None,
    router_weight: Tensor | None = None,
    router_bias: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
    route: str = "mixture",
    routing: str = "soft",
    temperature: float = 1.0,
    batch_first: bool = False,
    recompute: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer, one direction of the routed GRU over a whole sequence (the equations are in docs/cell.md).

    Args:
        input: [T, B, I], or [K, T, B, I] for K clients with weights of their own; with ``batch_first`` [.., B, T, I].
        hx: initial hidden state [B, H] or [K, B, H]; None means zeros.
        weight_ih, weight_hh, bias_ih, bias_hh: the global expert, [3H, I], [3H, H], [3H], [3H] (gates r, z, n), each
            with a leading K when input has one. The biases of an expert come together or not at all.
        local_weight_ih ... local_bias_hh: the local expert, the same shapes.
        router_weight, router_bias: [2, I + H] (columns of x first) and [2]; row 0 is the global expert.
        lengths: number of valid steps of every sequence, int64 [B] or [K, B], each in 1..T; None means all T.
        batch_sizes: for packed input, what a ``PackedSequence`` calls so: int64 [T] on the CPU, the number of sequences at
            every step. input is then its data [N, I], and so are output [N, H] and q [N, 2]; hx [B, H] and h_n are in
            its (sorted) order. Nothing is computed or stored for padding.
        reverse: run through every sequence from its last valid step to its first. Outputs stay at the steps that were
            read; h_n is the state after the first.
        route: ``"mixture"``, or ``"global"`` / ``"local"`` for one expert alone; what a route does not use may be None.
        routing: ``"soft"``, ``"hard"`` (one-hot argmax, a tie goes to global) or ``"straight_through"``.
        temperature: the router's logits are divided by it; > 0.
        recompute: less memory for more time: keep nothing for the backward pass but the outputs, and compute the gates again
            there. The gradients are the same. The reference backend takes no notice of it.
        backend: ``"auto"`` or the name of one backend, see :func:`flow_kernels.backends`.

    All tensors have one floating dtype; under ``torch.autocast`` nothing is converted here (the layers do that).

    Returns:
        output [.., T, B, H] (zero past a sequence's length), h_n [.., B, H] (the state after its last valid step) and
        q [.., T, B, 2] (global, local; differentiable; zero past the length). NaN in an input propagates to every
        output that depends on it.

    Raises:
        ValueError: for a wrong option or length; RuntimeError: for a wrong shape, dtype or device, or a backend that
            cannot run here.
    """
    check_options(route, routing, temperature)
    weights = (
        weight_ih, weight_hh, bias_ih, bias_hh, local_weight_ih, local_weight_hh, local_bias_ih, local_bias_hh,
        router_weight, router_bias,
    )  # fmt: skip
    if route != "mixture":
        unused = (None,) * 4
        weights = (*weights[:4], *unused, None, None) if route == "global" else (*unused, *weights[4:8], None, None)
    if hx is not None and batch_sizes is None and backend in ("auto", "cpu"):
        found = quick.forward((input, hx, *weights), lengths, route, routing, float(temperature), batch_first, reverse)
        if found is not None:
            return found
    check_presence(weights, route)
    offsets = None
    if batch_sizes is not None:
        lengths, offsets = _unpack(input, hx, lengths, batch_sizes)
        batch_first = False
    elif input.dim() not in (3, 4):
        raise RuntimeError(
            f"routed_gru: input must be [T, B, I] or [K, T, B, I], got {input.dim()} dimensions {list(input.shape)}; "
            "add the missing dimension with unsqueeze"
        )
    shape = input.shape
    clients = shape[:1] if len(shape) == 4 else ()
    hidden = (weights[5] if route == "local" else weights[1]).shape[-1]  # type: ignore[union-attr]
    if offsets is not None and lengths is not None:
        steps, batch = len(offsets) - 1, lengths.shape[-1]
    else:
        steps, batch = (shape[-2], shape[-3]) if batch_first else (shape[-3], shape[-2])
    if hx is None:
        hx = input.new_zeros((*clients, batch, hidden))
    tensors = (input, hx, *weights)
    check_tensors(tensors, lengths, clients, (steps, batch, shape[-1], hidden))
    if forward_ad._current_level >= 0 and _has_tangent(tensors):
        if backend not in ("auto", "reference"):
            raise RuntimeError(FORWARD)
        backend = "reference"
    module = load(plan.name(input.dtype, input.device, backend, hidden))
    return module.routed_gru(  # type: ignore[no-any-return]
        tensors, lengths, offsets, route, routing, float(temperature), batch_first, reverse, recompute=recompute
    )


def check_presence(weights: tuple[Tensor | None, ...], route: str) -> None:
    for first, prefix, used in ((0, "", route != "local"), (4, "local_", route != "global")):
        weight_ih, weight_hh, bias_ih, bias_hh = weights[first : first + 4]
        if used and (weight_ih is None or weight_hh is None):
            raise RuntimeError(
                f"routed_gru: {prefix}weight_ih and {prefix}weight_hh are needed by route={route!r}, but one is None; pass both"
            )
        if used and (bias_ih is None) != (bias_hh is None):
            raise RuntimeError(
                f"routed_gru: {prefix}bias_ih and {prefix}bias_hh come together, but one is None; pass both or neither"
            )
    if route == "mixture" and weights[8] is None:
        raise RuntimeError(
            f"routed_gru: router_weight is needed by route={route!r}, but it is None; pass it or route='global' / 'local'"
        )


def _has_tangent(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether a forward-mode derivative is being computed through one of these."""
    return any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def _unpack(data: Tensor, hx: Tensor | None, lengths: Tensor | None, batch_sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Check packed input; returns the lengths [B] and where the rows of every step begin, [T + 1]."""
    if data.dim() != 2:
        raise RuntimeError(f"routed_gru: with batch_sizes input must be [N, I], got {list(data.shape)}")
    if lengths is not None:
        raise ValueError("routed_gru: lengths and batch_sizes exclude each other; batch_sizes says all; leave lengths out")
    if batch_sizes.dim() != 1 or batch_sizes.dtype != torch.int64 or batch_sizes.device.type != "cpu" or not len(batch_sizes):
        raise RuntimeError(
            f"routed_gru: batch_sizes must be int64 [T] on the CPU with T >= 1, got {batch_sizes.dtype} "
            f"{list(batch_sizes.shape)} on {batch_sizes.device}; take it from a PackedSequence"
        )
    if not torch.compiler.is_compiling():
        sizes = batch_sizes.tolist()  # a list is checked faster than a few dozen numbers by torch's operators
        falls = all(a >= b for a, b in itertools.pairwise(sizes))
        if not falls or sizes[-1] < 1 or sum(sizes) != data.shape[0]:
            raise ValueError(
                f"routed_gru: batch_sizes must never rise, be at least 1 and sum to the N={data.shape[0]} rows of input, got "
                f"{sizes}; take it from the PackedSequence that input is the data of"
            )
        if hx is not None and hx.shape[0] != sizes[0]:
            raise RuntimeError(
                f"routed_gru: hx has shape {list(hx.shape)}; with {sizes[0]} sequences packed it must be [{sizes[0]}, H], in "
                "the packed order"
            )
    # a shape where there is one: reading a value would break the graph under torch.compile
    batch = int(batch_sizes[0]) if hx is None else hx.shape[0]
    offsets = torch.nn.functional.pad(batch_sizes.cumsum(0), (1, 0))
    lengths = (batch_sizes.unsqueeze(1) > torch.arange(batch)).sum(0)
    return lengths.to(data.device), offsets.to(data.device)


def check_options(route: str, routing: str, temperature: float) -> None:
    """Raise ValueError unless the three are what docs/cell.md allows."""
    if route not in ROUTES:
        raise ValueError(f"route must be one of {', '.join(map(repr, ROUTES))}, got {route!r}")
    if routing not in ROUTINGS:
        raise ValueError(f"routing must be one of {', '.join(map(repr, ROUTINGS))}, got {routing!r}")
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"temperature must be a finite number > 0, got {temperature!r}; use 1.0 for a plain softmax, or routing='hard' "
            "for the limit of a small temperature"
        )


_NAMES = (
    "hx", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "local_weight_ih", "local_weight_hh", "local_bias_ih",
    "local_bias_hh", "router_weight", "router_bias",
)  # fmt: skip


def check_tensors(
    tensors: tuple[Tensor | None, ...],
    lengths: Tensor | None,
    clients: tuple[int, ...],
    sizes: tuple[int, int, int, int],
) -> None:
    """Shapes, dtypes and devices of everything. Kept short where all is well: a step of streaming pays for it."""
    t, b, i, h = sizes
    input, *others = tensors
    assert input is not None
    dtype, device = input.dtype, input.device
    if t < 1 or b < 1 or i < 1 or h < 1 or (clients and clients[0] < 1):
        for size, what in ((clients[0] if clients else 1, "K"), (b, "B"), (t, "T"), (i, "I"), (h, "H")):
            if size < 1:
                raise RuntimeError(
                    f"routed_gru: {what} must be at least 1, got {what}={size} (input {list(input.shape)}); drop what is empty"
                )
    if dtype not in DTYPES:
        raise RuntimeError(
            f"routed_gru: input has dtype {dtype}; it must be one of {', '.join(str(d) for d in DTYPES)}: convert it"
        )
    expert = ((3 * h, i), (3 * h, h), (3 * h,), (3 * h,))
    expected = ((b, h), *expert, *expert, (2, i + h), (2,))
    for n, tensor in enumerate(others):
        if tensor is None:
            continue
        shape = (*clients, *expected[n])
        if tensor.shape != shape:
            raise RuntimeError(
                f"routed_gru: {_NAMES[n]} has shape {list(tensor.shape)}; with input {list(input.shape)} and hidden size {h} "
                f"it must be {list(shape)}"
            )
        if tensor.dtype != dtype or tensor.device != device:
            _refuse_alike(_NAMES[n], tensor, input, dtype)
    if lengths is not None:
        if lengths.dtype != torch.int64 or lengths.shape != (*clients, b):
            raise RuntimeError(
                f"routed_gru: lengths has dtype {lengths.dtype} and shape {list(lengths.shape)}; it must be torch.int64 "
                f"{[*clients, b]}, one length per sequence"
            )
        if lengths.device != device:
            _refuse_alike("lengths", lengths, input, torch.int64)


def _refuse_alike(name: str, tensor: Tensor, input: Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype != dtype:
        raise RuntimeError(f"routed_gru: {name} has dtype {tensor.dtype}, input has {input.dtype}; convert one of them")
    raise RuntimeError(f"routed_gru: {name} is on {tensor.device}, input on {input.device}; move one of them")
