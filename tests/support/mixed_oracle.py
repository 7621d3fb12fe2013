"""What kernels that multiply bfloat16 should compute, in float64: the same factors are rounded, and nothing else is."""

from __future__ import annotations

from typing import Any

import torch
from mixed_cases import rounded
from optional import present
from torch import Tensor

from flow_kernels.training import Head


class _Rounded(torch.autograd.Function):
    """x W^T + b for all clients [K, N, ..], of rounded factors; so are the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        x, w = rounded(x), rounded(w)
        ctx.save_for_backward(x, w)
        return x @ w.mT + b.unsqueeze(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        x, w = ctx.saved_tensors
        g = rounded(gradients[0])
        return g @ w, g.mT @ x, g.sum(1)


linear: Any = _Rounded.apply


def layer(tensors: dict[str, Tensor], lengths: Tensor, dy: Tensor, route: str) -> dict[str, Tensor]:
    """What mixed_cases.train returns, with soft routing at temperature 0.7."""
    leaves = {name: t.double().requires_grad_() for name, t in tensors.items()}
    x, h = leaves["input"], leaves["hx"]
    names = {"mixture": ("", "local_"), "global": ("",), "local": ("local_",)}[route]
    ys, qs = [], []
    for t in range(x.shape[2]):
        new = []
        for name in names:
            ih, hh, b_ih, b_hh = (leaves[f"{name}{which}"] for which in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            (xr, xz, xn), (hr, hz, hn) = linear(x[:, :, t], ih, b_ih).chunk(3, -1), linear(h, hh, b_hh).chunk(3, -1)
            z, n = torch.sigmoid(xz + hz), torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
            new.append(n + z * (h - n))
        q = h.new_zeros(*h.shape[:-1], 2)
        if route == "mixture":
            scores = torch.cat([x[:, :, t], h], -1) @ leaves["router_weight"].mT + leaves["router_bias"].unsqueeze(1)
            q = torch.softmax(scores / 0.7, -1)
            after = q[..., :1] * new[0] + q[..., 1:] * new[1]
        else:
            q[..., ("global", "local").index(route)] = 1
            (after,) = new
        valid = (t < lengths).unsqueeze(-1)
        h = torch.where(valid, after, h)
        ys.append(torch.where(valid, after, 0))
        qs.append(torch.where(valid, q, 0))
    y = torch.stack(ys, 2)
    gradients = torch.autograd.grad((y * dy.double()).sum(), list(leaves.values()), allow_unused=True)
    named = {{"input": "dx", "hx": "dh0"}.get(name, f"d{name}"): g for name, g in zip(leaves, gradients, strict=True)}
    return {"y": y.detach(), "h_n": h.detach(), "q": torch.stack(qs, 2).detach()} | {
        name: g for name, g in named.items() if g is not None
    }


def head(x: Tensor, targets: Tensor, parameters: Head, q: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss [K] and every gradient of mixed_cases.run: of x, q and the parameters, by name."""
    clients = [_head_of_one(x, targets, parameters, q, k) for k in range(len(x))]
    named = {name: torch.stack([gradients[name] for _, gradients in clients]) for name in clients[0][1]}
    return torch.stack([nats for nats, _ in clients]), named


def _head_of_one(x: Tensor, targets: Tensor, parameters: Head, q: Tensor | None, k: int) -> tuple[Tensor, dict[str, Tensor]]:
    projection, projection_bias, *tables = (None if t is None else t[k].double() for t in parameters)
    rows = (targets[k] >= 0).nonzero().squeeze(1)
    inputs, target = x[k, rows].double(), targets[k, rows].unsqueeze(1)
    features = inputs
    if projection is not None:
        features = rounded(inputs) @ rounded(projection).mT + present(projection_bias)
    experts = [(present(tables[e]), present(tables[e + 1])) for e in (0, 2) if tables[e] is not None]
    gates = [inputs.new_ones(len(rows), 1)] if q is None else list(q[k, rows].double().split(1, -1))
    logits = sum(rounded(gate * features) @ rounded(w).mT + gate * b for gate, (w, b) in zip(gates, experts, strict=True))
    assert isinstance(logits, Tensor)
    exponentials = torch.exp(logits - logits.amax(1, keepdim=True))
    sums = exponentials.sum(1, keepdim=True)
    nats = (torch.log(sums) - torch.log(exponentials.gather(1, target))).sum()
    g = rounded(exponentials.scatter_add(1, target, -sums))  # not normalised: a factor a row is still missing
    factor = 1 / (len(rows) * sums)
    below = [g @ rounded(w) for w, _ in experts]
    dq = torch.cat(
        [factor * ((d * features).sum(1, keepdim=True) + g @ b[:, None]) for d, (_, b) in zip(below, experts, strict=True)], 1
    )
    dx = factor * sum(gate * d for gate, d in zip(gates, below, strict=True))
    named: dict[str, Tensor] = {}
    if projection is not None:
        named["projection_weight"], named["projection_bias"] = rounded(dx).mT @ rounded(inputs), dx.sum(0)
        dx = rounded(dx) @ rounded(projection)
    named["x"] = torch.zeros_like(x[k], dtype=torch.float64).index_copy(0, rows, dx)
    if q is not None:
        named["q"] = torch.zeros_like(q[k], dtype=torch.float64).index_copy(0, rows, dq)
    for prefix, gate in zip(("", "local_"), gates, strict=False):
        named[f"{prefix}weight"] = g.mT @ rounded(factor * gate * features)
        named[f"{prefix}bias"] = (g * rounded(factor * gate)).sum(0)
    return nats, named
