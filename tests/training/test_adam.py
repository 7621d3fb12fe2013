"""Adam of the clients by the C++ kernels against autograd through the reference, and both against torch.optim."""

import dataclasses

import numpy as np
import pytest
import torch
from descent_cases import SIZES, problem, trained, updates_of

from flow.draws import Draw
from flow.model.language_model import LanguageModel
from flow.model.parameters import names_of
from flow.training.adam import optimizer_of
from flow.training.batches import batches
from flow.training.descent import Descent
from flow.training.sgd import Sgd, Update
from flow_kernels.backends import cpu

# The epsilon is far above the rounding of small gradients, which Adam would otherwise make as large as all others.
ADAM = Sgd(0.03, 2, 3, 0.0, client_optimizer="adam", client_beta1=0.8, client_beta2=0.95, client_epsilon=1e-4)
OPTIONS = {
    "plain": ADAM,
    "clipped": dataclasses.replace(ADAM, clip=0.05),
    "decayed": dataclasses.replace(ADAM, clip=0.5, weight_decay=0.1),
    "adamw": dataclasses.replace(ADAM, clip=0.5, weight_decay=0.1, client_optimizer="adamw"),
}


@pytest.mark.parametrize("sgd", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", ["global", "flow", "all at once", "pulled", "embedding alone", "composed"])
@pytest.mark.parametrize("size", ["small", "two layers"])
def test_the_kernels_take_the_steps_of_autograd(size: str, kind: str, sgd: Sgd) -> None:
    model, reference, parameters, data = problem(size, True)
    updates = updates_of(parameters, kind)
    cpu._kernels.poison = True
    try:
        got, work = trained(model, parameters, data, updates, sgd)
    finally:
        cpu._kernels.poison = False
    expected, same = trained(reference, parameters, data, updates, sgd)
    for name, value in got.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-11)
        assert torch.equal(value, parameters[name]) != any(name in update.names for update in updates)
    torch.testing.assert_close(work.nats, same.nats, rtol=1e-10, atol=0)


@pytest.mark.parametrize("sgd", OPTIONS.values(), ids=OPTIONS)
def test_the_steps_are_those_of_torch(sgd: Sgd) -> None:
    """Of three clients, one of which has a single batch: each against an optimiser and a model of its own."""
    sgd = dataclasses.replace(sgd, clip=0.0)
    model, _, parameters, data = problem("small", False)
    world = names_of(parameters, "global")
    got, _ = trained(model, parameters, data, [Update(world, "global")], sgd)
    for k, client in enumerate(data.ids):
        own = LanguageModel(*SIZES["small"][:3], routed_head=False, backend="reference", dtype=torch.float64)
        own.load_state_dict({name: p[k] for name, p in parameters.items()})
        optimizer = optimizer_of([p for name, p in own.named_parameters() if name in world], sgd)
        alone = data._replace(ids=(client,), rows=data.rows[k : k + 1])
        for batch in batches(alone, 3, 2, [Draw(3, 1, "test").stream("shuffle", "phase", client)]):
            optimizer.zero_grad()
            logits = own(batch.inputs[0], batch.lengths[0], route="global").logits
            torch.nn.functional.cross_entropy(logits[batch.valid[0]], batch.targets[0][batch.valid[0]]).backward()
            optimizer.step()
        for name, p in own.named_parameters():
            torch.testing.assert_close(got[name][k], p.detach(), rtol=1e-9, atol=1e-11)


def test_a_client_gets_the_same_bits_alone_and_in_company() -> None:
    model, _, parameters, data = problem("odd", False, dtype=torch.float32)
    update = Update(names_of(parameters, "global"), "global")
    for sgd in OPTIONS.values():
        together, _ = trained(model, parameters, data, [update], sgd)
        for k in range(3):
            alone = data._replace(ids=data.ids[k : k + 1], rows=data.rows[k : k + 1])
            single, _ = trained(model, {name: p[k : k + 1] for name, p in parameters.items()}, alone, [update], sgd)
            assert all(torch.equal(value[0], together[name][k]) for name, value in single.items())


def test_a_client_without_data_is_left_alone() -> None:
    model, reference, parameters, data = problem("small", False)
    idle = data._replace(rows=(data.rows[0], np.zeros(0, np.int64), data.rows[2]))
    update = Update(names_of(parameters, "global"), "global")
    for own in (model, reference):
        got, _ = trained(own, parameters, idle, [update], OPTIONS["adamw"])
        assert all(torch.equal(value[1], parameters[name][1]) for name, value in got.items())
        assert not torch.equal(got["head.bias"][2], parameters["head.bias"][2])


def test_two_updates_may_not_change_the_same_parameter() -> None:
    model, _, parameters, data = problem("small", False)
    updates = [Update(("head.weight", "head.bias"), "global"), Update(("head.bias",), "global")]
    batch = next(iter(batches(data, 3)))
    descent = Descent(model, parameters, ADAM)
    descent.step(batch, updates[0])
    descent.step(batch, Update(("head.weight", "head.bias"), "global"))  # the same names go on
    with pytest.raises(ValueError, match=r"names: head\.bias are changed by another update too, and Adam counts"):
        descent.step(batch, updates[1])
