"""The layer beside torch.nn.GRU and beside the reference, without pytest: what runs under an emulator (scripts/cross.sh)."""

from __future__ import annotations

import platform

import torch

import flow_kernels


def largest(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def compare_with_gru(threads: int) -> float:
    """The largest difference in outputs and gradients, of float64."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    ours, theirs = flow_kernels.GRU(7, 19, dtype=torch.float64), torch.nn.GRU(7, 19, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(11, 5, 7, dtype=torch.float64)
    gradient = torch.randn(11, 5, 19, dtype=torch.float64)
    differences = []
    for layer in (ours, theirs):
        y, h_n = layer(x)
        y.backward(gradient)
        differences.append([y.detach(), h_n.detach(), *(p.grad for p in layer.parameters() if p.grad is not None)])
    assert len(differences[0]) == 6
    return max(largest(a, b) for a, b in zip(*differences, strict=True))


def compare_with_reference() -> float:
    torch.manual_seed(1)
    layer, x = flow_kernels.RoutedGRU(6, 33), torch.randn(9, 19, 6)
    outputs = []
    for backend in ("cpu", "reference"):
        layer.backend = backend
        outputs.append(layer(x)[0].detach())
    return largest(*outputs)


if __name__ == "__main__":
    print(platform.machine(), f"torch {torch.__version__}", flow_kernels.backends()["cpu"])
    for threads in (1, 3):
        difference = compare_with_gru(threads)
        assert difference < 1e-12, difference
        print(f"GRU and torch.nn.GRU on {threads} threads, outputs and gradients in float64: {difference:.1e} apart")
    difference = compare_with_reference()
    assert difference < 1e-5, difference
    print(f"RoutedGRU and the reference in float32: {difference:.1e} apart")
