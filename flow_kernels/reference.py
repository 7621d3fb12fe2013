"""The routed GRU in plain PyTorch: the specification that every backend is held to.

Any floating dtype, any device, differentiable twice. One loop over time and no cleverness; the symbols are those of
docs/cell.md. A leading client dimension K is always present: client k reads ``x[k]`` with its own weights.

    r_e = sigmoid(W_ir x + b_ir + W_hr h + b_hr)      e in {global, local}, in this order everywhere
    z_e = sigmoid(W_iz x + b_iz + W_hz h + b_hz)      gate order r, z, n as in torch.nn.GRU
    n_e = tanh   (W_in x + b_in + r_e * (W_hn h + b_hn))
    E_e = (1 - z_e) * n_e + z_e * h
    q   = softmax((W_router [x ; h] + b_router) / temperature)
    h'  = q[0] * E_global + q[1] * E_local
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ROUTES = ("mixture", "global", "local")
ROUTINGS = ("soft", "hard", "straight_through")


class Expert(NamedTuple):
    """Weights of one GRU expert: [K, 3H, I], [K, 3H, H] and, unless the layer has no bias, twice [K, 3H]."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None


class Router(NamedTuple):
    """Weights of the router: [K, 2, I + H], columns x first, and, unless the layer has no bias, [K, 2]."""

    weight: Tensor
    bias: Tensor | None = None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[K, B, in] x [K, out, in] -> [K, B, out]"""
    y = x @ weight.transpose(-2, -1)  # .mT would be the same, but the older exporter to ONNX does not know it
    return y if bias is None else y + bias.unsqueeze(-2)


def gru_cell(x: Tensor, h: Tensor, expert: Expert) -> Tensor:
    """One step of one expert: x [K, B, I], h [K, B, H] -> [K, B, H]."""
    xr, xz, xn = _linear(x, expert.weight_ih, expert.bias_ih).chunk(3, dim=-1)
    hr, hz, hn = _linear(h, expert.weight_hh, expert.bias_hh).chunk(3, dim=-1)
    r = torch.sigmoid(xr + hr)
    z = torch.sigmoid(xz + hz)
    n = torch.tanh(xn + r * hn)
    return (1 - z) * n + z * h


def routing_weights(scores: Tensor, routing: str, temperature: float) -> Tensor:
    """Scores [.., 2] -> q [.., 2]. A tie goes to the global expert; NaN stays NaN.

    The larger score is subtracted before both are divided, so that no temperature makes an infinity minus an infinity.
    """
    below = scores - scores.detach().amax(dim=-1, keepdim=True)
    soft = torch.softmax(below / temperature, dim=-1)
    if routing == "soft":
        return soft
    to_global = soft[..., 0] >= soft[..., 1]
    hard = torch.stack([to_global, ~to_global], dim=-1).to(soft.dtype)
    hard = torch.where(soft.isnan(), soft.detach(), hard)
    return hard if routing == "hard" else hard + (soft - soft.detach())


def routed_gru(
    x: Tensor,
    h0: Tensor,
    global_expert: Expert | None,
    local_expert: Expert | None,
    router: Router | None,
    *,
    lengths: Tensor | None = None,
    route: str = "mixture",
    routing: str = "soft",
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a whole sequence: x [K, T, B, I], h0 [K, B, H], lengths [K, B] -> y [K, T, B, H], h_n [K, B, H], q [K, T, B, 2].

    An expert or router that the route does not use may be None. Past a sequence's length h is carried unchanged and
    y and q are zero. float16 and bfloat16 are storage formats here: the arithmetic and the carried state are float32.
    """
    dtype = x.dtype
    wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype

    def widen(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.to(wide)

    x, h = x.to(wide), h0.to(wide)
    experts = [None if e is None else Expert(*map(widen, e)) for e in (global_expert, local_expert)]  # type: ignore[arg-type]
    if router is not None:
        router = Router(*map(widen, router))  # type: ignore[arg-type]

    ys, qs = [], []
    for t, xt in enumerate(x.unbind(1)):
        running = None if lengths is None else (t < lengths).unsqueeze(-1)
        if running is not None:
            xt = torch.where(running, xt, 0.0)  # what lies past a sequence's length is never read, not even a NaN
        if route == "mixture":
            assert router is not None and experts[0] is not None and experts[1] is not None
            scores = _linear(torch.cat([xt, h], dim=-1), router.weight, router.bias)
            q = routing_weights(scores, routing, temperature)
            new = q[..., :1] * gru_cell(xt, h, experts[0]) + q[..., 1:] * gru_cell(xt, h, experts[1])
        else:
            column = ROUTES.index(route) - 1
            expert = experts[column]
            assert expert is not None
            q = xt.new_zeros(*xt.shape[:-1], 2)
            q[..., column] = 1
            new = gru_cell(xt, h, expert)
        if running is None:
            h, y = new, new
        else:
            h = torch.where(running, new, h)
            y = torch.where(running, new, 0.0)
            q = torch.where(running, q, 0.0)
        ys.append(y)
        qs.append(q)
    return torch.stack(ys, 1).to(dtype), h.to(dtype), torch.stack(qs, 1).to(dtype)
