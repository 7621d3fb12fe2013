"""The gradients of one update on one batch by the kernels of flow_kernels.training, the backward pass written out by hand.

Forward: embedding, routed GRU, and a head that computes its loss and its gradients in one go. Backward: the routers, the GRU,
the rows of the embedding that were looked up. Every product runs in flow_kernels; the tensors in between are kept from batch
to batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from flow.model.interface import Model
from flow.model.language_model import LanguageModel, embed, mean_routing, mixed_linear
from flow.model.language_model import linear as linear_of_all
from flow.model.parameters import Route, Tensors
from flow.training.batches import Batch
from flow.training.threads import aligned, linear, one_thread
from flow_kernels.training import (
    Head,
    HeadLoss,
    Step,
    Weights,
    add_rows_,
    cell_of,
    gru,
    head_loss,
    on_gpu,
    replays,
    route,
    route_backward,
)  # fmt: skip
from flow_kernels.training import refusal as kernels_refusal

HEAD = (
    "projection.weight", "projection.bias", "head.weight", "head.bias", "head.local_weight", "head.local_bias",
)  # fmt: skip
ROUTER = WEIGHT, BIAS = "head.router_weight", "head.router_bias"
EMBEDDING = "embedding.weight"
AT_ONCE = 1 << 27
"""Numbers that :func:`pieces` allows for."""


def refusal(model: Model, parameters: Tensors) -> str:
    """Why these parameters' gradients cannot be computed here; empty when they can."""
    if not isinstance(model, LanguageModel):
        return "the model is a module of the user's own"
    first = next(iter(parameters.values()))
    return kernels_refusal(first.dtype, first.device, model.backend, model.mixed_precision, model.gru.hidden_size)


def pieces(clients: int, numbers: int) -> Iterator[slice]:
    """The clients in groups, by how many numbers of one are held in between; a group has at least one."""
    size = max(1, AT_ONCE // max(numbers, 1))
    return (slice(first, min(first + size, clients)) for first in range(0, clients, size))


def by_gpu(model: Model, parameters: Tensors) -> bool:
    """Whether a GPU's kernels compute these parameters' gradients."""
    if not isinstance(model, LanguageModel) or refusal(model, parameters):
        return False
    return on_gpu(next(iter(parameters.values())), model.backend)


class Memory:
    """Tensors that are written anew in every batch, kept: fresh memory costs a page fault every 4 KiB."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}
        self._outgrown: list[Tensor] = []

    def get(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialised tensor."""
        size = math.prod(shape)
        if name not in self._kept or len(self._kept[name]) < size:
            if name in self._kept and replays(like.device):  # a recorded update writes to it
                self._outgrown.append(self._kept[name])
            self._kept[name] = like.new_empty(size)
        return self._kept[name][:size].view(shape)


class States(NamedTuple):
    """What a layer of the GRU has computed of a batch, and what its backward pass reads."""

    x: Tensor
    """[k, B, T, I]"""
    h0: Tensor
    """[k, B, H]"""
    y: Tensor
    """[k, B, T, H]"""
    q: Tensor
    """[k, B, T, 2]"""
    gates: Tensor | None
    """None where nothing is trained in this layer and below."""
    kept: object
    """What the kernels of a GPU keep of it for their backward pass."""


class HeadInput(NamedTuple):
    """What the head reads of a batch of k clients."""

    y: Tensor
    """[k, B, T, H]"""
    q: Tensor
    """[k, B, T, 2]: the GRU's routing, mean over its layers."""
    head_q: Tensor | None
    """[k, B, T, 2]: the head's; None where it is not routed."""


def _targets(batch: Batch) -> Tensor:
    """int64 [k, B * T]: -1 where nothing is to be predicted."""
    return torch.where(batch.valid, batch.targets, -1).flatten(1)


def _lengths(batch: Batch) -> Tensor:
    """int64 [k, B]: 0 for rows that only fill up, which the kernels leave out."""
    return batch.lengths * batch.rows_that_count()


class Fused:
    """The loss of K clients by one route, and its gradients by the parameters of these names.

    gamma: weight of Flow's regulariser, see :class:`flow.training.sgd.Update`.
    """

    def __init__(self, model: Model, route: Route, trained: Iterable[str] = (), gamma: float = 0.0) -> None:
        assert isinstance(model, LanguageModel), refusal(model, {})
        self.model, self.route, self.gamma, self.mixed_precision = model, route, gamma, model.mixed_precision
        self.backend = model.backend
        self.mixture = route == "mixture"
        self.routed_head = self.mixture and model.routed_head
        self.layers = tuple(
            tuple(name if self._used(name) else None for name in (f"gru.{weight}_l{layer}" for weight in Weights._fields))
            for layer in range(model.gru.num_layers)
        )
        self.head = tuple(self._head_name(name) for name in HEAD)
        self.trained = frozenset(trained)
        self.memory = Memory()
        moved = [layer for layer, names in enumerate(self.layers) if self.trained.intersection(names)]
        self.lowest = 0 if EMBEDDING in self.trained else min(moved, default=len(self.layers))
        """The first layer of the GRU that has to be gone back through."""
        self.below_head = self.lowest < len(self.layers)

    def _used(self, name: str) -> bool:
        """Whether the route needs this weight of the GRU."""
        if "router" in name:
            return self.mixture
        return self.route != ("global" if "local_" in name else "local")

    def _head_name(self, name: str) -> str | None:
        """Which parameter takes this place in the head."""
        if name.startswith("projection.") and self.model.projection is None:
            return None
        if "local_" in name:
            return name if self.routed_head else None
        own = self.route == "local" and self.model.routed_head and name.startswith("head.")
        return name.replace("head.", "head.local_") if own else name

    def gradients(self, p: Tensors, batch: Batch, dense: bool) -> tuple[Tensor, dict[str, Step]]:
        """The mean loss of k clients, float64 [k], and for every trained parameter the step to take.

        Args:
            p: the clients' parameters [k, ..], contiguous.
            dense: whether the embedding's gradient is to have all rows; else it has those that were looked up.
        """
        k, b, t = batch.inputs.shape
        targets, head = _targets(batch), self._weights_of_head(p)
        states, q = self._below_head(p, batch, targets, "soft")
        x, flat = states[-1].x, states[-1].y.flatten(1, 2)
        outs = [
            self.memory.get(f"d {name}", tuple(p[name].shape), x) if name in self.trained and name is not None else None
            for name in self.head
        ]
        routers = q is not None and (self.below_head or self.trained.intersection(ROUTER) != frozenset())
        loss = head_loss(
            flat,
            targets,
            head,
            q,
            x_grad=self.below_head,
            q_grad=routers,
            out=outs,
            x_out=self.memory.get("dh", tuple(flat.shape), x) if self.below_head else None,
            bfloat16=self.mixed_precision,
            backend=self.backend,
        )
        grads = {name: grad for name, grad in zip(self.head, outs, strict=True) if name is not None and grad is not None}
        share = batch.valid.to(x.dtype).view(k, -1) / loss.counts.clamp_min(1).unsqueeze(1)
        dh = loss.x
        if routers:
            assert q is not None and loss.q is not None
            grads |= {name: self.memory.get(f"d {name}", tuple(p[name].shape), x) for name in self.trained.intersection(ROUTER)}
            if self.gamma:
                loss.q[..., 0] += self._regulariser(q, share)
            route_backward(
                flat,
                targets,
                p[WEIGHT],
                p[BIAS],
                q,
                loss.q,
                temperature=self.model.temperature,
                dx=dh,
                dweight=grads.get(WEIGHT),
                dbias=grads.get(BIAS),
                backend=self.backend,
            )
        dx = None
        if dh is not None:
            dx = self._backward(p, states, batch, dh.view(k, b, t, -1), share.view(k, b, t), grads)
        steps = {name: Step(p[name], grads[name]) for name in self.trained if name in grads}
        if dx is not None:
            steps[EMBEDDING] = self._embedding(p[EMBEDDING], dx.view(k, b * t, -1), batch, dense)
        missing = self.trained.difference(steps)
        if missing:
            raise RuntimeError(f"route={self.route!r} gives no gradient to {', '.join(sorted(missing))}")
        return loss.nats / loss.counts.clamp_min(1), steps

    def look(self, p: Tensors, batch: Batch, routing: str = "soft", best: bool = False) -> tuple[HeadLoss, Tensor]:
        """The loss, and if asked the most likely tokens, of k clients without a gradient; the GRU's routing [k, B, T, 2], mean
        over its layers."""
        targets = _targets(batch)
        states, q = self._below_head(p, batch, targets, routing)
        flat, head = states[-1].y.flatten(1, 2), self._weights_of_head(p)
        loss = head_loss(flat, targets, head, q, best=best, bfloat16=self.mixed_precision, backend=self.backend)
        return loss, mean_routing([layer.q for layer in states])

    def states(self, p: Tensors, batch: Batch, routing: str = "soft") -> HeadInput:
        """What the head reads of k clients' batch, without a gradient; valid until this is called again."""
        states, q = self._below_head(p, batch, _targets(batch), routing)
        y = states[-1].y
        k, b, t, _ = y.shape
        return HeadInput(y, mean_routing([layer.q for layer in states]), None if q is None else q.view(k, b, t, 2))

    def logits(self, p: Tensors, states: HeadInput, batch: Batch, client: int) -> Tensor:
        """[n, V]: the scores of one client at its valid targets."""
        valid = batch.valid[client]
        head = self._weights_of_head(p)
        features = states.y[client][valid]
        if head.projection_weight is not None and head.projection_bias is not None:
            features = linear(features, head.projection_weight[client], head.projection_bias[client])
        if states.head_q is None or head.local_weight is None or head.local_bias is None:
            return linear(features, head.weight[client], head.bias[client])
        q = states.head_q[client][valid]
        with one_thread():
            return mixed_linear(
                features[None],
                q[None],
                aligned(head.weight[client])[None],
                head.bias[client][None],
                aligned(head.local_weight[client])[None],
                head.local_bias[client][None],
            ).squeeze(0)

    def scores(self, p: Tensors, states: HeadInput, clients: slice) -> Tensor:
        """[k, B * T, V]: the scores of some clients at all positions; those that count for nothing have any finite ones."""
        head = Head(*(None if weight is None else weight[clients] for weight in self._weights_of_head(p)))  # type: ignore[arg-type]
        features = states.y[clients].flatten(1, 2)
        if head.projection_weight is not None and head.projection_bias is not None:
            features = linear_of_all(features, head.projection_weight, head.projection_bias)
        if states.head_q is None or head.local_weight is None or head.local_bias is None:
            return linear_of_all(features, head.weight, head.bias)
        q = states.head_q[clients].flatten(1, 2)
        return mixed_linear(features, q, head.weight, head.bias, head.local_weight, head.local_bias)

    def _below_head(self, p: Tensors, batch: Batch, targets: Tensor, routing: str) -> tuple[list[States], Tensor | None]:
        """The states of every layer of the GRU, and the routing [k, B * T, 2] of a routed head."""
        states: list[States] = []
        for layer in range(len(self.layers)):
            x = states[-1].y if states else embed(batch.inputs, p[EMBEDDING])
            states.append(self._forward(p, x, batch, routing, layer))
        if not self.routed_head:
            return states, None
        flat, temperature = states[-1].y.flatten(1, 2), self.model.temperature
        q = route(flat, targets, p[WEIGHT], p[BIAS], temperature=temperature, routing=routing, backend=self.backend)
        return states, q

    def _weights_of_gru(self, p: Tensors, layer: int) -> Weights:
        return Weights(*(None if name is None else p[name] for name in self.layers[layer]))

    def _weights_of_head(self, p: Tensors) -> Head:
        return Head(*(None if name is None else p[name] for name in self.head))  # type: ignore[arg-type]

    def _regulariser(self, q: Tensor, share: Tensor) -> Tensor:
        """Gradient by q_global of -(gamma / L) * mean log q_global, [..]; the smallest normal number in the place of zero."""
        layers = len(self.layers) + self.routed_head
        tiny = torch.finfo(q.dtype).tiny
        return torch.where(q[..., 0] >= tiny, -self.gamma / layers * share / q[..., 0], 0.0)

    def _forward(self, p: Tensors, x: Tensor, batch: Batch, routing: str, layer: int) -> States:
        (k, b, t, _), size = x.shape, self.model.gru.hidden_size
        h0 = self.memory.get("h0", (k, b, size), x).zero_()
        y, h_n = self.memory.get(f"y {layer}", (k, b, t, size), x), self.memory.get("h_n", (k, b, size), x)
        q, gates = self.memory.get(f"q {layer}", (k, b, t, 2), x), None
        if layer >= self.lowest:
            gates = self.memory.get(
                f"gates {layer}", gru.gates_shape(k, b, t, size, self.route, on_gpu=on_gpu(x, self.backend)), x
            )
        kept = gru.forward(
            x, h0, self._weights_of_gru(p, layer), lengths=_lengths(batch), route=self.route, routing=routing,
            temperature=self.model.temperature, y=y, h_n=h_n, q=q, gates=gates, bfloat16=self.mixed_precision,
            backend=self._cell(x),
        )  # fmt: skip
        return States(x, h0, y, q, gates, kept)

    def _backward(
        self, p: Tensors, states: list[States], batch: Batch, dy: Tensor, share: Tensor, grads: Tensors
    ) -> Tensor | None:
        """Adds the gradients of the GRU's weights to `grads`; returns that of its input, where the embedding is trained.

        From the last layer down to the lowest that is trained: what a layer reads is what the layer below has put out.
        """
        gradient: Tensor | None = dy
        for layer in range(len(states) - 1, self.lowest - 1, -1):
            assert gradient is not None
            gradient = self._backward_layer(p, states[layer], batch, gradient, share, grads, layer)
        return gradient if EMBEDDING in self.trained else None

    def _backward_layer(
        self, p: Tensors, states: States, batch: Batch, dy: Tensor, share: Tensor, grads: Tensors, layer: int
    ) -> Tensor | None:
        """Adds the gradients of a layer's weights to `grads`; returns that of its input, where that is needed."""
        x, h0, y, q, gates, kept = states
        dq = None
        if self.gamma and self.mixture:
            dq = self.memory.get("dq", tuple(q.shape), x).zero_()
            dq[..., 0] = torch.where(batch.valid, self._regulariser(q, share), 0.0)
        needed = layer > self.lowest or EMBEDDING in self.trained
        dx = self.memory.get(f"dx {layer}", tuple(x.shape), x) if needed else None
        trained = [name if name in self.trained else None for name in self.layers[layer]]
        grads |= {name: self.memory.get(f"d {name}", tuple(p[name].shape), x) for name in trained if name is not None}
        gru.backward(
            x,
            h0,
            self._weights_of_gru(p, layer),
            lengths=_lengths(batch),
            route=self.route,
            temperature=self.model.temperature,
            y=y,
            q=q,
            gates=gates,
            dy=dy,
            dq=dq,
            dx=dx,
            gradients=Weights(*(None if name is None else grads[name] for name in trained)),
            bfloat16=self.mixed_precision,
            backend=self._cell(x),
            kept=kept,
        )
        return dx

    def _cell(self, x: Tensor) -> str:
        """The backend of the GRU."""
        return cell_of(x.device, self.backend, self.mixed_precision, self.model.gru.hidden_size)

    def _embedding(self, table: Tensor, dx: Tensor, batch: Batch, dense: bool) -> Step:
        rows = torch.where(batch.read(), batch.inputs, -1).view(len(dx), -1)
        if not dense:
            return Step(table, dx, rows=rows)
        gradient = self.memory.get("d embedding", tuple(table.shape), table)
        add_rows_(gradient, rows, dx, backend=self.backend)
        return Step(table, gradient)
