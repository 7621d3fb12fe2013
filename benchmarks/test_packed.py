"""A PackedSequence against the padded tensor of the same size, RoutedGRU and torch.nn.GRU: forward and backward, all gradients.

Lengths are uniform in 1..T, so half of the padded steps are padding; RoutedGRU skips them inside the kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from flow_kernels import RoutedGRU


def forward_backward(
    layer: nn.Module, x: Tensor, grad: Tensor, lengths: Tensor | None, padded_again: bool
) -> Callable[[], Any]:
    leaves = [x, *(p for n, p in layer.named_parameters())]

    def run() -> Any:
        given = x if lengths is None else pack_padded_sequence(x, lengths, enforce_sorted=False)
        out = layer(given)[0]
        if lengths is None:
            return torch.autograd.grad(out, leaves, grad)
        if padded_again:
            return torch.autograd.grad(pad_packed_sequence(out, total_length=len(x))[0], leaves, grad)
        return torch.autograd.grad(out.data, leaves, out.data)

    return run


@pytest.mark.parametrize("shape", [(16, 20, 96, 256), (64, 80, 128, 128)], ids=lambda s: "B{} T{} I{} H{}".format(*s))
def test_packed(shape: tuple[int, ...], threads: int, table: Any, benchmark: Any) -> None:
    b, t, i, h = shape
    torch.manual_seed(0)
    layer = RoutedGRU(i, h)
    x, grad = torch.randn(t, b, i, requires_grad=True), torch.randn(t, b, h)
    lengths = torch.randint(1, t + 1, (b,))
    lengths[0] = t
    name = f"packed B{b} T{t} I{i} H{h}, {threads} thread{'s' * (threads > 1)}"
    ours = forward_backward(layer, x, grad, lengths, padded_again=True)
    full = torch.full((b,), t)
    table.compare(f"{name}, half padding", ours, "the padded call", forward_backward(layer, x, grad, None, False))
    every = forward_backward(layer, x, grad, full, padded_again=True)
    table.compare(f"{name}, no padding", every, "the padded call", forward_backward(layer, x, grad, None, False))
    gru = nn.GRU(i, h)
    theirs = forward_backward(gru, x, grad, lengths, padded_again=True)
    table.compare(f"{name}, torch.nn.GRU", theirs, "its own padded call", forward_backward(gru, x, grad, None, False))
    benchmark.pedantic(ours, rounds=10, iterations=1)
