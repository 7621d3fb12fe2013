"""Kernels of local training that round what they multiply to bfloat16: against float64, rounded alike, and against float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from optional import present
from problems import make
from torch import Tensor

from flow_kernels.backends import cpu
from flow_kernels.training import Head, HeadLoss, Weights, gru, head_loss, multiplies_bfloat16

pytestmark = pytest.mark.usefixtures("poisoned")
here = pytest.mark.skipif(not multiplies_bfloat16(), reason="this processor multiplies no bfloat16")
SHAPES = [  # clients, rows, inputs, projection, vocabulary, experts
    (1, 1, 1, None, 2, 1), (2, 5, 7, 3, 9, 1), (3, 50, 8, None, 301, 2), (2, 129, 33, 17, 515, 2), (1, 700, 21, None, 1031, 1),
]  # fmt: skip


def rounded(t: Tensor) -> Tensor:
    return t.to(torch.bfloat16).to(t.dtype)


def draw(shape: Any, seed: int = 0) -> tuple[Tensor, Tensor, Head, Tensor | None]:
    k, n, i, d, v, experts = shape
    g = torch.Generator().manual_seed(seed)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=g) / math.sqrt(size[-1])

    width = i if d is None else d
    targets = torch.randint(-1, v, (k, n), generator=g)
    q = torch.rand(k, n, 1, generator=g)
    projection = (None, None) if d is None else (random(k, d, i), random(k, d))
    tables = [(random(k, v, width), random(k, v)) if expert < experts else (None, None) for expert in range(2)]
    return (
        random(k, n, i),
        targets,
        Head(*projection, *tables[0], *tables[1]),
        torch.cat((q, 1 - q), -1) if experts == 2 else None,
    )


def each(head: Head, change: Callable[[Tensor], Tensor]) -> Head:
    changed: list[Any] = [None if t is None else change(t) for t in head]
    return Head(*changed)


def run(x: Tensor, targets: Tensor, head: Head, q: Tensor | None, bfloat16: bool) -> tuple[HeadLoss, dict[str, Tensor]]:
    """The loss and every gradient."""
    out = [None if t is None else torch.full_like(t, torch.nan) for t in head]
    loss = head_loss(x, targets, head, q, x_grad=True, q_grad=True, out=out, best=True, bfloat16=bfloat16)
    named = dict(zip(("x", "q", *Head._fields), (loss.x, loss.q, *out), strict=True))
    return loss, {name: t for name, t in named.items() if t is not None}


def far(got: Tensor, exact: Tensor) -> float:
    """The norm of the difference, over the norm."""
    return float((got.double() - exact.double()).norm() / exact.double().norm().clamp_min(1e-30))


@here
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_head_is_near_float64_and_not_as_near_as_float32(shape: Any, threads: int) -> None:
    torch.set_num_threads(threads)
    x, targets, head, q = draw(shape)
    exact_loss, exact = run(
        x.double(), targets, each(head, lambda t: t.double()), None if q is None else q.double(), bfloat16=False
    )
    loss, gradients = run(x, targets, head, q, True)
    assert torch.equal(loss.counts, exact_loss.counts) and far(loss.nats, exact_loss.nats) < 5e-3
    assert gradients.keys() == exact.keys()
    for name, gradient in gradients.items():
        assert far(gradient, exact[name]) < 1.5e-2, name
    assert max(far(gradient, exact[name]) for name, gradient in gradients.items()) > 1e-4
    again, same = run(x, targets, head, q, True)
    assert torch.equal(again.nats, loss.nats) and all(torch.equal(same[name], t) for name, t in gradients.items())
    for k in range(len(x)):  # a client's bits are its own
        own = each(head, itemgetter(slice(k, k + 1)))
        alone, grads = run(x[k : k + 1], targets[k : k + 1], own, None if q is None else q[k : k + 1], True)
        assert torch.equal(alone.nats, loss.nats[k : k + 1])
        assert all(torch.equal(t, gradients[name][k : k + 1]) for name, t in grads.items())


@here
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[3] is None and shape[5] == 1], ids=str)
def test_what_is_multiplied_is_rounded_and_nothing_else(shape: Any) -> None:
    """A head whose factors all come from outside has the loss of rounded factors, to float32's digits."""
    x, targets, head, _ = draw(shape)
    loss, gradients = run(x, targets, head, None, True)
    weight, bias = rounded(head.weight).double(), head.bias.double().requires_grad_()
    logits = rounded(x).double() @ weight.mT + bias.unsqueeze(1)
    nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=-1).view(targets.shape)
    torch.testing.assert_close(present(loss.row_nats).double(), nats, rtol=2e-6, atol=2e-6)
    (gradient,) = torch.autograd.grad((nats.sum(1) / loss.counts.clamp_min(1)).sum(), bias)
    assert far(gradients["bias"], gradient) < 5e-3  # of exponentials that were rounded
    best = torch.where(targets >= 0, logits.argmax(-1), -1)
    assert (present(loss.best) == best).double().mean() > 0.99


def trained(k: int, sizes: tuple[int, ...], route: str, dtype: torch.dtype, bfloat16: bool, saved: bool) -> dict[str, Tensor]:
    """What a layer puts out, and every gradient."""
    t, b, i, h = sizes
    made = make(k, t, b, i, h, batch_first=True, lengths=True)
    tensors = {name: value.to(dtype) for name, value in made.tensors.items()}
    weights = Weights(*(tensors[name] for name in Weights._fields)).used_by(route)
    x, h0, lengths = tensors["input"], tensors["hx"], made.options["lengths"]
    y, h_n, q = x.new_empty(k, b, t, h), torch.empty_like(h0), x.new_empty(k, b, t, 2)
    gates = x.new_empty(gru.gates_shape(k, b, t, h, route)) if saved else None
    options: dict[str, Any] = dict(lengths=lengths, route=route, temperature=0.7, bfloat16=bfloat16)
    gru.forward(x, h0, weights, **options, y=y, h_n=h_n, q=q, gates=gates)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    dx, dh0 = torch.empty_like(x), torch.empty_like(h0)
    gradients = Weights(*(None if w is None else torch.empty_like(w) for w in weights))
    gru.backward(x, h0, weights, **options, y=y, q=q, gates=gates, dy=dy, dx=dx, dh0=dh0, gradients=gradients)
    named = {f"d{name}": t for name, t in gradients._asdict().items() if t is not None}
    return {"y": y, "h_n": h_n, "q": q, "dx": dx, "dh0": dh0, **named}


LAYERS = [(1, (3, 2, 1, 1)), (2, (4, 3, 5, 7)), (3, (9, 5, 33, 47)), (1, (20, 16, 96, 131)), (1, (70, 20, 7, 20))]


@here
@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("route", ["mixture", "global", "local"])
@pytest.mark.parametrize(("clients", "sizes"), LAYERS, ids=str)
def test_a_layer_is_near_float64_and_not_as_near_as_float32(
    clients: int, sizes: tuple[int, ...], route: str, saved: bool
) -> None:
    exact = trained(clients, sizes, route, torch.float64, False, True)
    mixed = trained(clients, sizes, route, torch.float32, True, saved)
    assert mixed.keys() == exact.keys()
    for name, tensor in mixed.items():
        whole = exact["drouter_weight" if name == "drouter_bias" else name].norm()  # a bias's few terms nearly cancel
        assert tensor.dtype == torch.float32 and (tensor.double() - exact[name]).norm() < 2e-2 * whole, name
    assert max(far(tensor, exact[name]) for name, tensor in mixed.items()) > 1e-4


@pytest.mark.parametrize("isa", [isa for isa in cpu.ISAS[:3] if cpu._C.has_isa(isa)])
def test_other_instruction_sets_compute_in_float32(isa: str) -> None:
    """conftest puts the instruction set back."""
    assert cpu._C.select_isa(isa) == 0 and not multiplies_bfloat16()
    x, targets, head, q = draw(SHAPES[3])
    (loss, gradients), (plain, expected) = (run(x, targets, head, q, bfloat16) for bfloat16 in (True, False))
    assert torch.equal(loss.nats, plain.nats) and all(torch.equal(t, gradients[name]) for name, t in expected.items())
    mixed, single = (trained(2, (4, 3, 5, 7), "mixture", torch.float32, bfloat16, True) for bfloat16 in (True, False))
    assert all(torch.equal(t, mixed[name]) for name, t in single.items())


def test_tensors_of_another_format_are_refused() -> None:
    x, targets, head, q = draw(SHAPES[1])
    wide = each(head, lambda t: t.double())
    with pytest.raises(RuntimeError, match="mixed products take float32 tensors"):
        head_loss(x.double(), targets, wide, q, bfloat16=True)
    with pytest.raises(RuntimeError, match="mixed products take float32 tensors"):
        trained(2, (4, 3, 5, 7), "global", torch.float64, True, True)
