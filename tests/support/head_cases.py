"""Heads and routers drawn at random, and the same written plainly in float64."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flow_kernels.training import Head

Shape = tuple[int, int, int, int | None, int, int]
"""clients, rows, inputs, projection, vocabulary, experts"""
SHAPES: list[Shape] = [
    (1, 1, 1, 1, 1, 1), (2, 5, 7, 3, 9, 1), (3, 50, 8, None, 300, 2), (2, 129, 33, 17, 515, 2), (1, 700, 20, None, 1030, 1),
]  # fmt: skip


def draw(shape: Shape, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Head, Tensor | None]:
    k, n, i, d, v, experts = shape
    g = torch.Generator().manual_seed(seed)

    def random(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(size, generator=g, dtype=torch.float64) * scale).to(dtype)

    width = i if d is None else d
    targets = torch.randint(0, v, (k, n), generator=g)
    targets[torch.rand(k, n, generator=g) < 0.3] = -1
    if k == 2:
        targets[1] = -1  # a client with nothing to predict
    table = (random(k, v, width, scale=width**-0.5), random(k, v))
    projection: tuple[Tensor | None, Tensor | None] = (
        (None, None) if d is None else (random(k, d, i, scale=i**-0.5), random(k, d))
    )
    second: tuple[Tensor | None, Tensor | None] = (
        (random(k, v, width, scale=width**-0.5), random(k, v)) if experts == 2 else (None, None)
    )
    q = torch.rand(k, n, 1, generator=g, dtype=torch.float64).to(dtype)
    return random(k, n, i), targets, Head(*projection, *table, *second), torch.cat((q, 1 - q), -1) if experts == 2 else None


def plainly(
    x: Tensor, targets: Tensor, head: Head, q: Tensor | None, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """nats [K], logits, gradients by x, q and the weights: autograd through the whole logits."""
    given: list[Any] = [None if t is None else t.to(dtype).requires_grad_() for t in (x, q, *head)]
    x, q, pw, pb, w, b, lw, lb = given
    f = x if pw is None else x @ pw.mT + pb.unsqueeze(1)
    logits = f @ w.mT + b.unsqueeze(1)
    if q is not None:
        logits = q[..., :1] * logits + q[..., 1:] * (f @ lw.mT + lb.unsqueeze(1))
    nats = F.cross_entropy(logits.flatten(0, 1), targets.clamp_min(0).flatten(), reduction="none").view(targets.shape)
    nats = torch.where(targets >= 0, nats, 0.0)
    loss = (nats.sum(1) / (targets >= 0).sum(1).clamp_min(1)).sum()
    grads = iter(torch.autograd.grad(loss, [t for t in given if t is not None]))
    return nats.sum(1).detach(), logits.detach(), [None if t is None else next(grads) for t in given]


def by_row(logits: Tensor, targets: Tensor) -> list[Tensor]:
    """Cross-entropy of every row, and the probability of its most likely token; 0 without a target."""
    log_p = logits.log_softmax(-1)
    both = -log_p.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1), log_p.amax(-1).exp()
    return [torch.where(targets >= 0, values, 0.0) for values in both]


def poison(head: Head) -> tuple[Tensor | None, ...]:
    return tuple(None if t is None else torch.full_like(t, float("nan")) for t in head)


def error(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact.double()).abs().max() / exact.double().abs().max().clamp_min(1e-30))


def router_problem(k: int, n: int, h: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, targets, the router's weight and bias, and a gradient by q."""
    g = torch.Generator().manual_seed(seed)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=g, dtype=torch.float64).to(dtype)

    targets = torch.randint(-1, 4, (k, n), generator=g)
    return random(k, n, h), targets, random(k, 2, h), random(k, 2), random(k, n, 2)
