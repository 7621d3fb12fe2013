"""Calls on the CPU take a short way past torch's dispatcher: the same numbers, gradients and errors, and whoever wants to see
the op sees it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from problems import NAMES, make
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import flow_kernels
from flow_kernels import RoutedGRUCell, fast_path

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For every call whether it took the short way."""
    answers: list[bool] = []
    short = fast_path.forward

    def spy(*args: Any) -> Any:
        result = short(*args)
        answers.append(result is not None)
        return result

    monkeypatch.setattr(fast_path, "forward", spy)
    return answers


@contextlib.contextmanager
def long_way() -> Iterator[None]:
    """Calls go through the registered op."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_path, "_watched", lambda: True)
        yield


def tensors(k: int = 2, dtype: torch.dtype = torch.float32, **options: Any) -> dict[str, Tensor]:
    return {n: t.to(dtype) for n, t in make(k, 5, 3, 4, 6, **options).tensors.items()}


def call(given: Mapping[str, Tensor], **options: Any) -> tuple[Tensor, ...]:
    arguments: list[Any] = [given.get(n) for n in NAMES]
    return flow_kernels.routed_gru(*arguments, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"route": "local"}, {"routing": "hard"}, {"batch_first": True}, {"reverse": True}])
@pytest.mark.parametrize("stacked", [False, True])
def test_same_bits_as_the_long_way(dtype: torch.dtype, options: dict[str, Any], stacked: bool, taken: list[bool]) -> None:
    given = tensors(dtype=dtype, bias=options != {"reverse": True})
    lengths = torch.tensor([[3, 5, 1], [2, 2, 4]]) if not options.get("batch_first") else torch.tensor([[3, 1, 2, 2, 3]] * 2)
    if options.get("batch_first"):
        given["hx"] = torch.randn(2, 5, 6).to(dtype)
    if not stacked:
        given, lengths = {n: t[0].contiguous() for n, t in given.items()}, lengths[0]
    for n in (None, lengths):
        with long_way():
            want = call(given, lengths=n, **options)
        with torch.no_grad():
            got = call(given, lengths=n, **options)
        with torch.inference_mode():
            also = call(given, lengths=n, **options)
        for a, b, c in zip(got, also, want, strict=True):
            assert torch.equal(a, c) and torch.equal(b, c)
    assert taken == [False, True, True] * 2


def gradients(given: Mapping[str, Tensor], frozen: str = "", **options: Any) -> tuple[Tensor | None, ...]:
    """By every tensor but `frozen`, of a sum in which every number of the outputs has a weight of its own."""
    leaves = {name: t.detach().clone().requires_grad_(name != frozen) for name, t in given.items()}
    outputs = call(leaves, **options)
    torch.manual_seed(1)
    sum((o * torch.randn_like(o)).sum() for o in outputs).backward()  # type: ignore[union-attr]
    return (*(o.detach() for o in outputs), *(t.grad for t in leaves.values()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [{}, {"route": "local"}, {"route": "global"}, {"routing": "straight_through"}, {"reverse": True}, {"recompute": True}],
)
@pytest.mark.parametrize("state", [True, False])
def test_gradients_have_the_bits_of_the_long_way(
    dtype: torch.dtype, options: dict[str, Any], state: bool, taken: list[bool]
) -> None:
    given = tensors(dtype=dtype)
    if not state:
        del given["hx"]
    for lengths in (None, torch.tensor([[3, 5, 1], [2, 2, 4]])):
        for frozen in ("", "input", "weight_hh"):
            with long_way():
                want = gradients(given, frozen, lengths=lengths, **options)
            got = gradients(given, frozen, lengths=lengths, **options)
            for a, b in zip(got, want, strict=True):
                assert (a is None) == (b is None)
                assert a is None or b is None or torch.equal(a, b)
    assert taken == [False, True] * 6


def test_a_graph_of_the_short_way_is_as_torch_users_expect(taken: list[bool]) -> None:
    given = {n: t[0].contiguous().requires_grad_() for n, t in tensors().items()}
    want = gradients(given)[3:]

    # the output may be changed in place: it is the caller's
    y, h_n, q = call(given)
    torch.manual_seed(1)
    loss = (y * torch.randn_like(y)).sum() + (h_n * torch.randn_like(h_n)).sum() + (q * torch.randn_like(q)).sum()
    with torch.no_grad():
        y.zero_(), q.zero_()
    for a, b in zip(torch.autograd.grad(loss, list(given.values()), retain_graph=True), want, strict=True):
        assert b is not None and torch.equal(a, b)

    # hooks see what is kept
    kept: list[Tensor] = []

    def keep(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        call(given)
    assert len(kept) == 3 + len(given)

    # many gradients at once, and none of the gradients
    rows = torch.randn(4, *y.shape)
    y = call(given)[0]
    many = torch.autograd.grad(y, given["weight_hh"], rows, is_grads_batched=True, retain_graph=True)[0]
    for n in range(4):
        torch.testing.assert_close(many[n], torch.autograd.grad(y, given["weight_hh"], rows[n], retain_graph=True)[0])
    (gradient,) = torch.autograd.grad(y.sum(), given["weight_hh"], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.sum().backward()

    # a weight changed between forward and backward is refused, as everywhere in torch
    y = call(given)[0]
    with torch.no_grad():
        given["weight_hh"].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    assert all(taken)


def test_forward_mode_and_transforms_take_the_long_way(taken: list[bool]) -> None:
    given = {n: t[0].contiguous() for n, t in tensors().items()}
    with torch.autograd.forward_ad.dual_level(), torch.no_grad():
        x = torch.autograd.forward_ad.make_dual(given["input"], torch.ones_like(given["input"]))
        assert torch.autograd.forward_ad.unpack_dual(call(given | {"input": x})[0]).tangent is not None
    torch.func.grad(lambda x: call(given | {"input": x})[0].sum())(given["input"])
    assert taken == [False, False]


def test_the_package_does_not_import_the_compiler() -> None:
    lines = "import sys, torch; before = set(sys.modules); import flow_kernels; print(*sorted(set(sys.modules) - before))"
    new = subprocess.run([sys.executable, "-c", lines], check=True, capture_output=True, text=True).stdout.split()
    heavy = [name for name in new if name.split(".")[0] in ("triton", "sympy", "numpy") or name.startswith("torch._dynamo")]
    assert "flow_kernels.modules" in new and not heavy


@torch.no_grad()
def test_what_does_not_fit_takes_the_long_way(taken: list[bool]) -> None:
    given = tensors()
    want = call(given)
    turned = given | {"input": given["input"].transpose(1, 2).contiguous().transpose(1, 2)}
    negated = given | {"weight_hh": torch._neg_view(-given["weight_hh"])}
    assert negated["weight_hh"].is_neg()

    class Sub(Tensor):
        pass

    sub = given | {"input": given["input"].as_subclass(Sub)}
    for other in (turned, negated, sub):
        for a, b in zip(call(other), want, strict=True):
            assert torch.equal(a, b)
    assert taken == [True, False, False, False]
    half = {n: t.half() for n, t in given.items()}
    assert call(half)[0].dtype == torch.float16


@torch.no_grad()
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight_hh": torch.zeros(2, 12, 6)}, RuntimeError, "weight_hh has shape"),
        ({"local_weight_ih": torch.zeros(2, 18, 4).to_sparse()}, Exception, "parse"),
        ({"local_bias_ih": torch.zeros(2, 18).double()}, RuntimeError, "local_bias_ih has dtype torch.float64"),
        ({"hx": torch.zeros(2, 2, 6)}, RuntimeError, "hx has shape"),
        ({"hx": torch.zeros(3, 6)}, RuntimeError, "hx has shape"),
        ({"weight_ih": torch.zeros(2, 18, 4, device="meta")}, RuntimeError, "weight_ih is on meta"),
        ({"input": torch.zeros(2, 0, 3, 4)}, RuntimeError, "T must be at least 1"),
        ({"input": torch.zeros(2, 5, 3, 4).long()}, RuntimeError, "input has dtype torch.int64"),
        ({"router_weight": None}, RuntimeError, "router_weight is needed"),
        ({"bias_hh": None}, RuntimeError, "come together"),
        ({"lengths": torch.tensor([[1, 2, 6]] * 2)}, ValueError, "every length must lie in 1..T = 1..5, got 6"),
        ({"lengths": torch.tensor([[1, 2]] * 2)}, RuntimeError, "lengths has dtype"),
    ],
)
def test_errors_are_those_of_the_long_way(change: dict[str, Any], error: type[Exception], message: str) -> None:
    given: dict[str, Any] = tensors()
    options = {"lengths": change.pop("lengths")} if "lengths" in change else {}
    with pytest.raises(error, match=message):
        call(given | change, **options)


@torch.no_grad()
def test_whoever_watches_sees_the_op() -> None:
    given = {n: t[0].contiguous() for n, t in tensors().items()}
    seen: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    watching: Any = Watch  # the constructor is torch's, which has no annotations
    with watching():
        call(given)
    assert any("flow_kernels.routed_gru" in name for name in seen)

    with torch.profiler.profile() as profile:
        call(given)
    assert any("flow_kernels::routed_gru" in event.name for event in profile.events())

    with FakeTensorMode() as mode:
        fake = {n: mode.from_tensor(t) for n, t in given.items()}
        assert call(fake)[0].shape == (5, 3, 6)

    xs = torch.randn(4, 5, 3, 4)
    mapped = torch.func.vmap(lambda x: call(given | {"input": x})[0])(xs)
    for n in range(4):
        assert torch.equal(mapped[n], call(given | {"input": xs[n]})[0])

    compiled = torch.compile(lambda x: call(given | {"input": x})[0], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(xs[0]), call(given | {"input": xs[0]})[0])


def test_streaming_step_by_step_is_the_layer(taken: list[bool]) -> None:
    torch.manual_seed(0)
    layer = flow_kernels.RoutedGRU(5, 70)
    cell = RoutedGRUCell.from_layer(layer)
    x = torch.randn(9, 1, 5)
    want = layer(x)[0]
    with torch.no_grad():
        h = torch.zeros(1, 70)
        for t in range(9):
            h = cell(x[t], h)
            torch.testing.assert_close(h, want[t], rtol=1e-5, atol=1e-6)
    assert taken[-9:] == [True] * 9
