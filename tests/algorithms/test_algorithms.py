"""FedAvg and Flow against their oracles: the same update, one client at a time, in float64."""

import oracles
import pytest
import torch
from harness import ROUND, SEED, TIGHT, Bench

from flow.algorithms import REGISTRY, algorithm_of
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.flow import FlowOptions, resolve
from flow.draws import Draw
from flow.errors import UserError
from flow.model.language_model import LanguageModel
from flow.model.parameters import group_of
from flow.server.optimizers import resolve as resolve_server
from flow.server.options import ServerOptions
from flow.server.uploads import Received, collect


def oracle(bench, client, purpose="train"):
    if isinstance(bench.options, FedAvgOptions):
        return oracles.fedavg(bench.state, client, bench.plain, SEED, ROUND)
    return oracles.flow(bench.state, bench.shapes, client, bench.plain, SEED, ROUND, purpose)


OPTIONS = {
    "fedavg": FedAvgOptions(lr=0.3, epochs=3, batch_size=2, clip=0.0),
    "fedavg, clipped": FedAvgOptions(lr=0.9, epochs=2, batch_size=3, clip=0.3),
    "flow": FlowOptions(lr=0.4, epochs=2, batch_size=2, clip=0.0, gamma=0.1),
    "flow, clipped": FlowOptions(lr=0.8, personal_lr=None, epochs=3, batch_size=3, clip=0.2),
    "flow, shares": FlowOptions(lr=0.4, epochs=2, batch_size=2, gamma=0.1, local_share=0.25),
    "flow, temperature": FlowOptions(lr=0.3, batch_size=4, temperature=0.5, gamma=0.0),
    "workshop": FlowOptions(variant="workshop", lr=0.5, batch_size=2, clip=0.0),
    "workshop, clipped": FlowOptions(variant="workshop", lr=0.5, batch_size=3, clip=0.2, epochs=2, gamma=0.05),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_local_work_and_the_server_step_match_the_oracle(options):
    bench = Bench(options)
    clients, state = bench.able(), bench.state
    upload = bench.local(clients)
    expected = [oracle(bench, client) for client in clients]
    assert set(upload.tensors) == set(state)
    for index, (parameters, weight, losses) in enumerate(expected):
        assert upload.weights[index] == weight
        for name in state:
            torch.testing.assert_close(upload.tensors[name][index], parameters[name], **TIGHT)
        last = upload.phases[-1]
        torch.testing.assert_close(float(last.nats[index]), sum(loss * tokens for loss, tokens in losses), **TIGHT)
        assert int(last.tokens[index]) == sum(tokens for _, tokens in losses)
    uploads = collect([Received(bench.members(clients).rows, upload, 0)])
    new, _ = bench.algorithm.server_step(
        bench.options, state, {}, uploads, resolve_server(ServerOptions()), Draw(SEED, ROUND, "server")
    )
    mean = oracles.weighted_mean([({n: p[n] for n in state}, weight) for p, weight, _ in expected])
    for name, tensor in mean.items():
        torch.testing.assert_close(new[name], tensor, **TIGHT)
        assert (new[name] - state[name]).abs().max() > 1e-4, f"{name} was not trained"


@pytest.mark.parametrize("name", ["flow", "flow, clipped", "flow, shares", "workshop"])
def test_personalization_matches_the_oracle_and_leaves_the_global_model_alone(name):
    bench = Bench(OPTIONS[name])
    clients = oracles.population().clients[2:]  # with the two that never train
    own = bench.personalize(clients)
    assert (own.route, own.routing) == ("mixture", "soft" if bench.options.variant == "workshop" else "hard")
    for index, client in enumerate(clients):
        expected, _, _ = oracle(bench, client, "evaluation")
        assert set(own.parameters) == set(expected)
        for key, tensor in expected.items():
            torch.testing.assert_close(own.parameters[key][index], tensor, **TIGHT)
            if group_of(key) == "global":
                assert torch.equal(own.parameters[key][index], bench.state[key])


@pytest.mark.parametrize("name", ["fedavg", "flow, clipped", "workshop"])
def test_the_fastest_backend_gives_what_the_reference_gives(name):
    clients = oracles.population().clients[2:5]
    one, other = (Bench(OPTIONS[name], backend=backend).local(clients).tensors for backend in ("reference", "auto"))
    for key, tensor in one.items():
        torch.testing.assert_close(other[key], tensor, **TIGHT)


def test_options_of_no_algorithm_are_named():
    with pytest.raises(TypeError, match=r"one of FlowOptions, LocalOptions, FedAvgOptions, .*, got 'flow'"):
        algorithm_of("flow")


def test_what_is_sent():
    names = {}
    for key in ("fedavg", "flow", "workshop"):
        bench = Bench(OPTIONS[key])
        received = bench.visit(bench.able()).received
        assert set(received) == set(bench.state)
        names[key] = {group_of(name) for name in received}
    assert names == {"fedavg": {"global"}, "flow": {"global", "router"}, "workshop": {"global"}}


def test_the_variant_decides_what_is_left_open_and_nothing_else():
    assert resolve(FlowOptions(), 80) == FlowOptions(epochs=3, gamma=0.1, temperature=1.0)
    assert resolve(FlowOptions(lr=0.7, personal_lr=None), 80).personal_lr == 0.7
    resolved = FlowOptions(variant="workshop", epochs=1, gamma=0.0, temperature=0.75)
    assert resolve(FlowOptions(variant="workshop"), 80) == resolved
    chosen = FlowOptions(variant="workshop", epochs=4, gamma=0.5, temperature=2.0)
    assert resolve(chosen, 80) == chosen
    model = LanguageModel(9, 3, 4, **REGISTRY["flow"].traits(FlowOptions(variant="workshop")))
    assert not model.routed_head
    assert model.temperature == 0.75


@pytest.mark.parametrize(
    ("key", "value"), [("clip", -1.0), ("personal_lr", 0.0), ("gamma", -0.1), ("gamma", float("nan")), ("temperature", 0.0)]
)
def test_flow_options_out_of_range_are_refused(key, value):
    with pytest.raises(UserError, match=rf"^{key} must be .* got {value}"):
        REGISTRY["flow"].check(FlowOptions(**{key: value}))
