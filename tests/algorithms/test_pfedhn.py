"""pFedHN and pFedHN-PC against their oracle; the vector-Jacobian product; what travels; new clients."""

from collections.abc import Mapping
from typing import Any

import harness
import numpy as np
import oracles
import pytest
import torch
from harness import ROUND, SEED, TIGHT, Bench, close, row
from optional import present
from oracles import pfedhn
from torch import Tensor

from flow.algorithms import algorithm_of
from flow.algorithms.pfedhn import PFedHNOptions, PFedHNPCOptions
from flow.algorithms.shared.hypernetwork import fresh_phi, generate, pull_back
from flow.errors import UserError
from flow.model.flops import per_token
from flow.model.parameters import Tensors, nbytes, untagged
from flow.training.work import measure

CLIENTS = harness.TRAINING
EVERYBODY = list(harness.POPULATION.clients)
NUMBER = {client.id: n for n, client in enumerate(CLIENTS)}
BASE: dict[str, Any] = {
    "lr": 0.4,
    "batch_size": 2,
    "steps": 3,
    "hyper_width": 5,
    "hyper_lr": 0.05,
    "vector_lr": 0.2,
    "new_exchanges": 2,
}
GRU = ("gru.weight_ih_l0", "gru.weight_hh_l0", "gru.bias_ih_l0", "gru.bias_hh_l0")
HEAD = ("head.weight", "head.bias")


def small_network(clients: int = 3, layers: int = 3) -> tuple[Tensors, Tensors, Tensor, Tensors]:
    """phi, vectors and deltas of clients for a target of two tensors; no unit is dead or alive for all."""
    generator = np.random.default_rng(6)
    targets = {name: torch.from_numpy(generator.normal(size=shape)) for name, shape in (("a.weight", (3, 2)), ("b", (4,)))}
    phi = fresh_phi(targets, 3, 6, layers, generator)
    vectors = torch.from_numpy(generator.normal(size=(clients, 3)))
    delta = {name: torch.from_numpy(generator.normal(size=(clients, *t.shape))) for name, t in targets.items()}
    return targets, phi, vectors, delta


# ---- the hypernetwork ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 3])
def test_the_vector_jacobian_product_is_the_product_with_the_explicit_jacobian(layers: int) -> None:
    """The matrix is written out by the chain rule, and is itself what autograd finds entry by entry."""
    _, phi, vectors, delta = small_network(layers=layers)
    shared, own = pull_back(phi, vectors, delta)
    expected = [pfedhn.pulled(phi, vectors[k], row(delta, k)) for k in range(len(vectors))]
    close(shared, {name: sum((pullback[name] for pullback in expected), torch.zeros(())) for name in phi})
    torch.testing.assert_close(own, torch.stack([pullback["v"] for pullback in expected]), **TIGHT)
    nothing, alone = pull_back(phi, vectors, delta, frozen=True)
    assert nothing == {} and torch.equal(alone, own)

    names = list(phi)

    def flat(v: Tensor, *values: Tensor) -> Tensor:
        return torch.cat([t.flatten() for t in generate(dict(zip(names, values, strict=True)), v[None]).values()])

    blocks = torch.autograd.functional.jacobian(flat, (vectors[0], *phi.values()))
    explicit = pfedhn.jacobian(phi, vectors[0])
    for name, matrix in zip(("v", *names), blocks, strict=True):
        torch.testing.assert_close(matrix.flatten(1), explicit[name], **TIGHT, msg=name)
        assert matrix.abs().max() > 1e-3, name


def test_every_client_gets_what_its_vector_says() -> None:
    targets, phi, vectors, _ = small_network()
    made = generate(phi, vectors)
    for k in range(len(vectors)):
        close(row(made, k), pfedhn.theta(phi, vectors[k]))
    # Near the usual initial values, but not the same for all.
    for name, target in targets.items():
        assert (made[name] - target).abs().max() < 0.8
        assert (made[name][0] - made[name][1]).abs().max() > 1e-3


def test_a_step_leads_towards_what_the_client_trained() -> None:
    """Delta = theta - theta~ acts as a gradient: it is subtracted."""
    targets, phi, vectors, _ = small_network(clients=1)
    goal = {name: tensor[None] + 1 for name, tensor in targets.items()}

    def far(phi: Tensors, vectors: Tensor) -> float:
        made = generate(phi, vectors)
        return sum(float(((made[name] - goal[name]) ** 2).sum()) for name in goal)

    made = generate(phi, vectors)
    shared, own = pull_back(phi, vectors, {name: made[name] - goal[name] for name in goal})
    before = far(phi, vectors)
    assert far({name: phi[name] - 0.01 * shared[name] for name in phi}, vectors) < before
    assert far(phi, vectors - 0.01 * own) < before


# ---- rounds and predictions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [(0.0, 0.0), (0.3, 0.002)], ids=["no clipping", "clipped"])
@pytest.mark.parametrize("generated", ["gru", "all"])
@pytest.mark.parametrize(
    ("kind", "server_steps", "epochs"),
    [(PFedHNOptions, "together", 2), (PFedHNPCOptions, "together", 3), (PFedHNOptions, "one by one", 0)],
)
def test_pfedhn(kind: Any, server_steps: Any, epochs: int, generated: Any, bounds: tuple[float, float]) -> None:
    """Three rounds, some clients twice; then those that trained, one that never did, and those held out."""
    rates = {"clip": bounds[0], "hyper_clip": bounds[1], "hyper_decay": 0.01, "hyper_momentum": 0.9}
    final = {"personal_epochs": epochs, "personal_lr": 0.3}
    bench = Bench(kind(**BASE, generated=generated, server_steps=server_steps, **rates, **final))
    server = pfedhn.server if server_steps == "together" else pfedhn.server_one_by_one
    personal_head = kind is PFedHNPCOptions
    first = {name: bench.initial[name] for name in HEAD} if personal_head else {}
    phi = untagged("phi", bench.state)
    expected = GRU if generated == "gru" else ("embedding.weight", *GRU, *(() if personal_head else HEAD))
    assert tuple(pfedhn.written(phi)) == expected
    vectors = dict(enumerate(bench.state["vectors"]))
    assert len(vectors) == 7 and len(vectors[0]) == 1 + 7 // 4
    rest = [n for n in ("embedding.weight", *HEAD) if n not in expected and not (personal_head and n in HEAD)]
    shared, heads = {name: bench.state[name] for name in rest}, dict[int, Tensors]()
    buffers: pfedhn.Buffers = {}
    for round, clients in ((1, CLIENTS[:4]), (2, CLIENTS[2:6]), (3, CLIENTS[:5])):
        upload = bench.local(clients, round)
        deltas, uploads = {}, []
        for k, client in enumerate(clients):
            i = NUMBER[client.id]
            delta, own, head = pfedhn.local(phi, vectors[i], shared, heads.get(i, first), client, bench.plain, SEED, round)
            close(row(upload.tensors, k), {**own, **{"delta/" + n: t for n, t in delta.items()}}, f"{round} {client.id}")
            deltas[i], heads[i] = delta, head
            uploads.append((own, len(client.train)))
        bench.round(clients, round, group=2)
        phi, vectors, buffers = server(phi, vectors, buffers, deltas, bench.plain)
        shared = oracles.weighted_mean(uploads)
        close(untagged("phi", bench.state), phi, f"phi after {round}")
        close({name: bench.state[name] for name in shared}, shared, f"shared after {round}")
        torch.testing.assert_close(bench.state["vectors"], torch.stack([vectors[i] for i in range(7)]), **TIGHT)
    assert bench.state["visits"].tolist() == [2, 2, 3, 3, 2, 1, 0]

    mean = sum((vectors[i] for i in range(6)), torch.zeros(())) / 6
    personal = bench.personalize(EVERYBODY)
    for k, client in enumerate(EVERYBODY):
        i = NUMBER.get(client.id, -1)
        if i in heads:
            p = {**pfedhn.theta(phi, vectors[i]), **shared, **heads[i]}
        else:
            _, p = pfedhn.newcomer(phi, mean, shared, first, client, bench.plain, SEED, ROUND)
        p = pfedhn.fitted(p, HEAD if personal_head else list(p), client, bench.plain, SEED, ROUND)
        close(row(personal.parameters, k), p, client.id)
        close(row(bench.personalize([client]).parameters, 0), p, client.id)
    general = bench.algorithm.general(bench.options, bench.model, bench.state)
    if personal_head:
        assert general is None
        rows = bench.states.read(bench.states.rows())
        close({n: rows[n] for n in HEAD}, {n: torch.stack([heads[i][n] for i in range(6)]) for n in HEAD})
    else:
        close(row(present(general).parameters, 0), {**pfedhn.theta(phi, mean), **shared})
        assert not len(bench.states.rows())


@pytest.mark.parametrize("kind", [PFedHNOptions, PFedHNPCOptions])
def test_a_new_client_moves_its_vector_and_nothing_else(kind: Any) -> None:
    """Neither the hypernetwork nor the shared tensors; before any round as after some; and it gains by it."""
    bench = Bench(kind(**{**BASE, "steps": 10, "new_exchanges": 15, "hyper_momentum": 0.9}, personal_epochs=0))
    held_out = [client for client in EVERYBODY if client.held_out]
    for round in (1, 2):
        before = {name: tensor.clone() for name, tensor in bench.state.items()}
        visit = bench.visit(held_out, "evaluation", round)
        start = {name: t for name, t in {**visit.received, **visit.kept.tensors}.items() if name in bench.initial}
        own = present(bench.algorithm.personalize)(bench.options, bench.model, visit).parameters
        assert all(torch.equal(tensor, bench.state[name]) for name, tensor in before.items())
        for name in own:
            moves = name in GRU or (kind is PFedHNPCOptions and name in HEAD)
            assert torch.equal(own[name], start[name]) != moves, name
        losses = [measure(bench.model, p, visit.data, "global", 4).nats for p in (start, own)]
        assert (losses[1] < losses[0]).all()
        bench.round(CLIENTS, round)


def test_only_theta_and_delta_travel() -> None:
    """And the shared tensors. The hypernetwork never does, nor a client's vector or head."""
    for kind, shared in ((PFedHNOptions, ("embedding.weight", *HEAD)), (PFedHNPCOptions, ("embedding.weight",))):
        for generated in ("gru", "all"):
            bench = Bench(kind(**BASE, generated=generated))
            sizes = {name: nbytes({name: tensor}) for name, tensor in bench.initial.items()}
            theta_bytes = sum(sizes[name] for name in (*GRU, *shared))  # whether generated or averaged, it is sent
            written = sum(sizes[n] for n in ((*GRU, *shared) if generated == "all" else GRU))
            for purpose in ("train", "evaluation", "curve"):
                to = bench.members(CLIENTS, purpose, 1)
                sent = bench.algorithm.download(bench.options, bench.model, bench.state, to)
                assert sent.nbytes == [theta_bytes] * len(CLIENTS)
            received = bench.visit(CLIENTS, "train").received
            assert set(received) == {*GRU, *shared}
            assert bench.round(CLIENTS[:3], 1).upload_bytes == 3 * theta_bytes
            own = bench.personalize(EVERYBODY)
            fresh = [NUMBER.get(client.id, 9) > 2 for client in EVERYBODY]
            assert own.sent == own.received == [2 * written if new else 0 for new in fresh]


def test_computation_is_counted_where_it_is_done() -> None:
    """K steps in a round; R times K for a new client, on the generated tensors alone; then the same passes for all."""
    bench = Bench(PFedHNOptions(**BASE))
    work = bench.local(CLIENTS[:3]).phases[0]
    assert work.sequences == 3 * (2 + 1 + 2)  # client 1 has a single sequence
    assert work.flops.tolist() == (work.tokens * per_token(bench.model, "global", bench.initial)).tolist()
    bench.round(CLIENTS[:3], 1)
    work, fit = bench.personalize(EVERYBODY).phases
    assert (work.flops > 0).tolist() == [NUMBER.get(client.id, 9) > 2 for client in EVERYBODY]
    assert work.flops.tolist() == (work.tokens * per_token(bench.model, "global", GRU)).tolist()
    assert work.sequences == 2 * 3 * 2 * 6
    tokens = [3 * int(client.train.lengths.sum()) for client in EVERYBODY]
    assert fit.flops.tolist() == [n * per_token(bench.model, "global", bench.initial) for n in tokens]
    (_, fit), none = Bench(PFedHNPCOptions(**BASE)).personalize(EVERYBODY).phases, PFedHNPCOptions(**BASE, personal_epochs=0)
    assert fit.flops.tolist() == [n // 3 * 10 * per_token(bench.model, "global", HEAD) for n in tokens]
    assert len(Bench(none).personalize(EVERYBODY).phases) == 1


# ---- published traps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 7])
def test_k_is_a_number_of_steps_whatever_the_size_of_the_data(steps: int) -> None:
    """Not of epochs, in which clients with much data would take more steps."""
    bench = Bench(PFedHNOptions(**{**BASE, "steps": steps}))
    work = bench.local(CLIENTS).phases[0]
    assert work.sequences == steps * sum(min(len(client.train), 2) for client in CLIENTS)


def test_with_a_cohort_of_one_the_step_is_the_published_one_and_others_stay() -> None:
    """phi and v_i by one SGD with momentum; the mean over a cohort weighs clients alike, whatever their sizes."""
    bench = Bench(PFedHNOptions(**BASE, clip=0.0, hyper_clip=0.0, hyper_momentum=0.0, hyper_decay=0.0))
    phi, vectors = untagged("phi", bench.state), bench.state["vectors"].clone()
    delta = {name.removeprefix("delta/"): t for name, t in bench.local(CLIENTS[1:2], 1).tensors.items() if "/" in name}
    expected = pfedhn.pulled(phi, vectors[1], row(delta, 0))
    bench.round(CLIENTS[1:2], 1)
    close(untagged("phi", bench.state), {name: phi[name] - 0.05 * expected[name] for name in phi})
    torch.testing.assert_close(bench.state["vectors"][1], vectors[1] - 0.2 * expected["v"], **TIGHT)
    others = [0, *range(2, 7)]
    assert torch.equal(bench.state["vectors"][others], vectors[others])
    again = Bench(PFedHNOptions(**BASE, hyper_momentum=0.9))
    again.round(CLIENTS[1:2], 1)
    once = again.state["vectors"].clone()
    again.round(CLIENTS[:1], 2)
    assert torch.equal(again.state["vectors"][1], once[1]), "momentum moved the vector of a client that took no part"


def test_clients_become_different_from_each_other_and_a_general_model_is_not_made_of_new_vectors() -> None:
    bench = Bench(PFedHNOptions(**BASE))
    start = bench.state["vectors"].clone()
    bench.round(CLIENTS[:2], 1)
    made = bench.visit(CLIENTS[:2], "evaluation").received
    assert all((made[name][0] != made[name][1]).any() for name in GRU)
    mean = bench.state["vectors"][:2].mean(0)
    new = bench.visit(CLIENTS[2:4], "evaluation").server_side
    assert new is not None
    assert new["new"].all() and torch.equal(new["vector"], mean.expand(2, -1))
    assert torch.equal(bench.state["vectors"][2:], start[2:])


def test_until_vectors_have_learned_something_all_clients_get_nearly_the_same() -> None:
    """Random vectors of the published size make each client's model a noisy one, worse than that of the mean vector."""
    published, own = Bench(PFedHNOptions(**BASE, vector_scale=1.0)), Bench(PFedHNOptions(**BASE))
    torch.testing.assert_close(own.state["vectors"], 0.1 * published.state["vectors"])
    spread = [{name: bench.visit(CLIENTS).received[name].std(0).mean() for name in GRU} for bench in (published, own)]
    assert all(0 < spread[1][name] < 0.2 * spread[0][name] for name in GRU)


@pytest.mark.parametrize("kind", [PFedHNOptions, PFedHNPCOptions])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be a finite number at least 1, got 0"),
        ({"hyper_width": 0}, "hyper_width must be a finite number at least 1, got 0"),
        ({"hyper_layers": 0}, "hyper_layers must be a finite number at least 1, got 0"),
        ({"personal_epochs": -1}, "personal_epochs must be a finite number at least 0, got -1; 0 leaves the final fit out"),
        ({"personal_lr": 0.0}, "personal_lr must be a finite number above 0, got 0.0"),
        ({"new_exchanges": 0}, "new_exchanges must be a finite number at least 1, got 0"),
        ({"vector_size": 0}, "vector_size must be a finite number at least 1, got 0"),
        ({"hyper_lr": -1.0}, "hyper_lr must be a finite number at least 0, got -1.0"),
        ({"vector_lr": float("nan")}, "vector_lr must be a finite number at least 0, got nan"),
        ({"vector_scale": -0.1}, "vector_scale must be a finite number at least 0, got -0.1"),
        ({"hyper_decay": -1.0}, "hyper_decay must be a finite number at least 0, got -1.0"),
        ({"hyper_clip": -1.0}, "hyper_clip must be a finite number at least 0, got -1.0; 0 switches clipping off"),
        ({"hyper_momentum": 1.0}, "hyper_momentum must be at least 0 and below 1, got 1.0; 0 switches it off"),
    ],
)
def test_options_out_of_range_are_refused(kind: Any, change: Mapping[str, Any], message: str) -> None:
    options = kind(**change)
    with pytest.raises(UserError, match="^" + message):
        algorithm_of(options).check(options)


@pytest.mark.parametrize("generated", ["all", "gru"])
@pytest.mark.parametrize("change", [{"hyper_width": 2**22}, {"hyper_layers": 2**62}, {"vector_size": 2**31}])
def test_a_hypernetwork_too_large_is_refused_before_anything_is_made(generated: Any, change: Mapping[str, Any]) -> None:
    (name, value) = next(iter(change.items()))
    remedy = "choose gru, or lower one" if generated == "all" else "allows; lower one"
    message = rf"^generated='{generated}' with .*{name}={value}.* makes a hypernetwork of \d+\.\d GB, more .* {remedy}"
    with pytest.raises(UserError, match=message):
        Bench(PFedHNOptions(**{**BASE, **change, "generated": generated}))


def test_a_vectors_size_may_be_chosen() -> None:
    assert Bench(PFedHNOptions(**BASE, vector_size=6)).state["vectors"].shape == (7, 6)
    assert Bench(PFedHNOptions(**{**BASE, "hyper_width": 1})).state["vectors"].shape == (7, 1)
