"""The routed GRU of local training on a GPU: the scans of the layer's backends, and the products around their backward pass.

Parameters, states, gradients and sums are float32; what is multiplied may be rounded to 16 bits. The scan is Triton's, or of
16-bit operands that of the CUDA C++ kernels (backend "cuda").
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from flow_kernels.backends.gpu.call import Call, on
from flow_kernels.backends.gpu.rows import Rows, previous
from flow_kernels.call import EXPERTS, PREFIXES, Options, Weights
from flow_kernels.training.gpu.arguments import fitting
from flow_kernels.training.gpu.grouped import multiply


class Kept(NamedTuple):
    """What the forward pass has rounded, for the backward pass."""

    call: Call
    """The operands in the format of the products."""


@torch.no_grad()
def forward(
    x: Tensor,
    h0: Tensor,
    weights: Weights,
    *,
    lengths: Tensor | None,
    options: Options,
    y: Tensor,
    h_n: Tensor,
    q: Tensor,
    gates: Tensor | None,
    operands: torch.dtype,
    backend: str,
) -> Kept:
    """:func:`flow_kernels.training.gru.forward`."""
    k, b, t, _ = x.shape
    hidden = h0.shape[2]
    _check(x, h0, weights, lengths, options.route)
    fitting("y", y, (k, b, t, hidden), x)
    fitting("h_n", h_n, (k, b, hidden), x)
    fitting("q", q, (k, b, t, 2), x)
    fitting("gates", gates, (k, b, t, 4 * len(EXPERTS[options.route]), hidden), x)
    with on(x.device):
        call = _call(x, h0, weights, lengths, options, operands)
        rows = call.rows.count
        if backend == "cuda":
            from flow_kernels.training.gpu import cluster

            cluster.forward(call, y, h_n, q, gates)
        else:
            from flow_kernels.backends.gpu.triton import launch

            saved = None if gates is None else gates.view(k, rows, -1, hidden)
            h_n.copy_(launch.scan_forward(call, y.view(k, rows, hidden), q.view(k, rows, 2), saved))
    return Kept(call)


@torch.no_grad()
def backward(
    kept: Kept,
    *,
    y: Tensor,
    q: Tensor,
    gates: Tensor,
    dy: Tensor,
    dh_n: Tensor | None,
    dq: Tensor | None,
    dx: Tensor | None,
    dh0: Tensor | None,
    gradients: Weights,
    backend: str,
) -> None:
    """:func:`flow_kernels.training.gru.backward`, after :func:`forward`, which returned `kept`."""
    call = kept.call
    k, n, _ = call.x.shape
    hidden = call.hidden
    like = y
    fitting("dy", dy, tuple(y.shape), like)
    fitting("dh_n", dh_n, tuple(call.h0.shape), like)
    fitting("dq", dq, tuple(q.shape), like)
    fitting("the gradient of x", dx, (*y.shape[:3], call.x.shape[2]), like)
    fitting("the gradient of h0", dh0, tuple(call.h0.shape), like)
    for name, weight, gradient in zip(Weights._fields, call.weights, gradients, strict=True):
        if gradient is not None and weight is None:
            raise RuntimeError(f"flow_kernels.training: a gradient of {name}, which the route leaves out, was asked for")
        if gradient is not None and weight is not None:
            fitting(f"the gradient of {name}", gradient, tuple(weight.shape), like)
    with on(y.device):
        if backend == "cuda":
            from flow_kernels.training.gpu import cluster

            da, dlogit, dh = cluster.backward(call, y, q, gates, dy, dh_n, dq)
        else:
            from flow_kernels.backends.gpu.triton import launch

            flat_dq = None if dq is None else dq.view(k, n, 2)
            da, dlogit, dh = launch.scan_backward(
                call, dy.view(k, n, hidden), dh_n, flat_dq, y.view(k, n, hidden), q.view(k, n, 2), gates.view(k, n, -1, hidden)
            )
        if dh0 is not None:
            dh0.copy_(dh)
        _products(call, y.view(k, n, hidden), da, dlogit, dx, gradients)


def _check(x: Tensor, h0: Tensor, weights: Weights, lengths: Tensor | None, route: str) -> None:
    k, b, t, i = x.shape
    h = h0.shape[2]
    fitting("x", x, (k, b, t, i), x, torch.float32)
    fitting("h0", h0, (k, b, h), x)
    fitting("lengths", lengths, (k, b), x, torch.int64)
    shapes = {"weight_ih": (k, 3 * h, i), "weight_hh": (k, 3 * h, h), "bias_ih": (k, 3 * h), "bias_hh": (k, 3 * h)}
    for expert in EXPERTS[route]:
        for name, shape in shapes.items():
            weight = getattr(weights, PREFIXES[expert] + name)
            if weight is None:
                raise RuntimeError(
                    f"flow_kernels.training: {PREFIXES[expert]}{name}, which route={route!r} needs, is None; pass it"
                )
            fitting(PREFIXES[expert] + name, weight, shape, x)
    if route == "mixture":
        if weights.router_weight is None or weights.router_bias is None:
            raise RuntimeError("flow_kernels.training: the router, which route='mixture' needs, is missing; pass both tensors")
        fitting("router_weight", weights.router_weight, (k, 2, i + h), x)
        fitting("router_bias", weights.router_bias, (k, 2), x)


def _call(x: Tensor, h0: Tensor, weights: Weights, lengths: Tensor | None, options: Options, operands: torch.dtype) -> Call:
    """The call of a backend, its tensors in the format of the products; x zero past a sequence's length."""
    k, b, t, _ = x.shape
    rows = Rows(k, t, b, t * b, lengths, None, batch_first=True, reverse=False)
    flat, valid = x.flatten(1, 2), rows.valid()
    if valid is not None:
        flat = torch.where(valid.unsqueeze(-1), flat, 0.0)
    used = weights.used_by(options.route)
    as_operands = Weights(*(None if w is None else w.to(operands) for w in used))
    return Call(flat.to(operands), h0.to(operands), as_operands, rows, options)


def _products(call: Call, y: Tensor, da: Tensor, dlogit: Tensor | None, dx: Tensor | None, gradients: Weights) -> None:
    """The gradients that are wanted, from those of every row's gates.

    Args:
        y: [K, N, H]
        da: [K, N, E, 4, H], of the arguments of n, r, z and of u, zero past a length.
        dlogit: float32 [K, N], of the logit difference, zero past a length; None where no gradient reaches the router.
        dx: buffer [K, B, T, I] or None.
    """
    x, hidden, route = call.x, call.hidden, call.options.route
    wanted = gradients.used_by(route)
    prefixes = [PREFIXES[name] for name in EXPERTS[route]]
    reads_h = any(getattr(wanted, f"{prefix}weight_hh") is not None for prefix in prefixes)
    reads_h |= wanted.router_weight is not None and dlogit is not None
    before = previous(y, call.h0.to(y.dtype), call.rows).to(x.dtype) if reads_h else x
    gates = [da[:, :, e].flatten(2) for e in range(len(prefixes))]  # [K, N, 4H], views
    for d, prefix in zip(gates, prefixes, strict=True):
        of_x, of_h, bias_x, bias_h = (
            getattr(wanted, prefix + name) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        if of_x is not None:
            multiply(d[..., hidden : 3 * hidden].mT, x, of_x[:, : 2 * hidden])
            multiply(d[..., :hidden].mT, x, of_x[:, 2 * hidden :])
        if of_h is not None:
            multiply(d[..., hidden:].mT, before, of_h)
        if bias_x is not None or bias_h is not None:
            sums = d.sum(1, dtype=torch.float32)
            if bias_x is not None:
                torch.cat([sums[:, hidden : 3 * hidden], sums[:, :hidden]], 1, out=bias_x)
            if bias_h is not None:
                bias_h.copy_(sums[:, hidden:])
    if dx is not None:
        _input_gradient(call, gates, dlogit, dx.view(x.shape))
    if wanted.router_weight is not None:
        _router_gradient(x, before, dlogit, wanted.router_weight)
    if wanted.router_bias is not None:
        total = torch.zeros_like(wanted.router_bias[:, :1]) if dlogit is None else dlogit.sum(1, keepdim=True)
        torch.cat([total, -total], 1, out=wanted.router_bias)


def _input_gradient(call: Call, gates: list[Tensor], dlogit: Tensor | None, dx: Tensor) -> None:
    """dx [K, N, I], from the gradients [K, N, 4H] of every expert's gates."""
    hidden, router = call.hidden, call.weights.router
    for place, (d, expert) in enumerate(zip(gates, call.experts, strict=True)):
        of_n, of_rz = expert.weight_ih[:, 2 * hidden :], expert.weight_ih[:, : 2 * hidden]
        multiply(d[..., :hidden], of_n, dx, add=place > 0)
        multiply(d[..., hidden : 3 * hidden], of_rz, dx, add=True)
    if dlogit is not None and router is not None:
        of_x = router.weight[..., : call.x.shape[2]].float()
        dx.addcmul_(dlogit.unsqueeze(-1), of_x[:, :1] - of_x[:, 1:])


def _router_gradient(x: Tensor, before: Tensor, dlogit: Tensor | None, out: Tensor) -> None:
    """Row 0 of the router receives +d, row 1 -d."""
    if dlogit is None:
        out.zero_()
        return
    d = dlogit.to(x.dtype).unsqueeze(1)
    row = torch.cat([multiply(d, x), multiply(d, before)], -1)  # [K, 1, I + H]
    torch.cat([row, -row], 1, out=out)
