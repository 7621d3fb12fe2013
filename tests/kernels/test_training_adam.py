"""Adam over the parameters of K clients by the C++ kernels against the optimisers of torch, in float64 and client by client."""

from typing import Any

import pytest
import torch
from adam_oracle import BETAS, EPSILON, LR, TABLE, Moment, exact_steps, moments_of_time, spread, start_of
from torch import Tensor

from flow_kernels.backends import cpu
from flow_kernels.training import Moments, Step, adam_

OPTIONS: list[dict[str, Any]] = [
    {},
    {"clip": 0.7},
    {"clip": 1e9},
    {"clip": 2.0, "mu": 0.1, "weight_decay": 0.2},
    {"clip": 2.0, "weight_decay": 0.3, "decoupled": True},
    {"mu": 0.4, "weight_decay": 0.3, "decoupled": True},
]


@pytest.fixture(params=[isa for isa in cpu.ISAS[:3] if cpu._C.has_isa(isa)])
def each_isa(request: pytest.FixtureRequest) -> None:
    """conftest puts the instruction set back."""
    assert cpu._C.select_isa(request.param) == 0


def run(
    parameters: list[Tensor],
    table: Tensor,
    anchors: list[Tensor],
    times: list[Moment],
    by_rows: bool,
    options: dict[str, Any],
) -> tuple[list[Tensor], Tensor]:
    """Take the steps -> parameters and embedding, steps taken."""
    moved = [t.clone() for t in (*parameters, table)]
    moments, taken = [Moments.of(t) for t in moved], torch.zeros(len(table), dtype=torch.int64)
    for time in times:
        pairs = zip(moved[:-1], time.gradients, anchors, strict=True)
        steps = [Step(p, g, a if options.get("mu") else None) for p, g, a in pairs]
        last = Step(moved[-1], time.looked_up, rows=time.rows) if by_rows else Step(moved[-1], spread(time).to(table.dtype))
        adam_(
            [*steps, last], moments, taken, lr=LR, beta1=BETAS[0], beta2=BETAS[1], epsilon=EPSILON, present=time.present,
            **options,
        )  # fmt: skip
    return moved, taken


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
def test_several_steps(dtype: torch.dtype, options: dict[str, Any], each_isa: None) -> None:
    parameters, table, anchors = start_of(1, dtype)
    times = moments_of_time(6, 2, dtype)
    exact = exact_steps(parameters, table, anchors, times, **options)
    tolerance = 100 * torch.finfo(dtype).eps
    for by_rows in (True, False) if "mu" not in options and "weight_decay" not in options else (False,):
        cpu._kernels.poison = True
        try:
            moved, taken = run(parameters, table, anchors, times, by_rows, options)
        finally:
            cpu._kernels.poison = False
        assert taken.tolist() == [6, 4, 5]
        for got, wanted in zip(moved, exact, strict=True):
            torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance)


def test_a_gradient_by_rows_has_the_bits_of_a_dense_one() -> None:
    """Also for rows that are not named any more, and after a dense step in between."""
    for clip in (0.0, 0.5):
        parameters, table, anchors = start_of(3, torch.float32)
        times = moments_of_time(7, 4, torch.float32)
        # Sums of several rows are made in one order here and in another there, unless every row is named once.
        times = [time._replace(rows=torch.stack([torch.randperm(TABLE[1])[:6] for _ in range(3)])) for time in times]
        sparse, dense = (run(parameters, table, anchors, times, by_rows, {"clip": clip})[0] for by_rows in (True, False))
        if clip:  # the norm adds the same squares up in another order
            for got, wanted in zip(sparse, dense, strict=True):
                torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
        else:
            assert all(torch.equal(got, wanted) for got, wanted in zip(sparse, dense, strict=True))
    table, rows = torch.randn(1, 4, 3), torch.tensor([[2]])
    moments, taken = Moments.of(table), torch.zeros(1, dtype=torch.int64)
    before = table.clone()
    adam_([Step(table, torch.ones(1, 4, 3))], [moments], taken, lr=0.1)
    after = table.clone()
    adam_([Step(table, torch.ones(1, 1, 3), rows=rows)], [moments], taken, lr=0.1)
    assert (after < before).all() and (table < after).all(), "rows with moments go on moving"


def test_a_client_gets_the_same_bits_alone() -> None:
    parameters, table, anchors = start_of(5, torch.float32)
    times = moments_of_time(5, 6, torch.float32)
    together, _ = run(parameters, table, anchors, times, True, {"clip": 0.5})
    for k in range(3):
        own = slice(k, k + 1)
        alone = [Moment([g[own] for g in t.gradients], t.rows[own], t.looked_up[own], t.present[own]) for t in times]
        moved, _ = run([p[own] for p in parameters], table[own], [a[own] for a in anchors], alone, True, {"clip": 0.5})
        assert all(torch.equal(single[0], every[k]) for single, every in zip(moved, together, strict=True))


def test_what_is_no_number_reaches_its_client_alone() -> None:
    parameter, gradient = torch.ones(2, 40), torch.ones(2, 40)
    gradient[1, 33] = torch.nan
    adam_([Step(parameter, gradient)], [Moments.of(parameter)], torch.zeros(2, dtype=torch.int64), lr=0.5, clip=1.0)
    assert parameter[0].isfinite().all() and parameter[1].isnan().all()


def test_adam_refuses_what_it_would_get_wrong() -> None:
    p, g, rows = torch.zeros(2, 4, 3), torch.zeros(2, 5, 3), torch.zeros(2, 5, dtype=torch.int64)
    own, taken = Moments.of(p), torch.zeros(2, dtype=torch.int64)
    by_rows = Step(p, g, rows=rows)
    with pytest.raises(RuntimeError, match="rows go with mu and weight_decay 0"):
        adam_([by_rows], [own], taken, lr=1.0, weight_decay=0.1)
    with pytest.raises(RuntimeError, match="moments that say which rows were touched"):
        adam_([by_rows], [own._replace(touched=None)], taken, lr=1.0)
    with pytest.raises(RuntimeError, match=r"touched is .* and must be bool \[2, 4\]"):
        adam_([by_rows], [own._replace(touched=torch.zeros(2, 3, dtype=torch.bool))], taken, lr=1.0)
    with pytest.raises(RuntimeError, match=r"steps is .* and must be int64 \[2\]"):
        adam_([by_rows], [own], torch.zeros(3, dtype=torch.int64), lr=1.0)
    nothing: Any = None
    with pytest.raises(RuntimeError, match="a tensor is missing"):
        adam_([by_rows], [own], nothing, lr=1.0)
    for bad in (own._replace(first=p.mT.contiguous()), own._replace(second=p.double()), own._replace(second=nothing)):
        with pytest.raises(RuntimeError, match="first and second moments must be"):
            adam_([Step(p, p.clone())], [bad], taken, lr=1.0)
    with pytest.raises(RuntimeError, match="shares memory with"):
        adam_([Step(p, p.clone())], [own._replace(second=own.first)], taken, lr=1.0)
    with pytest.raises(ValueError, match="moments must be one for each of the 1 steps, got 0"):
        adam_([by_rows], [], taken, lr=1.0)
    rows[1, 2] = 4
    with pytest.raises(RuntimeError, match="rows must be below the number of rows of their parameter"):
        adam_([by_rows], [own], taken, lr=1.0)
    with pytest.raises(RuntimeError, match="the steps taken are at least 0"):
        adam_([Step(p, p.clone())], [own], torch.tensor([0, -1]), lr=1.0)
    assert not p.any() and not taken.any() and not own.first.any()


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("lr", -1.0, "a finite number of at least 0"),
        ("clip", float("nan"), "a finite number of at least 0"),
        ("beta1", 1.0, "at least 0 and below 1"),
        ("beta2", float("nan"), "at least 0 and below 1"),
        ("epsilon", 0.0, "a finite number above 0"),
    ],
)
def test_adam_refuses_options_that_are_no_steps(name: str, value: float, rule: str) -> None:
    p = torch.zeros(1, 3)
    options: dict[str, Any] = {"lr": 0.1, name: value}
    with pytest.raises(ValueError, match=f"adam_: {name} must be {rule}, got {value!r}"):
        adam_([Step(p, p.clone())], [Moments.of(p)], torch.zeros(1, dtype=torch.int64), **options)
