"""Local SGD, or Adam: what one update changes on one batch, for K clients side by side.

Two ways of the same arithmetic. Where flow_kernels has kernels for it (a CPU in float32 or float64, the model's own
parameters), the backward pass is written out by hand. It then holds nothing as wide as the vocabulary: flow/training/fused.py.
Anywhere else it is autograd, flow/training/autograd.py, which is also how the formulas read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from flow.model.interface import Model
from flow.model.parameters import Tensors
from flow.training.adam import AdamStates, plain_adam_
from flow.training.autograd import by_autograd, plain_sgd_
from flow.training.batches import Batch
from flow.training.fused import Fused, refusal
from flow.training.sgd import Sgd, Update, adapts
from flow_kernels.training import Replayed, Step, adam_, on_gpu, replays, sgd_


class Descent:
    """SGD or Adam on the parameters [K, ..] of K clients, in place; keeps what lasts from batch to batch.

    Args:
        model: says how to compute; its own parameters are not used.
        parameters: stacked; those that an update names are changed.
    """

    def __init__(self, model: Model, parameters: Tensors, sgd: Sgd) -> None:
        self.model, self.sgd = model, sgd
        self._given, self.parameters, self._by_kernels = parameters, parameters, not refusal(model, parameters)
        if self._by_kernels:  # frozen ones may be views of one tensor for all clients, which the kernels do not read
            self.parameters = {name: tensor.contiguous() for name, tensor in parameters.items()}
        self._momenta: Tensors = {}
        self._adam = AdamStates()
        self._kept: dict[Any, Any] = {}
        self._anchors: dict[int, tuple[Update, Tensors]] = {}
        self._by_update: dict[int, tuple[Update, Fused]] = {}
        device = next(iter(parameters.values())).device
        self.replayed = Replayed() if self._by_kernels and replays(device) else None
        """What records updates whose shapes repeat; None: they run one kernel after the other."""

    def step(self, batch: Batch, update: Update) -> Tensor:
        """One step of one update on one batch of the first k clients; returns the mean loss before it, float64 [k]."""
        strided = [name for name in update.names if self.parameters[name] is not self._given[name]]
        if strided:
            raise ValueError(f"parameters: {', '.join(strided)} are changed in place and must be contiguous; train a copy()")
        if self.replayed is None or update.compose is not None:
            return self._step(batch, update)
        self._fused(update, update.names)  # which holds the update, so that no other gets its id
        return self.replayed.run(id(update), batch, lambda own: self._step(Batch(*own), update))

    def _step(self, batch: Batch, update: Update) -> Tensor:
        """The same, one kernel after the other."""
        active = {name: tensor[: len(batch.lengths)] for name, tensor in self.parameters.items()}
        pulls = bool(self.sgd.momentum or self.sgd.weight_decay or (update.mu and update.anchor is not None))
        dense = pulls or (adapts(self.sgd) and on_gpu(next(iter(active.values())), self.model.backend))
        if not self._by_kernels:
            loss, gradients = by_autograd(self.model, active, batch, update)
            steps = {name: Step(active[name], gradient) for name, gradient in gradients.items()}
        elif update.compose is None:
            loss, steps = self._fused(update, update.names).gradients(active, batch, dense=dense)
        else:
            loss, steps = self._composed(active, batch, update)
        self._apply(batch, update, {name: steps[name] for name in update.names}, pulls or adapts(self.sgd))
        return loss

    def apply(self, batch: Batch, update: Update, gradients: Tensors) -> None:
        """One step of one update by gradients [k, ..] that were computed elsewhere, of the first k clients in the batch."""
        steps = {name: Step(self.parameters[name][: len(batch.lengths)], gradients[name].contiguous()) for name in update.names}
        self._apply(batch, update, steps, True)

    def _fused(self, update: Update, names: Iterable[str]) -> Fused:
        if id(update) not in self._by_update:  # which holds the update, so that no other gets its id
            self._by_update[id(update)] = update, Fused(self.model, update.route, names, update.gamma)
        return self._by_update[id(update)][1]

    def _composed(self, active: Tensors, batch: Batch, update: Update) -> tuple[Tensor, dict[str, Step]]:
        """By the kernels down to what the model computes with, from there by autograd."""
        assert update.compose is not None
        leaves = {name: active[name].detach().requires_grad_() for name in update.names}
        used = update.compose({**active, **leaves})
        names = [name for name, tensor in used.items() if tensor.requires_grad]
        plain = {name: tensor.detach().contiguous() for name, tensor in used.items()}
        loss, steps = self._fused(update, names).gradients(plain, batch, dense=True)
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
        mu, every = update.mu if anchors else 0.0, list(steps.values())
        if adapts(sgd):
            assert present is not None
            self._take_adam(update, every, mu, present)
            return
        options = {"lr": sgd.lr, "clip": sgd.clip, "weight_decay": sgd.weight_decay, "momentum": sgd.momentum}
        if self._by_kernels:
            sgd_(every, mu=mu, present=present, **options, backend=self.model.backend, kept=self._kept)
        else:
            plain_sgd_(every, mu=mu, present=present, **options)

    def _take_adam(self, update: Update, steps: list[Step], mu: float, present: Tensor) -> None:
        """Take the steps of the update's names, in their order; its parameters have moments and a count of their own."""
        sgd = self.sgd
        moments, taken = self._adam.of(self.parameters, update.names, len(present))
        options = {"lr": sgd.lr, "clip": sgd.clip, "mu": mu, "weight_decay": sgd.weight_decay}
        options |= {"beta1": sgd.client_beta1, "beta2": sgd.client_beta2, "epsilon": sgd.client_epsilon}
        decoupled = sgd.client_optimizer == "adamw"
        if self._by_kernels:
            adam_(
                steps, moments, taken, **options, decoupled=decoupled, present=present, backend=self.model.backend,
                kept=self._kept,
            )  # fmt: skip
        else:
            plain_adam_(steps, moments, taken, **options, decoupled=decoupled, present=present)


def gradients(model: Model, parameters: Tensors, batch: Batch, update: Update) -> tuple[Tensor, Tensors]:
    """The mean loss of k clients, float64 [k], and its gradients [k, ..] by the parameters of an update; nothing moves.

    Args:
        model: says how to compute; its own parameters are not used.
        parameters: [k, ..] for the k clients in the batch. The mean is over a client's own valid tokens, in nats.
    """
    if update.compose is not None or refusal(model, parameters):
        return by_autograd(model, parameters, batch, update)
    plain = {name: tensor.contiguous() for name, tensor in parameters.items()}
    loss, steps = Fused(model, update.route, update.names, update.gamma).gradients(plain, batch, dense=True)
    return loss, {name: steps[name].gradient for name in update.names}


def descend(model: Model, parameters: Tensors, batch: Batch, update: Update, sgd: Sgd) -> Tensor:
    """A single step, with nothing kept from any before; returns the mean loss before it, float64 [k].

    Args:
        model: says how to compute; its own parameters are not used.
        parameters: [k, ..] for the k clients in the batch, contiguous; those that the update names are changed in place.
    """
    return Descent(model, parameters, sgd).step(batch, update)
