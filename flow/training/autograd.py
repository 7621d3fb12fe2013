"""The loss of an update and its gradients by autograd, on any device: how the formulas read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flow.model.interface import Model
from flow.model.parameters import Tensors, per_client
from flow.training.batches import Batch
from flow.training.sgd import Update
from flow_kernels.training import Step


def objective(model: Model, parameters: Tensors, batch: Batch, update: Update) -> tuple[Tensor, Tensor]:
    """What an update descends, and the mean loss in nats per valid token alone: both [k]."""
    used = parameters if update.compose is None else update.compose(parameters)
    out = torch.func.functional_call(model, used, (batch.inputs, batch.lengths), {"route": update.route})
    share = batch.valid.to(out.logits.dtype) / batch.valid.sum((1, 2), keepdim=True).clamp_min(1)
    nats = F.cross_entropy(out.logits.flatten(0, 2), batch.targets.flatten(), reduction="none")
    loss = (nats.view_as(share) * share).sum((1, 2))
    if not update.gamma:
        return loss, loss
    routed = [q for q in (*out.layer_routing, out.head_routing) if q is not None]
    # A softmax may round to zero far from any use; the smallest normal number keeps the logarithm finite.
    tiny = torch.finfo(out.logits.dtype).tiny
    logs = [torch.where(batch.valid, q[..., 0], 1.0).clamp_min(tiny).log() for q in routed]
    regulariser = sum((log * share).sum((1, 2)) for log in logs) / len(routed)
    return loss - update.gamma * regulariser, loss


def by_autograd(model: Model, parameters: Tensors, batch: Batch, update: Update) -> tuple[Tensor, Tensors]:
    """:func:`gradients`, on any device."""
    leaves = {name: parameters[name].detach().requires_grad_() for name in update.names}
    target, loss = objective(model, {**parameters, **leaves}, batch, update)
    gradients = torch.autograd.grad(target.sum(), list(leaves.values()))
    return loss.detach().double(), dict(zip(leaves, gradients, strict=True))


@torch.no_grad()
def scale_of(gradients: Sequence[Tensor], clip: float) -> Tensor:
    """[K]: what brings the norm of a client's gradients [K, ..] down to `clip`; 1 where it is smaller, or `clip` is 0."""
    norms = [torch.linalg.vector_norm(gradient.reshape(len(gradient), -1), dim=1) for gradient in gradients]
    norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    return clip / norm.clamp_min(clip) if clip else torch.ones_like(norm)


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
    scale = scale_of([step.gradient for step in steps], clip)
    for parameter, gradient, anchor, velocity, _ in steps:
        step = gradient * per_client(scale, gradient)
        if weight_decay:
            step += weight_decay * parameter
        if anchor is not None:
            step += mu * (parameter - anchor)
        moves = None if present is None else per_client(present, gradient)
        if moves is not None:
            step = torch.where(moves, step, 0.0)
        if velocity is not None:
            kept = momentum * velocity + step
            step = kept if moves is None else torch.where(moves, kept, 0.0)
            velocity.copy_(kept if moves is None else torch.where(moves, kept, velocity))
        parameter.sub_(lr * step)
