"""routed_gru: the functional form. Every check of an argument lives here, once; then the plan, then the backend."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.autograd import forward_ad

from flow_kernels import plan
from flow_kernels.backends import load
from flow_kernels.op import FORWARD
from flow_kernels.reference import ROUTES, ROUTINGS, Expert, Router

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
    used_global, used_local, used_router = route != "local", route != "global", route == "mixture"
    weights = {
        "weight_ih": weight_ih if used_global else None,
        "weight_hh": weight_hh if used_global else None,
        "bias_ih": bias_ih if used_global else None,
        "bias_hh": bias_hh if used_global else None,
        "local_weight_ih": local_weight_ih if used_local else None,
        "local_weight_hh": local_weight_hh if used_local else None,
        "local_bias_ih": local_bias_ih if used_local else None,
        "local_bias_hh": local_bias_hh if used_local else None,
        "router_weight": router_weight if used_router else None,
        "router_bias": router_bias if used_router else None,
    }
    for name, used in (("", used_global), ("local_", used_local)):
        if used and (weights[name + "weight_ih"] is None or weights[name + "weight_hh"] is None):
            raise RuntimeError(
                f"routed_gru: {name}weight_ih and {name}weight_hh are needed by route={route!r}, but one is None; pass both"
            )
        if used and (weights[name + "bias_ih"] is None) != (weights[name + "bias_hh"] is None):
            raise RuntimeError(
                f"routed_gru: {name}bias_ih and {name}bias_hh come together, but one is None; pass both or neither"
            )
    if used_router and weights["router_weight"] is None:
        raise RuntimeError(
            f"routed_gru: router_weight is needed by route={route!r}, but it is None; pass it or route='global' / 'local'"
        )

    stacked, packed = input.dim() == 4, batch_sizes is not None
    offsets = None
    if batch_sizes is not None:
        input, lengths, offsets = _unpack(input, hx, lengths, batch_sizes)
    elif input.dim() not in (3, 4):
        raise RuntimeError(
            f"routed_gru: input must be [T, B, I] or [K, T, B, I], got {input.dim()} dimensions {list(input.shape)}; "
            "add the missing dimension with unsqueeze"
        )
    hidden = next(w.shape[-1] for n in ("weight_hh", "local_weight_hh") if (w := weights[n]) is not None)
    if not stacked:
        input = input.unsqueeze(0)
        hx = None if hx is None else hx.unsqueeze(0)
        lengths = None if lengths is None else lengths.unsqueeze(0)
        weights = {n: None if w is None else w.unsqueeze(0) for n, w in weights.items()}
    clients, inputs = input.shape[0], input.shape[3]
    batch, steps = (input.shape[1], input.shape[2]) if batch_first else (input.shape[2], input.shape[1])
    if lengths is not None and offsets is not None:
        batch, steps, batch_first = lengths.shape[-1], len(offsets) - 1, False
    for size, what in ((clients, "K"), (batch, "B"), (steps, "T"), (inputs, "I"), (hidden, "H")):
        if size < 1:
            shape = list(input.shape[0 if stacked else 1 :])
            raise RuntimeError(f"routed_gru: {what} must be at least 1, got {what}={size} (input {shape}); drop what is empty")

    if hx is None:
        hx = input.new_zeros(clients, batch, hidden)
    _check_tensors(input, hx, weights, lengths, stacked, (clients, batch, inputs, hidden))
    if _has_tangent((input, hx, *weights.values())):
        if backend not in ("auto", "reference"):
            raise RuntimeError(FORWARD)
        backend = "reference"
    chosen = plan.choose(
        clients=clients, batch=batch, steps=steps, inputs=inputs, hidden=hidden, dtype=input.dtype, device=input.device,
        backend=backend,
    )  # fmt: skip
    experts = [
        None if w["weight_ih"] is None else Expert(w["weight_ih"], w["weight_hh"], w["bias_ih"], w["bias_hh"])  # type: ignore[arg-type]
        for w in (weights, {n.removeprefix("local_"): w for n, w in weights.items() if n.startswith("local_")})
    ]
    router = None if weights["router_weight"] is None else Router(weights["router_weight"], weights["router_bias"])
    y, h_n, q = load(chosen.backend).routed_gru(
        input, hx, experts[0], experts[1], router, lengths,
        route=route, routing=routing, temperature=float(temperature), batch_first=batch_first,
        offsets=offsets, reverse=reverse, drop=() if stacked else (0, 2) if packed else (0,),
    )  # fmt: skip
    return y, h_n, q


def _has_tangent(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether a forward-mode derivative is being computed through one of these."""
    if forward_ad._current_level < 0:
        return False
    return any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def _unpack(data: Tensor, hx: Tensor | None, lengths: Tensor | None, batch_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Check packed input; returns it as [N, 1, I], the lengths [B] and where the rows of every step begin, [T + 1]."""
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
    return data.unsqueeze(1), lengths.to(data.device), offsets.to(data.device)


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


def _check_tensors(
    input: Tensor,
    hx: Tensor,
    weights: dict[str, Tensor | None],
    lengths: Tensor | None,
    stacked: bool,
    sizes: tuple[int, int, int, int],
) -> None:
    """Shapes, dtypes and devices of everything, with a leading K everywhere."""
    k, b, i, h = sizes
    if input.dtype not in DTYPES:
        raise RuntimeError(
            f"routed_gru: input has dtype {input.dtype}; it must be one of {', '.join(str(d) for d in DTYPES)}: convert it"
        )
    shapes = {
        "weight_ih": (k, 3 * h, i), "weight_hh": (k, 3 * h, h), "bias_ih": (k, 3 * h), "bias_hh": (k, 3 * h),
        "router_weight": (k, 2, i + h), "router_bias": (k, 2), "hx": (k, b, h),
    }  # fmt: skip
    for name, tensor in {"hx": hx, **weights}.items():
        if tensor is None:
            continue
        expected = shapes[name.removeprefix("local_")]
        if tuple(tensor.shape) != expected:
            drop = 0 if stacked else 1
            raise RuntimeError(
                f"routed_gru: {name} has shape {list(tensor.shape[drop:])}; with input {list(input.shape[drop:])} and hidden "
                f"size {h} it must be {list(expected[drop:])}"
            )
        _check_alike(name, tensor, input, input.dtype)
    if lengths is not None:
        drop = 0 if stacked else 1
        if lengths.dtype != torch.int64 or tuple(lengths.shape) != (k, b):
            raise RuntimeError(
                f"routed_gru: lengths has dtype {lengths.dtype} and shape {list(lengths.shape[drop:])}; it must be "
                f"torch.int64 {[k, b][drop:]}, one length per sequence"
            )
        _check_alike("lengths", lengths, input, torch.int64)


def _check_alike(name: str, tensor: Tensor, input: Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype != dtype:
        raise RuntimeError(f"routed_gru: {name} has dtype {tensor.dtype}, input has {input.dtype}; convert one of them")
    if tensor.device != input.device:
        raise RuntimeError(f"routed_gru: {name} is on {tensor.device}, input on {input.device}; move one of them")
