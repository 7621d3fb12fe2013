"""What the layer is compared with on a GPU, beside the loop over clients of `baselines.py`. Weights are those of one layer in
the order of its parameters, with a leading K: two experts' w_ih [K, 3H, I], w_hh [K, 3H, H], b_ih, b_hh [K, 3H], the router's
weight [K, 2, I + H] and bias [K, 2].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class StackedLoop(nn.Module):
    """A loop over time for all clients at once, with the fewest possible products. One batched product before the loop computes
    what depends on the input alone; one batched product a step computes the rest. x [K, T, B, I] -> [K, T, B, H]."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(w.detach().clone()) for w in weights)

    def forward(self, x: Tensor) -> Tensor:
        clients, steps, batch, inputs = x.shape
        w_ih, w_hh, b_ih, b_hh, local_w_ih, local_w_hh, local_b_ih, local_b_hh, router, router_b = self.weights
        hidden = w_hh.shape[-1]
        gates = 6 * hidden
        from_x = torch.baddbmm(
            torch.cat([b_ih, local_b_ih, router_b], 1).unsqueeze(1),
            x.flatten(1, 2),
            torch.cat([w_ih, local_w_ih, router[..., :inputs]], 1).mT,
        ).unflatten(1, (steps, batch))
        weight = torch.cat([w_hh, local_w_hh, router[..., inputs:]], 1).mT
        bias = torch.cat([b_hh, local_b_hh, torch.zeros_like(router_b)], 1).unsqueeze(1)
        h = x.new_zeros(clients, batch, hidden)
        out = []
        for a in from_x.unbind(1):
            b = torch.baddbmm(bias, h, weight)
            ax, bh = (s[..., :gates].unflatten(-1, (2, 3, hidden)) for s in (a, b))
            r, z = torch.sigmoid(ax[..., :2, :] + bh[..., :2, :]).unbind(-2)
            n = torch.tanh(ax[..., 2, :] + r * bh[..., 2, :])
            mixed = n + z * (h.unsqueeze(-2) - n)  # [K, B, experts, H]
            q = torch.softmax(a[..., gates:] + b[..., gates:], -1)
            h = (q.unsqueeze(-1) * mixed).sum(-2)
            out.append(h)
        return torch.stack(out, 1)


class SideBySide:
    """Two ordinary GRUs over the same input at the same time, each on a stream of its own, for K = 1. They share nothing, so
    that neither has to wait for a sum: the gradient of the input is there twice."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.layers = [gru([w[0] for w in weights[first : first + 4]]) for first in (0, 4)]
        self._side = torch.cuda.Stream() if weights[0].is_cuda else None

    def outputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """x [T, B, I] twice -> y [T, B, H] twice."""
        if self._side is None:
            return [layer(x)[0] for layer, x in zip(self.layers, inputs, strict=True)]
        here = torch.cuda.current_stream()
        self._side.wait_stream(here)
        first = self.layers[0](inputs[0])[0]
        with torch.cuda.stream(self._side):
            second = self.layers[1](inputs[1])[0]
        here.wait_stream(self._side)
        return [first, second]

    def call(self, x: Tensor, grad: Tensor, mode: str) -> Callable[[], list[Tensor]]:
        """x [1, T, B, I] -> both outputs and, for "training", each layer's gradients: of x, then of its parameters."""
        if mode == "forward":

            def forward() -> list[Tensor]:
                with torch.no_grad():
                    return self.outputs([x[0], x[0]])

            return forward
        leaves = [[x[0].detach().requires_grad_(), *layer.parameters()] for layer in self.layers]

        def training() -> list[Tensor]:
            out = self.outputs([own[0] for own in leaves])
            return [*out, *torch.autograd.grad(out, leaves[0] + leaves[1], [grad[0], grad[0]])]

        return training


def gru(weights: Sequence[Tensor]) -> nn.GRU:
    """torch.nn.GRU (cuDNN's, on a GPU) with these weights: [3H, I], [3H, H], [3H], [3H]."""
    layer = nn.GRU(weights[0].shape[1], weights[1].shape[1], device=weights[0].device, dtype=weights[0].dtype)
    with torch.no_grad():
        for parameter, weight in zip(layer.parameters(), weights, strict=True):
            parameter.copy_(weight)
    return layer
