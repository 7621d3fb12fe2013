"""The head with its loss, SGD and sums of uploads, against the same written plainly in float64."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from head_cases import SHAPES, Shape, by_row, draw, error, plainly, poison, router_problem
from optional import present
from sgd_oracle import exact_steps
from torch import Tensor

from flow_kernels.backends import cpu
from flow_kernels.training import Head, Step, accumulate_, head_loss, route, route_backward, sgd_, split, total_of


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    cpu._kernels.poison = True
    yield
    cpu._kernels.poison = False


@pytest.fixture(params=[isa for isa in cpu.ISAS[:3] if cpu._C.has_isa(isa)])
def each_isa(request: pytest.FixtureRequest) -> None:
    """conftest puts the instruction set back."""
    assert cpu._C.select_isa(request.param) == 0


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_head_loss_and_all_gradients(shape: Shape, dtype: torch.dtype, threads: int, each_isa: None) -> None:
    torch.set_num_threads(threads)
    x, targets, head, q = draw(shape, dtype)
    out = poison(head)
    result = head_loss(x, targets, head, q, x_grad=True, q_grad=True, out=out, best=True)
    nats, logits, exact = plainly(x, targets, head, q)
    torch_nats, torch_logits, torch_grads = plainly(x, targets, head, q, dtype)
    assert torch.equal(result.counts, (targets >= 0).sum(1))
    assert torch.equal(present(result.best), torch.where(targets >= 0, logits.argmax(-1), -1)) or dtype == torch.float32
    floor = 20 * torch.finfo(dtype).eps
    by_hand = zip(by_row(logits, targets), by_row(torch_logits, targets), strict=True)
    for values, (wanted, theirs) in zip((present(result.row_nats), present(result.probability)), by_hand, strict=True):
        assert error(values, wanted) <= max(2 * error(theirs, wanted), floor)
        assert not values[targets < 0].any()
    assert error(result.nats, nats) <= max(2 * error(torch_nats, nats), floor)
    for got, want, same in zip((result.x, result.q, *out), exact, torch_grads, strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            assert error(got, present(want)) <= max(2 * error(present(same), present(want)), floor)


def test_a_head_twice_gives_the_same_bits_and_writes_what_was_asked_for() -> None:
    x, targets, head, q = draw(SHAPES[3], torch.float32)
    first, second = poison(head), poison(head)
    left = head_loss(x, targets, head, q, x_grad=True, q_grad=True, out=first)
    right = head_loss(x, targets, head, q, x_grad=True, q_grad=True, out=second)
    both = zip((left.x, left.q, left.nats, *first), (right.x, right.q, right.nats, *second), strict=True)
    assert all(torch.equal(present(a), present(b)) for a, b in both)
    alone = torch.full_like(head.weight, float("nan"))
    only = head_loss(x, targets, head, q, out=(None, None, alone, None, None, None))
    assert only.x is None and only.q is None and only[2:5] == (None, None, None) and torch.equal(alone, present(first[2]))


def test_the_first_of_equal_logits_is_chosen_and_large_ones_do_not_overflow() -> None:
    head = Head(None, None, torch.zeros(1, 40, 3), torch.zeros(1, 40))
    head.bias[0, 7] = head.bias[0, 33] = 1000.0
    result = head_loss(torch.ones(1, 5, 3), torch.tensor([[7, 33, 0, -1, 7]]), head, best=True)
    assert present(result.best).tolist() == [[7, 7, 7, -1, 7]]
    assert float(result.nats) == pytest.approx(4 * torch.tensor(2.0).log().item() + 1000, rel=1e-6)


def test_a_target_beyond_the_vocabulary_is_named() -> None:
    x, targets, head, q = draw(SHAPES[2], torch.float32)
    targets[0, 3] = 300
    with pytest.raises(ValueError, match="targets: every target must be below the V=300 rows of the head's weight, got 300"):
        head_loss(x, targets, head, q)


@pytest.mark.parametrize("name", ["weight", "bias", "local_weight"])
def test_a_weight_that_does_not_fit_is_refused(name: str) -> None:
    x, targets, head, q = draw(SHAPES[2], torch.float32)
    wrong = head._replace(**{name: getattr(head, name)[:, 1:]})
    with pytest.raises(
        RuntimeError, match=rf"{name if name != 'weight' else 'bias'} is float32 \[3, .* and must be float32 \[3, "
    ):
        head_loss(x, targets, wrong, q)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options", [{}, {"clip": 0.7}, {"clip": 1e9}, {"mu": 0.1, "weight_decay": 0.2, "momentum": 0.9, "clip": 2.0}]
)
def test_sgd(dtype: torch.dtype, options: dict[str, Any], each_isa: None) -> None:
    g = torch.Generator().manual_seed(1)
    shapes = [(3, 7), (3, 129, 5), (3, 1)]
    tensors = [[torch.randn(s, generator=g, dtype=torch.float64).to(dtype) for _ in range(4)] for s in shapes]
    rows = torch.randint(-1, 11, (3, 30), generator=g)
    table, dense = (torch.randn(s, generator=g, dtype=torch.float64).to(dtype) for s in ((3, 11, 5), (3, 30, 5)))
    taking_part = torch.tensor([True, False, True])
    pulled = "mu" in options
    exact, exact_table, _ = exact_steps(tensors, table, rows, dense, (0, 2), options.get("clip", 0.0), pulled)
    steps = [Step(*(four if pulled else four[:2])) for four in tensors]
    if not pulled:
        steps.append(Step(table, dense, rows=rows))
    sgd_(steps, lr=0.3, present=taking_part, **options)
    tolerance = 20 * torch.finfo(dtype).eps
    for four, wanted in zip(tensors, exact, strict=True):
        torch.testing.assert_close(four[0].double(), wanted[0], rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(four[3].double(), wanted[3], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(table.double(), exact_table, rtol=tolerance, atol=tolerance)


def test_sgd_refuses_what_it_would_get_wrong() -> None:
    p, g, rows = torch.zeros(2, 4, 3), torch.zeros(2, 5, 3), torch.zeros(2, 5, dtype=torch.int64)
    # rows that no gradient names would have to move too
    with pytest.raises(RuntimeError, match="rows go with mu, weight_decay and momentum 0"):
        sgd_([Step(p, g, rows=rows)], lr=1.0, weight_decay=0.1)
    rows[1, 2] = 4
    with pytest.raises(RuntimeError, match="rows must be below the number of rows of their parameter"):
        sgd_([Step(p, g, rows=rows)], lr=1.0)
    with pytest.raises(RuntimeError, match="one shape and dtype"):
        sgd_([Step(p, g)], lr=1.0)
    for turned in (
        Step(p, p.mT.contiguous()),
        Step(p, p.clone(), anchor=p.mT.contiguous()),
        Step(p, p.clone(), None, p.view(2, 12)),
    ):
        with pytest.raises(RuntimeError, match="one shape and dtype"):
            sgd_([turned], lr=1.0)
    no_parameters: tuple[Any, ...] = (None, torch.tensor(1.0))
    for parameter in no_parameters:
        with pytest.raises(RuntimeError, match=r"parameter must be a tensor \[K, \.\.\]"):
            sgd_([Step(parameter, g)], lr=1.0)
    with pytest.raises(RuntimeError, match="at least one row"):
        sgd_([Step(p, g[:, :0].contiguous(), rows=rows[:, :0].contiguous())], lr=1.0)
    assert not p.any()


def test_negated_views_are_read_with_their_sign() -> None:
    """What .imag of a conjugate is: the numbers in memory have the other one."""
    x, targets, head, weights = draw(SHAPES[3], torch.float64)
    q = present(weights)
    given = torch.complex(torch.zeros_like(x), -x).conj().imag, torch._neg_view(-head.bias), torch._neg_view(-q)
    assert all(t.is_neg() for t in given) and torch.equal(given[0], x)
    result = head_loss(given[0], targets, head._replace(bias=given[1]), given[2])
    assert torch.equal(result.nats, head_loss(x, targets, head, q).nats)
    router, dq = (torch.randn(2, 2, 33).double(), torch.randn(2, 2).double()), torch.randn(2, 129, 2).double()
    routed = route(given[0], targets, torch._neg_view(-router[0]), router[1])
    assert torch.equal(routed, route(x, targets, *router))
    gradients = [torch.empty_like(router[0]) for _ in range(2)]
    route_backward(x, targets, *router, routed, dq, dweight=gradients[0])
    route_backward(given[0], targets, *router, routed, torch._neg_view(-dq), dweight=gradients[1])
    assert torch.equal(*gradients)
    total, uploads = torch.zeros(3, 4, dtype=torch.float64), torch.randn(2, 4)
    accumulate_(total, [torch._neg_view(-uploads)], [torch.ones(2, dtype=torch.float64)])
    torch.testing.assert_close(total_of(total), uploads.double().sum(0), rtol=1e-15, atol=1e-15)


def test_negated_views_are_not_written() -> None:
    x, targets, head, q = draw(SHAPES[1], torch.float64)
    router, p, total = (torch.randn(2, 2, 7).double(), torch.randn(2, 2).double()), torch.zeros(2, 4, 3), torch.zeros(3, 4, 3)
    negated = torch._neg_view
    calls: tuple[Callable[[], object], ...] = (
        lambda: head_loss(x, targets, head, q, x_grad=True, x_out=negated(x.clone())),
        lambda: head_loss(x, targets, head, q, out=(None, None, negated(head.weight.clone()), None, None, None)),
        lambda: route_backward(
            x, targets, *router, torch.ones(2, 5, 2).double(), torch.ones(2, 5, 2).double(), dx=negated(x.clone())
        ),
        lambda: sgd_([Step(negated(p.clone()), p)], lr=1.0),
        lambda: sgd_([Step(p, negated(p.clone()))], lr=1.0),
        lambda: accumulate_(negated(total.double()), [p], [torch.ones(2, dtype=torch.float64)]),
    )
    for call in calls:
        with pytest.raises(RuntimeError, match=r"pass tensor\.resolve_neg"):
            call()


def test_a_gradient_of_what_is_not_there_is_refused() -> None:
    x, targets, head, _ = draw(SHAPES[4], torch.float32)
    assert head.local_weight is None and head.projection_weight is None
    for place, like in ((4, head.weight), (5, head.bias)):
        out = [torch.empty_like(like) if n == place else None for n in range(6)]
        with pytest.raises(RuntimeError, match="a gradient with what it is the gradient of"):
            head_loss(x, targets, head, out=out)


def test_sums_are_of_one_shape() -> None:
    for shape in ((2, 3, 4), (2, 12), (2,)):
        with pytest.raises(RuntimeError, match=r"uploads must be \[K, \.\.\] of a total"):
            accumulate_(torch.zeros(3, 4, 3, dtype=torch.float64), [torch.zeros(shape)], [torch.ones(2, dtype=torch.float64)])


def test_sums_need_their_weights() -> None:
    no_weights: Any = None
    with pytest.raises(RuntimeError, match="a tensor is missing"):
        accumulate_(torch.zeros(3, 3, dtype=torch.float64), [torch.zeros(2, 3)], [no_weights])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_accumulate(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(2)
    uploads = torch.randn(5, 3000, 3, generator=g, dtype=torch.float64).to(dtype)
    weights, total = torch.rand(5, generator=g, dtype=torch.float64), torch.zeros(3, 3000, 3, dtype=torch.float64)
    expected = (weights.view(-1, 1, 1) * uploads.double()).sum(0)
    accumulate_(total, [uploads], [weights])
    torch.testing.assert_close(total_of(total), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_of_uploads_know_no_order(dtype: torch.dtype, each_isa: None) -> None:
    """Numbers of very different sizes, whose plain sum depends on the order; against exact fractions."""
    g = torch.Generator().manual_seed(3)
    sizes = 10.0 ** torch.randint(-9, 4, (40, 257), generator=g)
    uploads = (torch.randn(40, 257, generator=g, dtype=torch.float64) * sizes).to(dtype)
    weights = torch.randint(1, 2000, (40,), generator=g).double()
    plain: set[float] = set()
    sums: list[Tensor] = []
    for seed in range(5):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
        total = torch.zeros(3, 257, dtype=torch.float64)
        for part in order.split(1 + 3 * seed):
            accumulate_(total, [uploads[part]], [weights[part]])
        sums.append(total)
        plain.add(float(torch.cumsum((weights * uploads[:, 0].double())[order], 0)[-1]))
    assert all(torch.equal(total, sums[0]) for total in sums) and len(plain) > 1
    fresh = torch.full((3, 257), torch.nan, dtype=torch.float64)
    accumulate_(fresh, uploads.split(7), weights.split(7), fresh=True)
    assert torch.equal(fresh, sums[0]), "several tensors at once, into memory that held anything"
    other = torch.zeros(3, 257, dtype=torch.float64)
    for weight, upload in zip(weights.tolist(), uploads, strict=True):
        other += split(weight * upload.double())
    assert torch.equal(other, sums[0]), "the same parts in plain PyTorch"
    exact = [
        sum((Fraction(float(w * u)) for w, u in zip(weights, uploads[:, i].double(), strict=True)), Fraction())
        for i in range(257)
    ]
    for number, wanted in zip(total_of(sums[0]).tolist(), exact, strict=True):
        assert abs(Fraction(number) - wanted) <= Fraction(40, 2**78) + abs(wanted) / 2**52


def test_what_is_no_number_stays_so() -> None:
    total = torch.zeros(3, 2, dtype=torch.float64)
    accumulate_(total, [torch.tensor([[1.0, float("nan")], [float("inf"), 1.0]])], [torch.ones(2, dtype=torch.float64)])
    assert not total_of(total).isfinite().any()


# ---- the router -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 70, 7), (2, 5, 65)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_router_against_autograd(sizes: tuple[int, int, int], dtype: torch.dtype, each_isa: None) -> None:
    x, targets, weight, bias, dq = router_problem(*sizes, dtype)
    q = route(x, targets, weight, bias, temperature=0.7)
    wide = [t.double().requires_grad_() for t in (x, weight, bias)]
    scores = torch.baddbmm(wide[2].unsqueeze(1), wide[0], wide[1].mT) / 0.7
    expected = torch.where((targets >= 0).unsqueeze(-1), scores.softmax(-1), 0.0)
    (expected * dq.double()).sum().backward()
    before = torch.randn_like(x)
    dx, dweight, dbias = before.clone(), torch.full_like(weight, torch.nan), torch.full_like(bias, torch.nan)
    route_backward(x, targets, weight, bias, q, dq, temperature=0.7, dx=dx, dweight=dweight, dbias=dbias)
    rtol, atol = (1e-12, 1e-12) if dtype == torch.float64 else (2e-5, 2e-6 * sizes[1])
    for got, wanted in ((q, expected), (dx - before, wide[0].grad), (dweight, wide[1].grad), (dbias, wide[2].grad)):
        torch.testing.assert_close(got.double(), wanted, rtol=rtol, atol=atol)
    hard = route(x, targets, weight, bias, temperature=0.7, routing="hard")
    valid = targets >= 0
    assert torch.equal(hard[valid].argmax(-1), expected[valid].argmax(-1)) and (hard[~valid] == 0).all()
    route_backward(x, targets, weight, bias, q, dq, temperature=0.7)  # nothing is wanted


def test_rows_without_a_target_leave_no_trace(each_isa: None) -> None:
    x, targets, weight, bias, dq = router_problem(1, 90, 33, torch.float32)
    rows = (targets[0] >= 0).nonzero().squeeze(1)
    some = [t[:, rows].contiguous() for t in (x, targets, dq)]
    gradients = []
    for inputs, goals, slope in ((x, targets, dq), (some[0], some[1], some[2])):
        q, out = route(inputs, goals, weight, bias), [torch.empty_like(weight), torch.empty_like(bias)]
        route_backward(inputs, goals, weight, bias, q, slope, dweight=out[0], dbias=out[1])
        gradients.append(out)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_what_a_router_refuses() -> None:
    x, targets, weight, bias, _ = router_problem(2, 3, 5, torch.float32)
    with pytest.raises(RuntimeError, match=r"router bias is float32 \[2\] and must be float32 \[2, 2\]"):
        route(x, targets, weight, bias[0])
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(RuntimeError, match="temperature must be a finite number > 0"):
            route(x, targets, weight, bias, temperature=temperature)
    with pytest.raises(ValueError, match="routing must be one of 'soft', 'hard', got 'straight_through'"):
        route(x, targets, weight, bias, routing="straight_through")
    nan = route(x * torch.nan, targets, weight, bias, routing="hard")
    assert nan[targets >= 0].isnan().all()
