"""RoutedGRU against what a PyTorch user would write: two GRUCells and a router in a loop over time. Forward and backward, all
gradients. Run with `make bench`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flow_kernels import RoutedGRU

SHAPES = [(4, 20, 64, 64), (16, 20, 96, 256), (16, 20, 96, 670), (64, 80, 128, 512)]  # B, T, I, H


class CellLoop(nn.Module):
    """The routed GRU of docs/cell.md from torch's own parts, with the layer's weights."""

    def __init__(self, layer: RoutedGRU) -> None:
        super().__init__()
        i, h = layer.input_size, layer.hidden_size
        self.global_cell, self.local_cell, self.router = nn.GRUCell(i, h), nn.GRUCell(i, h), nn.Linear(i + h, 2)
        with torch.no_grad():
            for cell, prefix in ((self.global_cell, ""), (self.local_cell, "local_")):
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    getattr(cell, name).copy_(getattr(layer, f"{prefix}{name}_l0"))
            self.router.weight.copy_(layer.router_weight_l0)
            self.router.bias.copy_(layer.router_bias_l0)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[1], self.global_cell.hidden_size)
        out = []
        for xt in x.unbind(0):
            q = torch.softmax(self.router(torch.cat([xt, h], dim=1)), dim=1)
            h = q[:, :1] * self.global_cell(xt, h) + q[:, 1:] * self.local_cell(xt, h)
            out.append(h)
        return torch.stack(out)


def forward_backward(module: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], Any]:
    leaves = [x, *module.parameters()]

    def run() -> Any:
        out = module(x)
        return torch.autograd.grad(out[0] if isinstance(out, tuple) else out, leaves, grad)

    return run


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "B{} T{} I{} H{}".format(*s))
def test_forward_backward(shape: tuple[int, ...], threads: int, table: Any, benchmark: Any) -> None:
    b, t, i, h = shape
    torch.manual_seed(0)
    layer = RoutedGRU(i, h)
    loop = CellLoop(layer)
    x, grad = torch.randn(t, b, i, requires_grad=True), torch.randn(t, b, h)
    torch.testing.assert_close(layer(x)[0], loop(x))
    ours, theirs = forward_backward(layer, x, grad), forward_backward(loop, x, grad)
    name = f"B{b} T{t} I{i} H{h}, forward + backward, {threads} thread{'s' * (threads > 1)}"
    benchmark.extra_info["ratio"] = table.compare(name, ours, "loop of two GRUCells and a router", theirs)
    benchmark.pedantic(ours, rounds=10, iterations=1)
