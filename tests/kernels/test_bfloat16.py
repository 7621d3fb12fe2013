"""bfloat16 on the CPU kernels: storage and factors of the products; sums, gates and the carried state are float32.

The standard is the same cell in torch's bfloat16 arithmetic, which rounds after every operation: the kernels may err at most
as much as that, measured from the float64 reference on the same rounded numbers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from optional import present
from problems import NAMES, Problem, make
from torch import Tensor

import flow_kernels
from flow_kernels import RoutedGRU, RoutedGRUCell
from flow_kernels.backends import cpu
from flow_kernels.reference import Expert, gru_cell

BF16 = torch.bfloat16
ISAS = [isa for isa in cpu.ISAS if cpu._C.has_isa(isa)]
pytestmark = pytest.mark.usefixtures("poisoned")


def rounded(problem: Problem) -> Problem:
    """The same problem with numbers that bfloat16 holds exactly."""
    tensors = {n: t.to(BF16).double() for n, t in problem.tensors.items()}
    grads = tuple(g.to(BF16).double() for g in problem.output_grads)
    return Problem(tensors, problem.options, grads, problem.frozen)


def in_torch(problem: Problem) -> dict[str, Tensor]:
    """One step after the other in torch's bfloat16 operators, differentiated by autograd."""
    leaves = {n: t.to(BF16).requires_grad_() for n, t in problem.tensors.items()}
    x, h, lengths = leaves["input"], leaves["hx"], problem.options.get("lengths")
    experts = [
        Expert(
            leaves[f"{prefix}weight_ih"],
            leaves[f"{prefix}weight_hh"],
            leaves.get(f"{prefix}bias_ih"),
            leaves.get(f"{prefix}bias_hh"),
        )
        for prefix in ("", "local_")
    ]
    outputs, routing = [], []
    for t in range(x.shape[1]):
        scores = torch.cat([x[:, t], h], -1) @ leaves["router_weight"].mT
        if "router_bias" in leaves:
            scores = scores + leaves["router_bias"].unsqueeze(1)
        q = torch.softmax(scores / problem.options.get("temperature", 1.0), -1)
        new = q[..., :1] * gru_cell(x[:, t], h, experts[0]) + q[..., 1:] * gru_cell(x[:, t], h, experts[1])
        if lengths is not None:
            valid = (t < lengths).unsqueeze(-1)
            new, q = torch.where(valid, new, h), torch.where(valid, q, 0)
            outputs.append(torch.where(valid, new, 0))
        else:
            outputs.append(new)
        routing.append(q)
        h = new
    results = torch.stack(outputs, 1), h, torch.stack(routing, 1)
    loss = sum((o * g.to(BF16)).sum() for o, g in zip(results, problem.output_grads, strict=True))
    assert isinstance(loss, Tensor)
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    named = zip(("output", "h_n", "q"), results, strict=True)
    return dict(named) | {f"d{n}": g for n, g in zip(leaves, gradients, strict=True)}


def error(got: Tensor, want: Tensor) -> float:
    return float((got.detach().double() - want.detach()).square().mean().sqrt())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 7, 5), (1, 1, 2, 64, 64), (3, 5, 3, 9, 7), (1, 9, 17, 65, 65), (2, 33, 5, 16, 48), (1, 80, 33, 31, 33)]
)
def test_no_worse_than_torch(isa: str, sizes: tuple[int, ...]) -> None:
    cpu._C.select_isa(isa)
    for bias, lengths in ((True, False), (False, True)):
        problem = rounded(make(*sizes, bias=bias, lengths=lengths, temperature=0.7))
        exact, theirs, ours = problem.run("reference"), in_torch(problem), problem.run("cpu", BF16)
        problem.options["recompute"] = True
        for (name, want), run in itertools.product(exact.items(), (ours, problem.run("cpu", BF16))):
            got = run[name]
            assert want is not None and got is not None and got.dtype == BF16 and got.isfinite().all(), name
            rounding = error(want.to(BF16), want)  # what nobody can avoid
            assert error(got, want) <= max(error(theirs[name], want), 2 * rounding), name


@pytest.mark.parametrize("isa", ISAS)
def test_sums_of_many_rows_are_not_rounded_on_the_way(isa: str) -> None:
    """B * T rows are more than are summed at once; a running sum in bfloat16 would stop growing."""
    cpu._C.select_isa(isa)
    problem = rounded(make(1, 40, 64, 130, 33))
    exact, ours = problem.run("reference"), problem.run("cpu", BF16)
    for name in ("dweight_ih", "dlocal_weight_hh", "dbias_hh", "drouter_weight"):
        want, got = exact[name], ours[name]
        assert want is not None and got is not None
        assert error(got, want) < 0.01 * float(want.square().mean().sqrt()), name


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_same_bits_on_any_number_of_threads(isa: str, threads: int) -> None:
    cpu._C.select_isa(isa)
    problem = make(1, 40, 43, 70, 33, lengths=True)
    torch.set_num_threads(1)
    first = problem.run("cpu", BF16)
    torch.set_num_threads(threads)
    for name, got in problem.run("cpu", BF16).items():
        assert torch.equal(present(got), present(first[name])), name


@pytest.mark.parametrize("isa", ISAS)
def test_single_experts_hard_routing_and_frozen_parameters(isa: str) -> None:
    cpu._C.select_isa(isa)
    for options in ({"route": "global"}, {"route": "local"}, {"routing": "hard", "temperature": 0.01}):
        problem = rounded(make(2, 6, 5, 9, 20, frozen=NAMES[5:], **options))
        exact, ours = problem.run("reference"), problem.run("cpu", BF16)
        for name, want in exact.items():
            got = ours[name]
            if want is None:
                assert got is None or not got.any(), name
            elif got is not None:
                assert error(got, want) <= 0.02 * float(want.abs().max()) + 1e-6, name


@pytest.mark.parametrize("isa", ISAS)
def test_what_lies_behind_an_odd_row_stays_out(isa: str) -> None:
    """A word holds two elements: with odd sizes the second of the last is the next row's first, here NaN."""
    cpu._C.select_isa(isa)
    problem = make(1, 6, 4, 7, 9)
    tensors = {n: t.to(BF16) for n, t in problem.tensors.items()}
    clean = flow_kernels.routed_gru(*(tensors[n] for n in NAMES), backend="cpu")[0]
    tensors["input"][:, :, 1] = torch.nan
    tensors["hx"][:, 1] = torch.nan
    spoilt = flow_kernels.routed_gru(*(tensors[n] for n in NAMES), backend="cpu")[0]
    assert spoilt[:, :, 1].isnan().all()
    for b in (0, 2, 3):
        assert torch.equal(spoilt[:, :, b], clean[:, :, b])


def test_flushing_denormals_does_not_reach_into_pairs() -> None:
    """A small number beside a zero makes a word that is a denormal float."""
    problem = rounded(make(1, 3, 9, 8, 32))
    problem.tensors["input"][..., 1::2] = 0.0
    before = problem.run("cpu", BF16)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        after = problem.run("cpu", BF16)
    finally:
        torch.set_flush_denormal(False)
    for name, want in before.items():
        torch.testing.assert_close(after[name], want, rtol=0, atol=1e-30)


def test_autocast() -> None:
    """A float32 layer under bfloat16 autocast is the bfloat16 layer, and its parameters get float32 gradients."""
    torch.manual_seed(0)
    layer, cell = RoutedGRU(6, 20, num_layers=2, bidirectional=True), RoutedGRUCell(6, 20)
    x, hx = torch.randn(5, 3, 6), torch.randn(4, 3, 20)

    def half(module: Any) -> Any:
        other = type(module)(6, 20, **({"num_layers": 2, "bidirectional": True} if module is layer else {}))
        other.load_state_dict(module.state_dict())
        return other.to(BF16)

    with torch.autocast("cpu", dtype=BF16):
        output, h_n, q = layer(x, hx, return_routing=True)
        state = cell(x[0], hx[0])
    for got, want in zip((output, h_n, q), half(layer)(x.to(BF16), hx.to(BF16), return_routing=True), strict=True):
        assert got.dtype == BF16 and torch.equal(got, want)
    assert torch.equal(state, half(cell)(x[0].to(BF16), hx[0].to(BF16)))
    (output.float().sum() + state.float().sum()).backward()
    for parameter in (*layer.parameters(), *cell.parameters()):
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
