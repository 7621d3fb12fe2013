"""The registered op under torch's transforms: opcheck, compile, export, vmap, func.grad, and double backward's refusal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import NAMES, make
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import flow_kernels

ROUTES = ["mixture", "global", "local"]


def loss(tensors: tuple[Tensor, ...], input: Tensor, **options: Any) -> Tensor:
    y, h_n, q = flow_kernels.routed_gru(input, *tensors, **options, backend="cpu")
    return y.square().sum() + h_n.sum() + (q + 0.1).log().sum()


def one_client(**options: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    tensors = make(1, 4, 3, 5, 6, **options).tensors
    return tensors["input"][0], tuple(tensors[n][0] for n in NAMES[1:])


def op_arguments(k: int, bias: bool, lengths: bool, route: str, save: bool, requires_grad: bool) -> list[Any]:
    problem = make(k, 4, 3, 5, 6, bias=bias, lengths=lengths, route=route)
    unused = {"global": "local_", "local": "weight bias", "mixture": "none"}[route].split()
    tensors = []
    for name in NAMES:
        t = problem.tensors.get(name)
        if route != "mixture" and (name.startswith("router") or any(name.startswith(u) for u in unused)):
            t = None
        tensors.append(None if t is None else t.requires_grad_(requires_grad))
    return [*tensors, problem.options.get("lengths"), None, route, "soft", 0.9, False, False, save]


@pytest.mark.filterwarnings("ignore:flow_kernels..routed_gru. an autograd kernel was not registered")
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("k", "bias", "lengths"), [(1, True, False), (3, True, True), (3, False, True)])
def test_opcheck(k: int, bias: bool, lengths: bool, route: str) -> None:
    for save in (False, True):
        args = op_arguments(k, bias, lengths, route, save, requires_grad=False)
        torch.library.opcheck(torch.ops.flow_kernels.routed_gru.default, tuple(args))
    y, h_n, q, gates = torch.ops.flow_kernels.routed_gru(*args)
    given = [t is not None for t in args[:12]]
    for wanted in (given, [w and n % 2 == 0 for n, w in enumerate(given)]):
        for dq in (torch.ones_like(q), None):
            backward = [torch.ones_like(y), torch.ones_like(h_n), dq, y, q, gates, *args[:-1], wanted]
            torch.library.opcheck(torch.ops.flow_kernels.routed_gru_backward.default, tuple(backward))


TENSORS = (
    "Tensor x, Tensor h0, Tensor? w_ih, Tensor? w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? local_w_ih, Tensor? local_w_hh, "
    "Tensor? local_b_ih, Tensor? local_b_hh, Tensor? router_w, Tensor? router_b, Tensor? lengths, Tensor? offsets"
)
OPTIONS = "str route, str routing, float temperature, bool batch_first, bool reverse"


@pytest.mark.parametrize("name", ["routed_gru", "routed_gru_triton", "routed_gru_cuda"])
def test_schemas_of_exported_programs(name: str) -> None:
    """Written out: a program exported with one build is run with another."""
    op = getattr(torch.ops.flow_kernels, name).default
    assert str(op._schema) == (f"flow_kernels::{name}({TENSORS}, {OPTIONS}, bool save) -> (Tensor, Tensor, Tensor, Tensor)")
    op = getattr(torch.ops.flow_kernels, f"{name}_backward").default
    assert str(op._schema) == (
        f"flow_kernels::{name}_backward(Tensor? dy, Tensor? dh_n, Tensor? dq, Tensor y, Tensor q, Tensor saved, {TENSORS}, "
        f"{OPTIONS}, bool[] wanted) -> Tensor[]"
    )


def test_func_grad_and_vmap() -> None:
    input, tensors = one_client()
    leaves = [t.clone().requires_grad_() for t in tensors]
    want = torch.autograd.grad(loss(tuple(leaves), input), leaves)
    for a, b in zip(grad(loss)(tensors, input), want, strict=True):
        assert torch.equal(a, b)

    inputs = torch.randn(7, *input.shape, dtype=torch.float64)
    many = vmap(grad(loss), in_dims=(None, 0))(tensors, inputs)  # one set of weights, per-example gradients
    for n in range(7):
        for a, b in zip(many, grad(loss)(tensors, inputs[n]), strict=True):
            torch.testing.assert_close(a[n], b)

    stacked = tuple(torch.stack([t * (1 + 0.1 * n) for n in range(7)], dim=-1) for t in tensors)  # mapped over the last dim
    many = vmap(grad(loss), in_dims=(-1, 0))(stacked, inputs)
    for n in range(7):
        for a, b in zip(many, grad(loss)(tuple(t[..., n] for t in stacked), inputs[n]), strict=True):
            torch.testing.assert_close(a[n], b)


def test_vmap_over_lengths_and_over_clients() -> None:
    problem = make(2, 4, 3, 5, 6, lengths=True)
    args = [problem.tensors[n] for n in NAMES]
    lengths = torch.randint(1, 5, (7, 2, 3))
    many = vmap(lambda n: flow_kernels.routed_gru(*args, lengths=n, backend="cpu"))(lengths)
    for n in range(7):
        for a, b in zip(many, flow_kernels.routed_gru(*args, lengths=lengths[n], backend="cpu"), strict=True):
            assert torch.equal(a[n], b)


def test_jacobian() -> None:
    input, tensors = one_client()

    def run(backend: str) -> Tensor:
        jacobian: Tensor = jacrev(lambda x: flow_kernels.routed_gru(x, *tensors, backend=backend)[0])(input)
        return jacobian

    torch.testing.assert_close(run("cpu"), run("reference"))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_without_a_break_or_a_recompile(backend: str) -> None:
    torch._dynamo.reset()
    _, tensors = one_client()
    leaves = tuple(t.clone().requires_grad_() for t in tensors)
    leaves = (torch.zeros(0), *leaves[1:])

    def function(input: Tensor, *weights: Tensor) -> Tensor:
        y, h_n, q = flow_kernels.routed_gru(input, None, *weights, temperature=0.8, backend="cpu")
        return y.square().sum() + h_n.sum() + (q + 0.1).log().sum()

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=backend)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for t, b in ((4, 3), (9, 3), (4, 8), (17, 2)):
            input = torch.randn(t, b, 5, dtype=torch.float64, requires_grad=True)
            got = torch.autograd.grad(compiled(input, *leaves[1:]), [input, *leaves[1:]])
            want = torch.autograd.grad(function(input, *leaves[1:]), [input, *leaves[1:]])
            for a, b_ in zip(got, want, strict=True):
                torch.testing.assert_close(a, b_)


def test_exported() -> None:
    input, tensors = one_client()

    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return flow_kernels.routed_gru(x, *tensors, backend="cpu")

    dynamic = {"x": {0: torch.export.Dim("T", min=2), 1: torch.export.Dim.STATIC}}
    program = torch.export.export(Module(), (input,), dynamic_shapes=dynamic)
    longer = torch.randn(11, 3, 5, dtype=torch.float64)
    for a, b in zip(program.module()(longer), Module()(longer), strict=True):
        assert torch.equal(a, b)


def test_second_derivative_is_refused_by_name() -> None:
    input, tensors = one_client()
    leaves = [t.clone().requires_grad_() for t in tensors]
    first = torch.autograd.grad(loss(tuple(leaves), input), leaves, create_graph=True)
    total, *others = (g.sum() for g in first)
    with pytest.raises(RuntimeError, match="backend='reference'"):
        sum(others, total).backward()


def test_backward_twice_through_one_graph() -> None:
    input, tensors = one_client()
    leaves = [t.clone().requires_grad_() for t in tensors]
    value = loss(tuple(leaves), input)
    first = torch.autograd.grad(value, leaves, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(value, leaves), strict=True):
        assert torch.equal(a, b)


def test_changing_a_saved_tensor_in_place_is_noticed() -> None:
    input, tensors = one_client()
    leaves = [t.clone().requires_grad_() for t in tensors]
    value = loss(tuple(leaves), input)
    with torch.no_grad():
        leaves[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@pytest.mark.parametrize("frozen", [True, False])
def test_forward_mode_goes_to_the_reference_or_is_refused(frozen: bool) -> None:
    input, tensors = one_client()
    leaves = [t.clone().requires_grad_(not frozen) for t in tensors]

    def run(x: Tensor, backend: str) -> Tensor:
        y, _, q = flow_kernels.routed_gru(x, *leaves, backend=backend)
        return y.square().sum() + q.square().sum()

    def tangents(backend: str) -> list[Tensor]:
        with forward_ad.dual_level():
            dual = run(forward_ad.make_dual(input, torch.ones_like(input)), backend)
            by_dual = forward_ad.unpack_dual(dual).tangent
        by_jvp = jvp(lambda x: run(x, backend), (input,), (torch.ones_like(input),))[1]
        return [by_dual, by_jvp, jacfwd(lambda x: run(x, backend))(input)]

    want = tangents("reference")
    assert want[0].abs() > 0.1
    for got, expected in zip(tangents("auto"), want, strict=True):
        torch.testing.assert_close(got, expected)
    for transform in (jacfwd, hessian):
        with pytest.raises(RuntimeError, match="backend='reference'"):
            transform(lambda x: run(x, "cpu"))(input)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="backend='reference'"):
        run(forward_ad.make_dual(input, torch.ones_like(input)), "cpu")


@pytest.mark.parametrize("change", ["relu_", "add", "setitem", "mul_"])
def test_outputs_may_be_changed_in_place(change: str) -> None:
    input, tensors = one_client()
    grads = {}
    for backend in ("reference", "cpu"):
        leaves = [t.clone().requires_grad_() for t in tensors]
        y, h_n, q = flow_kernels.routed_gru(input, *leaves, backend=backend)
        for t in (y, h_n, q):
            if change == "relu_":
                t.relu_()
            elif change == "add":
                t += 1.5
            elif change == "setitem":
                t[1:] = 0.0
            else:
                t.mul_(2)
        (y.square().sum() + h_n.sin().sum() + q.cos().sum()).backward()
        grads[backend] = [leaf.grad for leaf in leaves]
    for a, b in zip(*grads.values(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_op_itself_checks_what_addresses_rely_on() -> None:
    """An exported program, or a call of the op, comes past routed_gru's own checks."""
    good = op_arguments(2, True, True, "mixture", True, requires_grad=False)
    torch.ops.flow_kernels.routed_gru(*good)
    small = torch.zeros(1, 1, 1, dtype=torch.float64)
    changes: list[tuple[int, Any]] = [
        (3, small),
        (2, good[2].float()),
        (0, good[0].half()),
        (1, good[1][:, :2]),
        (12, good[12].int()),
        (12, good[12][:1]),
        (1, torch.cat([good[1], good[1]], 1)),
        (1, torch.cat([good[1], good[1]], 0)),
        (14, "both"),
        (15, "gumbel"),
        (2, None),
        (10, None),
        (13, torch.tensor([0, 2])),
    ]
    for n, value in changes:
        with pytest.raises((RuntimeError, ValueError)):
            torch.ops.flow_kernels.routed_gru(*[value if i == n else a for i, a in enumerate(good)])
    y, h_n, q, gates = torch.ops.flow_kernels.routed_gru(*good)
    outputs = [torch.ones_like(y), torch.ones_like(h_n), torch.ones_like(q), y, q, gates]
    rest = [*good[:-1], [True] * 12]
    torch.ops.flow_kernels.routed_gru_backward(*outputs, *rest)
    for n in range(6):
        short = [t[:1] if i == n else t for i, t in enumerate(outputs)]
        with pytest.raises(RuntimeError, match="routed_gru_backward"):
            torch.ops.flow_kernels.routed_gru_backward(*short, *rest)


def test_packed_rows_that_do_not_fit_are_refused_when_compiled() -> None:
    torch._dynamo.reset()
    _, tensors = one_client()
    h0, data = torch.zeros(200, 6, dtype=torch.float64), torch.randn(5, 5, dtype=torch.float64)

    def run(batch_sizes: Tensor) -> Tensor:
        return flow_kernels.routed_gru(data, h0, *tensors[1:], batch_sizes=batch_sizes, backend="cpu")[0]

    with pytest.raises(Exception, match="sum to the N=5 rows of input"):
        torch.compile(run, backend="aot_eager")(torch.tensor([200, 200]))
