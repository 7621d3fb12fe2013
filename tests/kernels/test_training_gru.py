"""The GRU's forward and backward pass for hand-written training: the bits of the registered op, and its errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from optional import present
from problems import make
from torch import Tensor

import flow_kernels
from flow_kernels.call import NAMES
from flow_kernels.training import Weights, gru

K, T, B, INPUTS, H = 2, 4, 3, 5, 7
pytestmark = pytest.mark.usefixtures("poisoned")


def problem(route: str = "mixture", lengths: bool = True) -> tuple[Tensor, Tensor, Weights, Tensor | None]:
    made = make(K, T, B, INPUTS, H, lengths=lengths, batch_first=True)
    weights = Weights(*(made.tensors[name] for name in Weights._fields)).used_by(route)
    return made.tensors["input"], made.tensors["hx"], weights, made.options.get("lengths")


def buffers(x: Tensor, route: str = "mixture") -> dict[str, Any]:
    return dict(
        y=x.new_empty(K, B, T, H),
        h_n=x.new_empty(K, B, H),
        q=x.new_empty(K, B, T, 2),
        gates=x.new_empty(gru.gates_shape(K, B, T, H, route)),
    )


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("routing", ["soft", "straight_through"])
@pytest.mark.parametrize("route", ["mixture", "global", "local"])
def test_the_bits_of_the_op(route: str, routing: str, lengths: bool) -> None:
    x, h0, weights, valid = problem(route, lengths)
    options: dict[str, Any] = dict(lengths=valid, route=route, routing=routing, temperature=0.7)
    out = buffers(x, route)
    gru.forward(x, h0, weights, **options, **out)

    leaves: list[Any] = [None if t is None else t.clone().requires_grad_() for t in (x, h0, *weights)]
    want = flow_kernels.routed_gru(*leaves, **options, batch_first=True, backend="cpu")
    for name, value in zip(("y", "h_n", "q"), want, strict=True):
        assert torch.equal(out[name], value), name

    dy, dh_n, dq = (torch.randn_like(t) for t in want)
    torch.autograd.backward(want, (dy, dh_n, dq))
    dx, dh0 = torch.empty_like(x), torch.empty_like(h0)
    gradients = Weights(*(None if t is None else torch.empty_like(t) for t in weights))
    saved = {name: out[name] for name in ("y", "q", "gates")}
    gru.backward(x, h0, weights, **options, **saved, dy=dy, dh_n=dh_n, dq=dq, dx=dx, dh0=dh0, gradients=gradients)
    for name, leaf, got in zip(NAMES, leaves, (dx, dh0, *gradients), strict=True):
        assert leaf is got is None or torch.equal(leaf.grad, present(got)), name

    # without what was saved, and only what is wanted
    alone = Weights(bias_hh=x.new_empty(K, 3 * H))
    if route != "local":
        gru.backward(x, h0, weights, **options, **saved | {"gates": None}, dy=dy, dh_n=dh_n, dq=dq, gradients=alone)
        assert torch.equal(present(alone.bias_hh), present(gradients.bias_hh))


def test_what_does_not_fit_is_refused() -> None:
    x, h0, weights, valid = problem()
    assert valid is not None
    out, options = buffers(x), dict[str, Any](lengths=valid, route="mixture", temperature=1.0)
    for bad in (-1, T + 1):
        with pytest.raises(RuntimeError, match=r"lengths: every length must lie in 0\.\.T"):
            gru.forward(x, h0, weights, **options | {"lengths": torch.full_like(valid, bad)}, **out)
    with pytest.raises(RuntimeError, match="a weight that the route needs is missing"):
        gru.forward(x, h0, weights._replace(router_weight=None), **options, **out)
    for temperature in (0.0, math.inf, math.nan):
        with pytest.raises(RuntimeError, match="temperature must be a finite number > 0"):
            gru.forward(x, h0, weights, **options | {"temperature": temperature}, **out)
    with pytest.raises(RuntimeError, match=r"gates is .* and must be"):
        gru.forward(x, h0, weights, **options, **out | {"gates": out["gates"][..., :H].contiguous()})
    gru.forward(x, h0, weights, **options, **out)
    del out["h_n"]
    short = Weights(weight_ih=torch.empty(K, 3 * H, INPUTS - 1, dtype=x.dtype))
    with pytest.raises(RuntimeError, match=r"weight_ih is .* and must be"):
        gru.backward(x, h0, weights, **options, **out, dy=torch.ones_like(out["y"]), gradients=short)


# ---- a client's bits are its own ------------------------------------------------------------------------------------


def run_ragged(tensors: dict[str, Tensor], lengths: Tensor, dy: Tensor, route: str, saved: bool) -> dict[str, Tensor]:
    """All outputs and gradients of one call, with a leading K."""
    x, h0, weights = tensors["input"], tensors["hx"], Weights(*(tensors[n] for n in Weights._fields)).used_by(route)
    k, b, t, _ = x.shape
    hidden = h0.shape[-1]
    out: dict[str, Any] = dict(y=x.new_empty(k, b, t, hidden), h_n=torch.empty_like(h0), q=x.new_empty(k, b, t, 2))
    gates = x.new_empty(gru.gates_shape(k, b, t, hidden, route)) if saved else None
    options: dict[str, Any] = dict(lengths=lengths, route=route, temperature=0.7)
    gru.forward(x, h0, weights, **options, **out, gates=gates)
    dx, dh0 = torch.empty_like(x), torch.empty_like(h0)
    gradients = Weights(*(None if w is None else torch.empty_like(w) for w in weights))
    gru.backward(x, h0, weights, **options, y=out["y"], q=out["q"], gates=gates, dy=dy, dx=dx, dh0=dh0, gradients=gradients)
    named = {f"d{name}": t for name, t in gradients._asdict().items() if t is not None}
    return {**out, "dx": dx, "dh0": dh0, **named}


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("route", ["mixture", "global"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("sizes", "own"),
    [
        ((3, 5, 6, 4, 7), ((3, 4), (1, 1), (0, 0))),
        ((2, 2, 9, 3, 33), ((1, 2), (2, 9))),
        ((2, 40, 90, 3, 20), ((17, 61), (40, 33))),  # more rows than a chunk of the backward pass has
    ],
    ids=["small", "one row", "chunks"],
)
def test_padding_and_company_leave_no_trace(sizes: Any, own: Any, dtype: torch.dtype, route: str, saved: bool) -> None:
    k, b, t, i, hidden = sizes
    made = make(k, t, b, i, hidden, batch_first=True)
    tensors = {name: value.to(dtype) for name, value in made.tensors.items()}
    g = torch.Generator().manual_seed(1)
    lengths = torch.zeros(k, b, dtype=torch.int64)
    for client, (rows, steps) in enumerate(own):
        if rows:
            lengths[client, :rows] = torch.randint(1, steps + 1, (rows,), generator=g)
            lengths[client, 0] = steps
    dy = torch.randn(k, b, t, hidden, generator=g, dtype=torch.float64).to(dtype)
    whole = run_ragged(tensors, lengths, dy, route, saved)
    assert all(value.isfinite().all() for value in whole.values())
    past = torch.arange(t) >= lengths.unsqueeze(-1)
    assert all((whole[name][past] == 0).all() for name in ("y", "q", "dx"))
    for client, (rows, steps) in enumerate(own):
        if not rows:
            assert all((value[client] == 0).all() for name, value in whole.items() if "weight" in name or "bias" in name)
            continue
        alone = {name: value[client : client + 1] for name, value in tensors.items()}
        alone["input"], alone["hx"] = alone["input"][:, :rows, :steps].contiguous(), alone["hx"][:, :rows].contiguous()
        slope = dy[client : client + 1, :rows, :steps].contiguous()
        single = run_ragged(alone, lengths[client : client + 1, :rows].contiguous(), slope, route, saved)
        for name, value in single.items():
            mine = whole[name][client : client + 1]
            mine = mine[:, :rows, :steps] if name in ("y", "q", "dx") else mine[:, :rows] if name in ("h_n", "dh0") else mine
            assert torch.equal(mine, value), f"client {client}: {name}"


def test_long_sums_keep_their_digits() -> None:
    """480 products a number of dx, 540 of dW: one run in float32 is off by 5e-7, stretches by 2e-7."""
    made = make(1, 60, 9, 20, 160, batch_first=True)
    tensors = {name: t.float().double() for name, t in made.tensors.items()}
    lengths, dy = torch.full((1, 9), 60), torch.randn(1, 9, 60, 160).double()
    exact = run_ragged(tensors, lengths, dy, "global", True)
    rounded = run_ragged({name: t.float() for name, t in tensors.items()}, lengths, dy.float(), "global", True)
    for name, bound in {"dx": 2.5e-7, "dh0": 1.4e-7, "dweight_ih": 2.5e-7, "dweight_hh": 3e-7, "dbias_ih": 2e-7}.items():
        assert (rounded[name].double() - exact[name]).norm() <= bound * exact[name].norm(), name


def test_lengths_of_zero_come_last() -> None:
    x, h0, weights, valid = problem()
    assert valid is not None
    bad = valid.clone()
    bad[0, 0] = 0
    with pytest.raises(RuntimeError, match=r"sequences of length 0 come last"):
        gru.forward(x, h0, weights, lengths=bad, route="mixture", temperature=1.0, **buffers(x))


def test_negated_views_are_refused() -> None:
    x, h0, weights, valid = problem()
    out, options = buffers(x), dict[str, Any](lengths=valid, route="mixture", temperature=1.0)
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"x": torch._neg_view(x)}, {}),
        ({}, {"y": torch._neg_view(out["y"])}),
    ]
    for given, buffer in cases:
        with pytest.raises(RuntimeError, match=r"pass tensor\.resolve_neg"):
            gru.forward(**{"x": x, **given}, h0=h0, weights=weights, **options, **out | buffer)
    gru.forward(x, h0, weights, **options, **out)
    del out["h_n"]
    with pytest.raises(RuntimeError, match=r"pass tensor\.resolve_neg"):
        gru.backward(x, h0, weights, **options, **out, dy=torch._neg_view(out["y"]), gradients=Weights())
