"""Adam of the clients: what it keeps while K clients train side by side, and its step in plain PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from flow.model.parameters import Tensors, per_client
from flow.training.autograd import scale_of
from flow.training.sgd import Sgd
from flow_kernels.training import Moments, Step


class AdamStates:
    """The moments of K clients and how many steps each has taken, zero at first.

    Parameters that an update changes together have a count of steps of their own, so that the bias correction of every one is
    that of its own steps.
    """

    def __init__(self) -> None:
        self._moments: dict[str, Moments] = {}
        self._taken: dict[tuple[str, ...], Tensor] = {}

    def of(self, parameters: Tensors, names: tuple[str, ...], clients: int) -> tuple[list[Moments], Tensor]:
        """Of the first clients: the moments of these parameters [K, ..] in the order of the names, and int64 [k], the steps.

        Raises:
            ValueError: some of the parameters were changed by an update of other names before.
        """
        if names not in self._taken:
            shared = [name for name in names if name in self._moments]
            if shared:
                raise ValueError(
                    f"names: {', '.join(shared)} are changed by another update too, and Adam counts the steps of an update; "
                    "let updates change parameters of their own, or take SGD"
                )
            self._moments |= {name: Moments.of(parameters[name]) for name in names}
            some = next(iter(parameters.values()))
            self._taken[names] = torch.zeros(len(some), dtype=torch.int64, device=some.device)
        return [self._moments[name].until(clients) for name in names], self._taken[names][:clients]


def optimizer_of(parameters: Iterable[Tensor], sgd: Sgd) -> torch.optim.Optimizer:
    """The optimiser of torch with these options, for parameters of one client; clipping is left to the caller."""
    if sgd.client_optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=sgd.lr, momentum=sgd.momentum, weight_decay=sgd.weight_decay)
    kind = torch.optim.Adam if sgd.client_optimizer == "adam" else torch.optim.AdamW
    betas = sgd.client_beta1, sgd.client_beta2
    return kind(parameters, lr=sgd.lr, betas=betas, eps=sgd.client_epsilon, weight_decay=sgd.weight_decay)


@torch.no_grad()
def plain_adam_(
    steps: Sequence[Step],
    moments: Sequence[Moments],
    taken: Tensor,
    *,
    lr: float,
    clip: float,
    mu: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    decoupled: bool,
    present: Tensor,
) -> None:
    """:func:`flow_kernels.training.adam_` in plain PyTorch, on any device, with dense gradients."""
    scale = scale_of([step.gradient for step in steps], clip)
    taken += present
    t = taken.clamp_min(1).double()
    rate, root = lr / (1 - beta1**t), (1 - beta2**t).rsqrt()
    for (parameter, gradient, anchor, _, _), (first, second, _) in zip(steps, moments, strict=True):
        moves, like = per_client(present, gradient), gradient
        g = gradient * per_client(scale, like)
        if weight_decay and not decoupled:
            g += weight_decay * parameter
        if anchor is not None:
            g += mu * (parameter - anchor)
        m = first + (1 - beta1) * (g - first)
        v = beta2 * second + (1 - beta2) * g * g
        stay = 1 - lr * weight_decay if decoupled else 1.0
        rates, roots = (per_client(factor.to(like.dtype), like) for factor in (rate, root))
        new = stay * parameter - rates * m / (v.sqrt() * roots + epsilon)
        for tensor, value in ((parameter, new), (first, m), (second, v)):
            tensor.copy_(torch.where(moves, value, tensor))
