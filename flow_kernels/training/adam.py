"""Steps of Adam and AdamW over the parameters of K clients, in place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flow_kernels.backends import cpu
from flow_kernels.training.checks import BAD_OPTION, BAD_SIZE, BAD_TARGET, MISSING, changed, check, on_gpu
from flow_kernels.training.records import Moments, Step

RULES = {
    BAD_SIZE: "every size must be at least 1, and rows must divide their parameter",
    BAD_OPTION: "rows go with mu and weight_decay 0, and the steps taken are at least 0",
    MISSING: "a tensor is missing: rows go with their gradient and with moments that say which rows were touched",
    BAD_TARGET: "rows must be below the number of rows of their parameter",
}


def adam_(
    steps: Sequence[Step],
    moments: Sequence[Moments],
    taken: Tensor,
    *,
    lr: float,
    clip: float = 0.0,
    mu: float = 0.0,
    weight_decay: float = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    decoupled: bool = False,
    present: Tensor | None = None,
    backend: str = "auto",
    kept: dict[Any, Any] | None = None,
) -> None:
    """One step of Adam for K clients, in place; with `decoupled` one of AdamW.

    The arithmetic is that of :class:`torch.optim.Adam` and :class:`torch.optim.AdamW`, client by client. A client's gradients
    are scaled down to the norm `clip` over all its tensors (0: not); then, in the client's step t,

        g += mu * (parameter - anchor);  Adam: g += weight_decay * parameter;  AdamW: parameter *= 1 - lr * weight_decay
        m += (1 - beta1) * (g - m);  v = beta2 * v + (1 - beta2) * g^2
        parameter -= lr * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon)

    Clients that are not `present` (bool [K]) stay as they are. A gradient by rows is a dense one that is zero in all other
    rows: rows that ever had a gradient go on moving by their moments. Gradients by rows go with mu and weight_decay 0, and
    with a backend of the CPU. As :func:`sgd_`, this changes leaves that require a gradient and records nothing.

    Args:
        moments: of every step, in the same order.
        taken: int64 [K], steps that each client has taken with these moments; those that are present take one more.
        backend, kept: as for :func:`sgd_`.

    Raises:
        ValueError: an option is out of range or not finite, or there are not as many moments as steps.
        RuntimeError: tensors that do not fit, or one that is changed and shares memory with another.
    """
    for name, value in (("lr", lr), ("clip", clip), ("mu", mu), ("weight_decay", weight_decay)):
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"adam_: {name} must be a finite number of at least 0, got {value!r}; 0 leaves it out")
    for name, value in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= value < 1:
            raise ValueError(f"adam_: {name} must be at least 0 and below 1, got {value!r}; leave it out for the default")
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise ValueError(f"adam_: epsilon must be a finite number above 0, got {epsilon!r}; leave it out for the default")
    steps, moments = tuple(steps), tuple(moments)
    if len(moments) != len(steps):
        raise ValueError(f"adam_: moments must be one for each of the {len(steps)} steps, got {len(moments)}")
    if steps and on_gpu(steps[0].parameter, backend):
        from flow_kernels.training.gpu import adam as of_gpu

        of_gpu.adam_(
            steps,
            moments,
            taken,
            lr=lr,
            clip=clip,
            mu=mu,
            weight_decay=weight_decay,
            beta1=beta1,
            beta2=beta2,
            epsilon=epsilon,
            decoupled=decoupled,
            present=present,
            kept={} if kept is None else kept,
        )
    else:
        numbers = (lr, clip, mu, weight_decay, beta1, beta2, epsilon)
        threads = torch.get_num_threads()
        check(cpu._kernels.adam(steps, moments, taken, present, *numbers, decoupled, threads), RULES)
    changed((*(step.parameter for step in steps), *(t for own in moments for t in own), taken))
