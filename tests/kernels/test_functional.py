"""What routed_gru says to bad arguments, which backend it takes, and that nothing falls back in silence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import NAMES, make

import flow_kernels
from flow_kernels import plan
from flow_kernels.backends import cpu


def call(**changes: Any) -> Any:
    problem = make(2, 4, 3, 5, 6, lengths=True)
    arguments: dict[str, Any] = {**problem.tensors, **problem.options, **changes}
    return flow_kernels.routed_gru(*[arguments.pop(n) for n in NAMES], **arguments)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"route": "both"}, ValueError, "route must be one of 'mixture', 'global', 'local', got 'both'"),
        ({"routing": "gumbel"}, ValueError, "routing must be one of .* got 'gumbel'"),
        ({"temperature": 0.0}, ValueError, "temperature must be a finite number > 0, got 0.0"),
        ({"temperature": -1.0}, ValueError, "temperature must be a finite number > 0, got -1.0"),
        ({"temperature": float("nan")}, ValueError, "temperature must be a finite number > 0, got nan"),
        ({"temperature": float("inf")}, ValueError, "temperature must be a finite number > 0, got inf"),
        ({"input": torch.zeros(4, 3)}, RuntimeError, r"input must be \[T, B, I\] or \[K, T, B, I\], got 2 dimensions \[4, 3\]"),
        ({"input": torch.zeros(2, 0, 3, 5)}, RuntimeError, "T must be at least 1, got T=0"),
        ({"input": torch.zeros(0, 4, 3, 5)}, RuntimeError, "K must be at least 1, got K=0"),
        ({"input": torch.zeros(2, 4, 0, 5).double()}, RuntimeError, r"hx has shape \[2, 3, 6\]; .* must be \[2, 0, 6\]"),
        ({"weight_hh": torch.zeros(2, 0, 0)}, RuntimeError, r"hx has shape \[2, 3, 6\]; .* must be \[2, 3, 0\]"),
        ({"input": torch.zeros(2, 4, 3, 5, dtype=torch.int64)}, RuntimeError, "input has dtype torch.int64; it must be one of"),
        (
            {"weight_ih": torch.zeros(2, 18, 4).double()},
            RuntimeError,
            r"weight_ih has shape \[2, 18, 4\]; .* must be \[2, 18, 5\]",
        ),
        ({"local_bias_hh": torch.zeros(2, 17).double()}, RuntimeError, r"local_bias_hh has shape .* must be \[2, 18\]"),
        ({"router_weight": torch.zeros(2, 2, 9).double()}, RuntimeError, r"router_weight has shape .* must be \[2, 2, 11\]"),
        ({"hx": torch.zeros(2, 3, 7).double()}, RuntimeError, r"hx has shape \[2, 3, 7\]; .* must be \[2, 3, 6\]"),
        ({"bias_hh": None}, RuntimeError, "bias_ih and bias_hh come together"),
        ({"local_weight_ih": None}, RuntimeError, "local_weight_ih and local_weight_hh are needed by route='mixture'"),
        ({"router_weight": None}, RuntimeError, "router_weight is needed by route='mixture'"),
        ({"weight_hh": torch.zeros(2, 18, 6)}, RuntimeError, "weight_hh has dtype torch.float32, input has torch.float64"),
        ({"hx": torch.zeros(2, 3, 6, device="meta").double()}, RuntimeError, "hx is on meta, input on cpu"),
        ({"lengths": torch.tensor([[1, 2, 3], [4, 5, 1]])}, ValueError, r"every length must lie in 1..T = 1..4, got 5"),
        ({"lengths": torch.tensor([[1, 2, 0], [4, 4, 1]])}, ValueError, r"every length must lie in 1..T = 1..4, got 0"),
        ({"lengths": torch.ones(2, 3)}, RuntimeError, "lengths has dtype torch.float32 .* must be torch.int64"),
        ({"lengths": torch.ones(3, 2, dtype=torch.int64)}, RuntimeError, r"lengths has .* shape \[3, 2\]; .* \[2, 3\]"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], error: type[Exception], message: str, backend: str) -> None:
    with pytest.raises(error, match=message):
        call(**changes, backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"input": torch.zeros(2, 4, 3, 5)}, RuntimeError, r"with batch_sizes input must be \[N, I\], got \[2, 4, 3, 5\]"),
        ({"lengths": torch.ones(2, dtype=torch.int64)}, ValueError, "lengths and batch_sizes exclude each other"),
        ({"batch_sizes": torch.tensor([2, 3])}, ValueError, r"must never rise, .* got \[2, 3\]"),
        ({"batch_sizes": torch.tensor([3, 1])}, ValueError, r"sum to the N=5 rows of input, got \[3, 1\]"),
        ({"batch_sizes": torch.tensor([3, 2, 0])}, ValueError, "be at least 1"),
        ({"batch_sizes": torch.tensor([3.0, 2.0])}, RuntimeError, "batch_sizes must be int64"),
        ({"batch_sizes": torch.tensor([], dtype=torch.int64)}, RuntimeError, "with T >= 1"),
        ({"hx": torch.zeros(4, 6).double()}, RuntimeError, r"hx has shape \[4, 6\]; with 3 sequences packed"),
    ],
)
def test_bad_packed_arguments(changes: dict[str, Any], error: type[Exception], message: str, backend: str) -> None:
    tensors = {n: t[0] for n, t in make(1, 1, 3, 5, 6).tensors.items()}
    good: dict[str, Any] = tensors | {"input": torch.zeros(5, 5).double(), "batch_sizes": torch.tensor([3, 2])}
    arguments = dict(good)
    flow_kernels.routed_gru(*[arguments.pop(n) for n in NAMES], **arguments, backend=backend)
    arguments = good | changes
    with pytest.raises(error, match=message):
        flow_kernels.routed_gru(*[arguments.pop(n) for n in NAMES], **arguments, backend=backend)


def test_what_a_route_does_not_use_may_be_missing_or_wrong() -> None:
    local: dict[str, Any] = {n: None for n in NAMES if n.startswith(("local_", "router_"))}
    torch.testing.assert_close(call(route="global", **local), call(route="global", backend="reference"))


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'reference', 'cpu', 'triton', 'cuda', got 'tpu'"):
        call(backend="tpu")


def test_a_backend_asked_for_by_name_never_falls_back() -> None:
    half = {n: t.half() for n, t in make(2, 4, 3, 5, 6).tensors.items()}
    with pytest.raises(RuntimeError, match="backend='cpu' cannot run here: it takes float32, float64 or bfloat16"):
        call(**half, backend="cpu")
    y, _, _ = call(**half, backend="auto")
    assert y.dtype == torch.float16


def test_plan_is_pure_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    problem: dict[str, Any] = dict(clients=1, batch=1, steps=1, inputs=1, hidden=1)
    device = torch.device("cpu")
    assert plan.choose_plan(**problem, dtype=torch.float32, device=device).backend == "cpu"
    fallback = plan.choose_plan(**problem, dtype=torch.float16, device=device)
    assert fallback.backend == "reference" and "float16" in fallback.reason
    states = flow_kernels.backends()
    assert set(states) == {"reference", "cpu", "triton", "cuda"}
    assert states["reference"] == "available" and states["cpu"] == f"available ({cpu._C.isa()}, {cpu._C.threads()})"
    monkeypatch.setattr(cpu, "_C", None)
    monkeypatch.setattr(cpu, "_missing", "not built", raising=False)
    assert flow_kernels.backends()["cpu"] == "not built"
    assert plan.choose_plan(**problem, dtype=torch.float32, device=device).backend == "reference"


def test_meta_tensors_have_shapes() -> None:
    meta = {n: t.to("meta") for n, t in make(2, 4, 3, 5, 6).tensors.items()}
    y, h_n, q = call(**meta, lengths=None)
    assert y.shape == (2, 4, 3, 6) and h_n.shape == (2, 3, 6) and q.shape == (2, 4, 3, 2) and y.is_meta


def test_explain() -> None:
    sizes: dict[str, Any] = dict(batch_size=17, seq_len=20, input_size=50, hidden_size=60)
    chosen = flow_kernels.explain(**sizes)
    assert chosen.backend == "cpu" and "1 client x 1 batch tile on 1 thread (" in str(chosen) and cpu._C.isa() in str(chosen)
    torch.set_num_threads(2)
    assert "3 clients x 2 batch tiles on 2 threads" in flow_kernels.explain(**sizes, num_clients=3).details
    assert "4 clients x 1 batch tile on 2 threads" in flow_kernels.explain(**sizes, num_clients=4).details
    half = flow_kernels.explain(**sizes, dtype=torch.float16)
    assert half.backend == "reference" and "cpu: it takes float32, float64 or bfloat16" in half.reason
    with pytest.raises(RuntimeError, match="backend='cpu' cannot run here"):
        flow_kernels.explain(**sizes, dtype=torch.float16, backend="cpu")
    with pytest.raises(ValueError, match="hidden_size must be at least 1, got 0"):
        flow_kernels.explain(**sizes | {"hidden_size": 0})
