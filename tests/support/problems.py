"""Random routed-GRU problems and what every backend must return for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from optional import present
from torch import Tensor

import flow_kernels
from flow_kernels.call import NAMES

__all__ = ["NAMES", "SMALL", "Problem", "assert_as_exact_as_torch", "make"]
SMALL = 64  # elements


@dataclass
class Problem:
    """Float64 tensors by name (all with a leading K), options, and what the outputs' gradients are."""

    tensors: dict[str, Tensor]
    options: dict[str, Any]
    output_grads: tuple[Tensor, Tensor, Tensor]
    frozen: frozenset[str] = field(default_factory=frozenset)
    redraw: Any = None  # seed -> the same kind of problem with other numbers

    def run(self, backend: str, dtype: torch.dtype = torch.float64, change: Any = None) -> dict[str, Tensor | None]:
        """Outputs and, under "d" + name, gradients; None where there is none."""
        tensors = {n: t.to(dtype).clone() for n, t in self.tensors.items()}
        if change is not None:
            tensors = {n: change(t) for n, t in tensors.items()}
        leaves = {n: t.detach().requires_grad_(n not in self.frozen) for n, t in tensors.items()}
        args = [leaves.get(n) for n in NAMES]
        outputs = flow_kernels.routed_gru(*args, **self.options, backend=backend)  # type: ignore[arg-type]
        loss = sum(
            ((o * g.to(dtype)).sum() for o, g in zip(outputs, self.output_grads, strict=True)), torch.zeros((), dtype=dtype)
        )
        wanted = {n: t for n, t in leaves.items() if t.requires_grad}
        result: dict[str, Tensor | None] = dict(zip(("output", "h_n", "q"), (o.detach() for o in outputs), strict=True))
        result |= {f"d{n}": None for n in leaves}
        if loss.requires_grad:
            grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
            result |= {f"d{n}": g for n, g in zip(wanted, grads, strict=True)}
        return result

    def to(self, device: torch.device | str) -> Problem:
        """The same problem on a device."""
        dy, dh_n, dq = (g.to(device) for g in self.output_grads)
        return Problem(
            {n: t.to(device) for n, t in self.tensors.items()},
            {n: v.to(device) if isinstance(v, Tensor) else v for n, v in self.options.items()},
            (dy, dh_n, dq),
            self.frozen,
            lambda seed: self.redraw(seed).to(device),
        )


def make(
    k: int,
    t: int,
    b: int,
    i: int,
    h: int,
    *,
    bias: bool = True,
    lengths: bool = False,
    seed: int = 0,
    frozen: Any = (),
    **options: Any,
) -> Problem:
    """Weights drawn as torch.nn.GRU initialises them, uniform within 1/sqrt(H), the router's four times as wide."""
    options_given = dict(options)

    def redraw(other: int) -> Problem:
        return make(k, t, b, i, h, bias=bias, lengths=lengths, seed=other, frozen=frozen, **options_given)

    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    def weight(*shape: int) -> Tensor:
        uniform = torch.rand(*shape, generator=g, dtype=torch.float64) * 2 - 1
        return uniform * float(h**-0.5)

    steps = (b, t) if options.get("batch_first") else (t, b)
    tensors = {"input": normal(k, *steps, i), "hx": normal(k, b, h)}
    for expert in ("", "local_"):
        tensors |= {f"{expert}weight_ih": weight(k, 3 * h, i), f"{expert}weight_hh": weight(k, 3 * h, h)}
        if bias:
            tensors |= {f"{expert}bias_ih": weight(k, 3 * h), f"{expert}bias_hh": weight(k, 3 * h)}
    tensors["router_weight"] = 4 * weight(k, 2, i + h)
    if bias:
        tensors["router_bias"] = weight(k, 2)
    if lengths:
        options["lengths"] = torch.randint(1, t + 1, (k, b), generator=g)
    grads = normal(k, *steps, h), normal(k, b, h), normal(k, *steps, 2)
    return Problem(tensors, options, grads, frozenset(frozen), redraw)


def assert_same_bits(a: dict[str, Tensor | None], b: dict[str, Tensor | None], leave_out: tuple[str, ...] = ()) -> None:
    """Two results of Problem.run are equal to the bit, except for the names in ``leave_out``."""
    for name, left in a.items():
        if name not in leave_out:
            right = b[name]
            assert left is None if right is None else left is not None and torch.equal(left, right), name


class Yardstick:
    """The float64 reference's results on a problem, and how far from them the reference is in float32."""

    def __init__(self, problem: Problem) -> None:
        self.exact = problem.run("reference")
        self.errors = _errors(problem.run("reference", torch.float32), self.exact)
        few = any(t is not None and t.numel() < SMALL for t in self.exact.values())
        self._draws = map(problem.redraw, range(100, 104) if few else ())

    def widen(self) -> bool:
        """Let the errors be the largest on one draw more of the problem; False where there are no more of them."""
        draw = next(self._draws, None)
        if draw is None:
            return False
        for name, error in _errors(draw.run("reference", torch.float32), draw.run("reference")).items():
            self.errors[name] = max(self.errors.get(name, 0.0), error)
        return True


Runs = dict[str, dict[str, Tensor | None]]
"""Results of a backend, by a label for messages."""


def assert_as_exact_as_torch(problem: Problem, runs: dict[torch.dtype, Runs]) -> None:
    """Results of a backend, by their dtype, against the float64 reference: at most twice the error of the reference run in
    that dtype, in the mean square. Where a tensor is too small for a mean to say much, torch's error is the largest that it
    makes on five draws of the same problem; a draw that cannot change the verdict is not made.

    One part of rounding (4 eps of the largest value) is allowed beside it, for where torch happens to round to nothing.
    In float64 there is no wider type to judge by, and both sides round: there the error that torch makes in float32,
    scaled by the ratio of the two roundings, stands for either.
    """
    yardstick = Yardstick(problem)
    for dtype, by_label in runs.items():
        for label, ours in by_label.items():
            _assert_whole(label, ours, yardstick.exact, dtype)
            while (wrong := _too_far(label, ours, yardstick, dtype)) and yardstick.widen():
                pass
            assert not wrong, wrong


def _assert_whole(label: str, ours: dict[str, Tensor | None], exact: dict[str, Tensor | None], dtype: torch.dtype) -> None:
    """Everything is there, of the right shape and dtype, and was written."""
    for name, want in exact.items():
        got = ours[name]
        if want is None or got is None:
            lone = want if got is None else got
            assert lone is None or not lone.any(), f"{label}: {name}: a gradient on one side only"
            continue
        assert got.dtype == dtype and got.shape == want.shape, f"{label}: {name}"
        assert got.isfinite().all(), f"{label}: {name} has elements that were never written"


def _too_far(label: str, ours: dict[str, Tensor | None], yardstick: Yardstick, dtype: torch.dtype) -> str:
    """Which tensor has a larger error than is allowed, and how large; "" where none has."""
    eps = torch.finfo(dtype).eps
    factor = 2.0 if dtype == torch.float32 else 4 * eps / torch.finfo(torch.float32).eps
    for name, error in _errors(ours, yardstick.exact).items():
        scale = float(present(yardstick.exact[name]).abs().max())
        allowed = factor * yardstick.errors[name] + 4 * eps * scale
        if not error <= allowed:
            return f"{label}: {name}: error {error:.3g}, allowed {allowed:.3g}, largest value {scale:.3g}"
    return ""


def _errors(got: dict[str, Tensor | None], want: dict[str, Tensor | None]) -> dict[str, float]:
    """Root mean square error by name, of what is there on both sides."""
    both = {n: (g, w) for n, w in want.items() if w is not None and (g := got[n]) is not None}
    return {n: float((g.double() - w).square().mean().sqrt()) for n, (g, w) in both.items()}
