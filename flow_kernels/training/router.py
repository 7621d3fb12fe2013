"""The router of a vocabulary head: weights of its two experts at every token, and their gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from flow_kernels.backends import cpu
from flow_kernels.training.checks import BAD_OPTION, BAD_SIZE, MISSING, changed, check, on_gpu, plain

RULES = {
    BAD_SIZE: "every size must be at least 1",
    BAD_OPTION: "temperature must be a finite number > 0",
    MISSING: "a tensor is missing: x, targets, weight and bias come together",
}
ROUTINGS = ("soft", "hard")


def route(
    x: Tensor,
    targets: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    temperature: float = 1.0,
    routing: str = "soft",
    backend: str = "auto",
) -> Tensor:
    """q = softmax((x W^T + b) / temperature) -> [K, N, 2], zero in rows without a target.

    A row's numbers depend on that row alone, to the bit.

    Args:
        x: [K, N, H] float32 or float64 on the CPU, float32 on a GPU.
        targets: int64 [K, N]; negative where a row counts for nothing and is not computed.
        weight, bias: [K, 2, H] and [K, 2]; row 0 is the global expert.
        temperature: the scores are divided by it; > 0.
        routing: ``"soft"``, or ``"hard"`` for the one-hot argmax; a tie goes to the global expert.
        backend: see :func:`flow_kernels.training.on_gpu`.

    Raises:
        RuntimeError: a tensor that does not fit. TypeError: no tensor at all. ValueError: no such routing.
    """
    if routing not in ROUTINGS:
        raise ValueError(f"routing must be one of {', '.join(map(repr, ROUTINGS))}, got {routing!r}")
    if on_gpu(x, backend):
        from flow_kernels.training.gpu import router as of_gpu

        return of_gpu.route(x, targets, weight, bias, temperature=temperature, routing=routing)
    x, targets, weight, bias = plain("x", x), plain("targets", targets), plain("weight", weight), plain("bias", bias)
    q = x.new_empty((*targets.shape, 2))
    status = cpu._kernels.router(
        x, targets, weight, bias, q, routing == "hard", temperature, None, None, None, None, torch.get_num_threads()
    )
    check(status, RULES)
    return q


def route_backward(
    x: Tensor,
    targets: Tensor,
    weight: Tensor,
    bias: Tensor,
    q: Tensor,
    dq: Tensor,
    *,
    temperature: float = 1.0,
    dx: Tensor | None = None,
    dweight: Tensor | None = None,
    dbias: Tensor | None = None,
    backend: str = "auto",
) -> None:
    """Gradients after :func:`route` with soft routing, whose arguments come again. Rows are taken in order.

    Args:
        q: what :func:`route` returned.
        dq: [K, N, 2], the gradient by q.
        dx: [K, N, H]; the gradient by x is added to it. None: not wanted.
        dweight, dbias: buffers for the gradients by weight and bias; None: not wanted. Like dx they are contiguous, share
            memory with nothing, and are changed in place.

    Raises:
        RuntimeError: a tensor that does not fit. TypeError: no tensor at all.
    """
    if on_gpu(x, backend):
        from flow_kernels.training.gpu import router as of_gpu

        of_gpu.route_backward(x, targets, weight, bias, q, dq, temperature=temperature, dx=dx, dweight=dweight, dbias=dbias)
        changed((dx, dweight, dbias))
        return
    x, targets, weight, bias = plain("x", x), plain("targets", targets), plain("weight", weight), plain("bias", bias)
    status = cpu._kernels.router(
        x,
        targets,
        weight,
        bias,
        plain("q", q),
        False,
        temperature,
        plain("dq", dq),
        dx,
        dweight,
        dbias,
        torch.get_num_threads(),
    )
    check(status, RULES)
    changed((dx, dweight, dbias))
