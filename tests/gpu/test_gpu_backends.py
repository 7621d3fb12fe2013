"""The GPU backends on a GPU, against the float64 reference. Without one every test is skipped and says why.

FLOW_GPU_DEVICE=cpu runs the same code on the C++ kernels, to try the tests themselves where there is no GPU.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from low_precision import assert_no_worse_than_torch, error, rounded
from optional import present
from problems import NAMES, Problem, assert_as_exact_as_torch, make
from torch import Tensor

import flow_kernels
from flow_kernels.backends import NAMES as BACKENDS_HERE
from flow_kernels.backends import load

DEVICE = torch.device(os.environ.get("FLOW_GPU_DEVICE", "cuda"))
BACKENDS = ("triton", "cuda") if DEVICE.type == "cuda" else ("cpu",)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROUTES = [("mixture", "soft"), ("mixture", "hard"), ("mixture", "straight_through"), ("global", "soft"), ("local", "soft")]
Sizes = tuple[int, int, int, int, int]
SIZES: list[Sizes] = [  # K, T, B, I, H: the smallest and odd ones, long ones, and what fills the kernels' tiles
    (1, 1, 1, 1, 1), (5, 2, 3, 9, 7), (1, 2, 17, 65, 65), (5, 1, 3, 7, 65), (1, 129, 3, 7, 7), (2, 129, 1, 3, 65),
    (1, 9, 17, 16, 64), (2, 6, 33, 24, 128), (1, 5, 16, 40, 200), (2, 4, 8, 16, 256), (1, 3, 65, 20, 512), (1, 3, 5, 8, 600),
]  # fmt: skip
FLAGS = [  # bias, lengths, batch_first, reverse
    (True, False, False, False), (True, True, True, False), (False, True, False, True), (True, False, True, True),
]  # fmt: skip
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
pytestmark = [pytest.mark.gpu(stand_in=DEVICE.type == "cpu"), pytest.mark.usefixtures("poisoned")]


def capability() -> tuple[int, int] | None:
    return torch.cuda.get_device_capability() if DEVICE.type == "cuda" else None


def own(backend: str) -> torch.dtype:
    """What a backend is tried in where the dtype does not matter."""
    return torch.bfloat16 if backend == "cuda" else torch.float32


def need(backend: str, dtype: torch.dtype, hidden: int = 1) -> None:
    """Skip with the backend's own words where it cannot run this."""
    if backend not in BACKENDS_HERE:
        pytest.skip(f"there is no backend of the name {backend}")
    why = load(backend).refusal(dtype, DEVICE) or load(backend).limit(hidden, capability())
    if why:
        pytest.skip(f"{backend}: {why}")


def place(problem: Problem) -> Problem:
    return problem.to(DEVICE)


def assert_close(got: Tensor | None, want: Tensor | None, name: str) -> None:
    """The same but for sums in another order, or numbers kept in 16 bits on the way: some roundings of the largest value."""
    assert (got is None) == (want is None), name
    if got is not None and want is not None:
        roundings = 32 if got.dtype == torch.float32 else 4
        allowed = roundings * torch.finfo(got.dtype).eps * float(want.detach().abs().max())
        torch.testing.assert_close(got.detach(), want.detach(), rtol=0, atol=allowed, msg=lambda text: f"{name}: {text}")


@each_backend
def test_the_backend_runs_here(backend: str) -> None:
    need(backend, own(backend))
    assert flow_kernels.backends()[backend].startswith("available")


@pytest.mark.parametrize(("route", "routing"), ROUTES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@each_backend
def test_float32_forward_and_every_gradient(backend: str, sizes: Sizes, route: str, routing: str) -> None:
    need(backend, torch.float32, sizes[-1])
    bias, lengths, batch_first, reverse = FLAGS[(SIZES.index(sizes) + ROUTES.index((route, routing))) % len(FLAGS)]
    problem = place(
        make(
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
    )
    assert_as_exact_as_torch(problem, {torch.float32: {backend: problem.run(backend, torch.float32)}})


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("route", ["mixture", "global", "local"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@each_backend
def test_16_bits_forward_and_every_gradient(backend: str, sizes: Sizes, route: str, dtype: torch.dtype) -> None:
    need(backend, dtype, sizes[-1])
    bias, lengths, _, _ = FLAGS[SIZES.index(sizes) % len(FLAGS)]
    problem = place(make(*sizes, bias=bias, lengths=lengths, route=route, temperature=0.7, seed=3))
    assert_no_worse_than_torch(rounded(problem, dtype), dtype, backend)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("routing", ["hard", "straight_through"])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (2, 2, 3, 9, 7), (1, 3, 5, 24, 128), (1, 2, 9, 16, 256)], ids=str)
@each_backend
def test_16_bits_choose_as_the_reference_does(backend: str, sizes: tuple[int, ...], routing: str, dtype: torch.dtype) -> None:
    need(backend, dtype, sizes[-1])
    problem = clear_cut(sizes, dtype, {"routing": routing, "temperature": 0.7})
    ours, exact = problem.run(backend, dtype), problem.run("reference")
    assert torch.equal(present(ours["q"]).double(), present(exact["q"]))
    for name, want in exact.items():
        got = ours[name]
        if want is None:
            assert got is None or not got.any(), name
        else:
            assert got is not None and error(got, want) <= 0.02 * float(want.abs().max()) + 1e-6, name


def clear_cut(sizes: tuple[int, ...], dtype: torch.dtype, options: dict[str, Any]) -> Problem:
    """A problem in which rounding to 16 bits turns no choice: no score is near a tie."""
    for seed in range(200):
        problem = rounded(place(make(*sizes, seed=seed, **options)), dtype)
        exact, tensors = problem.run("reference"), problem.tensors
        before = torch.cat([tensors["hx"].unsqueeze(1), present(exact["output"])[:, :-1]], 1)
        scores = torch.cat([tensors["input"], before], -1) @ tensors["router_weight"].unsqueeze(1).mT
        scores = scores + tensors["router_bias"][:, None, None]
        if float((scores[..., 0] - scores[..., 1]).abs().min()) > 0.05:
            return problem
    raise AssertionError(f"no draw of {sizes} keeps away from ties")


@each_dtype
@pytest.mark.parametrize("sizes", [(3, 20, 17, 9, 33), (2, 20, 16, 16, 128), (1, 7, 24, 8, 512)], ids=str)
@each_backend
def test_the_same_bits_twice(backend: str, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    need(backend, dtype, sizes[-1])
    problem, other = place(make(*sizes, lengths=True, routing="straight_through")), place(make(2, 9, 33, 20, 65))
    first = problem.run(backend, dtype)
    other.run(backend, dtype)  # leaves other numbers where it worked
    for name, got in problem.run(backend, dtype).items():
        assert torch.equal(present(got), present(first[name])), name


@pytest.mark.parametrize("frozen", [set(NAMES[2:6]), {"input", "hx"}, set(NAMES) - {"router_weight"}, set(NAMES)], ids=len)
@each_backend
def test_frozen_parameters_change_nothing_else(backend: str, frozen: set[str]) -> None:
    need(backend, dtype := own(backend), 65)
    every = place(make(2, 4, 9, 5, 65)).run(backend, dtype)
    for name, got in place(make(2, 4, 9, 5, 65, frozen=frozen)).run(backend, dtype).items():
        if name.removeprefix("d") in frozen:
            assert got is None
        else:
            assert_close(got, every[name], name)


@each_dtype
@each_backend
def test_what_lies_past_the_length_is_never_read(backend: str, dtype: torch.dtype) -> None:
    need(backend, dtype, 65)
    problem = place(make(2, 6, 5, 3, 65, lengths=True, batch_first=True))
    clean = problem.run(backend, dtype)
    past = torch.arange(6, device=DEVICE) >= problem.options["lengths"].unsqueeze(-1)
    leaves = {n: t.to(dtype) for n, t in problem.tensors.items()}
    grads = [g.to(dtype) for g in problem.output_grads]
    for t in (leaves["input"], grads[0], grads[2]):
        t[past] = float("nan")
    outputs = flow_kernels.routed_gru(*(leaves[n].requires_grad_() for n in NAMES), **problem.options, backend=backend)
    torch.autograd.backward(outputs, grads)
    for name, output in zip(("output", "h_n", "q"), outputs, strict=True):
        assert torch.equal(output, present(clean[name])), name
    for name, leaf in leaves.items():
        assert leaf.grad is not None and torch.equal(leaf.grad, present(clean[f"d{name}"])), name


@pytest.mark.parametrize("reverse", [False, True])
@each_backend
def test_packed_is_padded_without_the_padding(backend: str, reverse: bool) -> None:
    need(backend, dtype := own(backend), 65)
    problem = place(make(1, 7, 5, 3, 65, lengths=True, reverse=reverse))
    lengths = problem.options["lengths"] = problem.options["lengths"].sort(descending=True).values
    lengths[0, 0] = 7
    valid = torch.arange(7, device=DEVICE).unsqueeze(1) < lengths[0]  # [T, B]
    padded = problem.run(backend, dtype)
    leaves = {n: (t[0][valid] if n == "input" else t[0]).to(dtype).requires_grad_() for n, t in problem.tensors.items()}
    outputs = flow_kernels.routed_gru(
        *(leaves[n] for n in NAMES), batch_sizes=valid.sum(1).cpu(), reverse=reverse, backend=backend
    )
    dy, dh_n, dq = (g[0].to(dtype) for g in problem.output_grads)
    torch.autograd.backward(outputs, (dy[valid], dh_n, dq[valid]))
    for name, output in zip(("output", "h_n", "q"), outputs, strict=True):
        want = present(padded[name])[0]
        assert_close(output, want if name == "h_n" else want[valid], name)
    for name, leaf in leaves.items():
        want = present(padded[f"d{name}"])[0]
        assert_close(leaf.grad, want[valid] if name == "input" else want, name)


@each_backend
def test_gates_computed_again(backend: str) -> None:
    need(backend, dtype := own(backend), 128)
    problem = place(make(2, 9, 17, 9, 128, lengths=True))
    saved = problem.run(backend, dtype)
    problem.options["recompute"] = True
    for name, got in problem.run(backend, dtype).items():
        assert_close(got, saved[name], name)


@each_backend
def test_strides_do_not_matter(backend: str) -> None:
    need(backend, dtype := own(backend), 17)

    def strided(t: Tensor) -> Tensor:
        wide = torch.full((*t.shape, 2), float("nan"), dtype=t.dtype, device=t.device)
        wide[..., 0] = t
        return wide[..., 0]

    problem = place(make(2, 3, 4, 5, 17))
    plain, apart = problem.run(backend, dtype), problem.run(backend, dtype, change=strided)
    for name, want in plain.items():
        assert torch.equal(present(apart[name]), present(want)), name


@each_backend
def test_nan_propagates(backend: str) -> None:
    need(backend, dtype := own(backend), 9)
    for name, index in (("input", (0, 2, 1, 3)), ("hx", (0, 1, 4)), ("router_weight", (0, 0, 2)), ("weight_hh", (0, 5, 5))):
        problem = place(make(1, 5, 3, 4, 9))
        problem.tensors[name][index] = float("nan")
        args = [problem.tensors[n].to(dtype) for n in NAMES]
        want, got = (flow_kernels.routed_gru(*args, backend=b) for b in ("reference", backend))
        for a, b in zip(want, got, strict=True):
            assert torch.equal(a.isnan(), b.isnan()), name


@each_backend
def test_opcheck(backend: str) -> None:
    need(backend, dtype := own(backend), 6)
    family = vars(load(backend))["family"]
    cases: list[tuple[int, str, dict[str, Any]]] = [
        (1, "mixture", {}),
        (3, "local", {"lengths": True}),
        (3, "mixture", {"bias": False}),
    ]
    for k, route, options in cases:
        problem = place(make(k, 4, 3, 5, 6, **options))
        tensors = [None if n not in problem.tensors else problem.tensors[n].to(dtype) for n in NAMES]
        if route == "local":
            tensors[2:6] = tensors[10:12] = [None] * 4
            tensors = tensors[:12]
        given = [t is not None for t in tensors]
        for save in (False, True):
            args = (*tensors, problem.options.get("lengths"), None, route, "soft", 0.9, False, False, save)
            if not (save and "lengths" in options):  # what is saved may be unwritten past a length, and is compared
                torch.library.opcheck(family.forward_op, args)
        y, h_n, q, saved = family.forward_op(*args)
        for wanted in (given, [w and n % 2 == 0 for n, w in enumerate(given)]):
            grads = [torch.ones_like(y), torch.ones_like(h_n), torch.ones_like(q) if all(wanted) else None]
            torch.library.opcheck(family.backward_op, (*grads, y, q, saved, *args[:-1], wanted))


@each_dtype
@each_backend
def test_a_captured_graph_gives_the_numbers_of_a_call(backend: str, dtype: torch.dtype) -> None:
    need(backend, dtype, 128)
    if DEVICE.type != "cuda":
        pytest.skip("a CUDA graph needs a GPU")
    leaves = {n: t.to(dtype).requires_grad_() for n, t in place(make(2, 6, 16, 9, 128, lengths=True)).tensors.items()}

    def step() -> list[Tensor]:
        outputs = flow_kernels.routed_gru(*(leaves[n] for n in NAMES), backend=backend)
        return [*outputs, *torch.autograd.grad(outputs, list(leaves.values()), [torch.ones_like(o) for o in outputs])]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    for seed in (1, 2):  # other numbers in the same tensors
        with torch.no_grad():
            for name, value in place(make(2, 6, 16, 9, 128, seed=seed)).tensors.items():
                leaves[name].copy_(value)
        graph.replay()
        for got, want in zip([r.clone() for r in results], step(), strict=True):
            assert_close(got, want, f"draw {seed}")


@each_backend
def test_on_another_stream(backend: str) -> None:
    """The kernels run on the current stream, behind what was put there before."""
    need(backend, dtype := own(backend), 128)
    if DEVICE.type != "cuda":
        pytest.skip("streams are those of a GPU")
    problem = place(make(2, 6, 16, 9, 128))
    want = problem.run(backend, dtype)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # a kernel on the wrong stream would be done long before its input is there
        late = {n: t + 0 for n, t in problem.tensors.items()}
        got = Problem(late, problem.options, problem.output_grads).run(backend, dtype)
    stream.synchronize()
    for name, value in want.items():
        assert_close(got[name], value, name)


@each_backend
def test_clients_do_not_see_each_other(backend: str) -> None:
    need(backend, dtype := own(backend), 65)
    problem = place(make(5, 6, 4, 3, 65))
    together = problem.run(backend, dtype)
    for client in range(5):
        own_rows = slice(client, client + 1)
        grads = tuple(g[own_rows] for g in problem.output_grads)
        alone = Problem({n: t[own_rows] for n, t in problem.tensors.items()}, problem.options, grads)
        for name, got in alone.run(backend, dtype).items():
            assert_close(got, present(together[name])[own_rows], name)
