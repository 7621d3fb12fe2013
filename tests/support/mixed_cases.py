"""Heads and layers whose kernels round what they multiply to bfloat16, drawn at random, and every result of a call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from problems import make
from torch import Tensor

from flow_kernels.training import Head, HeadLoss, Weights, gru, head_loss

SHAPES = [  # clients, rows, inputs, projection, vocabulary, experts
    (1, 1, 1, None, 2, 1), (2, 5, 7, 3, 9, 1), (3, 50, 8, None, 301, 2), (2, 129, 33, 17, 515, 2), (1, 700, 21, None, 1031, 1),
]  # fmt: skip
# clients, (steps, sequences, inputs, hidden units)
LAYERS = [(1, (3, 2, 1, 1)), (2, (4, 3, 5, 7)), (3, (9, 5, 33, 47)), (1, (20, 16, 96, 131)), (1, (70, 20, 7, 20))]


def rounded(t: Tensor) -> Tensor:
    return t.to(torch.bfloat16).to(t.dtype)


def far(got: Tensor, exact: Tensor) -> float:
    """The norm of the difference, over the norm."""
    return float((got.double() - exact).norm() / exact.double().norm().clamp_min(1e-30))


def draw(shape: Any, seed: int = 0) -> tuple[Tensor, Tensor, Head, Tensor | None]:
    """Features, targets, a head and the routers' weights."""
    k, n, i, d, v, experts = shape
    g = torch.Generator().manual_seed(seed)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=g) / math.sqrt(size[-1])

    width = i if d is None else d
    targets = torch.randint(-1, v, (k, n), generator=g)
    q = torch.rand(k, n, 1, generator=g)
    projection = (None, None) if d is None else (random(k, d, i), random(k, d))
    tables = [(random(k, v, width), random(k, v)) if expert < experts else (None, None) for expert in range(2)]
    return (
        random(k, n, i),
        targets,
        Head(*projection, *tables[0], *tables[1]),
        torch.cat((q, 1 - q), -1) if experts == 2 else None,
    )


def each(head: Head, change: Callable[[Tensor], Tensor]) -> Head:
    changed: list[Any] = [None if t is None else change(t) for t in head]
    return Head(*changed)


def run(x: Tensor, targets: Tensor, head: Head, q: Tensor | None, bfloat16: bool) -> tuple[HeadLoss, dict[str, Tensor]]:
    """The loss and every gradient."""
    out = [None if t is None else torch.full_like(t, torch.nan) for t in head]
    loss = head_loss(x, targets, head, q, x_grad=True, q_grad=True, out=out, best=True, bfloat16=bfloat16)
    named = dict(zip(("x", "q", *Head._fields), (loss.x, loss.q, *out), strict=True))
    return loss, {name: t for name, t in named.items() if t is not None}


def layer(k: int, sizes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The tensors of a layer and its input, the lengths, and the gradient of its output."""
    t, b, i, h = sizes
    made = make(k, t, b, i, h, batch_first=True, lengths=True)
    dy = torch.randn(k, b, t, h, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {name: value.to(dtype) for name, value in made.tensors.items()}, made.options["lengths"], dy.to(dtype)


def train(
    tensors: dict[str, Tensor], lengths: Tensor, dy: Tensor, route: str, bfloat16: bool, saved: bool
) -> dict[str, Tensor]:
    """What a layer puts out, and every gradient."""
    weights = Weights(*(tensors[name] for name in Weights._fields)).used_by(route)
    x, h0 = tensors["input"], tensors["hx"]
    (k, b, t, _), h = x.shape, h0.shape[-1]
    y, h_n, q = x.new_empty(k, b, t, h), torch.empty_like(h0), x.new_empty(k, b, t, 2)
    gates = x.new_empty(gru.gates_shape(k, b, t, h, route)) if saved else None
    options: dict[str, Any] = dict(lengths=lengths, route=route, temperature=0.7, bfloat16=bfloat16)
    gru.forward(x, h0, weights, **options, y=y, h_n=h_n, q=q, gates=gates)
    dx, dh0 = torch.empty_like(x), torch.empty_like(h0)
    gradients = Weights(*(None if w is None else torch.empty_like(w) for w in weights))
    gru.backward(x, h0, weights, **options, y=y, q=q, gates=gates, dy=dy, dx=dx, dh0=dh0, gradients=gradients)
    named = {f"d{name}": t for name, t in gradients._asdict().items() if t is not None}
    return {"y": y, "h_n": h_n, "q": q, "dx": dx, "dh0": dh0, **named}


def trained(k: int, sizes: tuple[int, ...], route: str, dtype: torch.dtype, bfloat16: bool, saved: bool) -> dict[str, Tensor]:
    """The same of a layer drawn at random."""
    return train(*layer(k, sizes, dtype), route, bfloat16, saved)
