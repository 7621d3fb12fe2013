"""Every algorithm against its oracle: the same update, one client at a time, in float64."""

import oracles
import pytest
import torch

from flow import server
from flow.algorithms import REGISTRY, algorithm_of
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.flow import FlowOptions, resolve
from flow.cohort import Draw, gather
from flow.errors import UserError
from flow.models import LanguageModel, group_of

SEED, ROUND = 5, 2
TIGHT = {"rtol": 1e-11, "atol": 1e-12}  # float64, some hundred operations deep


def build(options, backend="reference"):
    model = LanguageModel(
        oracles.VOCABULARY, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1), backend=backend,
        **algorithm_of(options).traits(options),
    )  # fmt: skip
    state = algorithm_of(options).init(options, {n: p.detach() for n, p in model.named_parameters()})
    # The routers start at zero, where an error in them could hide.
    generator = torch.Generator().manual_seed(2)
    for name in state:
        if group_of(name) == "router":
            state[name] = torch.randn(state[name].shape, generator=generator, dtype=torch.float64)
    return model, state


def oracle(options, state, model, client, purpose="train"):
    plain = vars(algorithm_of(options).resolve(options))
    if isinstance(options, FedAvgOptions):
        return oracles.fedavg(state, client, plain, SEED, ROUND)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    return oracles.flow(state, shapes, client, plain, SEED, ROUND, purpose)


OPTIONS = {
    "fedavg": FedAvgOptions(lr=0.3, epochs=3, batch_size=2, clip=0.0),
    "fedavg, clipped": FedAvgOptions(lr=0.9, epochs=2, batch_size=3, clip=0.3),
    "flow": FlowOptions(lr=0.4, epochs=2, batch_size=2, clip=0.0, gamma=0.1),
    "flow, clipped": FlowOptions(lr=0.8, epochs=3, batch_size=3, clip=0.2),
    "flow, temperature": FlowOptions(lr=0.3, batch_size=4, temperature=0.5, gamma=0.0),
    "workshop": FlowOptions(variant="workshop", lr=0.5, batch_size=2, clip=0.0),
    "workshop, clipped": FlowOptions(variant="workshop", lr=0.5, batch_size=3, clip=0.2, epochs=2, gamma=0.05),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_local_work_and_the_server_step_match_the_oracle(options):
    algorithm = algorithm_of(options)
    model, state = build(options)
    clients = [c for c in oracles.population().clients if not c.held_out]
    clients = [c for c in clients if len(c.train) >= algorithm.minimum_sequences(options)]
    upload = algorithm.local(options, model, state, gather(clients, "train", "cpu"), Draw(SEED, ROUND, "train"))
    expected = [oracle(options, state, model, client) for client in clients]
    assert set(upload.tensors) == set(state)
    for index, (parameters, weight, losses) in enumerate(expected):
        assert upload.weights[index] == weight
        for name in state:
            torch.testing.assert_close(upload.tensors[name][index], parameters[name], **TIGHT)
        torch.testing.assert_close(float(upload.work.nats[index]), sum(loss * tokens for loss, tokens in losses), **TIGHT)
        assert int(upload.work.tokens[index]) == sum(tokens for _, tokens in losses)
    total = server.aggregate([upload])
    new = algorithm.server_step(options, state, server.mean(total, state), server.ServerOptions())
    mean = oracles.weighted_mean([({n: p[n] for n in state}, weight) for p, weight, _ in expected])
    for name, tensor in mean.items():
        torch.testing.assert_close(new[name], tensor, **TIGHT)
        assert (new[name] - state[name]).abs().max() > 1e-4, f"{name} was not trained"


@pytest.mark.parametrize("name", ["flow", "flow, clipped", "workshop"])
def test_personalization_matches_the_oracle_and_leaves_the_global_model_alone(name):
    options = OPTIONS[name]
    model, state = build(options)
    clients = oracles.population().clients[2:]  # with the two that never train
    personalize = algorithm_of(options).personalize
    own = personalize(options, model, state, gather(clients, "train", "cpu"), Draw(SEED, ROUND, "evaluation"))
    assert (own.route, own.routing) == ("mixture", "soft" if options.variant == "workshop" else "hard")
    for index, client in enumerate(clients):
        expected, _, _ = oracle(options, state, model, client, "evaluation")
        assert set(own.parameters) == set(expected)
        for key, tensor in expected.items():
            torch.testing.assert_close(own.parameters[key][index], tensor, **TIGHT)
            if group_of(key) == "global":
                assert torch.equal(own.parameters[key][index], state[key])


@pytest.mark.parametrize("name", ["fedavg", "flow, clipped", "workshop"])
def test_the_fastest_backend_gives_what_the_reference_gives(name):
    options = OPTIONS[name]
    data = gather(oracles.population().clients[2:5], "train", "cpu")
    results = []
    for backend in ("reference", "auto"):
        model, state = build(options, backend)
        results.append(algorithm_of(options).local(options, model, state, data, Draw(SEED, ROUND, "train")))
    for key, tensor in results[0].tensors.items():
        torch.testing.assert_close(results[1].tensors[key], tensor, **TIGHT)


def test_options_of_no_algorithm_are_named():
    with pytest.raises(TypeError, match="one of FlowOptions, FedAvgOptions, got 'flow'"):
        algorithm_of("flow")


def test_what_is_sent():
    names = {}
    for key in ("fedavg", "flow", "workshop"):
        _, state = build(OPTIONS[key])
        assert algorithm_of(OPTIONS[key]).download(OPTIONS[key], state) is state
        names[key] = {group_of(name) for name in state}
    assert names == {"fedavg": {"global"}, "flow": {"global", "router"}, "workshop": {"global"}}


def test_the_variant_decides_what_is_left_open_and_nothing_else():
    assert resolve(FlowOptions()) == FlowOptions(epochs=3, gamma=0.1, temperature=1.0)
    assert resolve(FlowOptions(variant="workshop")) == FlowOptions(variant="workshop", epochs=1, gamma=0.0, temperature=0.75)
    chosen = FlowOptions(variant="workshop", epochs=4, gamma=0.5, temperature=2.0)
    assert resolve(chosen) == chosen
    model = LanguageModel(9, 3, 4, **REGISTRY["flow"].traits(FlowOptions(variant="workshop")))
    assert not model.routed_head
    assert model.temperature == 0.75


@pytest.mark.parametrize("key", ["lr", "epochs", "batch_size"])
@pytest.mark.parametrize("options", [FedAvgOptions, FlowOptions])
def test_options_out_of_range_are_refused(options, key):
    for value in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UserError, match=rf"^{key} must be .* got {value}"):
            algorithm_of(options()).check(options(**{key: value}))


@pytest.mark.parametrize(("key", "value"), [("clip", -1.0), ("gamma", -0.1), ("gamma", float("nan")), ("temperature", 0.0)])
def test_flow_options_out_of_range_are_refused(key, value):
    with pytest.raises(UserError, match=rf"^{key} must be .* got {value}"):
        REGISTRY["flow"].check(FlowOptions(**{key: value}))
