"""The Triton kernels against the float64 reference, in Triton's interpreter or compiled on a GPU.

The first import of the kernels makes them for the interpreter or for the compiler, by TRITON_INTERPRET. So test_triton.py runs
this file in a process of its own with TRITON_INTERPRET=1. In the main process every case needs a GPU, or is skipped.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from problems import NAMES, Problem, assert_as_exact_as_torch, assert_same_bits, make
from torch import Tensor
from torch.func import grad, vmap

import flow_kernels
from flow_kernels.backends.gpu import triton
from flow_kernels.backends.gpu.triton import tiles
from flow_kernels.backends.gpu.triton.tiles import Tile

DEVICE = "cpu" if triton.interpreted() else "cuda"
pytestmark = [
    pytest.mark.gpu(stand_in=triton.interpreted()), pytest.mark.triton, pytest.mark.usefixtures("poisoned"),
]  # fmt: skip


def put(problem: Problem) -> Problem:
    return problem.to(DEVICE)


def check(problem: Problem, *dtypes: torch.dtype) -> None:
    assert_as_exact_as_torch(problem, {dtype: {"triton": problem.run("triton", dtype)} for dtype in dtypes or (torch.float32,)})


ROUTES = [("mixture", "soft"), ("mixture", "hard"), ("mixture", "straight_through"), ("global", "soft"), ("local", "soft")]
CASES: list[tuple[tuple[int, ...], dict[str, bool]]] = [  # K, T, B, I, H
    ((1, 1, 1, 1, 1), dict()),
    ((5, 2, 3, 9, 7), dict(lengths=True, batch_first=True)),
    ((1, 2, 17, 5, 20), dict(lengths=True, bias=False, reverse=True)),
]
STEPWISE = [
    ((2, 2, 3, 4, 6), Tile(16, 16, 16), ROUTES),
    ((1, 2, 17, 7, 65), Tile(32, 16, 32), [("mixture", "straight_through"), ("local", "soft")]),  # the third tile has one unit
]


@pytest.mark.parametrize(("route", "routing"), ROUTES)
@pytest.mark.parametrize(("sizes", "flags"), CASES, ids=lambda v: str(v) if isinstance(v, tuple) else "")
def test_forward_and_every_gradient(sizes: tuple[int, ...], flags: dict[str, bool], route: str, routing: str) -> None:
    problem = put(make(*sizes, route=route, routing=routing, temperature=0.7, seed=3, **flags))
    check(problem, *((torch.float32, torch.float16) if sizes[4] == 7 and route == "mixture" else ()))


@pytest.mark.parametrize(
    ("sizes", "tile", "route", "routing"),
    [(sizes, tile, *pair) for sizes, tile, routes in STEPWISE for pair in routes],
    ids=str,
)
def test_the_kernel_of_one_step(
    sizes: tuple[int, ...], tile: Tile, route: str, routing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "choose_tile", lambda *_: ("step", tile))
    options: dict[str, Any] = dict(lengths=True, batch_first=True, reverse=True, temperature=0.7, seed=3)
    problem = put(make(*sizes, route=route, routing=routing, **options))
    check(problem, *((torch.float32, torch.float16) if sizes[4] == 65 and route == "mixture" else ()))


def test_a_long_sequence() -> None:
    steps = 33 if triton.interpreted() else 129  # of which every one is interpreted alike
    check(put(make(1, steps, 3, 2, 7, lengths=True, reverse=True)))


@pytest.fixture(params=["step", "sequence"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small sizes in either kernel: in one program a client, which is quickly interpreted."""
    monkeypatch.setattr(tiles, "choose_tile", lambda *_: (request.param, Tile(16, 16, 16)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("mode", ["step", "sequence"])
def test_either_kernel_at_the_same_size(mode: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes of one kernel run in the other, and tiles that are larger than the problem on both sides."""
    tile = Tile(64, 32, 32) if mode == "step" else Tile(64, 16)
    if DEVICE == "cuda" and mode == "sequence" and dtype == torch.float32:
        pytest.skip("float32 does not fit into registers at H = 64")
    monkeypatch.setattr(tiles, "choose_tile", lambda *_: (mode, tile))
    check(put(make(2, 3, 5, 3, 35, lengths=True, routing="straight_through")), dtype)


@pytest.mark.parametrize(("h", "reverse"), [(6, False), (6, True), (34, True)])
def test_packed_rows(h: int, reverse: bool) -> None:
    problem = make(1, 4, 5, 3, h, seed=1)
    sizes = torch.tensor([5, 3, 3, 1])
    rows = int(sizes.sum())
    packed = Problem(
        {n: t[0] for n, t in problem.tensors.items()} | {"input": torch.randn(rows, 3, dtype=torch.float64)},
        dict(batch_sizes=sizes, reverse=reverse),
        (torch.randn(rows, h).double(), torch.randn(5, h).double(), torch.randn(rows, 2).double()),
    )
    packed.redraw = lambda seed: dataclasses.replace(
        packed, tensors=packed.tensors | {"input": torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed)).double()}
    )
    moved = put(packed)
    check(dataclasses.replace(moved, options=packed.options))


@pytest.mark.usefixtures("either")
def test_frozen_parameters_change_nothing_else() -> None:
    all_grads = put(make(2, 2, 4, 5, 6)).run("triton", torch.float32)
    for frozen in (set(NAMES) - {"router_weight", "router_bias"}, {"input", "hx"}, {"weight_ih", "local_bias_hh"}, set(NAMES)):
        some_grads = put(make(2, 2, 4, 5, 6, frozen=frozen)).run("triton", torch.float32)
        assert all(some_grads[f"d{n}"] is None for n in frozen)
        assert_same_bits(some_grads, all_grads, tuple(f"d{n}" for n in frozen))


@pytest.mark.parametrize("mode", ["step", "sequence"])
def test_the_same_bits_twice_and_with_gates_computed_again(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    h = 34 if mode == "step" else 7
    monkeypatch.setattr(tiles, "choose_tile", lambda *_: (mode, Tile(32, 16, 32)))
    problem = put(make(1, 2, 4, 5, h, lengths=True))
    first = problem.run("triton", torch.float32)
    for other in (problem, dataclasses.replace(problem, options=problem.options | {"recompute": True})):
        assert_same_bits(first, other.run("triton", torch.float32))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("reverse", [False, True])
def test_what_lies_past_a_length_is_never_read(reverse: bool) -> None:
    problem = put(make(1, 4, 3, 5, 6, lengths=True, reverse=reverse, routing="straight_through"))
    past = torch.arange(4, device=DEVICE).view(1, 4, 1) >= problem.options["lengths"].unsqueeze(1)
    assert past.any()
    rest = problem.tensors["input"].masked_fill(past.unsqueeze(-1), torch.nan)
    spoiled = dataclasses.replace(problem, tensors=problem.tensors | {"input": rest})
    assert_same_bits(problem.run("triton", torch.float32), spoiled.run("triton", torch.float32))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("routing", ["soft", "hard"])
def test_nan_reaches_what_depends_on_it_and_nothing_else(routing: str) -> None:
    problem = put(make(2, 3, 3, 5, 6, routing=routing, frozen=NAMES))
    spoiled = problem.tensors["input"].clone()
    spoiled[1, 1, 2, 0] = torch.nan
    for name, got in (
        dataclasses.replace(problem, tensors=problem.tensors | {"input": spoiled}).run("triton", torch.float32).items()
    ):
        if got is not None and name in ("output", "q"):
            assert got[1, 1:, 2].isnan().all() and not got[0].isnan().any() and not got[1, 0].isnan().any(), name
            assert not got[1, :, :2].isnan().any(), name


@pytest.mark.usefixtures("either")
def test_gradients_of_some_outputs() -> None:
    """All but one of dy, dh_n and dq are absent in turn, and that one is expanded from a number."""
    problem = put(make(1, 3, 2, 4, 6))
    for keep in range(3):
        grads: Any = tuple(torch.full_like(g, n == keep) for n, g in enumerate(problem.output_grads))
        want = dataclasses.replace(problem, output_grads=grads).run("reference")
        leaves = [problem.tensors[n].float().requires_grad_() for n in NAMES]
        output = flow_kernels.routed_gru(*leaves, backend="triton")[keep]
        for name, got in zip(NAMES, torch.autograd.grad(output.sum(), leaves), strict=True):
            torch.testing.assert_close(got.double(), want[f"d{name}"], atol=1e-5, rtol=1e-4)


def test_views_and_no_clients() -> None:
    problem = put(make(1, 3, 2, 4, 6))
    plain = [problem.tensors[n][0].float() for n in NAMES]
    strided = [torch.stack([t, t], -1)[..., 0] for t in plain]
    stacked = flow_kernels.routed_gru(*(t.unsqueeze(0) for t in plain), backend="triton")
    for a, b in zip(flow_kernels.routed_gru(*strided, backend="triton"), stacked, strict=True):
        assert torch.equal(a, b[0])


@pytest.mark.filterwarnings("ignore:flow_kernels..routed_gru_triton. an autograd kernel was not registered")
@pytest.mark.parametrize("k", [0, 2])
def test_opcheck(k: int) -> None:
    problem = put(make(max(k, 1), 2, 2, 3, 5))
    tensors = [problem.tensors[n].float() for n in NAMES]
    # no lengths: gates of rows that do not exist are never written, so two runs would differ there
    args = (*(t if k else t[0] for t in tensors), None, None, "mixture", "soft", 0.9, False, False, True)
    torch.library.opcheck(triton.family.forward_op, args)
    y, h_n, q, gates = triton.family.forward_op(*args)
    wanted = [n % 2 == 0 for n in range(12)]
    torch.library.opcheck(triton.family.backward_op, (y, h_n, q, y, q, gates, *args[:-1], wanted))


def test_transforms_and_compile() -> None:
    problem = put(make(1, 2, 2, 3, 5))
    x, *rest = (problem.tensors[n][0].float() for n in NAMES)

    def loss(x: Tensor, *rest: Tensor) -> Tensor:
        y, h_n, q = flow_kernels.routed_gru(x, *rest, backend="triton")
        return y.square().sum() + h_n.sum() + (q + 0.1).log().sum()

    xs = torch.stack([x, 2 * x, -x])
    many = vmap(grad(loss), in_dims=(0, *(None,) * 11))(xs, *rest)
    for n in range(3):
        torch.testing.assert_close(many[n], grad(loss)(xs[n], *rest))
    torch._dynamo.reset()
    leaf = x.clone().requires_grad_()
    value = torch.compile(loss, fullgraph=True, backend="aot_eager")(leaf, *rest)
    torch.testing.assert_close(torch.autograd.grad(value, leaf)[0], grad(loss)(x, *rest))


@pytest.mark.usefixtures("either")
def test_addresses_of_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    from flow_kernels.backends.gpu.triton import launch

    monkeypatch.setattr(launch, "NARROW", 0)
    check(put(make(2, 2, 3, 4, 5, lengths=True, reverse=True)))


def test_one_expert_with_biases_and_one_without() -> None:
    problem = put(make(1, 2, 2, 3, 5))
    for prefix in ("", "local_"):
        left = {n: t for n, t in problem.tensors.items() if n not in (f"{prefix}bias_ih", f"{prefix}bias_hh")}
        some = dataclasses.replace(problem, tensors=left)
        some.redraw = lambda _, some=some: some
        check(some)


def test_the_op_itself_checks_what_addresses_rely_on() -> None:
    problem = put(make(2, 3, 2, 4, 5, lengths=True))
    tensors = [problem.tensors[n].float() for n in NAMES]
    good = [*tensors, problem.options["lengths"], None, "mixture", "soft", 0.9, False, False, True]
    changes: list[tuple[int, Any]] = [
        (3, tensors[3][:, :1]),
        (2, tensors[2].half()),
        (0, tensors[0][0]),
        (1, tensors[1][:, :1]),
        (12, good[12].int()),
        (14, "both"),
        (15, "gumbel"),
        (2, None),
        (10, None),
        (13, torch.tensor([0, 2], device=DEVICE)),
    ]
    for n, value in changes:
        with pytest.raises((RuntimeError, ValueError)):
            triton.family.forward_op(*[value if i == n else a for i, a in enumerate(good)])
    outputs = triton.family.forward_op(*good)
    y, h_n, q, gates = outputs
    given = [y, h_n, q, y, q, gates]
    for n in (0, 2, 3, 4, 5):
        with pytest.raises(RuntimeError, match="routed_gru_backward"):
            triton.family.backward_op(*[t[:1] if i == n else t for i, t in enumerate(given)], *good[:-1], [True] * 12)


def test_wrong_lengths_and_dtypes_are_refused() -> None:
    problem = put(make(1, 3, 2, 4, 5))
    tensors = [problem.tensors[n] for n in NAMES]
    with pytest.raises(RuntimeError, match="float32, float16 or bfloat16 and the input is"):
        flow_kernels.routed_gru(*tensors, backend="triton")
    if DEVICE == "cpu":  # on a GPU this is an assertion of the device, after which the process has lost it
        for lengths in ([[0, 1]], [[1, 4]]):
            with pytest.raises(ValueError, match=r"must lie in 1\.\.T = 1\.\.3"):
                flow_kernels.routed_gru(*(t.float() for t in tensors), lengths=torch.tensor(lengths), backend="triton")
        with pytest.raises(RuntimeError, match="interpreter computes wrong numbers in bfloat16"):
            flow_kernels.routed_gru(*(t.bfloat16() for t in tensors), backend="triton")
