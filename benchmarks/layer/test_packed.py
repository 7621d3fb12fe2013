"""A PackedSequence against the padded tensor of the same size, RoutedGRU and torch.nn.GRU: forward and backward of the layer,
all gradients. Sequences are packed before, and what comes back stays packed: packing itself is torch's own affair.

With half padding, lengths are uniform in 1..T; RoutedGRU neither computes nor stores the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from benchmarks.layer.lab import Lab
from benchmarks.layer.problem import Local
from flow_kernels import RoutedGRU


def padded(layer: nn.Module, x: Tensor) -> Callable[[], Any]:
    x = x.clone().requires_grad_()
    leaves, grad = [x, *layer.parameters()], torch.randn_like(layer(x)[0])
    return lambda: torch.autograd.grad(layer(x)[0], leaves, grad)


def packed(layer: nn.Module, x: Tensor, lengths: Tensor) -> Callable[[], Any]:
    data, *rest = pack_padded_sequence(x, lengths, enforce_sorted=False)
    input = PackedSequence(data.requires_grad_(), *rest)
    leaves, grad = [input.data, *layer.parameters()], torch.randn_like(layer(input)[0].data)
    return lambda: torch.autograd.grad(layer(input)[0].data, leaves, grad)


@pytest.mark.parametrize("shape", [(16, 20, 96, 256), (64, 80, 128, 128)], ids=lambda s: "B{} T{} I{} H{}".format(*s))
def test_packed(shape: tuple[int, ...], threads: int, lab: Lab, benchmark: Any) -> None:
    b, t, i, h = shape
    if lab.quick and t > 20:
        pytest.skip("quick: too long")
    torch.manual_seed(0)
    x, lengths = torch.randn(t, b, i), torch.randint(1, t + 1, (b,))
    lengths[0] = t
    full = torch.full((b,), t)
    for layer, who in ((RoutedGRU(i, h), "RoutedGRU"), (nn.GRU(i, h), "torch.nn.GRU")):
        for what, these in (("half padding", lengths), ("no padding", full)):
            name = f"B{b} T{t} I{i} H{h}, {what}, {who}"
            together = pack_padded_sequence(layer(x)[0], these, enforce_sorted=False)
            apart = layer(pack_padded_sequence(x, these, enforce_sorted=False))[0]
            torch.testing.assert_close(apart.data, together.data)
            ours = Local("packed", packed(layer, x, these), threads)
            theirs = Local("padded", padded(layer, x), threads)
            lab.add("packed", name, threads, ours, [theirs])
    benchmark.pedantic(packed(RoutedGRU(i, h), x, lengths), rounds=10, iterations=1)
