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
from flow_kernels.reference import Router


def tf32() -> bool:
    """Whether torch's own products may round float32 to TF32 on a GPU, however that was asked for."""
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


def product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """[K, m, k] x [K, k, n] -> float32 [K, m, n], written into ``out`` where it is given."""
    if a.dtype == torch.float32 or not a.is_cuda:  # on the CPU torch multiplies 16 bits into 16 bits only
        return torch.bmm(a.float(), b.float(), out=out)
    if out is None:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a, b, out_dtype=torch.float32, out=out)


def project(call: Call) -> tuple[Tensor, Tensor | None]:
    """The x-parts of the gates [E, K, N, 3H] (r, z, n; no bias) and of the router's scores [K, N, 2], in float32."""
    x, experts, router = call.x, call.experts, call.weights.router
    k, n, i = x.shape
    gates = torch.empty((len(experts), k, n, 3 * call.hidden), dtype=torch.float32, device=x.device)
    for e, expert in enumerate(experts):
        product(x, expert.weight_ih.mT, out=gates[e])
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
    of_biases = any(f"{prefix}bias_{of}" in wanted for prefix in prefixes for of in ("ih", "hh"))
    sums = da.sum(1, dtype=torch.float32).to(x.dtype) if of_biases else None  # [K, E, 4, H]
    grads: dict[str, Tensor] = {}
    for e, (d, prefix) in enumerate(zip(gates, prefixes, strict=True)):
        if f"{prefix}weight_ih" in wanted:  # the rows come in the order n, r, z
            grads[f"{prefix}weight_ih"] = product(d[..., : 3 * call.hidden].mT, clean).to(x.dtype).roll(-call.hidden, 1)
        if f"{prefix}weight_hh" in wanted:
            grads[f"{prefix}weight_hh"] = product(d[..., call.hidden :].mT, h).to(x.dtype)
        if sums is not None:
            if f"{prefix}bias_ih" in wanted:
                grads[f"{prefix}bias_ih"] = torch.cat([sums[:, e, 1:3], sums[:, e, :1]], 1).flatten(1)
            if f"{prefix}bias_hh" in wanted:
                grads[f"{prefix}bias_hh"] = sums[:, e, 1:].clone(memory_format=torch.contiguous_format).flatten(1)
    if "input" in wanted:
        grads["input"] = _input_gradient(call, gates, dlogit)
    if route == "mixture" and call.weights.router is not None:
        grads |= _router_gradients(call.weights.router, clean, h, dlogit, wanted)
    return grads


def _input_gradient(call: Call, gates: Sequence[Tensor], dlogit: Tensor | None) -> Tensor:
    """[K, N, I], from the gradients [K, N, 4H] of every expert's gates."""
    hidden, router = call.hidden, call.weights.router
    dx: Tensor | None = None
    for d, expert in zip(gates, call.experts, strict=True):
        part = product(d[..., : 3 * hidden], expert.weight_ih.roll(hidden, 1))  # both in the order n, r, z
        dx = part if dx is None else dx.add_(part)
    assert dx is not None
    if dlogit is not None and router is not None:
        of_x = router.weight[..., : call.x.shape[-1]].float()
        dx.addcmul_(dlogit.unsqueeze(-1), (of_x[:, :1] - of_x[:, 1:]))
    return dx.to(call.x.dtype)


def _router_gradients(
    router: Router, x: Tensor, h: Tensor, dlogit: Tensor | None, wanted: Collection[str]
) -> dict[str, Tensor]:
    """Row 0 of the router receives the gradient of the score difference, row 1 its opposite."""
    weight, bias = router
    grads: dict[str, Tensor] = {}
    if "router_weight" in wanted:
        if dlogit is None:
            grads["router_weight"] = torch.zeros_like(weight)
        else:
            d = dlogit.to(x.dtype).unsqueeze(1)
            grads["router_weight"] = _and_opposite(torch.cat([product(d, x), product(d, h)], -1), weight)
    if "router_bias" in wanted and bias is not None:
        total = torch.zeros_like(bias[:, :1], dtype=torch.float32) if dlogit is None else dlogit.sum(1, keepdim=True)
        grads["router_bias"] = _and_opposite(total, bias)
    return grads


def _and_opposite(row: Tensor, like: Tensor) -> Tensor:
    """[K, 2, ..] in the dtype of ``like``: row [K, 1, ..] and minus it."""
    both = torch.empty_like(like, memory_format=torch.contiguous_format)
    both[:, :1] = row
    torch.neg(both[:, :1], out=both[:, 1:])
    return both
