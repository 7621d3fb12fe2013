"""Calls without gradients take a short way past torch's dispatcher: the same numbers and errors, and whoever wants to see the
op sees it."""

from __future__ import annotations

from collections.abc import Mapping
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
        want = call({name: t.clone().requires_grad_() for name, t in given.items()}, lengths=n, **options)
        with torch.no_grad():
            got = call(given, lengths=n, **options)
        with torch.inference_mode():
            also = call(given, lengths=n, **options)
        for a, b, c in zip(got, also, want, strict=True):
            assert torch.equal(a, c) and torch.equal(b, c)
    assert taken == [False, True, True] * 2


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
