"""Kernels of local training that round what they multiply to bfloat16: against float64, rounded alike, and against float32."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mixed_cases import LAYERS, SHAPES, draw, each, far, rounded, run, trained
from optional import present

from flow_kernels.backends import cpu
from flow_kernels.training import head_loss, multiplies_bfloat16

pytestmark = pytest.mark.usefixtures("poisoned")
here = pytest.mark.skipif(not multiplies_bfloat16(), reason="this processor multiplies no bfloat16")


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
