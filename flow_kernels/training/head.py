"""A vocabulary head with its cross-entropy, whose logits are never held as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flow_kernels.backends import cpu
from flow_kernels.training.checks import BAD_OPTION, BAD_SIZE, BAD_TARGET, MISSING, changed, check, plain, plain_or_none

RULES = {
    BAD_SIZE: "every size must be at least 1, and without a projection D must equal I",
    BAD_OPTION: "a gradient with what it is the gradient of",
    MISSING: "a tensor is missing: weight goes with bias, local_weight with local_bias and q",
}


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
    """The result of :func:`head_loss`, per client."""

    nats: Tensor
    """float64 [K]: sum of the cross-entropies of the rows that count."""
    counts: Tensor
    """int64 [K]: how many rows that sum has."""
    best: Tensor | None
    """int64 [K, N]: the most likely token, the first of equals; -1 for rows that do not count."""
    probability: Tensor | None
    """[K, N]: the probability of that token; 0 for rows that do not count."""
    row_nats: Tensor | None
    """[K, N]: a row's cross-entropy in nats; 0 for rows that do not count."""
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
    bfloat16: bool = False,
) -> HeadLoss:
    """Cross-entropy of K vocabulary heads, and the gradients of every client's mean over its rows.

        f = x P^T + p    (f = x without a projection)
        logits = q_0 (f W^T + b) + q_1 (f W_local^T + b_local)    (f W^T + b with one expert)

    Args:
        x: [K, N, I] float32 or float64 on the CPU.
        targets: int64 [K, N] in 0..V-1; negative where a row counts for nothing and is not computed.
        q: [K, N, 2] weights of the experts; None with one expert.
        x_grad, q_grad: whether to compute the gradients by x and q.
        out: tensors for the gradients by the weights, in the order of :class:`Head`; None where one is not wanted. Like
            `x_out` they are contiguous, share memory with nothing, and are changed in place.
        x_out: where the gradient by x goes; None: a new tensor.
        best: whether to find the most likely tokens, their probabilities, and the cross-entropy of every row.
        bfloat16: round what is multiplied to bfloat16, where the processor multiplies those
            (:func:`flow_kernels.training.multiplies_bfloat16`). The tensors are float32, and so are sums, softmax and loss.

    Raises:
        RuntimeError: a tensor that does not fit the others. TypeError: no tensor at all.
        ValueError: a target of V or more.
    """
    x, targets, q = plain("x", x), plain("targets", targets), plain_or_none("q", q)
    weights = tuple(plain_or_none(name, t) for name, t in zip(Head._fields, head, strict=True))
    if not targets.dim():
        raise RuntimeError("flow_kernels.training: targets is a single number and must be [K, N]")
    nats = x.new_empty(len(targets), dtype=torch.float64)
    counts = targets.new_empty(len(targets))
    tokens = targets.new_empty(targets.shape) if best else None
    probability, row_nats = (x.new_empty(targets.shape) if best else None for _ in range(2))
    dx = (torch.empty_like(x) if x_out is None else x_out) if x_grad else None
    dq = torch.empty_like(q) if q_grad and q is not None else None
    status = cpu._kernels.head(
        x,
        targets,
        weights,
        q,
        nats,
        counts,
        (tokens, row_nats, probability),
        dx,
        dq,
        tuple(out),
        bfloat16,
        torch.get_num_threads(),
    )
    if status == BAD_TARGET:
        raise ValueError(
            f"targets: every target must be below the V={head.weight.shape[1]} rows of the head's weight, got "
            f"{int(targets.max())}; map unknown tokens to one of them, or pass -1 to leave a row out"
        )
    check(status, RULES)
    changed((*out, x_out if x_grad else None))
    return HeadLoss(nats, counts, tokens, probability, row_nats, dx, dq)
