"""routed_gru: the functional form. It checks the arguments (checks.py), asks for a plan, and calls the backend."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.autograd import forward_ad

from flow_kernels import fast_path, plan
from flow_kernels.backends import load
from flow_kernels.call import Inputs, Options, Weights
from flow_kernels.checks import check_options, check_presence, check_tensors, refuse_odd
from flow_kernels.ops import FORWARD

SMALLEST_TEMPERATURE = 2.0**-126  # the smallest normal float32; the inverse of a smaller one is infinite, and its gradient NaN


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
        input: [T, B, I], or [K, T, B, I] for K clients with weights of their own; with ``batch_first`` [.., B, T, I]. B may
            be 0: the outputs then have no elements, and gradients are zero.
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
        temperature: the router's logits are divided by it; > 0. Values below 2^-126 count as 2^-126.
        recompute: less memory for more time: keep nothing for the backward pass but the outputs, and compute the gates again
            there. The gradients are the same. The reference backend takes no notice of it.
        backend: ``"auto"`` or the name of one backend, see :func:`flow_kernels.backends`.

    All tensors have one floating dtype; under ``torch.autocast`` nothing is converted here (the layers do that).

    Returns:
        output [.., T, B, H] (zero past a sequence's length), h_n [.., B, H] (the state after its last valid step) and
        q [.., T, B, 2] (global, local; differentiable; zero past the length). NaN in an input propagates to every
        output that depends on it.

    Raises:
        TypeError: for an argument that is no tensor; ValueError: for a tensor that is not dense, a wrong option or length;
        RuntimeError: for a wrong shape, dtype or device, or a backend that cannot run here.
    """
    check_options(route, routing, temperature)
    weights = Weights(
        weight_ih,
        weight_hh,
        bias_ih,
        bias_hh,
        local_weight_ih,
        local_weight_hh,
        local_bias_ih,
        local_bias_hh,
        router_weight,
        router_bias,
    ).used_by(route)
    temperature = max(float(temperature), SMALLEST_TEMPERATURE)
    options = Options(route, routing, temperature, bool(batch_first) and batch_sizes is None, bool(reverse))
    try:
        if batch_sizes is None and backend in ("auto", "cpu"):
            outputs = fast_path.forward(input, hx, weights, lengths, options, recompute)
            if outputs is not None:
                return outputs
        check_presence(weights, route)
        inputs, hidden = _inputs(input, hx, weights, lengths, batch_sizes, options)
        name = _backend(inputs, hidden, backend)
        if name == "reference":  # the ops of the others take dense tensors only
            refuse_odd("routed_gru", _named(input, hx, weights, lengths, batch_sizes))
        return load(name).routed_gru(inputs, recompute=recompute)
    except Exception:
        refuse_odd("routed_gru", _named(input, hx, weights, lengths, batch_sizes))
        raise


def _named(
    input: Tensor, hx: Tensor | None, weights: Weights, lengths: Tensor | None, batch_sizes: Tensor | None
) -> dict[str, Tensor | None]:
    return {"input": input, "hx": hx, **weights._asdict(), "lengths": lengths, "batch_sizes": batch_sizes}


def _backend(inputs: Inputs, hidden: int, backend: str) -> str:
    """The name of the backend that runs these inputs."""
    if hidden == 0 or inputs.x.shape[-1] == 0:
        if backend not in ("auto", "reference"):
            raise RuntimeError(
                f"routed_gru: backend={backend!r} needs I and H of at least 1, got I={inputs.x.shape[-1]} and H={hidden}; use "
                "backend='auto' or 'reference'"
            )
        backend = "reference"
    if forward_ad._current_level >= 0 and _has_tangent(inputs):
        if backend not in ("auto", "reference"):
            raise RuntimeError(FORWARD)
        backend = "reference"
    return plan.name(inputs.x.dtype, inputs.x.device, backend, hidden)


def _inputs(
    input: Tensor, hx: Tensor | None, weights: Weights, lengths: Tensor | None, batch_sizes: Tensor | None, options: Options
) -> tuple[Inputs, int]:
    """Check the tensors of a call and complete them; returns H too."""
    offsets = None
    if batch_sizes is not None:
        lengths, offsets = _unpack(input, hx, lengths, batch_sizes)
    elif input.dim() not in (3, 4):
        raise RuntimeError(
            f"routed_gru: input must be [T, B, I] or [K, T, B, I], got {input.dim()} dimensions {list(input.shape)}; "
            "add the missing dimension with unsqueeze"
        )
    shape = input.shape
    clients = shape[:1] if len(shape) == 4 else ()
    weight_hh = weights.local_weight_hh if options.route == "local" else weights.weight_hh
    assert weight_hh is not None  # check_presence has seen to it
    if weight_hh.dim() == 0:
        raise RuntimeError("routed_gru: weight_hh has no dimensions; it must be [3H, H]")
    hidden = weight_hh.shape[-1]
    if offsets is not None and lengths is not None:
        steps, batch = len(offsets) - 1, lengths.shape[-1]
    else:
        steps, batch = (shape[-2], shape[-3]) if options.batch_first else (shape[-3], shape[-2])
    if hx is None:
        hx = input.new_zeros((*clients, batch, hidden))
    check_tensors(input, hx, weights, lengths, clients, (steps, batch, shape[-1], hidden))
    return Inputs(input, hx, weights, lengths, offsets, options), hidden


def _has_tangent(inputs: Inputs) -> bool:
    """Whether a forward-mode derivative is being computed through one of the tensors."""
    return any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in inputs.tensors)


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
        if hx is not None and (hx.dim() != 2 or hx.shape[0] != sizes[0]):
            raise RuntimeError(
                f"routed_gru: hx has shape {list(hx.shape)}; with {sizes[0]} sequences packed it must be [{sizes[0]}, H], in "
                "the packed order"
            )
    # a shape where there is one: reading a value would break the graph under torch.compile
    batch = int(batch_sizes[0]) if hx is None else hx.shape[0]
    offsets = torch.nn.functional.pad(batch_sizes.cumsum(0), (1, 0))
    lengths = (batch_sizes.unsqueeze(1) > torch.arange(batch)).sum(0)
    return lengths.to(data.device), offsets.to(data.device)
