"""How exact a backend must be in 16 bits: compared with torch's operators in the same dtype, both against float64."""

from __future__ import annotations

import torch
from optional import present
from problems import SMALL, Problem
from torch import Tensor

from flow_kernels.reference import Expert, gru_cell


def rounded(problem: Problem, dtype: torch.dtype) -> Problem:
    """The same problem with numbers that dtype holds exactly."""
    tensors = {n: t.to(dtype).double() for n, t in problem.tensors.items()}
    dy, dh_n, dq = (g.to(dtype).double() for g in problem.output_grads)
    redraw = lambda seed: rounded(problem.redraw(seed), dtype)  # noqa: E731
    return Problem(tensors, problem.options, (dy, dh_n, dq), problem.frozen, redraw)


def in_torch(problem: Problem, dtype: torch.dtype) -> dict[str, Tensor | None]:
    """Step after step in torch's operators of this dtype, every result rounded to it: soft routing, input [K, T, B, I]."""
    leaves = {n: t.to(dtype).requires_grad_() for n, t in problem.tensors.items()}
    x, h, options = leaves["input"], leaves["hx"], problem.options
    lengths, route = options.get("lengths"), options["route"]
    experts = [
        Expert(
            leaves[f"{prefix}weight_ih"],
            leaves[f"{prefix}weight_hh"],
            leaves.get(f"{prefix}bias_ih"),
            leaves.get(f"{prefix}bias_hh"),
        )
        for prefix in ("", "local_")
    ]
    ys, qs = [], []
    for t in range(x.shape[1]):
        new = [gru_cell(x[:, t], h, expert) for expert in experts]
        if route == "mixture":
            scores = torch.cat([x[:, t], h], -1) @ leaves["router_weight"].mT
            if "router_bias" in leaves:
                scores = scores + leaves["router_bias"].unsqueeze(1)
            q = torch.softmax(scores / options["temperature"], -1)
        else:
            q = h.new_zeros(*h.shape[:-1], 2)
            q[..., ("global", "local").index(route)] = 1
        after = q[..., :1] * new[0] + q[..., 1:] * new[1]
        valid = torch.ones_like(h[..., :1], dtype=torch.bool) if lengths is None else (t < lengths).unsqueeze(-1)
        h = torch.where(valid, after, h)
        ys.append(torch.where(valid, after, 0))
        qs.append(torch.where(valid, q, 0))
    outputs = torch.stack(ys, 1), h, torch.stack(qs, 1)
    loss = sum((o * g.to(dtype)).sum() for o, g in zip(outputs, problem.output_grads, strict=True))
    assert isinstance(loss, Tensor)
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    results: dict[str, Tensor | None] = dict(zip(("output", "h_n", "q"), outputs, strict=True))
    return results | {f"d{n}": g for n, g in zip(leaves, grads, strict=True)}


def error(got: Tensor, want: Tensor) -> float:
    return float((got.detach().double() - want).square().mean().sqrt())


def assert_no_worse_than_torch(problem: Problem, dtype: torch.dtype, backend: str) -> None:
    """At most twice the error of torch's operators in this dtype, of tensors that are too small for a mean the largest of five
    draws of the same problem; and one rounding of the result, where torch happens to round to nothing. A draw that cannot
    change the verdict is not made."""
    exact, ours = problem.run("reference"), problem.run(backend, dtype)
    theirs = [(in_torch(problem, dtype), exact)]
    more = map(problem.redraw, range(100, 104))
    for name, want in exact.items():
        got = ours[name]
        if want is None or not want.any():
            assert got is None or not got.any(), f"{name}: a gradient where there is none"
            continue
        assert got is not None and got.dtype == dtype and got.isfinite().all(), f"{name} has elements that were never written"
        rounding = max(error(want.to(dtype), want), torch.finfo(dtype).eps * 1e-3)

        def allowed(name: str = name, small: bool = want.numel() < SMALL, rounding: float = rounding) -> float:
            counted = theirs if small else theirs[:1]
            return 2 * max(error(present(t[name]), present(e[name])) for t, e in counted) + rounding

        while want.numel() < SMALL and not error(got, want) <= allowed() and (draw := next(more, None)) is not None:
            theirs.append((in_torch(draw, dtype), draw.run("reference")))
        assert error(got, want) <= allowed(), f"{name}: error {error(got, want):.3g}, allowed {allowed():.3g}"
