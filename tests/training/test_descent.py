"""SGD by the C++ kernels against autograd through the reference, and both against torch.optim.SGD."""

import math

import numpy as np
import pytest
import torch
from descent_cases import PLAIN, SIZES, problem, trained, updates_of
from harness import labelled

from flow.draws import Draw
from flow.model.language_model import LanguageModel
from flow.model.parameters import Route, group_of, names_of
from flow.training.batches import batches
from flow.training.descent import Descent, gradients
from flow.training.fused import refusal
from flow.training.messages import Personal
from flow.training.predict import predict
from flow.training.sgd import Sgd, Update
from flow.training.work import measure, train
from flow_kernels.backends import cpu


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("routed_head", [True, False])
@pytest.mark.parametrize(
    "kind",
    [
        "global",
        "local",
        "flow",
        "all at once",
        "pulled",
        "head alone",
        "embedding alone",
        "recurrent bias",
        "last layer",
        "composed",
    ],
)
def test_the_kernels_descend_as_autograd_does(size: str, routed_head: bool, kind: str) -> None:
    model, reference, parameters, data = problem(size, routed_head)
    updates = updates_of(parameters, kind)
    cpu._kernels.poison = True
    try:
        got, work = trained(model, parameters, data, updates, PLAIN)
    finally:
        cpu._kernels.poison = False
    expected, same = trained(reference, parameters, data, updates, PLAIN)
    assert not refusal(model, parameters) and refusal(reference, parameters)
    for name, value in got.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-12, msg=labelled(name))
        moved = any(name in update.names for update in updates)
        assert torch.equal(value, parameters[name]) != moved
    torch.testing.assert_close(work.nats, same.nats, rtol=1e-11, atol=0)
    assert torch.equal(work.tokens, same.tokens)


@pytest.mark.parametrize(
    "sgd",
    [
        Sgd(0.3, 2, 3, 0.05),
        Sgd(0.3, 2, 3, 1e6),
        Sgd(0.3, 2, 3, 0.5, momentum=0.9),
        Sgd(0.3, 2, 3, 0.0, weight_decay=0.1),
        Sgd(0.3, 2, 3, 0.5, momentum=0.5, weight_decay=0.1),
    ],
)
def test_every_option_of_sgd_in_both_ways(sgd: Sgd) -> None:
    model, reference, parameters, data = problem("projected", True)
    for kind in ("flow", "pulled"):
        updates = updates_of(parameters, kind)
        got, _ = trained(model, parameters, data, updates, sgd)
        expected, _ = trained(reference, parameters, data, updates, sgd)
        for name, value in got.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-11)


def test_momentum_and_weight_decay_are_those_of_torch() -> None:
    model, _, parameters, data = problem("small", False, clients=1, sequences=(7,))
    sgd = Sgd(0.1, 2, 3, 0.0, momentum=0.9, weight_decay=0.01)
    world = names_of(parameters, "global")
    got, _ = trained(model, parameters, data, [Update(world, "global")], sgd)
    own = LanguageModel(*SIZES["small"][:3], routed_head=False, backend="reference", dtype=torch.float64)
    own.load_state_dict({name: p[0] for name, p in parameters.items()})
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    stream = Draw(3, 1, "test").stream("shuffle", "phase", "a")
    for batch in batches(data, 3, 2, [stream]):
        optimizer.zero_grad()
        logits = own(batch.inputs[0], batch.lengths[0], route="global").logits
        torch.nn.functional.cross_entropy(logits[batch.valid[0]], batch.targets[0][batch.valid[0]]).backward()
        optimizer.step()
    for name, p in own.named_parameters():
        if name in world:
            torch.testing.assert_close(got[name][0], p.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["global", "flow"])
def test_a_client_gets_the_same_alone_and_in_company(kind: str) -> None:
    model, _, parameters, data = problem("odd", True, dtype=torch.float32)
    updates = updates_of(parameters, kind)
    together, _ = trained(model, parameters, data, updates, Sgd(0.3, 2, 3, 0.5))
    for client in range(3):
        alone = data._replace(ids=data.ids[client : client + 1], rows=data.rows[client : client + 1])
        mine = {name: p[client : client + 1] for name, p in parameters.items()}
        single, _ = trained(model, mine, alone, updates, Sgd(0.3, 2, 3, 0.5))
        for name, value in single.items():
            if kind == "global":
                assert torch.equal(value[0], together[name][client])
            else:  # torch multiplies the head's router
                torch.testing.assert_close(value[0], together[name][client], rtol=2e-6, atol=2e-6)


def test_a_loss_that_is_no_number_reaches_parameters_and_loss() -> None:
    model, _, parameters, data = problem("small", True)
    parameters["gru.weight_hh_l0"][1, 0, 0] = math.nan
    got, work = trained(model, parameters, data, updates_of(parameters, "global"), Sgd(0.3, 1, 3, 1.0))
    assert work.nats.isnan().tolist() == [False, True, False]
    assert got["head.weight"].isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_a_parameter_that_cannot_be_changed_in_place_is_refused() -> None:
    model, _, parameters, data = problem("small", True)
    parameters["head.weight"] = parameters["head.weight"].mT.contiguous().mT
    with pytest.raises(ValueError, match=r"head\.weight are changed in place and must be contiguous; train a copy"):
        train(model, parameters, data, [Update(("head.weight",), "global")], PLAIN, Draw(3, 1, "test"), "phase")


def test_frozen_parameters_may_be_views_of_one() -> None:
    model, reference, parameters, data = problem("small", True)
    for name in parameters:
        if group_of(name) == "local" or name == "embedding.weight":
            parameters[name] = parameters[name][:1].expand_as(parameters[name])
    router = names_of(parameters, "router")
    results = []
    for backend_model in (model, reference):
        own = {name: p.clone() if name in router else p for name, p in parameters.items()}
        train(backend_model, own, data, [Update(router, "mixture", 0.1)], PLAIN, Draw(3, 1, "test"), "phase")
        results.append(own)
    for name in router:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=1e-10, atol=1e-12)


def test_a_step_of_a_prefix_leaves_the_other_clients_alone() -> None:
    model, _, parameters, data = problem("small", False)
    first = next(iter(batches(data, 2)))
    batch = type(first)(*(t[:2] for t in first))
    before = {name: p.clone() for name, p in parameters.items()}
    Descent(model, parameters, PLAIN).step(batch, Update(names_of(parameters, "global"), "global"))
    for name, p in parameters.items():
        assert torch.equal(p[2], before[name][2])
        assert torch.equal(p[:2], before[name][:2]) == (group_of(name) != "global")


@pytest.mark.parametrize("route", ["global", "local", "mixture"])
@pytest.mark.parametrize("routed_head", [True, False])
def test_losses_and_predictions_without_a_gradient(route: Route, routed_head: bool) -> None:
    model, reference, parameters, data = problem("projected", routed_head)
    actual, expected = (measure(backend_model, parameters, data, route, 3) for backend_model in (model, reference))
    torch.testing.assert_close(actual.nats, expected.nats, rtol=1e-12, atol=0)
    assert torch.equal(actual.tokens, expected.tokens)
    for routing in ("soft", "hard"):
        own = Personal(parameters, route, routing)
        guess, wanted = (predict(backend_model, own, data) for backend_model in (model, reference))
        np.testing.assert_array_equal(guess.tokens, wanted.tokens)
        for name in ("local_weight", "nats", "probability"):
            np.testing.assert_allclose(getattr(guess, name), getattr(wanted, name), rtol=1e-6, atol=1e-7)


def test_gradients_alone_move_nothing() -> None:
    model, reference, parameters, data = problem("projected", True)
    batch = next(iter(batches(data, 3)))
    for kind in ("flow", "composed"):
        update = updates_of(parameters, kind)[-1]
        (loss, actual), (same, expected) = (
            gradients(backend_model, parameters, batch, update) for backend_model in (model, reference)
        )
        torch.testing.assert_close(loss, same, rtol=1e-12, atol=0)
        assert actual.keys() == expected.keys()
        for name, gradient in actual.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-13)
