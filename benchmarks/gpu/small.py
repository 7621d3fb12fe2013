"""Small problems through every GPU backend, for a checker that watches the process:
`python -m benchmarks.gpu.small [PROCESSES]`

What goes in is made, and what comes out is compared, on the CPU, so that little else than the kernels runs on the device. Most
of the time goes into compiling Triton's kernels, some twenty of them: several processes compile them side by side."""

from __future__ import annotations

import itertools
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

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


Case = tuple[str, torch.dtype, tuple[int, ...], str]


def cases(backend: str, where: torch.device) -> Iterator[Case]:
    takes = [dtype for dtype in DTYPES if not load(backend).refusal(dtype, where)]
    todo = [(size, "mixture") for size in (SIZES if where.type == "cuda" else SIZES[:1])] + [(SIZES[0], "local")]
    yield from ((backend, dtype, size, route) for dtype, (size, route) in itertools.product(takes, todo))


def check(case: Case) -> tuple[str, bool]:
    """A line about this case, and whether its numbers are right."""
    backend, dtype, size, route = case
    name = f"{backend}, {dtype}, {size}, {route}"
    try:
        error = run(backend, size, route, dtype, device.device())
    except Exception as failure:  # whatever it is: the other cases are tried all the same
        return f"{name}: {device.first_line(failure)}", False
    allowed = AGREE[str(dtype).removeprefix("torch.")]
    verdict = "" if error <= allowed else f", more than {allowed:.0e}"
    return f"{name}: error {error:.1e}{verdict}", error <= allowed


def main(processes: int = 1) -> int:
    where, failed, todo = device.device(), 0, list[Case]()
    for backend in backends(where):
        own = list(cases(backend, where))
        if not own:
            print(f"{backend}: {load(backend).status()}")
            failed += 1
        todo += own
    if processes > 1:
        spawn = multiprocessing.get_context("spawn")  # a fork has no use of the GPU that its parent has
        with ProcessPoolExecutor(min(processes, len(todo)), mp_context=spawn) as pool:
            outcomes = list(pool.map(check, todo))
    else:
        outcomes = [check(case) for case in todo]
    for line, right in outcomes:
        print(line, flush=True)
        failed += not right
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
