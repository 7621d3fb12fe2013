"""The step of flow_kernels.training.sgd_ in float64, client by client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LR, MU, DECAY, MOMENTUM = 0.3, 0.1, 0.2, 0.9


class Exact(NamedTuple):
    tensors: list[list[Tensor]]
    """Parameter, gradient, anchor and velocity [K, ..] of every step, parameter and velocity after it."""
    table: Tensor
    """[K, V, E]: the embedding after it; as it was where there is a pull."""
    spread: Tensor
    """[K, V, E]: the sums of the rows' gradients."""


def exact_steps(
    tensors: Sequence[Sequence[Tensor]],
    table: Tensor,
    rows: Tensor,
    dense: Tensor,
    taking_part: Sequence[int],
    clip: float,
    pulled: bool,
) -> Exact:
    """One step with LR. pulled: with MU, DECAY and MOMENTUM, and then without the embedding."""
    exact = [[t.double().clone() for t in four] for four in tensors]
    exact_table, spread = table.double().clone(), torch.zeros(table.shape, dtype=torch.float64)
    for k, n in (rows >= 0).nonzero().tolist():
        spread[k, rows[k, n]] += dense[k, n].double()
    square = sum((four[1].flatten(1).square().sum(1) for four in exact), torch.zeros(len(table), dtype=torch.float64))
    square = square if pulled else square + spread.flatten(1).square().sum(1)
    scale = clip / square.sqrt().clamp_min(clip) if clip else torch.ones(len(table), dtype=torch.float64)
    for k in taking_part:
        for parameter, gradient, anchor, velocity in exact:
            step = gradient[k] * scale[k]
            if pulled:
                step += DECAY * parameter[k] + MU * (parameter[k] - anchor[k])
                velocity[k] = MOMENTUM * velocity[k] + step
                step = velocity[k]
            parameter[k] -= LR * step
        if not pulled:
            exact_table[k] -= LR * scale[k] * spread[k]
    return Exact(exact, exact_table, spread)
