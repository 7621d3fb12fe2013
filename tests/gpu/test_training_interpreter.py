"""The Triton kernels of local training against float64, in Triton's interpreter or compiled on a GPU.

As test_triton_interpreter.py, which says why: test_training_on_gpu.py runs this file in a process with TRITON_INTERPRET=1. In
the main process every case needs a GPU, or is skipped.
"""

from __future__ import annotations

from typing import Any

import adam_oracle
import pytest
import torch
from head_cases import SHAPES, Shape, by_row, draw, error, plainly, poison, router_problem
from optional import present
from problems import make
from sgd_oracle import exact_steps

from flow_kernels.backends.gpu import triton
from flow_kernels.training import (
    Head,
    Moments,
    Step,
    Weights,
    accumulate_,
    adam_,
    add_rows_,
    finish,
    gru,
    head_loss,
    route,
    route_backward,
    sgd_,
    total_of,
)
from flow_kernels.training.gpu.grouped import TABLE, Path, multiply

DEVICE = torch.device("cpu" if triton.interpreted() else "cuda")
INTERPRETED = triton.interpreted()
if INTERPRETED:
    import quick_interpreter

    quick_interpreter.install()
pytestmark = [
    pytest.mark.gpu(stand_in=INTERPRETED), pytest.mark.triton, pytest.mark.usefixtures("poisoned"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # of what masks leave out
]  # fmt: skip
MORE: list[Shape] = [(2, 40, 150, None, 70, 2), (1, 33, 5, 20, 129, 1)]  # more columns than a program keeps; odd tails
ROUNDED = 3e-3 if INTERPRETED else 3e-2
"""What 16 bits may cost, of the largest number: the interpreter multiplies float16, a GPU bfloat16."""


def put(t: Any) -> Any:
    return None if t is None else t.to(DEVICE)


def small_parts(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    """The vocabulary in parts of so many tokens."""
    from flow_kernels.training.gpu import head

    monkeypatch.setattr(head, "vocabulary_parts", lambda k, blocks, v, tile: (-(-v // tokens), tokens))


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("shape", [*SHAPES[:3], *MORE], ids=str)
def test_head_loss_and_all_gradients(shape: Shape, bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, 64)
    x, targets, head, q = draw(shape, torch.float32)
    x[targets < 0] = torch.nan  # is never read
    nats, logits, exact = plainly(torch.where((targets >= 0).unsqueeze(-1), x, 0.0), targets, head, q)
    x, targets, head, q = put(x), put(targets), Head(*map(put, head)), put(q)
    out = poison(head)
    result = head_loss(x, targets, head, q, x_grad=True, q_grad=True, out=out, best=True, bfloat16=bfloat16, backend="triton")
    targets = targets.cpu()
    assert torch.equal(result.counts.cpu(), (targets >= 0).sum(1))
    limit = ROUNDED if bfloat16 else 2e-6
    if not bfloat16:
        assert torch.equal(present(result.best).cpu(), torch.where(targets >= 0, logits.argmax(-1), -1))
    by_hand = by_row(logits, targets)
    for values, wanted in zip((present(result.row_nats), present(result.probability)), by_hand, strict=True):
        assert error(values.cpu(), wanted) <= limit
        assert not values.cpu()[targets < 0].any()
    assert error(result.nats.cpu(), nats) <= limit
    for got, want in zip((result.x, result.q, *out), exact, strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            assert error(got.cpu(), present(want)) <= limit
    finish(DEVICE)


def test_a_head_twice_gives_the_same_bits_and_writes_what_was_asked_for() -> None:
    x, targets, head, q = draw((2, 33, 9, 5, 70, 2), torch.float32)
    x, targets, head, q = put(x), put(targets), Head(*map(put, head)), put(q)
    first, second = poison(head), poison(head)
    left, right = (
        head_loss(x, targets, head, q, x_grad=True, q_grad=True, out=out, backend="triton") for out in (first, second)
    )
    both = zip((left.x, left.q, left.nats, *first), (right.x, right.q, right.nats, *second), strict=True)
    assert all(torch.equal(present(a), present(b)) for a, b in both)
    for place in range(6):
        alone = [torch.full_like(present(t), torch.nan) if n == place else None for n, t in enumerate(head)]
        only = head_loss(x, targets, head, q, out=alone, backend="triton")
        assert only.x is None and only.q is None and only[2:5] == (None, None, None)
        assert torch.equal(present(alone[place]), present(first[place])), Head._fields[place]
    of_q = head_loss(x, targets, head, q, q_grad=True, backend="triton")
    assert of_q.x is None and torch.equal(present(of_q.q), present(left.q))


def test_the_first_of_equal_scores_is_chosen_and_large_ones_do_not_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, 32)
    head = Head(None, None, put(torch.zeros(1, 90, 3)), put(torch.zeros(1, 90)))
    for token in (7, 23, 70):
        head.bias[0, token] = 1000.0
    targets = put(torch.tensor([[7, 70, 0, -1, 23]]))
    result = head_loss(put(torch.ones(1, 5, 3)), targets, head, best=True, backend="triton")
    assert present(result.best).tolist() == [[7, 7, 7, -1, 7]]
    assert float(result.nats) == pytest.approx(4 * torch.tensor(3.0).log().item() + 1000, rel=1e-6)
    head.bias[0, 40] = torch.nan
    result = head_loss(put(torch.ones(1, 5, 3)), targets, head, best=True, backend="triton")
    assert present(result.best).tolist() == [[40, 40, 40, -1, 40]] and result.nats.isnan().all()


def test_a_number_beyond_the_vocabulary_is_named_when_asked() -> None:
    x, targets, head, q = draw((1, 5, 4, None, 9, 1), torch.float32)
    targets[0, 3] = 9
    head_loss(put(x), put(targets), Head(*map(put, head)), q, backend="triton")
    with pytest.raises(ValueError, match="must be below the vocabulary's size, got 9"):
        finish(DEVICE)
    finish(DEVICE)  # it is said once
    add_rows_(put(torch.ones(1, 4, 2)), put(torch.tensor([[3, 11]])), put(torch.ones(1, 2, 2)), backend="triton")
    with pytest.raises(ValueError, match="got 11"):
        finish(DEVICE)


def test_a_head_that_does_not_fit_is_refused() -> None:
    x, targets, head, q = draw((2, 5, 7, 3, 9, 2), torch.float32)
    for name in ("projection_weight", "weight", "bias", "local_weight"):
        with pytest.raises(RuntimeError, match=r"is torch.float32 \[2, .* it must be torch.float32 \[2, "):
            head_loss(x, targets, head._replace(**{name: getattr(head, name)[:, 1:]}), q, backend="triton")
    with pytest.raises(RuntimeError, match="a tensor is missing"):
        head_loss(x, targets, head, None, backend="triton")
    with pytest.raises(RuntimeError, match=r"x is torch.float64 .* it must be torch.float32"):
        head_loss(x.double(), targets, head, q, backend="triton")
    with pytest.raises(RuntimeError, match=r"targets is torch\.int32"):
        head_loss(x, targets.int(), head, q, backend="triton")


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 50, 7), (2, 5, 65)], ids=str)
def test_the_router_against_autograd(sizes: tuple[int, int, int]) -> None:
    x, targets, weight, bias, dq = router_problem(*sizes, torch.float32)
    x[targets < 0] = torch.nan
    wide = [t.double().requires_grad_() for t in (torch.where((targets >= 0).unsqueeze(-1), x, 0.0), weight, bias)]
    scores = torch.baddbmm(wide[2].unsqueeze(1), wide[0], wide[1].mT) / 0.7
    expected = torch.where((targets >= 0).unsqueeze(-1), scores.softmax(-1), 0.0)
    (expected * dq.double()).sum().backward()
    before = torch.randn(x.shape)
    given = (put(x), put(targets), put(weight), put(bias))
    q = route(*given, temperature=0.7, backend="triton")
    dx, dweight, dbias = put(before.clone()), torch.full_like(given[2], torch.nan), torch.full_like(given[3], torch.nan)
    route_backward(*given, q, put(dq), temperature=0.7, dx=dx, dweight=dweight, dbias=dbias, backend="triton")
    of_x = dx.cpu() - before
    for got, wanted in ((q, expected), (of_x, wide[0].grad), (dweight, wide[1].grad), (dbias, wide[2].grad)):
        torch.testing.assert_close(got.cpu().double(), wanted, rtol=2e-5, atol=2e-6 * sizes[1])
    hard, valid = route(*given, temperature=0.7, routing="hard", backend="triton").cpu(), targets >= 0
    assert torch.equal(hard[valid].argmax(-1), expected[valid].argmax(-1)) and (hard[~valid] == 0).all()


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("route", ["mixture", "global", "local"])
def test_the_gru_as_the_kernels_of_the_cpu_compute_it(route: str, bfloat16: bool) -> None:
    """Their float64, which has oracles of its own; a sequence has length 0, and what lies past a length is never read."""
    k, t, b, i, hidden = 2, 3, 3, 4, 6
    made = make(k, t, b, i, hidden, batch_first=True)
    lengths = torch.tensor([[3, 1, 0], [2, 2, 3]])
    dy, dh_n, dq = made.output_grads
    inside = torch.arange(t) < lengths.unsqueeze(-1)
    dy, dq = (torch.where(inside.unsqueeze(-1), g, 0.0) for g in (dy, dq))
    results = []
    for backend, dtype in (("cpu", torch.float64), ("triton", torch.float32)):
        tensors = {name: tensor.to(dtype) for name, tensor in made.tensors.items()}
        tensors["input"] = torch.where(inside.unsqueeze(-1), tensors["input"], torch.nan if backend == "triton" else 0.0)
        if backend == "triton":
            tensors = {name: put(tensor) for name, tensor in tensors.items()}
        x, h0, weights = tensors["input"], tensors["hx"], Weights(*(tensors[n] for n in Weights._fields)).used_by(route)
        own = lengths if backend == "cpu" else put(lengths)
        out: dict[str, Any] = dict(y=x.new_empty(k, b, t, hidden), q=x.new_empty(k, b, t, 2))
        gates = x.new_empty(gru.gates_shape(k, b, t, hidden, route, on_gpu=backend == "triton"))
        h_n = torch.empty_like(h0)
        options: dict[str, Any] = dict(
            lengths=own, route=route, temperature=0.7, bfloat16=bfloat16 and backend == "triton", backend=backend
        )
        kept = gru.forward(x, h0, weights, **options, **out, h_n=h_n, gates=gates)
        dx, dh0 = torch.empty_like(x), torch.empty_like(h0)
        gradients = Weights(*(None if w is None else torch.empty_like(w) for w in weights))
        of_outputs: dict[str, Any] = dict(zip(("dy", "dh_n", "dq"), (g.to(x) for g in (dy, dh_n, dq)), strict=True))
        gru.backward(
            x, h0, weights, **options, **out, gates=gates, **of_outputs, dx=dx, dh0=dh0, gradients=gradients, kept=kept
        )
        results.append((out["y"], out["q"], h_n, torch.where(put(inside).unsqueeze(-1), dx.to(DEVICE), 0.0), dh0, *gradients))
    for name, wanted, got in zip(("y", "q", "h_n", "dx", "dh0", *Weights._fields), *results, strict=True):
        if wanted is not None:
            assert error(present(got).cpu(), wanted.cpu()) <= (ROUNDED if bfloat16 else 2e-6), name


def test_the_gru_needs_what_it_kept() -> None:
    x, h0, y = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, 1)
    with pytest.raises(RuntimeError, match="backward on a GPU needs the gates and kept of its forward pass"):
        gru.backward(
            x, h0, Weights(), lengths=None, route="global", temperature=1.0, y=y, q=y, gates=None, dy=y,
            gradients=Weights(), backend="triton",
        )  # fmt: skip


@pytest.mark.parametrize(
    "options", [{}, {"clip": 0.5}, {"clip": 1e9}, {"clip": 0.5, "mu": 0.1, "weight_decay": 0.2, "momentum": 0.9}]
)
def test_sgd(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from flow_kernels.training.gpu import sgd

    monkeypatch.setattr(sgd, "SIZE", 32)
    g = torch.Generator().manual_seed(0)
    shapes = [(3, 5, 7), (3, 64), (3, 1)]
    tensors = [[torch.randn(s, generator=g) for _ in range(4)] for s in shapes]
    rows = torch.randint(-1, 11, (3, 70), generator=g)
    table, dense = torch.randn(3, 11, 5, generator=g), torch.randn(3, 70, 5, generator=g)
    taking_part, pulled = torch.tensor([True, False, True]), "mu" in options
    exact, exact_table, spread = exact_steps(tensors, table, rows, dense, (0, 2), options.get("clip", 0.0), pulled)
    moved = [[put(t) for t in four] for four in tensors]
    steps, moved_table = [Step(*(four if pulled else four[:2])) for four in moved], put(table)
    if not pulled:
        steps.append(Step(moved_table, put(dense), rows=put(rows)))
    sgd_(steps, lr=0.3, present=put(taking_part), **options, backend="triton")
    for four, wanted in zip(moved, exact, strict=True):
        torch.testing.assert_close(four[0].cpu().double(), wanted[0], rtol=2e-6, atol=2e-6)
        torch.testing.assert_close(four[3].cpu().double(), wanted[3], rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(moved_table.cpu().double(), exact_table, rtol=2e-6, atol=2e-6)
    dense_table = put(torch.full_like(table, torch.nan))
    add_rows_(dense_table, put(rows), put(dense), backend="triton")
    torch.testing.assert_close(dense_table.cpu().double(), spread, rtol=2e-6, atol=2e-6)


def test_sgd_keeps_what_is_no_number_and_refuses_what_does_not_fit() -> None:
    parameter, gradient = put(torch.ones(2, 4)), put(torch.ones(2, 4))
    gradient[1, 2] = torch.nan
    sgd_([Step(parameter, gradient)], lr=0.5, clip=1.0, backend="triton")
    assert parameter[0].isfinite().all() and parameter[1].isnan().all()
    table, rows = put(torch.ones(2, 3, 4)), put(torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="gradients by rows go with mu, weight_decay and momentum 0"):
        sgd_([Step(table, put(torch.ones(2, 5, 4)), rows=rows)], lr=0.5, weight_decay=0.1, backend="triton")
    with pytest.raises(RuntimeError, match="momentum needs a tensor beside every parameter"):
        sgd_([Step(parameter, gradient)], lr=0.5, momentum=0.1, backend="triton")
    with pytest.raises(RuntimeError, match=r"gradient is torch.float32 \[2, 3\]"):
        sgd_([Step(parameter, put(torch.ones(2, 3)))], lr=0.5, backend="triton")
    with pytest.raises(RuntimeError, match="not contiguous"):
        sgd_([Step(put(torch.ones(4, 2)).T, gradient)], lr=0.5, backend="triton")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip": 0.5},
        {"clip": 0.5, "mu": 0.1, "weight_decay": 0.2},
        {"clip": 1e9, "weight_decay": 0.3, "decoupled": True},
    ],
)
def test_adam(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from flow_kernels.training.gpu import adam

    monkeypatch.setattr(adam, "SIZE", 32)
    parameters, table, anchors = adam_oracle.start_of(1, torch.float32)
    times = adam_oracle.moments_of_time(4, 2, torch.float32)
    exact = adam_oracle.exact_steps(parameters, table, anchors, times, **options)
    moved, kept = [put(t) for t in (*parameters, table)], dict[Any, Any]()
    moments, taken = [Moments.of(t) for t in moved], put(torch.zeros(3, dtype=torch.int64))
    held = [put(t) for t in anchors]
    gradients = [torch.empty_like(t) for t in moved]
    for time in times:
        for own, gradient in zip(gradients, time.gradients, strict=False):
            own.copy_(gradient)
        add_rows_(gradients[-1], put(time.rows), put(time.looked_up), backend="triton")
        pairs = zip(moved, gradients, [*held, None], strict=True)
        steps = [Step(p, g, a if options.get("mu") else None) for p, g, a in pairs]
        beta1, beta2 = adam_oracle.BETAS
        adam_(
            steps, moments, taken, lr=adam_oracle.LR, beta1=beta1, beta2=beta2, epsilon=adam_oracle.EPSILON,
            present=put(time.present), backend="triton", kept=kept, **options,
        )  # fmt: skip
    assert taken.tolist() == [4, 3, 3] and len(kept) == 2, "one table of addresses and one of the second moments"
    for got, wanted in zip(moved, exact, strict=True):
        torch.testing.assert_close(got.cpu().double(), wanted, rtol=2e-5, atol=2e-5)


def test_adam_keeps_what_is_no_number_and_refuses_what_does_not_fit() -> None:
    parameter, gradient = put(torch.ones(2, 4)), put(torch.ones(2, 4))
    gradient[1, 2] = torch.nan
    moments, taken = Moments.of(parameter), put(torch.zeros(2, dtype=torch.int64))
    adam_([Step(parameter, gradient)], [moments], taken, lr=0.5, clip=1.0, beta1=0.0, backend="triton")
    assert parameter[0].isfinite().all() and parameter[1].isnan().all()
    table, rows = put(torch.ones(2, 3, 4)), put(torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="Adam on a GPU takes dense gradients; add rows up with add_rows_ first"):
        adam_([Step(table, put(torch.ones(2, 5, 4)), rows=rows)], [Moments.of(table)], taken, lr=0.5, backend="triton")
    wrong = moments._replace(second=put(torch.ones(2, 3)))
    with pytest.raises(RuntimeError, match=r"second moment is torch.float32 \[2, 3\]"):
        adam_([Step(parameter, gradient)], [wrong], taken, lr=0.5, backend="triton")
    with pytest.raises(RuntimeError, match=r"taken is torch.int32 \[2\]"):
        adam_([Step(parameter, gradient)], [moments], taken.int(), lr=0.5, backend="triton")


def test_sums_have_the_bits_of_the_cpu_in_any_order() -> None:
    g = torch.Generator().manual_seed(1)
    uploads = [torch.randn(k, 3, 50, generator=g) * 10.0 ** torch.randint(-9, 6, (k, 3, 50), generator=g) for k in (2, 3)]
    weights = [torch.rand(len(upload), generator=g, dtype=torch.float64) * 100 for upload in uploads]
    expected, got, other = (torch.full((3, 3, 50), torch.nan, dtype=torch.float64) for _ in range(3))
    accumulate_(expected, uploads, weights, fresh=True)
    moved, shares, got, other = [put(t) for t in uploads], [put(t) for t in weights], put(got), put(other)
    accumulate_(got, moved, shares, fresh=True, backend="triton")
    accumulate_(other, moved[1:], shares[1:], fresh=True, backend="triton")
    accumulate_(other, [moved[0].flip(0)], [shares[0].flip(0)], backend="triton")
    assert torch.equal(got.cpu(), expected) and torch.equal(other, got)
    plain = sum((torch.tensordot(w, u.double(), 1) for u, w in zip(uploads, weights, strict=True)), torch.zeros(3, 50))
    torch.testing.assert_close(total_of(got).cpu(), plain, rtol=1e-12, atol=1e-9)


def test_what_lasts_from_step_to_step_of_sgd() -> None:
    """One table of addresses and one buffer of summed rows, however many steps there are."""
    table, gradient, rows = put(torch.ones(1, 3, 2)), put(torch.ones(1, 4, 2)), put(torch.tensor([[0, 2, 2, -1]]))
    kept: dict[Any, Any] = {}
    for count in range(1, 4):
        sgd_([Step(table, gradient, rows=rows)], lr=0.25, backend="triton", kept=kept)
        assert len(kept) == 2
        assert torch.equal(table.cpu(), 1 - count * torch.tensor([[[0.25] * 2, [0.0] * 2, [0.5] * 2]]))


@pytest.mark.parametrize("kind", ["half", "rounded", "ieee"])
@pytest.mark.parametrize("path", ["cublas", "triton"])
@pytest.mark.parametrize("sizes", [(2, 1, 9, 40), (3, 21, 2, 5), (2, 20, 27, 33), (1, 70, 66, 35)], ids=str)
def test_products_of_many_clients_either_way(sizes: tuple[int, int, int, int], path: Path, kind: str) -> None:
    """Of operands and into outputs that are parts of tensors, either side transposed; and added to what is there."""
    k, m, n, depth = sizes
    form = torch.float32 if kind == "ieee" else torch.float16 if INTERPRETED else torch.bfloat16
    g = torch.Generator().manual_seed(0)
    stored = form if kind == "half" else torch.float32
    wide_a, wide_b = (torch.randn(k, *s, generator=g).to(stored) for s in ((depth, m + 3), (depth, n + 1)))
    a, b = put(wide_a)[..., 2 : m + 2].mT, put(wide_b)[..., :n]
    exact = torch.bmm(a.cpu().to(form).double(), b.cpu().to(form).double())
    whole = put(torch.full((k, m + 2, n), torch.nan))
    part = whole[:, 1 : m + 1]
    assert multiply(a, b, part, operands=form, path=path) is part
    assert error(part.cpu(), exact) <= 2e-6 and whole[:, 0].isnan().all() and whole[:, -1].isnan().all()
    before = torch.randn(k, m, n, generator=g)
    total = put(before.clone())
    multiply(a, b, total, operands=form, path=path, add=True)
    assert error(total.cpu(), exact + before.double()) <= 2e-6
    assert torch.equal(multiply(a, b, operands=form, path=path), part)
    b_transposed = put(wide_b)[..., :n].mT.contiguous().mT
    assert error(multiply(a.contiguous(), b_transposed, operands=form, path=path).cpu(), exact) <= 2e-6


def test_the_table_decides_and_rounds_where_it_is_asked_to() -> None:
    a, b = put(torch.randn(2, 3, 40)), put(torch.randn(2, 40, 5))
    half = torch.float16 if INTERPRETED else torch.bfloat16
    assert torch.equal(multiply(a, b), multiply(a, b, path=TABLE["thin", "ieee"]))
    assert torch.equal(multiply(a, b, operands=half), multiply(a, b, operands=half, path=TABLE["thin", "rounded"]))
    assert not torch.equal(multiply(a, b, operands=half), multiply(a, b))
