"""The reference against a loop written from the equations, one client, one sequence, one number at a time."""

import math
from typing import Any

import pytest
import torch
from problems import NAMES, make
from torch import Tensor

import flow_kernels


def sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v))


def naive(
    tensors: dict[str, Tensor], k: int, b: int, length: int, route: str, routing: str, temperature: float
) -> tuple[list[list[float]], list[list[float]]]:
    """h of every valid step and q, in Python floats."""
    p = {n: t[k].tolist() for n, t in tensors.items() if n not in ("input", "hx")}
    x, h = tensors["input"][k, :, b].tolist(), tensors["hx"][k, b].tolist()
    size = len(h)

    def linear(weights: list[list[float]], bias: list[float] | None, row: int, v: list[float]) -> float:
        return sum(w * a for w, a in zip(weights[row], v, strict=True)) + (bias[row] if bias else 0.0)

    def expert(prefix: str, xt: list[float], h: list[float]) -> list[float]:
        ih, hh = p[prefix + "weight_ih"], p[prefix + "weight_hh"]
        bi, bh = p.get(prefix + "bias_ih"), p.get(prefix + "bias_hh")
        out = []
        for j in range(size):
            r = sigmoid(linear(ih, bi, j, xt) + linear(hh, bh, j, h))
            z = sigmoid(linear(ih, bi, size + j, xt) + linear(hh, bh, size + j, h))
            n = math.tanh(linear(ih, bi, 2 * size + j, xt) + r * linear(hh, bh, 2 * size + j, h))
            out.append((1 - z) * n + z * h[j])
        return out

    hs, qs = [], []
    for xt in x[:length]:
        if route == "mixture":
            s = [linear(p["router_weight"], p.get("router_bias"), e, xt + h) / temperature for e in (0, 1)]
            q = [math.exp(s[0]) / (math.exp(s[0]) + math.exp(s[1])), math.exp(s[1]) / (math.exp(s[0]) + math.exp(s[1]))]
            if routing != "soft":
                q = [1.0, 0.0] if q[0] >= q[1] else [0.0, 1.0]
        else:
            q = [1.0, 0.0] if route == "global" else [0.0, 1.0]
        both = expert("", xt, h), expert("local_", xt, h)
        h = [q[0] * g + q[1] * loc for g, loc in zip(*both, strict=True)]
        hs.append(h)
        qs.append(q)
    return hs, qs


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("route", "routing"),
    [("mixture", "soft"), ("mixture", "hard"), ("mixture", "straight_through"), ("global", "soft"), ("local", "soft")],
)
def test_equations(route: str, routing: str, bias: bool) -> None:
    k, t, b, i, h = 2, 4, 3, 5, 3
    problem = make(k, t, b, i, h, bias=bias, lengths=True, route=route, routing=routing, temperature=0.6)
    arguments: list[Any] = [problem.tensors.get(n) for n in NAMES]
    y, h_n, q = flow_kernels.routed_gru(*arguments, **problem.options, backend="reference")
    for client in range(k):
        for row in range(b):
            length = int(problem.options["lengths"][client, row])
            hs, qs = naive(problem.tensors, client, row, length, route, routing, 0.6)
            want = torch.tensor(hs, dtype=torch.float64)
            torch.testing.assert_close(y[client, :length, row], want, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(h_n[client, row], want[-1], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(q[client, :length, row], torch.tensor(qs, dtype=torch.float64), rtol=1e-12, atol=1e-12)
            assert not y[client, length:, row].any() and not q[client, length:, row].any()


@pytest.mark.parametrize("route", ["global", "local"])
def test_one_expert_is_torch_gru(route: str) -> None:
    gru = torch.nn.GRU(5, 7)
    x, h0 = torch.randn(6, 3, 5), torch.randn(1, 3, 7)
    weights: list[Any] = [gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0]
    args = weights if route == "global" else [None] * 4 + weights
    y, h_n, q = flow_kernels.routed_gru(x, h0[0], *args, route=route, backend="reference")
    want_y, want_h = gru(x, h0)
    torch.testing.assert_close(y, want_y)
    torch.testing.assert_close(h_n, want_h[0])
    assert q[..., 0 if route == "global" else 1].eq(1).all() and q.sum(-1).eq(1).all()


def test_tie_goes_to_global() -> None:
    problem = make(1, 3, 2, 2, 4, routing="hard")
    problem.tensors["router_weight"].zero_()
    problem.tensors["router_bias"].fill_(0.3)
    for backend in ("reference", "cpu"):
        q = problem.run(backend)["q"]
        assert q is not None and q[..., 0].eq(1).all() and q[..., 1].eq(0).all()


def test_differentiable_twice() -> None:
    problem = make(2, 3, 2, 2, 3, lengths=True)
    names = list(problem.tensors)

    def run(*leaves: Tensor) -> Tensor:
        by_name = dict(zip(names, leaves, strict=True))
        args = [by_name[n] for n in NAMES]
        y, h_n, q = flow_kernels.routed_gru(*args, **problem.options, backend="reference")
        return y.sum() + h_n.square().sum() + q.square().sum()

    leaves = [t.clone().requires_grad_() for t in problem.tensors.values()]
    assert torch.autograd.gradgradcheck(run, leaves)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_storage(dtype: torch.dtype) -> None:
    problem = make(1, 20, 3, 4, 8)
    half = {n: t.to(dtype) for n, t in problem.tensors.items()}
    args = [half[n] for n in NAMES]
    y, h_n, q = flow_kernels.routed_gru(*args, backend="reference")
    assert y.dtype == h_n.dtype == q.dtype == dtype
    wide, _, _ = flow_kernels.routed_gru(*(a.float() for a in args), backend="reference")
    assert (y - wide).abs().max() <= torch.finfo(dtype).eps  # one rounding of numbers below 1, not twenty
