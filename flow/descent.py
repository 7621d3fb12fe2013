"""Local SGD: what one update changes on one batch, for K clients side by side.

Two ways of the same arithmetic. Where flow_kernels has kernels for it (a CPU in float32 or float64, the model's own
parameters) the backward pass is written out by hand and nothing as wide as the vocabulary is held: flow/native.py. Anywhere
else it is autograd, below, which is also how the formulas read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
        self.model, self.sgd = model, sgd
        self._given, self.parameters, self._by_kernels = parameters, parameters, not refusal(model, parameters)
        if self._by_kernels:  # frozen ones may be views of one tensor for all clients, which the kernels do not read
            self.parameters = {name: tensor.contiguous() for name, tensor in parameters.items()}
        self._momenta: Tensors = {}
        self._anchors: dict[int, tuple[Update, Tensors]] = {}
        self._native: dict[int, tuple[Update, Native]] = {}

    def step(self, batch: Batch, update: Update) -> Tensor:
        """One step of one update on one batch of the first k clients; returns the mean loss before it, float64 [k]."""
        strided = [name for name in update.names if self.parameters[name] is not self._given[name]]
        if strided:
            raise ValueError(f"parameters: {', '.join(strided)} are changed in place and must be contiguous; train a copy()")
        active = {name: tensor[: len(batch.lengths)] for name, tensor in self.parameters.items()}
        pulls = bool(self.sgd.momentum or self.sgd.weight_decay or (update.mu and update.anchor is not None))
        if not self._by_kernels:
            loss, gradients = by_autograd(self.model, active, batch, update)
            steps = {name: Step(active[name], gradient) for name, gradient in gradients.items()}
        elif update.compose is None:
            loss, steps = self._kernels(update, update.names).gradients(active, batch, dense=pulls)
        else:
            loss, steps = self._composed(active, batch, update)
        self._apply(batch, update, {name: steps[name] for name in update.names}, pulls)
        return loss

    def _kernels(self, update: Update, names: Iterable[str]) -> Native:
        if id(update) not in self._native:  # which holds the update, so that no other gets its id
            self._native[id(update)] = update, Native(self.model, update.route, names, update.gamma)
        return self._native[id(update)][1]

    def _composed(self, active: Tensors, batch: Batch, update: Update) -> tuple[Tensor, dict[str, Step]]:
        """By the kernels down to what the model computes with, from there by autograd."""
        assert update.compose is not None
        leaves = {name: active[name].detach().requires_grad_() for name in update.names}
        used = update.compose({**active, **leaves})
        names = [name for name, tensor in used.items() if tensor.requires_grad]
        plain = {name: tensor.detach().contiguous() for name, tensor in used.items()}
        loss, steps = self._kernels(update, names).gradients(plain, batch, dense=True)
        gradients = torch.autograd.grad(
            [used[name] for name in names], list(leaves.values()), [steps[name].gradient for name in names]
        )
        return loss, {name: Step(active[name], g.contiguous()) for name, g in zip(leaves, gradients, strict=True)}

    def _apply(self, batch: Batch, update: Update, steps: dict[str, Step], pulls: bool) -> None:
        """Take the steps, with all that joins the gradients."""
        sgd, k = self.sgd, len(batch.lengths)
        anchors: Tensors = {}
        if update.mu and update.anchor is not None:
            if id(update) not in self._anchors:
                own = {name: update.anchor[name].contiguous() for name in update.names}
                self._anchors[id(update)] = update, own
            anchors = self._anchors[id(update)][1]
        for name, step in steps.items():
            velocity = None
            if sgd.momentum:
                if name not in self._momenta:
                    self._momenta[name] = torch.zeros_like(self.parameters[name])
                velocity = self._momenta[name][:k]
            anchor = anchors[name][:k] if name in anchors else None
            steps[name] = step._replace(anchor=anchor, momentum=velocity)
        present = batch.valid.flatten(1).any(1) if pulls else None  # a client that has finished is not pulled either
        how = {"lr": sgd.lr, "clip": sgd.clip, "weight_decay": sgd.weight_decay, "momentum": sgd.momentum}
        (sgd_ if self._by_kernels else plain_sgd_)(
            list(steps.values()), mu=update.mu if anchors else 0.0, present=present, **how
        )


def gradients(model: LanguageModel, parameters: Tensors, batch: Batch, update: Update) -> tuple[Tensor, Tensors]:
    """The mean loss of k clients, float64 [k], and its gradients [k, ..] by the parameters of an update; nothing moves."""
    if update.compose is not None or refusal(model, parameters):
        return by_autograd(model, parameters, batch, update)
    plain = {name: tensor.contiguous() for name, tensor in parameters.items()}
    loss, steps = Native(model, update.route, update.names, update.gamma).gradients(plain, batch, dense=True)
    return loss, {name: steps[name].gradient for name in update.names}


def by_autograd(model: LanguageModel, parameters: Tensors, batch: Batch, update: Update) -> tuple[Tensor, Tensors]:
    """:func:`gradients`, on any device."""
    leaves = {name: parameters[name].detach().requires_grad_() for name in update.names}
    target, loss = objective(model, {**parameters, **leaves}, batch, update)
    found = torch.autograd.grad(target.sum(), list(leaves.values()))
    return loss.detach().double(), dict(zip(leaves, found, strict=True))


@torch.no_grad()
def plain_sgd_(
    steps: Sequence[Step],
    *,
    lr: float,
    clip: float,
    mu: float,
    weight_decay: float,
    momentum: float,
    present: Tensor | None,
) -> None:
    """:func:`flow_kernels.training.sgd_` in plain PyTorch, on any device."""
    norms = [torch.linalg.vector_norm(step.gradient.reshape(len(step.gradient), -1), dim=1) for step in steps]
    norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    scale = clip / norm.clamp_min(clip) if clip else torch.ones_like(norm)
    for parameter, gradient, anchor, velocity, _ in steps:
        shape = (-1, *(1,) * (gradient.dim() - 1))
        step = gradient * scale.view(shape)
        if weight_decay:
            step += weight_decay * parameter
        if anchor is not None:
            step += mu * (parameter - anchor)
        if present is not None:
            step = torch.where(present.view(shape), step, 0.0)
        if velocity is not None:
            kept = momentum * velocity + step
            step = kept if present is None else torch.where(present.view(shape), kept, 0.0)
            velocity.copy_(kept if present is None else torch.where(present.view(shape), kept, velocity))
        parameter.sub_(lr * step)


def descend(model: LanguageModel, parameters: Tensors, batch: Batch, update: Update, sgd: Sgd) -> Tensor:
    """A single step, without momentum from any before; returns the mean loss before it, float64 [k]."""
    return Descent(model, parameters, sgd).step(batch, update)
