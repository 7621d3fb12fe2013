"""What the GPU backends leave to torch: the batched products around the recurrence, before it and after it.

All tensors have a leading K. N is the number of rows of x per client: T * B in either order, or those of packed input. E is
the number of experts that the route uses, in the order global, local. Products of 16-bit operands are accumulated and returned
in float32. Products of float32 operands follow torch's own TF32 setting.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from flow_kernels.backends.gpu.call import Call
from flow_kernels.backends.gpu.rows import previous
from flow_kernels.call import EXPERTS, PREFIXES
from flow_kernels.reference import Expert, Router


def tf32() -> bool:
    """Whether torch's own products may round float32 to TF32 on a GPU, however that was asked for."""
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


def product(a: Tensor, b: Tensor) -> Tensor:
    """[K, m, k] x [K, k, n] -> float32 [K, m, n]"""
    if a.dtype == torch.float32:
        return torch.bmm(a, b)
    if a.is_cuda:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())


def project(call: Call) -> tuple[Tensor, Tensor | None]:
    """The x-parts of the gates [E, K, N, 3H] (r, z, n; no bias) and of the router's scores [K, N, 2], in float32."""
    x, experts, router = call.x, call.experts, call.weights.router
    k, n, i = x.shape
    gates = torch.empty((len(experts), k, n, 3 * call.hidden), dtype=torch.float32, device=x.device)
    for e, expert in enumerate(experts):
        if x.dtype == torch.float32:
            torch.bmm(x, expert.weight_ih.mT, out=gates[e])
        else:
            gates[e] = product(x, expert.weight_ih.mT)
    return gates, None if router is None else product(x, router.weight[..., :i].mT)


def scores(call: Call, y: Tensor) -> Tensor:
    """The router's scores before the temperature, float32 [K, N, 2], computed again from y [K, N, H]."""
    x, router = call.x, call.weights.router
    assert router is not None
    h, i = previous(y, call.h0, call.rows), x.shape[-1]
    sums = product(x, router.weight[..., :i].mT) + product(h, router.weight[..., i:].mT)
    return sums if router.bias is None else sums + router.bias.float().unsqueeze(1)


def gradients(call: Call, y: Tensor, da: Tensor, dlogit: Tensor | None, wanted: Collection[str]) -> dict[str, Tensor]:
    """The wanted gradients but that of hx, by the names of the twelve tensors.

    Args:
        y: [K, N, H]
        da: [K, N, E, 4, H], gradients of the arguments of n, r, z and of the recurrent candidate u, zero in rows past a length
        dlogit: float32 [K, N], gradient of the logit difference s_0 - s_1 before the temperature, zero past a length; None if
            there is no router or no gradient reaches it
    """
    x, rows, route = call.x, call.rows, call.options.route
    prefixes = [PREFIXES[name] for name in EXPERTS[route]]
    of_router = "router_weight" in wanted and dlogit is not None
    reads_x = of_router or any(f"{prefix}weight_ih" in wanted for prefix in prefixes)
    reads_h = of_router or any(f"{prefix}weight_hh" in wanted for prefix in prefixes)
    valid = rows.valid() if reads_x else None
    clean = x if valid is None else x.masked_fill(~valid.unsqueeze(-1), 0)  # zero times what was never to be read
    h = previous(y, call.h0, rows) if reads_h else y
    gates = [da[:, :, e].flatten(2) for e in range(len(prefixes))]  # [K, N, 4H], a view
    grads: dict[str, Tensor] = {}
    for d, expert, prefix in zip(gates, call.experts, prefixes, strict=True):
        of_expert = _expert_gradients(d, expert, clean, h, {n.removeprefix(prefix) for n in wanted if n.startswith(prefix)})
        grads |= {prefix + name: grad for name, grad in of_expert.items()}
    if "input" in wanted:
        grads["input"] = _input_gradient(call, gates, dlogit)
    if route == "mixture" and call.weights.router is not None:
        grads |= _router_gradients(call.weights.router, clean, h, dlogit, wanted)
    return grads


def _parts(hidden: int) -> tuple[slice, slice, slice]:
    """Where n, (r, z) and (r, z, u) lie in the 4H gradients of a row."""
    return slice(0, hidden), slice(hidden, 3 * hidden), slice(hidden, 4 * hidden)


def _expert_gradients(d: Tensor, expert: Expert, x: Tensor, h: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    """By the weights of one expert, from d [K, N, 4H], x [K, N, I] and h [K, N, H], the state before every row."""
    hidden = h.shape[-1]
    n_, rz, rzu = _parts(hidden)
    grads: dict[str, Tensor] = {}
    if "weight_ih" in wanted:
        grad = torch.empty_like(expert.weight_ih, memory_format=torch.contiguous_format)
        grad[:, 2 * hidden :] = product(d[..., n_].mT, x)
        grad[:, : 2 * hidden] = product(d[..., rz].mT, x)
        grads["weight_ih"] = grad
    if "weight_hh" in wanted:
        grads["weight_hh"] = product(d[..., rzu].mT, h).to(expert.weight_hh.dtype)
    if "bias_ih" in wanted or "bias_hh" in wanted:
        sums = d.sum(1, dtype=torch.float32).to(x.dtype)
        if "bias_ih" in wanted:
            grads["bias_ih"] = torch.cat([sums[:, rz], sums[:, n_]], 1)
        if "bias_hh" in wanted:
            grads["bias_hh"] = sums[:, rzu].clone()
    return grads


def _input_gradient(call: Call, gates: Sequence[Tensor], dlogit: Tensor | None) -> Tensor:
    """[K, N, I], from the gradients [K, N, 4H] of every expert's gates."""
    hidden, router = call.hidden, call.weights.router
    n_, rz, _ = _parts(hidden)
    dx: Tensor | None = None
    for d, expert in zip(gates, call.experts, strict=True):
        part = product(d[..., n_], expert.weight_ih[:, 2 * hidden :]) + product(d[..., rz], expert.weight_ih[:, : 2 * hidden])
        dx = part if dx is None else dx.add_(part)
    assert dx is not None
    if dlogit is not None and router is not None:
        of_x = router.weight[..., : call.x.shape[-1]].float()
        dx.addcmul_(dlogit.unsqueeze(-1), (of_x[:, :1] - of_x[:, 1:]))
    return dx.to(call.x.dtype)


def _router_gradients(
    router: Router, x: Tensor, h: Tensor, dlogit: Tensor | None, wanted: Collection[str]
) -> dict[str, Tensor]:
    """Row 0 of the router receives +d, row 1 -d."""
    weight, bias = router
    grads: dict[str, Tensor] = {}
    if "router_weight" in wanted:
        if dlogit is None:
            grads["router_weight"] = torch.zeros_like(weight)
        else:
            d = dlogit.to(x.dtype).unsqueeze(1)
            row = torch.cat([product(d, x), product(d, h)], -1)  # [K, 1, I + H]
            grads["router_weight"] = torch.cat([row, -row], 1).to(weight.dtype)
    if "router_bias" in wanted and bias is not None:
        total = torch.zeros_like(bias[:, :1], dtype=torch.float32) if dlogit is None else dlogit.sum(1, keepdim=True)
        grads["router_bias"] = torch.cat([total, -total], 1).to(bias.dtype)
    return grads
