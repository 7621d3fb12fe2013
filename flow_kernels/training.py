"""What local training needs beside the routed GRU, as C++ kernels on the CPU: a vocabulary head with its cross-entropy whose
logits are never held as a whole, SGD over the parameters of K clients, and sums of uploads. See docs/cpu-kernels.md.

Plain functions on tensors, not registered ops: what calls them writes its backward pass by hand. Everything has a leading K.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flow_kernels.backends import cpu

DTYPES = (torch.float32, torch.float64)
BAD_TARGET = 8  # of csrc/routed_gru.h


def refusal(dtype: torch.dtype, device: torch.device) -> str:
    """Why these kernels cannot run here; empty when they can."""
    why_not = cpu.refusal(dtype, device)
    return why_not or ("" if dtype in DTYPES else f"they take float32 or float64 and the input is {dtype}")


class Head(NamedTuple):
    """The weights of a vocabulary head of D features, each with a leading K; the same order holds for their gradients."""

    projection_weight: Tensor | None
    """[K, D, I], or None: the inputs are the features."""
    projection_bias: Tensor | None
    """[K, D]"""
    weight: Tensor
    """[K, V, D]"""
    bias: Tensor
    """[K, V]"""
    local_weight: Tensor | None = None
    """[K, V, D] of a second expert, or None."""
    local_bias: Tensor | None = None
    """[K, V]"""


class HeadLoss(NamedTuple):
    """What :func:`head_loss` found, per client."""

    nats: Tensor
    """float64 [K]: sum of the cross-entropies of the rows that count."""
    counts: Tensor
    """int64 [K]: how many rows that sum has."""
    best: Tensor | None
    """int64 [K, N]: the most likely token, the first of equals; -1 for rows that do not count."""
    x: Tensor | None
    """[K, N, I]: gradient of the client's mean over its rows."""
    q: Tensor | None
    """[K, N, 2]: the same."""


def head_loss(
    x: Tensor,
    targets: Tensor,
    head: Head,
    q: Tensor | None = None,
    *,
    x_grad: bool = False,
    q_grad: bool = False,
    out: Sequence[Tensor | None] = (None,) * 6,
    x_out: Tensor | None = None,
    best: bool = False,
) -> HeadLoss:
    """Cross-entropy of K vocabulary heads, and the gradients of every client's mean over its rows.

        f = x P^T + p    (f = x without a projection)
        logits = q_0 (f W^T + b) + q_1 (f W_local^T + b_local)    (f W^T + b with one expert)

    Args:
        x: [K, N, I] float32 or float64 on the CPU.
        targets: int64 [K, N] in 0..V-1; negative where a row counts for nothing and is not computed.
        q: [K, N, 2] weights of the experts; None with one expert.
        x_grad, q_grad: whether to compute the gradients by x and q.
        out: tensors for the gradients by the weights, in the order of :class:`Head`; None where one is not wanted.
        x_out: where the gradient by x goes; None: a new tensor.
        best: whether to find the most likely tokens.

    Raises:
        RuntimeError: a tensor that does not fit the others.
        ValueError: a target of V or more.
    """
    nats = x.new_empty(len(targets), dtype=torch.float64)
    counts = targets.new_empty(len(targets))
    found = targets.new_empty(targets.shape) if best else None
    tensors = [None if t is None else t.detach().contiguous() for t in head]
    x, q = x.detach().contiguous(), None if q is None else q.detach().contiguous()
    dx = (torch.empty_like(x) if x_out is None else x_out) if x_grad else None
    dq = torch.empty_like(q) if q_grad and q is not None else None
    status = cpu._kernels.head(
        x, targets.contiguous(), tuple(tensors), q, nats, counts, found, dx, dq, tuple(out), torch.get_num_threads()
    )
    if status == BAD_TARGET:
        raise ValueError(
            f"targets: every target must be below the V={head.weight.shape[1]} rows of the head's weight, got "
            f"{int(targets.max())}; map unknown tokens to one of them, or pass -1 to leave a row out"
        )
    _check(status)
    return HeadLoss(nats, counts, found, dx, dq)


class Step(NamedTuple):
    """One parameter of K clients, about to be changed by :func:`sgd_`."""

    parameter: Tensor
    """[K, ..], contiguous; changed in place."""
    gradient: Tensor
    """[K, ..]; with `rows` [K, N, width]"""
    anchor: Tensor | None = None
    """[K, ..]"""
    momentum: Tensor | None = None
    """[K, ..]; changed in place."""
    rows: Tensor | None = None
    """int64 [K, N]: which row of the parameter [K, rows, width] a row of the gradient belongs to; negative: to none. Several
    may belong to one: they are added up."""


def sgd_(
    steps: Sequence[Step],
    *,
    lr: float,
    clip: float = 0.0,
    mu: float = 0.0,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    present: Tensor | None = None,
) -> None:
    """One step of SGD for K clients, in place.

    A client's gradients are scaled down to the norm `clip` over all its tensors (0: not); then

        g += weight_decay * parameter + mu * (parameter - anchor);  v = momentum * v + g;  parameter -= lr * v

    Clients that are not `present` (bool [K]) stay as they are. Gradients by rows go with mu, weight_decay and momentum 0.

    Raises:
        RuntimeError: tensors that do not fit.
    """
    _check(cpu._kernels.sgd(list(map(tuple, steps)), present, lr, clip, mu, weight_decay, momentum, torch.get_num_threads()))


def accumulate_(total: Tensor, uploads: Tensor, weights: Tensor) -> None:
    """total [..] += sum over k, in that order, of weights[k] * uploads[k]; total and weights [K] are float64."""
    _check(cpu._kernels.accumulate(total, uploads.detach().contiguous(), weights))


RULES = {  # by the statuses of csrc/routed_gru.h
    1: "every size must be at least 1, and rows must divide their parameter",
    2: "rows go with mu, weight_decay and momentum 0, momentum with a tensor, a gradient with what it is the gradient of",
    3: "a tensor is missing: weight goes with bias, local_weight with local_bias and q, rows with their gradient",
    BAD_TARGET: "rows must be below the number of rows of their parameter",
}


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"flow_kernels.training: the kernel refused its arguments: {RULES.get(status, f'status {status}')}")
