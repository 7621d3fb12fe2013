"""The C++ kernels against the float64 reference, on every instruction set this processor has."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optional import present
from problems import NAMES, Problem, assert_as_exact_as_torch, make
from torch import Tensor

import flow_kernels
from flow_kernels.backends import cpu

ISAS = [isa for isa in cpu.ISAS if cpu._C.has_isa(isa)]
ROUTES = [("mixture", "soft"), ("mixture", "hard"), ("mixture", "straight_through"), ("global", "soft"), ("local", "soft")]
SIZES = [  # K, T, B, I, H
    (1, 1, 1, 1, 1),
    (5, 2, 3, 9, 7),
    (1, 2, 17, 65, 65),
    (5, 1, 3, 7, 65),
    (1, 129, 3, 7, 7),
    (2, 129, 1, 3, 65),
    (1, 20, 17, 16, 48),
    (1, 70, 33, 5, 20),  # more rows than backward takes at once
]
pytestmark = pytest.mark.usefixtures("poisoned")


def on_every_isa(problem: Problem, dtype: torch.dtype, **kwargs: Any) -> dict[str, dict[str, Tensor | None]]:
    results = {}
    for isa in ISAS:
        assert cpu._C.select_isa(isa) == 0 and cpu._C.isa() == isa
        results[isa] = problem.run("cpu", dtype, **kwargs)
    return results


def assert_same_bits(a: dict[str, Tensor | None], b: dict[str, Tensor | None], label: str = "") -> None:
    for name, left in a.items():
        right = b[name]
        assert (left is None) == (right is None), f"{label}: {name}"
        assert left is None or torch.equal(left, present(right)), f"{label}: {name}"


@pytest.mark.parametrize(("route", "routing"), ROUTES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_forward_and_every_gradient(sizes: tuple[int, ...], route: str, routing: str) -> None:
    for bias, lengths, batch_first, reverse in (
        (True, False, False, False),
        (True, True, True, False),
        (False, True, False, True),
        (True, False, True, True),
    ):
        problem = make(
            *sizes,
            bias=bias,
            lengths=lengths,
            batch_first=batch_first,
            reverse=reverse,
            route=route,
            routing=routing,
            temperature=0.7,
            seed=3,
        )
        assert_as_exact_as_torch(problem, {dtype: on_every_isa(problem, dtype) for dtype in (torch.float32, torch.float64)})


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*(st.integers(1, n) for n in (4, 6, 20, 40, 70))),
    route=st.sampled_from(ROUTES),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    frozen=st.sets(st.sampled_from(NAMES)),
    threads=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_any_size(sizes: Any, route: Any, flags: Any, frozen: Any, threads: int, seed: int) -> None:
    torch.set_num_threads(threads)
    bias, lengths, batch_first, reverse = flags
    problem = make(
        *sizes,
        bias=bias,
        lengths=lengths,
        batch_first=batch_first,
        reverse=reverse,
        route=route[0],
        routing=route[1],
        seed=seed,
        frozen=frozen,
    )
    assert_as_exact_as_torch(problem, {torch.float32: on_every_isa(problem, torch.float32)})


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("route", "routing"), [r for r in ROUTES if r[1] == "soft"])
def test_gradcheck(isa: str, route: str, routing: str) -> None:
    cpu._C.select_isa(isa)
    problem = make(2, 3, 3, 2, 5, lengths=True, route=route, routing=routing)
    names = list(problem.tensors)

    def run(*leaves: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        by_name = dict(zip(names, leaves, strict=True))
        return flow_kernels.routed_gru(*(by_name[n] for n in NAMES), **problem.options, backend="cpu")

    assert torch.autograd.gradcheck(run, [t.clone().requires_grad_() for t in problem.tensors.values()])


@pytest.mark.parametrize(
    "frozen", [set(NAMES) - {"router_weight", "router_bias"}, {"input", "hx"}, set(NAMES) - {"hx"}, set(NAMES)]
)
@pytest.mark.parametrize("k", [1, 3])
def test_frozen_parameters_change_nothing_else(k: int, frozen: set[str]) -> None:
    every = make(k, 4, 9, 5, 20)
    some = make(k, 4, 9, 5, 20, frozen=frozen)
    all_grads, some_grads = every.run("cpu", torch.float32), some.run("cpu", torch.float32)
    for name, got in some_grads.items():
        if name.removeprefix("d") in frozen:
            assert got is None
        else:
            assert got is not None and torch.equal(got, present(all_grads[name]))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("k", "t", "b"), [(1, 7, 17), (3, 7, 5), (8, 7, 3), (1, 40, 43), (3, 40, 19)])
@pytest.mark.parametrize("frozen", [set(), set(NAMES)], ids=["gradients", "forward alone"])
def test_same_bits_twice_and_on_any_number_of_threads(isa: str, k: int, t: int, b: int, frozen: set[str]) -> None:
    cpu._C.select_isa(isa)
    problem = make(k, t, b, 6, 33, lengths=True, routing="straight_through", frozen=frozen)
    first = problem.run("cpu", torch.float32)
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        assert_same_bits(first, problem.run("cpu", torch.float32), f"{threads} threads")


def test_same_bits_whatever_the_workspace_held(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, larger = make(2, 7, 5, 6, 33), make(3, 9, 17, 40, 65)
    first = problem.run("cpu")
    larger.run("cpu")
    assert_same_bits(first, problem.run("cpu"))
    monkeypatch.setattr(cpu._kernels, "poison", True)
    assert_same_bits(first, problem.run("cpu"))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("k", "t", "b", "i", "h"), [(1, 7, 17, 9, 33), (3, 5, 5, 16, 48), (1, 40, 43, 5, 7)])
def test_gates_computed_again_change_no_bit(isa: str, k: int, t: int, b: int, i: int, h: int) -> None:
    cpu._C.select_isa(isa)
    cases: list[dict[str, Any]] = [{"lengths": True}, {"reverse": True, "batch_first": True}, {"route": "local", "bias": False}]
    for options in cases:
        problem = make(k, t, b, i, h, **options)
        saved = problem.run("cpu", torch.float32)
        problem.options["recompute"] = True
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert_same_bits(saved, problem.run("cpu", torch.float32), f"{options}")


@pytest.mark.parametrize("isa", ISAS)
def test_a_client_does_not_see_its_company(isa: str) -> None:
    cpu._C.select_isa(isa)
    problem = make(5, 6, 4, 3, 20, lengths=True)
    together = problem.run("cpu", torch.float32)
    for client in range(5):
        own = slice(client, client + 1)
        alone = Problem(
            {n: t[own] for n, t in problem.tensors.items()},
            problem.options | {"lengths": problem.options["lengths"][own]},
            tuple(g[own] for g in problem.output_grads),
        ).run("cpu", torch.float32)
        assert_same_bits(alone, {n: None if t is None else t[own] for n, t in together.items()}, f"client {client}")


def test_a_sequence_does_not_see_its_batch() -> None:
    problem = make(1, 6, 19, 3, 20, batch_first=True)
    together = problem.run("cpu", torch.float32)
    for b in range(19):
        tensors = problem.tensors | {"input": problem.tensors["input"][:, b : b + 1], "hx": problem.tensors["hx"][:, b : b + 1]}
        grads = tuple(g[:, b : b + 1] for g in problem.output_grads)
        alone = Problem(tensors, problem.options, grads).run("cpu", torch.float32)
        for name in ("output", "h_n", "q", "dinput", "dhx"):
            assert torch.equal(present(alone[name]), present(together[name])[:, b : b + 1]), name


def test_what_lies_past_the_length_is_never_read() -> None:
    problem = make(2, 6, 5, 3, 20, lengths=True, batch_first=True)
    clean = problem.run("cpu")
    past = torch.arange(6) >= problem.options["lengths"].unsqueeze(-1)
    for t in (problem.tensors["input"], problem.output_grads[0], problem.output_grads[2]):
        t[past] = float("nan")
    problem.tensors["input"][past] = float("nan")
    leaves = {n: t.clone().requires_grad_() for n, t in problem.tensors.items()}
    outputs = flow_kernels.routed_gru(*(leaves[n] for n in NAMES), **problem.options, backend="cpu")
    torch.autograd.backward(outputs, problem.output_grads)
    for name, output in zip(("output", "h_n", "q"), outputs, strict=True):
        assert torch.equal(output, present(clean[name]))
    for name, leaf in leaves.items():
        assert leaf.grad is not None and torch.equal(leaf.grad, present(clean[f"d{name}"]))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", [(7, 5, 3, 20), (1, 1, 1, 1), (20, 19, 2, 33)], ids=str)
def test_packed_is_padded_without_the_padding(sizes: tuple[int, ...], reverse: bool, threads: int, backend: str) -> None:
    torch.set_num_threads(threads)
    problem = make(1, *sizes, lengths=True, reverse=reverse)
    lengths = problem.options["lengths"] = problem.options["lengths"].sort(descending=True).values
    lengths[0, 0] = sizes[0]
    valid = torch.arange(sizes[0]).unsqueeze(1) < lengths[0]  # [T, B]
    padded = problem.run(backend)
    leaves = {n: (t[0][valid] if n == "input" else t[0]).clone().requires_grad_() for n, t in problem.tensors.items()}
    outputs = flow_kernels.routed_gru(*(leaves[n] for n in NAMES), batch_sizes=valid.sum(1), reverse=reverse, backend=backend)
    dy, dh_n, dq = (g[0] for g in problem.output_grads)
    torch.autograd.backward(outputs, (dy[valid], dh_n, dq[valid]))
    for name, output in zip(("output", "h_n", "q"), outputs, strict=True):
        want = present(padded[name])[0]
        assert torch.equal(output, want if name == "h_n" else want[valid]), name
    for name, leaf in leaves.items():
        want = present(padded[f"d{name}"])[0]
        torch.testing.assert_close(leaf.grad, want[valid] if name == "input" else want, rtol=1e-12, atol=1e-12)


def test_strides_do_not_matter() -> None:
    def strided(t: Tensor) -> Tensor:
        wide = torch.full((*t.shape, 2), float("nan"), dtype=t.dtype)
        wide[..., 0] = t
        assert not wide[..., 0].is_contiguous() or t.numel() == 1
        return wide[..., 0]

    problem = make(2, 3, 4, 5, 17)
    assert_same_bits(problem.run("cpu"), problem.run("cpu", change=strided))


@pytest.mark.parametrize("missing", list(itertools.product([False, True], repeat=3)))
def test_outputs_that_no_loss_reads(missing: tuple[bool, ...]) -> None:
    """A gradient that does not arrive counts as zero."""
    results = []
    for backend in ("reference", "cpu"):
        problem = make(2, 3, 4, 5, 17)
        leaves = [problem.tensors[n].clone().requires_grad_() for n in NAMES]
        outputs = flow_kernels.routed_gru(*leaves, backend=backend)
        loss = sum((o * g).sum() for o, g, skip in zip(outputs, problem.output_grads, missing, strict=True) if not skip)
        results.append(torch.autograd.grad(loss, leaves, allow_unused=True) if torch.is_tensor(loss) else [])
    for want, got in zip(*results, strict=True):
        torch.testing.assert_close(torch.zeros(()) if got is None else got, torch.zeros(()) if want is None else want)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_saturated_gates(isa: str, dtype: torch.dtype) -> None:
    cpu._C.select_isa(isa)
    for size in (30.0, 1e3, 1e30):
        problem = make(1, 3, 4, 5, 17, lengths=True)
        problem.tensors["input"] *= size
        got, want = problem.run("cpu", dtype), problem.run("reference", dtype)
        for name in ("output", "h_n", "q"):
            torch.testing.assert_close(got[name], want[name], rtol=1e-4 if dtype == torch.float32 else 1e-9, atol=1e-5)
        assert all(t.isfinite().all() for t in got.values() if t is not None)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("routing", ["soft", "hard"])
def test_nan_propagates(isa: str, routing: str) -> None:
    cpu._C.select_isa(isa)
    for name, index in (("input", (0, 2, 1, 3)), ("hx", (0, 1, 4)), ("router_weight", (0, 0, 2)), ("weight_hh", (0, 5, 5))):
        problem = make(1, 5, 3, 4, 9, routing=routing)
        problem.tensors[name][index] = float("nan")
        results = {}
        for backend in ("reference", "cpu"):
            args = [problem.tensors[n].float() for n in NAMES]
            results[backend] = flow_kernels.routed_gru(*args, **problem.options, backend=backend)
        for want, got in zip(*results.values(), strict=True):
            assert torch.equal(want.isnan(), got.isnan()), name
