"""FedAvg and Flow against their oracles: the same update, one client at a time, in float64."""

from typing import Any

import oracles
import pytest
import torch
from harness import ROUND, SEED, TIGHT, Bench
from oracles.decoupled import decoupled

from flow.algorithms import REGISTRY, algorithm_of
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.flow import FlowOptions, resolve
from flow.data import Client
from flow.draws import Draw
from flow.errors import UserError
from flow.model.language_model import LanguageModel
from flow.model.parameters import Tensors, group_of
from flow.server.optimizers import resolve as resolve_server
from flow.server.options import ServerOptions
from flow.server.uploads import Received, collect


def oracle(bench: Bench, client: Client, purpose: str = "train") -> tuple[Tensors, int, oracles.Steps]:
    if isinstance(bench.options, FedAvgOptions):
        return oracles.fedavg(bench.state, client, bench.plain, SEED, ROUND)
    made = decoupled if bench.options.variant == "decoupled" else oracles.flow
    return made(bench.state, bench.shapes, client, bench.plain, SEED, ROUND, purpose)


OPTIONS: dict[str, Any] = {
    "fedavg": FedAvgOptions(lr=0.3, epochs=3, batch_size=2, clip=0.0),
    "fedavg, clipped": FedAvgOptions(lr=0.9, epochs=2, batch_size=3, clip=0.3),
    "flow": FlowOptions(variant="neurips", lr=0.4, epochs=2, batch_size=2, clip=0.0, gamma=0.1),
    "flow, clipped": FlowOptions(variant="neurips", lr=0.8, personal_lr=0.8, epochs=3, batch_size=3, clip=0.2),
    "flow, shares": FlowOptions(variant="neurips", lr=0.4, epochs=2, batch_size=2, gamma=0.1, local_share=0.25),
    "flow, temperature": FlowOptions(variant="neurips", lr=0.3, batch_size=4, temperature=0.5, gamma=0.0),
    "decoupled": FlowOptions(gate="cell", lr=0.4, epochs=2, batch_size=2, clip=0.0),
    "decoupled, clipped": FlowOptions(
        gate="cell",
        lr=0.8,
        personal_lr=0.6,
        epochs=1,
        personal_epochs=3,
        batch_size=3,
        clip=0.2,
        gamma=0.05,
        temperature=0.5,
        router_lr=0.7,
        router_epochs=2,
        local_share=0.3,
        adapt_epochs=2,
        through="mixture",
    ),
    "decoupled, adapted": FlowOptions(gate="cell", lr=0.4, batch_size=4, adapt_epochs=1, adapt_lr=0.9, router_every=2),
    "workshop": FlowOptions(variant="workshop", lr=0.5, batch_size=2, clip=0.0),
    "workshop, clipped": FlowOptions(variant="workshop", lr=0.5, batch_size=3, clip=0.2, epochs=2, gamma=0.05),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_local_work_and_the_server_step_match_the_oracle(options: FedAvgOptions | FlowOptions) -> None:
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
    if getattr(bench.options, "variant", "") == "decoupled":  # of the routers the clients that trained them count alike
        due = ROUND % bench.options.router_every == 0
        trained = [p for client, (p, *_) in zip(clients, expected, strict=True) if due and len(client.train) > 1]
        assert 0 < len(trained) < len(clients) or not due, "a client with a single sequence trains no router"
        for name in (name for name in state if "router" in name):
            mean[name] = sum((p[name] for p in trained), torch.zeros(())) / len(trained) if trained else state[name]
    for name, tensor in mean.items():
        torch.testing.assert_close(new[name], tensor, **TIGHT)
        assert (new[name] - state[name]).abs().max() > 1e-4, f"{name} was not trained"


@pytest.mark.parametrize(
    "name", ["flow", "flow, clipped", "flow, shares", "decoupled", "decoupled, clipped", "decoupled, adapted", "workshop"]
)
def test_personalization_matches_the_oracle_and_leaves_the_global_model_alone(name: str) -> None:
    bench = Bench(OPTIONS[name])
    clients = oracles.population().clients[2:]  # with the two that never train
    own = bench.personalize(clients)
    assert (own.route, own.routing) == ("mixture", "hard" if bench.options.variant == "neurips" else "soft")
    for index, client in enumerate(clients):
        expected, _, _ = oracle(bench, client, "evaluation")
        assert set(own.parameters) == set(expected)
        for key, tensor in expected.items():
            torch.testing.assert_close(own.parameters[key][index], tensor, **TIGHT)
            if group_of(key) == "global":
                assert torch.equal(own.parameters[key][index], bench.state[key])


@pytest.mark.parametrize("name", ["fedavg", "flow, clipped", "decoupled, clipped", "workshop"])
def test_the_fastest_backend_gives_what_the_reference_gives(name: str) -> None:
    clients = oracles.population().clients[2:5]
    reference, fastest = (Bench(OPTIONS[name], backend=backend).local(clients).tensors for backend in ("reference", "auto"))
    for key, tensor in reference.items():
        torch.testing.assert_close(fastest[key], tensor, **TIGHT)


def test_options_of_no_algorithm_are_named() -> None:
    with pytest.raises(TypeError, match=r"one of FlowOptions, LocalOptions, FedAvgOptions, .*, got 'flow'"):
        algorithm_of("flow")


def test_what_is_sent() -> None:
    names = {}
    for key in ("fedavg", "flow", "decoupled", "workshop"):
        bench = Bench(OPTIONS[key])
        received = bench.visit(bench.able()).received
        assert set(received) == set(bench.state)
        names[key] = {group_of(name) for name in received}
    both = {"global", "router"}
    assert names == {"fedavg": {"global"}, "flow": both, "decoupled": both, "workshop": {"global"}}


def test_the_variant_decides_what_is_left_open_and_nothing_else() -> None:
    open_ones: dict[Any, tuple[int, float, int, float, float, float]] = {
        "decoupled": (3, 0.5, 6, 0.0, 1.0, 0.75),
        "neurips": (3, 1.0, 3, 0.1, 1.0, 0.5),
        "workshop": (1, 1.0, 1, 0.0, 0.75, 0.5),
    }
    for variant, (epochs, rate, passes, gamma, temperature, share) in open_ones.items():
        resolved = FlowOptions(
            variant=variant,
            epochs=epochs,
            personal_lr=rate,
            personal_epochs=passes,
            gamma=gamma,
            temperature=temperature,
            local_share=share,
            gate="both" if variant == "decoupled" else "cell",
        )
        assert resolve(FlowOptions(variant=variant), 80) == resolved
        REGISTRY["flow"].check(resolved)
    assert resolve(FlowOptions(lr=0.7), 80).personal_lr == 0.5
    assert resolve(FlowOptions(epochs=2, personal_epochs=5), 80).personal_epochs == 5
    chosen = FlowOptions(
        variant="workshop",
        gate="cell",
        personal_lr=0.3,
        epochs=4,
        personal_epochs=4,
        gamma=0.5,
        temperature=2.0,
        local_share=0.5,
    )
    assert resolve(chosen, 80) == chosen
    model = LanguageModel(9, 3, 4, **REGISTRY["flow"].traits(FlowOptions(variant="workshop")))
    assert not model.routed_head
    assert model.temperature == 0.75


@pytest.mark.parametrize(
    ("key", "value"), [("clip", -1.0), ("personal_lr", 0.0), ("gamma", -0.1), ("gamma", float("nan")), ("temperature", 0.0)]
)
def test_flow_options_out_of_range_are_refused(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^{key} must be .* got {value}"):
        REGISTRY["flow"].check(FlowOptions(**{key: value}))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("router_every", 0, "router_every must be a finite number at least 1, got 0"),
        ("router_share", 0.0, "router_share must be above 0 and at most 1, got 0.0; 1 has every client"),
        ("router_lr", -1.0, "router_lr must be a finite number above 0, got -1.0"),
        ("adapt_epochs", -1, "adapt_epochs must be a finite number at least 0, got -1"),
        ("local_share", 1.0, "local_share must lie between 0 and 1, got 1.0"),
        ("ablation", "client", "ablation='client' is one of variant='neurips', got variant='decoupled'"),
    ],
)
def test_options_of_the_decoupled_variant_out_of_range(key: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        REGISTRY["flow"].check(FlowOptions(**{key: value}))


@pytest.mark.parametrize(("key", "value"), [("router_epochs", 2), ("personal_epochs", 5), ("through", "mixture")])
@pytest.mark.parametrize("variant", ["neurips", "workshop"])
def test_options_of_the_decoupled_variant_are_refused_by_the_published_ones(variant: Any, key: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{key}={value!r} is one of variant='decoupled', got variant='{variant}'; leave one"):
        REGISTRY["flow"].check(FlowOptions(variant=variant, **{key: value}))


def routers(tensors: Tensors, index: int) -> Tensors:
    return {name: tensor[index] for name, tensor in tensors.items() if group_of(name) == "router"}


def test_routers_are_trained_in_every_nth_round_by_a_share_of_the_clients() -> None:
    """Who trains them not uploads those that it received, and its work is counted as that of FedAvg."""
    bench = Bench(FlowOptions(lr=0.4, batch_size=2, router_every=3, router_share=0.5))
    plain, clients, moved = Bench(FedAvgOptions(lr=0.4, batch_size=2)), bench.able(), []
    for round in range(1, 13):
        upload = bench.local(clients, round)
        other = plain.local(clients, round)
        for index, client in enumerate(clients):
            same = all(torch.equal(t, bench.state[name]) for name, t in routers(upload.tensors, index).items())
            moved.append(not same)
            flops = sum(float(work.flops[index]) for work in upload.phases)
            assert (flops == float(other.phases[0].flops[index])) == same
            assert same or (round % 3 == 0 and len(client.train) > 1)
    assert 0.2 < sum(moved) / (4 * sum(len(client.train) > 1 for client in clients)) < 0.8


def test_the_global_weights_are_those_of_fedavg_to_the_bit() -> None:
    for dtype in (torch.float32, torch.float64):
        bench, plain = (Bench(kind(lr=0.4, batch_size=2), dtype) for kind in (FlowOptions, FedAvgOptions))
        for round in (1, 2, 3):
            bench.round(bench.able(), round)
            plain.round(plain.able(), round)
            assert all(torch.equal(bench.state[name], tensor) for name, tensor in plain.state.items())
