"""A vocabulary head with its cross-entropy, whose logits are never held as a whole."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flow_kernels.backends import cpu
from flow_kernels.training.checks import (
    BAD_OPTION,
    BAD_SIZE,
    BAD_TARGET,
    MISSING,
    changed,
    check,
    gpu_format,
    on_gpu,
    plain,
    plain_or_none,
)  # fmt: skip
from flow_kernels.training.records import Head, HeadLoss

RULES = {
    BAD_SIZE: "every size must be at least 1, and without a projection D must equal I",
    BAD_OPTION: "a gradient with what it is the gradient of",
    MISSING: "a tensor is missing: weight goes with bias, local_weight with local_bias and q",
}


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
    backend: str = "auto",
) -> HeadLoss:
    """Cross-entropy of K vocabulary heads, and the gradients of every client's mean over its rows.

        f = x P^T + p    (f = x without a projection)
        logits = q_0 (f W^T + b) + q_1 (f W_local^T + b_local)    (f W^T + b with one expert)

    Args:
        x: [K, N, I] float32 or float64 on the CPU, float32 on a GPU.
        targets: int64 [K, N] in 0..V-1; negative where a row counts for nothing and is not computed.
        q: [K, N, 2] weights of the experts; None with one expert.
        x_grad, q_grad: whether to compute the gradients by x and q.
        out: tensors for the gradients by the weights, in the order of :class:`Head`; None where one is not wanted. Like
            `x_out` they are contiguous, share memory with nothing, and are changed in place.
        x_out: where the gradient by x goes; None: a new tensor.
        best: whether to find the most likely tokens, their probabilities, and the cross-entropy of every row.
        bfloat16: round what is multiplied to bfloat16, where the processor multiplies those
            (:func:`flow_kernels.training.multiplies_bfloat16`). The tensors are float32, and so are sums, softmax and loss.
        backend: see :func:`flow_kernels.training.on_gpu`.

    Raises:
        RuntimeError: a tensor that does not fit the others. TypeError: no tensor at all.
        ValueError: a target of V or more. On a GPU :func:`flow_kernels.training.finish` raises it.
    """
    if on_gpu(x, backend):
        from flow_kernels.training.gpu import head as of_gpu

        operands = gpu_format(bfloat16)
        result = of_gpu.head_loss(
            x, targets, head, q, x_grad=x_grad, q_grad=q_grad, out=out, x_out=x_out, best=best, operands=operands
        )
        changed((*out, x_out if x_grad else None))
        return result
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
