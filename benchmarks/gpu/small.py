"""Small problems through every GPU backend, for a checker that watches the process: `python -m benchmarks.gpu.small`

What goes in is made, and what comes out is compared, on the CPU, so that little else than the kernels runs on the device."""

from __future__ import annotations

import itertools
import sys

import torch
from torch import Tensor

import flow_kernels
from benchmarks.common.cases import AGREE
from benchmarks.gpu import device
from flow_kernels.backends import load
from flow_kernels.plan import ORDER

SIZES = [(2, 3, 5, 9, 33), (3, 2, 16, 8, 128), (1, 3, 24, 5, 200), (1, 2, 8, 16, 512)]  # K, T, B, I, H
DTYPES = (torch.float32, torch.bfloat16)


def backends(where: torch.device) -> list[str]:
    """Those written for this kind of device."""
    return [name for name in ORDER[where.type] if name != "reference"]


def run(backend: str, sizes: tuple[int, ...], route: str, dtype: torch.dtype, where: torch.device) -> float:
    """Forward and backward with lengths, against float64: the largest relative error, as norms, of the outputs, the gradients
    of x and h0, and that of all weights in one."""
    k, t, b, i, h = sizes
    generator = torch.Generator().manual_seed(sum(sizes))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    expert = ((3 * h, i), (3 * h, h), (3 * h,), (3 * h,))
    tensors = [normal(k, t, b, i), normal(k, b, h)]
    tensors += [normal(k, *shape) / h**0.5 for shape in (*expert, *expert, (2, i + h), (2,))]
    lengths = torch.randint(1, t + 1, (k, b), generator=generator)
    grads = [normal(k, t, b, h), normal(k, b, h), normal(k, t, b, 2)]

    def outcome(leaves: list[Tensor], place: torch.device, backend: str) -> list[Tensor]:
        leaves = [leaf.requires_grad_() for leaf in leaves]
        outputs = flow_kernels.routed_gru(*leaves, route=route, lengths=lengths.to(place), backend=backend)
        first, *others = ((o * g.to(place, o.dtype)).sum() for o, g in zip(outputs, grads, strict=True))
        gradients = torch.autograd.grad(sum(others, first), leaves, allow_unused=True)
        parts = [t.detach().cpu().double().flatten() for t in (*outputs, *gradients[:2])]
        return [*parts, torch.cat([t.cpu().double().flatten() for t in gradients[2:] if t is not None])]

    exact = outcome([t.double() for t in tensors], torch.device("cpu"), "reference")
    ours = outcome([t.to(where) for t in tensors], where, backend)
    return max(float((a - e).norm() / e.norm().clamp_min(1e-9)) for a, e in zip(ours, exact, strict=True))


def main() -> int:
    where, failed = device.device(), 0
    for backend in backends(where):
        takes = [dtype for dtype in DTYPES if not load(backend).refusal(dtype, where)]
        if not takes:
            print(f"{backend}: {load(backend).status()}")
            failed += 1
        cases = [(size, "mixture") for size in (SIZES if where.type == "cuda" else SIZES[:1])] + [(SIZES[0], "local")]
        for dtype, (size, route) in itertools.product(takes, cases):
            error, allowed = run(backend, size, route, dtype, where), AGREE[str(dtype).removeprefix("torch.")]
            failed += not error <= allowed
            verdict = "" if error <= allowed else f", more than {allowed:.0e}"
            print(f"{backend}, {dtype}, {size}, {route}: error {error:.1e}{verdict}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
