"""Steps of flow_kernels.training.adam_ in float64, client by client, by the optimisers of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

LR, BETAS, EPSILON = 0.1, (0.8, 0.95), 1e-6
SHAPES = [(3, 7), (3, 129, 5), (3, 1), (3, 3, 17)]
TABLE = (3, 23, 5)
"""[K, V, E] of an embedding, whose gradients come by rows."""


class Moment(NamedTuple):
    """What one step is given."""

    gradients: list[Tensor]
    rows: Tensor
    """int64 [K, N]"""
    looked_up: Tensor
    """[K, N, E]: the rows' gradients."""
    present: Tensor
    """bool [K]"""


def moments_of_time(count: int, seed: int, dtype: torch.dtype) -> list[Moment]:
    """Some steps. Their rows are few, so that some of the embedding are met late, or never, or only once."""
    g = torch.Generator().manual_seed(seed)
    made = []
    for step in range(count):
        gradients = [torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in SHAPES]
        rows = torch.randint(-1, min(5 * (step + 1), TABLE[1] - 2), (3, 6), generator=g)
        looked_up = torch.randn(3, 6, TABLE[2], generator=g, dtype=torch.float64).to(dtype)
        made.append(Moment(gradients, rows, looked_up, torch.tensor([True, step % 3 != 1, step != 2])))
    return made


def start_of(seed: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Parameters, the embedding, and anchors of the parameters."""
    g = torch.Generator().manual_seed(seed)
    every = [torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in (*SHAPES, TABLE, *SHAPES)]
    return every[: len(SHAPES)], every[len(SHAPES)], every[len(SHAPES) + 1 :]


def spread(time: Moment) -> Tensor:
    """[K, V, E]: the gradient of the embedding, dense."""
    dense = torch.zeros(TABLE, dtype=torch.float64)
    for k, n in (time.rows >= 0).nonzero().tolist():
        dense[k, time.rows[k, n]] += time.looked_up[k, n].double()
    return dense


def exact_steps(
    parameters: Sequence[Tensor],
    table: Tensor,
    anchors: Sequence[Tensor],
    times: Sequence[Moment],
    *,
    clip: float = 0.0,
    mu: float = 0.0,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> list[Tensor]:
    """Parameters and embedding after the steps, float64 [K, ..]; the embedding has no anchor."""
    kind: Any = torch.optim.AdamW if decoupled else torch.optim.Adam
    result = [t.double().clone() for t in (*parameters, table)]
    for k in range(len(table)):
        leaves = [t[k].clone().requires_grad_() for t in result]
        optimizer = kind(leaves, lr=LR, betas=BETAS, eps=EPSILON, weight_decay=weight_decay)
        for time in times:
            if not time.present[k]:
                continue
            gradients = [t[k].double() for t in (*time.gradients, spread(time))]
            norm = torch.stack([t.square().sum() for t in gradients]).sum().sqrt()
            scale = clip / norm.clamp_min(clip) if clip else 1.0
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf.grad = gradient * scale
            for leaf, anchor in zip(leaves[:-1], anchors, strict=True):
                assert leaf.grad is not None
                leaf.grad = leaf.grad + mu * (leaf.detach() - anchor[k].double())
            optimizer.step()
        for whole, leaf in zip(result, leaves, strict=True):
            whole[k] = leaf.detach()
    return result
