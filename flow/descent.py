"""Local SGD: what one update changes on one batch, for K clients side by side.

Two ways of the same arithmetic. Where flow_kernels has kernels for it (a CPU in float32 or float64, the model's own
parameters) the backward pass is written out by hand and nothing as wide as the vocabulary is held: flow/native.py. Anywhere
else it is autograd, below, which is also how the formulas read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from flow.exchange import Route
from flow.models import LanguageModel, Tensors
from flow.native import Native, refusal
from flow_kernels.training import Step, sgd_


class Batch(NamedTuple):
    """One batch of each of the first k clients."""

    rows: Tensor
    """int64 [k, B]: rows of the table; its last row where a client has fewer than B sequences left."""
    inputs: Tensor
    """int64 [k, B, T]"""
    targets: Tensor
    """int64 [k, B, T]"""
    lengths: Tensor
    """int64 [k, B], each in 1..T"""
    valid: Tensor
    """bool [k, B, T]: the targets that count; False past a sequence's length and in rows that only fill up."""


@dataclass(frozen=True)
class Sgd:
    """SGD of the clients. Options of most algorithms."""

    lr: float = 2.0
    """Learning rate of the clients' SGD. (Published values lie near 0.1 for 1500 rounds and more; with clipping, 2 does in
    a hundred.)"""

    epochs: int = 3
    """Passes of a client over its training sequences per round, and in personalization."""

    batch_size: int = 8
    """Sequences per SGD step of a client. (google-research/federated: 4 for Shakespeare, 16 for StackOverflow.)"""

    clip: float = 1.0
    """Largest norm of a client's gradient over the weights trained in a step; longer ones are scaled down. 0: no
    clipping."""

    momentum: float = 0.0
    """Heavy-ball momentum; it starts at zero in every phase of every round. (google-research/federated: 0.)"""

    weight_decay: float = 0.0
    """weight_decay * parameter joins the gradient, after clipping, as in torch.optim.SGD."""


class Update(NamedTuple):
    """One SGD step taken on every batch: which parameters move, on which loss. Everything else stays frozen."""

    names: tuple[str, ...]
    """What stands before a "/" tells parameters apart that stand in the same place of the model."""
    route: Route
    gamma: float = 0.0
    """Weight of Flow's regulariser, -(gamma / L) * sum over the L routed layers of the mean of log q_global."""
    mu: float = 0.0
    """Strength of the pull to the anchor: mu * (parameter - anchor) joins the gradient, after clipping."""
    anchor: Tensors | None = None
    """By the same names, [K, ..]."""
    compose: Callable[[Tensors], Tensors] | None = None
    """The clients' parameters -> those the model computes with, under its own names; None: they are the same."""


def objective(model: LanguageModel, parameters: Tensors, batch: Batch, update: Update) -> tuple[Tensor, Tensor]:
    """What an update descends, and the mean loss in nats per valid token alone: both [k]."""
    used = parameters if update.compose is None else update.compose(parameters)
    out = torch.func.functional_call(model, used, (batch.inputs, batch.lengths), {"route": update.route})
    share = batch.valid.to(out.logits.dtype) / batch.valid.sum((1, 2), keepdim=True).clamp_min(1)
    nats = F.cross_entropy(out.logits.flatten(0, 2), batch.targets.flatten(), reduction="none")
    loss = (nats.view_as(share) * share).sum((1, 2))
    if not update.gamma:
        return loss, loss
    routed = [q for q in (out.gru_routing, out.head_routing) if q is not None]
    # A softmax may round to zero far from any use; the smallest normal number keeps the logarithm finite.
    tiny = torch.finfo(out.logits.dtype).tiny
    logs = [torch.where(batch.valid, q[..., 0], 1.0).clamp_min(tiny).log() for q in routed]
    regulariser = sum((log * share).sum((1, 2)) for log in logs) / len(routed)
    return loss - update.gamma * regulariser, loss


class Descent:
    """SGD on the parameters [K, ..] of K clients, in place; keeps what lasts from batch to batch.

    Args:
        model: says how to compute; its own parameters are not used.
        parameters: stacked; those that an update names are changed.
    """

    def __init__(self, model: LanguageModel, parameters: Tensors, sgd: Sgd) -> None:
        self.model, self.parameters, self.sgd = model, parameters, sgd
        self._momenta: Tensors = {}
        self._native: dict[int, Native] = {}

    def step(self, batch: Batch, update: Update) -> Tensor:
        """One step of one update on one batch of the first k clients; returns the mean loss before it, float64 [k]."""
        if refusal(self.model, self.parameters, update):
            return self._by_autograd(batch, update)
        if id(update) not in self._native:
            self._native[id(update)] = Native(self.model, self.parameters, update)
        loss, steps = self._native[id(update)].gradients(batch, dense=self._pulls(update))
        self._apply(batch, update, steps)
        return loss

    def _pulls(self, update: Update) -> bool:
        """Whether parameters move that have no gradient."""
        return bool(self.sgd.momentum or self.sgd.weight_decay or (update.mu and update.anchor is not None))

    def _velocity(self, name: str, k: int) -> Tensor | None:
        if not self.sgd.momentum:
            return None
        if name not in self._momenta:
            self._momenta[name] = torch.zeros_like(self.parameters[name])
        return self._momenta[name][:k]

    def _apply(self, batch: Batch, update: Update, steps: dict[str, Step]) -> None:
        sgd, k = self.sgd, len(batch.lengths)
        pulled = self._pulls(update)
        for name, step in steps.items():
            anchor = None if update.anchor is None or not update.mu else update.anchor[name][:k].contiguous()
            steps[name] = step._replace(anchor=anchor, momentum=self._velocity(name, k))
        present = batch.valid.flatten(1).any(1) if pulled else None  # a client that has finished is not pulled either
        mu = update.mu if update.anchor is not None else 0.0
        sgd_(
            list(steps.values()), lr=sgd.lr, clip=sgd.clip, mu=mu, weight_decay=sgd.weight_decay, momentum=sgd.momentum,
            present=present,
        )  # fmt: skip

    def _by_autograd(self, batch: Batch, update: Update) -> Tensor:
        sgd, k = self.sgd, len(batch.lengths)
        parameters = {name: tensor[:k] for name, tensor in self.parameters.items()}
        leaves = {name: parameters[name].detach().requires_grad_() for name in update.names}
        target, loss = objective(self.model, {**parameters, **leaves}, batch, update)
        gradients = torch.autograd.grad(target.sum(), list(leaves.values()))
        with torch.no_grad():
            scale = torch.ones(k, dtype=target.dtype, device=target.device)
            if sgd.clip:
                norms = [torch.linalg.vector_norm(gradient.reshape(k, -1), dim=1) for gradient in gradients]
                scale = sgd.clip / torch.linalg.vector_norm(torch.stack(norms), dim=0).clamp_min(sgd.clip)
            present = batch.valid.flatten(1).any(1)
            for name, gradient in zip(leaves, gradients, strict=True):
                parameter, shape = parameters[name], (-1, *(1,) * (gradient.dim() - 1))
                step = gradient * scale.view(shape)
                if sgd.weight_decay:
                    step += sgd.weight_decay * parameter
                if update.mu and update.anchor is not None:
                    step += update.mu * (parameter - update.anchor[name][:k])
                velocity = self._velocity(name, k)
                if velocity is not None:
                    velocity.copy_(torch.where(present.view(shape), sgd.momentum * velocity + step, velocity))
                    step = velocity
                parameter.sub_(torch.where(present.view(shape), sgd.lr * step, 0.0))
        return loss.detach().double()


def descend(model: LanguageModel, parameters: Tensors, batch: Batch, update: Update, sgd: Sgd) -> Tensor:
    """A single step, without momentum from any before; returns the mean loss before it, float64 [k]."""
    return Descent(model, parameters, sgd).step(batch, update)
