"""The baselines against their oracles: two rounds with state in between, personalization of old and new clients."""

import dataclasses
from typing import Any, Literal

import harness
import oracles
import pytest
import torch
from baseline_rounds import BASE, CLIENTS, CLIPS, EVERYBODY, FIRST, SECOND, TUNED, two_rounds
from harness import OOV, SEED, TIGHT, Bench, close, row
from optional import present
from oracles import baselines

from flow.algorithms.apfl import APFLOptions
from flow.algorithms.ditto import DittoOptions
from flow.algorithms.dynamic_routing import DynamicRoutingOptions
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.fedavgft import FedAvgFTOptions
from flow.algorithms.fedper import FedPerOptions
from flow.algorithms.fedprox import FedProxOptions
from flow.algorithms.fedrecon import FedReconOptions
from flow.algorithms.fedrep import FedRepOptions
from flow.algorithms.flow import FlowOptions
from flow.algorithms.lgfedavg import LGFedAvgOptions
from flow.algorithms.local import LocalOptions
from flow.data import Client
from flow.errors import UserError
from flow.model.parameters import Tensors, body_of, global_name, group_of, head_of, names_of, nbytes

PUBLISHED: dict[str, Any] = {**BASE, "variant": "neurips"}


@CLIPS
def test_local(clip: float) -> None:
    bench = Bench(LocalOptions(**BASE, clip=clip, personal_epochs=3))
    first = {name: bench.initial[name] for name in names_of(bench.initial, "global")}

    def work(received: Tensors, kept: Any, client: Client, round: int) -> tuple[Tensors, float, Any]:
        v, n = baselines.alone(kept or first, client, bench.plain, SEED, round)
        return {}, n, v

    _, kept = two_rounds(bench, work)
    own = bench.personalize(EVERYBODY)
    for k, client in enumerate(EVERYBODY):
        v, _ = baselines.alone(kept.get(client.id, first), client, bench.plain, SEED, 2, "evaluation", "personal")
        close(row(own.parameters, k), v, client.id)
    assert bench.algorithm.general(bench.options, bench.model, bench.state) is None
    assert bench.algorithm.download(bench.options, bench.model, {}, bench.members(CLIENTS)).nbytes == [0] * 7


@CLIPS
@pytest.mark.parametrize("kind", ["fedavgft", "fedprox"])
def test_fedavgft_and_fedprox(kind: str, clip: float) -> None:
    options = FedAvgFTOptions(**TUNED, clip=clip) if kind == "fedavgft" else FedProxOptions(**TUNED, clip=clip, mu=0.7)
    bench = Bench(options)
    bench.plain.setdefault("mu", 0.0)

    def work(received: Tensors, kept: Any, client: Client, round: int) -> tuple[Tensors, float, Any]:
        return *baselines.fedprox(received, client, bench.plain, SEED, round), None

    state, _ = two_rounds(bench, work)
    own = bench.personalize(EVERYBODY)
    for k, client in enumerate(EVERYBODY):
        w, _ = baselines.fedprox(state, client, baselines.personal(bench.plain), SEED, 2, "evaluation", "personal")
        close(row(own.parameters, k), w, client.id)
        close(row(bench.personalize([client]).parameters, 0), w, client.id)
    assert own.route == "global"


def test_fedprox_without_a_pull_is_fedavg_and_with_one_is_not() -> None:
    plain = Bench(FedAvgOptions(**BASE)).local(CLIENTS).tensors
    close(Bench(FedProxOptions(**BASE, mu=0.0)).local(CLIENTS).tensors, plain)
    pulled = Bench(FedProxOptions(**BASE, mu=1.0)).local(CLIENTS).tensors
    start = Bench(FedAvgOptions(**BASE)).state
    for name, tensor in plain.items():
        assert (pulled[name] - start[name]).norm() < (tensor - start[name]).norm()


@CLIPS
def test_ditto(clip: float) -> None:
    bench = Bench(DittoOptions(**TUNED, clip=clip, lam=0.6))

    def work(received: Tensors, kept: Any, client: Client, round: int) -> tuple[Tensors, float, Any]:
        w, v, n = baselines.ditto(received, kept, client, bench.plain, SEED, round)
        return w, n, v

    state, kept = two_rounds(bench, work)
    own = bench.personalize(EVERYBODY)
    for k, client in enumerate(EVERYBODY):
        v, _ = baselines.fedprox(
            state, client, baselines.personal(bench.plain), SEED, 2, "evaluation", "personal", "lam", kept.get(client.id, state)
        )
        close(row(own.parameters, k), v, client.id)


def test_dittos_own_model_is_pulled_to_the_model_received_and_leaves_the_global_one_alone() -> None:
    """The published traps: the pull to the w that is being trained, and a norm that is not squared."""
    strong, weak = (Bench(DittoOptions(lr=0.5, personal_lr=None, batch_size=2, clip=0.0, lam=lam)) for lam in (2.0, 0.0))
    received = strong.state
    strong_upload, weak_upload = strong.local(CLIENTS), weak.local(CLIENTS)
    close(strong_upload.tensors, weak_upload.tensors, "w")
    # With lr * lambda = 1 every step starts from w_g itself: v is one gradient step away from it.
    client, k = CLIENTS[2], 2
    v = dict(received)
    for batch in baselines.plan(client, strong.plain, SEED, harness.ROUND, "train", "global"):
        g = baselines.gradient(v, list(v), batch)
        v = {name: received[name] - 0.5 * g[name] for name in v}
    close(row(strong_upload.kept, k), v)


@CLIPS
@pytest.mark.parametrize("adaptive", [False, True], ids=["fixed", "adaptive"])
def test_apfl(clip: float, adaptive: bool) -> None:
    bench = Bench(APFLOptions(**TUNED, clip=clip, alpha=0.3, adaptive=adaptive))

    def work(received: Tensors, kept: Any, client: Client, round: int) -> tuple[Tensors, float, Any]:
        w, v, alpha = baselines.apfl(received, kept, client, bench.plain, SEED, round)
        return w, len(client.train), (v, alpha)

    state, kept = two_rounds(bench, work)
    moved = [alpha for _, alpha in kept.values() if alpha != 0.3]
    assert bool(moved) == adaptive and all(0 <= alpha <= 1 for alpha in moved)
    rows = bench.states.read(bench.states.rows())
    for n, client_id in enumerate(sorted(kept)):
        v, alpha = kept[client_id]
        torch.testing.assert_close(rows["alpha"][n], torch.tensor(alpha, dtype=torch.float64), **TIGHT)
        close({name: rows["v/" + name][n] for name in v}, v, client_id)
    own = bench.personalize(EVERYBODY)
    for k, client in enumerate(EVERYBODY):
        plain = baselines.personal(bench.plain)
        w, v, alpha = baselines.apfl(state, kept.get(client.id), client, plain, SEED, 2, "evaluation", "personal")
        close(row(own.parameters, k), {name: alpha * v[name] + (1 - alpha) * w[name] for name in w}, client.id)


def test_apfl_alpha_stays_within_bounds() -> None:
    bench = Bench(APFLOptions(lr=500.0, batch_size=2, clip=1.0, alpha=0.5, adaptive=True))
    alpha = present(bench.local(CLIENTS).kept)["alpha"]
    assert ((alpha >= 0) & (alpha <= 1)).all() and ((alpha == 0) | (alpha == 1)).any()


def test_apfl_at_its_ends_is_training_alone_and_fine_tuning() -> None:
    """alpha = 1: v is trained as if alone; alpha = 0: v never moves, and the prediction is that of FedAvg fine-tuned."""
    personal, zero = (Bench(APFLOptions(**TUNED, alpha=alpha)) for alpha in (1.0, 0.0))
    upload = personal.local(CLIENTS)
    close({name.removeprefix("v/"): t for name, t in present(upload.kept).items() if name != "alpha"}, upload.tensors)
    kept = present(zero.local(CLIENTS).kept)
    assert all(torch.equal(kept["v/" + name], tensor.expand_as(kept["v/" + name])) for name, tensor in zero.state.items())
    close(zero.personalize(CLIENTS).parameters, Bench(FedAvgFTOptions(**TUNED)).personalize(CLIENTS).parameters)


@CLIPS
@pytest.mark.parametrize("new_head", ["average", "initial"])
@pytest.mark.parametrize("kind", ["fedrep", "fedper"])
def test_fedrep_and_fedper(kind: str, new_head: Literal["average", "initial"], clip: float) -> None:
    """A client without a head starts from the mean of the heads, or from the initial one, which nobody sends."""
    if kind == "fedrep":
        tuning_options: dict[str, Any] = {"personal_epochs": 4, "personal_lr": 0.25 if new_head == "average" else None}
        bench = Bench(FedRepOptions(**BASE, **tuning_options, clip=clip, head_epochs=3, new_head=new_head))
        assert bench.plain["personal_lr"] == (0.25 if new_head == "average" else 0.4)
        step, tuning = baselines.fedrep, baselines.personal(bench.plain)
    else:
        bench = Bench(FedPerOptions(**TUNED, clip=clip, new_head=new_head))
        step, tuning = baselines.fedper, baselines.personal(bench.plain)
    first = {name: bench.initial[name] for name in ("head.weight", "head.bias")}
    body_names = [n for n in names_of(bench.initial, "global") if n not in first]
    assert set(bench.state) == {*body_names, *(first if new_head == "average" else ())}

    def head_for(client_head: Tensors | None, received: Tensors) -> Tensors:
        return client_head or {name: received.get(name, tensor) for name, tensor in first.items()}

    def work(received: Tensors, kept: Any, client: Client, round: int) -> tuple[Tensors, float, Any]:
        body, head, n = step({n: received[n] for n in body_names}, head_for(kept, received), client, bench.plain, SEED, round)
        return {**body, **head} if new_head == "average" else body, n, head

    state, kept = two_rounds(bench, work)
    own = bench.personalize(EVERYBODY)
    for k, client in enumerate(EVERYBODY):
        start = {**state, **head_for(kept.get(client.id), state)}
        close(row(own.parameters, k), baselines.tuned(start, first, client, tuning, SEED, 2), client.id)
        for name in body_names:
            assert torch.equal(own.parameters[name][k], bench.state[name])
    # Who has a head is not sent another.
    sent = bench.algorithm.download(bench.options, bench.model, bench.state, bench.members(EVERYBODY)).nbytes
    body = nbytes({name: bench.state[name] for name in body_names})
    assert [n == body for n in sent] == [client.id in kept or new_head == "initial" for client in EVERYBODY]
    general = bench.algorithm.general(bench.options, bench.model, bench.state)
    assert (general is None) == (new_head == "initial")


def test_fedrep_a_head_is_kept_and_not_drawn_anew_every_round() -> None:
    bench = Bench(FedRepOptions(**BASE))
    bench.round(CLIENTS, 1)
    kept = bench.visit(CLIENTS).kept
    assert kept.known.all()
    assert all((tensor != bench.initial[name]).any() for name, tensor in kept.tensors.items())


@CLIPS
def test_lgfedavg(clip: float) -> None:
    bench = Bench(LGFedAvgOptions(**TUNED, clip=clip, pretrain_rounds=0))
    everything = tuple(bench.state)
    body, head = body_of(bench.state), head_of(bench.state)

    def work(received: Tensors, kept: Any, client: Client, round: int) -> tuple[Tensors, float, Any]:
        p, _ = baselines.alone({**received, **(kept or {})}, client, bench.plain, SEED, round, phase="global")
        return {name: p[name] for name in head}, 1, {name: p[name] for name in body}

    state, kept = two_rounds(bench, work)
    own = bench.personalize(EVERYBODY)
    for k, client in enumerate(EVERYBODY):
        start = {**state, **kept.get(client.id, {})}
        expected = baselines.tuned(start, body, client, baselines.personal(bench.plain), SEED, 2)
        close(row(own.parameters, k), expected, client.id)
    assert set(everything) == set(own.parameters)


def test_lgfedavg_begins_with_fedavg() -> None:
    options = LGFedAvgOptions(**BASE, pretrain_rounds=1)
    bench, plain = Bench(options), Bench(FedAvgOptions(**BASE))
    uploads, same = bench.round(FIRST, 1), plain.round(FIRST, 1)
    close(bench.state, plain.state)
    assert uploads.upload_bytes == same.upload_bytes
    assert not len(bench.states.rows())
    after = bench.round(SECOND, 2)
    head = {name: bench.state[name] for name in head_of(bench.state)}
    assert after.upload_bytes == len(SECOND) * nbytes(head)
    for name in body_of(bench.state):
        assert torch.equal(bench.state[name], plain.state[name]), "a body was averaged"
    # Who has a body is sent the head alone; a new client, held out or not, the body that FedAvg left, too.
    sent = bench.algorithm.download(bench.options, bench.model, bench.state, bench.members(EVERYBODY)).nbytes
    assert [n == nbytes(head) for n in sent] == [client in SECOND for client in EVERYBODY]
    assert set(sent) == {nbytes(head), nbytes(bench.state)}


def test_lgfedavg_pretrains_for_half_of_the_run() -> None:
    resolve = Bench(LGFedAvgOptions()).algorithm.resolve
    assert resolve(LGFedAvgOptions(epochs=4), 6).personal_epochs == 4
    assert [resolve(LGFedAvgOptions(), rounds).pretrain_rounds for rounds in (1, 2, 7, 80)] == [0, 1, 3, 40]
    assert resolve(LGFedAvgOptions(pretrain_rounds=5), 80).pretrain_rounds == 5


@CLIPS
def test_fedrecon(clip: float) -> None:
    bench = Bench(FedReconOptions(**BASE, clip=clip, recon_epochs=3, recon_lr=0.9))
    unknown = bench.initial["embedding.weight"][list(OOV)]
    assert len(bench.state["embedding.weight"]) == oracles.VOCABULARY - len(OOV)

    def work(received: Tensors, kept: Any, client: Client, round: int) -> tuple[Tensors, float, Any]:
        w, _, _, n = baselines.fedrecon(received, unknown, OOV, client, bench.plain, SEED, round)
        return w, n, None

    state, _ = two_rounds(bench, work)
    own = bench.personalize(EVERYBODY)
    for k, client in enumerate(EVERYBODY):
        _, rows, whole, _ = baselines.fedrecon(state, unknown, OOV, client, bench.plain, SEED, 2, "evaluation")
        close(row(own.parameters, k), whole, client.id)
        torch.testing.assert_close(own.parameters["embedding.weight"][k, list(OOV)], rows, **TIGHT)
        for name, tensor in bench.state.items():
            if name != "embedding.weight":
                assert torch.equal(own.parameters[name][k], tensor), "reconstruction moved the global part"
    general = present(bench.algorithm.general(bench.options, bench.model, bench.state)).parameters
    torch.testing.assert_close(general["embedding.weight"][0, list(OOV)], unknown)


def test_fedrecon_no_query_half_is_empty() -> None:
    bench = Bench(FedReconOptions(**BASE))
    upload = bench.local(bench.able())
    assert list(upload.weights) == [len(c.train) - oracles.older(c, 0.5) for c in bench.able()]
    assert min(upload.weights) >= 1


@CLIPS
def test_dynamic_routing(clip: float) -> None:
    bench = Bench(DynamicRoutingOptions(**TUNED, clip=clip, temperature=0.8))
    assert set(bench.state) == set(bench.initial)

    def work(received: Tensors, kept: Any, client: Client, round: int) -> tuple[Tensors, float, Any]:
        p = dict(received)
        for batch in baselines.plan(client, bench.plain, SEED, round, "train", "global"):
            oracles.sgd_step(p, list(p), batch, bench.plain, "mixture", 0.8)
        return p, len(client.train), None

    state, _ = two_rounds(bench, work)
    own = bench.personalize(EVERYBODY)
    for k, client in enumerate(EVERYBODY):
        plain = baselines.personal(bench.plain)
        expected = baselines.tuned(state, state, client, plain, SEED, 2, route="mixture", temperature=0.8)
        close(row(own.parameters, k), expected, client.id)
    assert (own.route, own.routing) == ("mixture", "soft")
    assert present(bench.algorithm.general(bench.options, bench.model, bench.state)).route == "mixture"


@pytest.mark.parametrize("options", [DynamicRoutingOptions(**BASE), FlowOptions(**PUBLISHED, ablation="instance")])
def test_two_federated_experts_do_not_stay_the_same(options: Any) -> None:
    """From copies, and routers at zero, they would: both get the same gradient."""
    bench = Bench(options)
    bench.state = {name: tensor * (group_of(name) != "router") for name, tensor in bench.state.items()}
    for round in (1, 2):
        for name in names_of(bench.state, "local"):
            assert (bench.state[name] - bench.state[global_name(name)]).abs().max() > 0.1
        bench.round(CLIENTS, round)
    assert any(bench.state[name].abs().max() > 1e-3 for name in names_of(bench.state, "router"))


# ---- ablations of Flow ------------------------------------------------------------------------------------------


def test_flow_without_a_router_is_fedavg_and_fine_tuning_of_the_local_expert() -> None:
    bench, plain = (
        Bench(FlowOptions(**PUBLISHED, personal_lr=0.25, ablation="client")),
        Bench(FedAvgOptions(**BASE)),
    )
    for name in bench.state:  # the same start: Flow's model has a routed head, so other random numbers
        plain.state[name] = bench.state[name]
    bench.round(CLIENTS, 1)
    plain.round(CLIENTS, 1)
    close(bench.state, plain.state)
    own = bench.personalize(EVERYBODY)
    assert own.route == "local"
    for k, client in enumerate(EVERYBODY):
        p = {**bench.state, **{n: bench.state[global_name(n)] for n in names_of(bench.initial, "local")}}
        for batch in baselines.plan(client, bench.plain, SEED, harness.ROUND, "evaluation", "local"):
            oracles.sgd_step(p, names_of(p, "local"), batch, {**bench.plain, "lr": 0.25}, "local")
        for name, tensor in p.items():
            torch.testing.assert_close(own.parameters[name][k], tensor, **TIGHT)


def test_flow_with_two_global_experts_trains_them_in_turn_with_the_router() -> None:
    bench = Bench(FlowOptions(**PUBLISHED, ablation="instance", gamma=0.2))
    assert set(bench.state) == set(bench.initial)
    upload = bench.local(CLIENTS)
    routers = names_of(bench.state, "router")
    for k, client in enumerate(CLIENTS):
        p = dict(bench.state)
        for batch in baselines.plan(client, bench.plain, SEED, harness.ROUND, "train", "global"):
            oracles.sgd_step(p, routers, batch, bench.plain, "mixture", 1.0, 0.2)
            oracles.sgd_step(p, [n for n in p if n not in routers], batch, bench.plain, "mixture", 1.0, 0.0)
        close(row(upload.tensors, k), p, client.id)
        assert upload.weights[k] == len(client.train)
    own = bench.personalize(EVERYBODY)
    assert (own.route, own.routing, own.phases) == ("mixture", "hard", ())
    for name, tensor in bench.state.items():
        assert torch.equal(own.parameters[name], tensor.expand_as(own.parameters[name])), "a client made something of its own"


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 0.99, 0.01])
def test_the_share_of_local_data_leaves_neither_part_empty(share: float) -> None:
    bench = Bench(FlowOptions(**PUBLISHED, local_share=share))
    clients = bench.able()
    for client, weight in zip(clients, bench.local(clients).weights, strict=True):
        assert weight == len(client.train) - oracles.older(client, share) >= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (FlowOptions(local_share=0.0), "local_share must lie between 0 and 1, got 0.0"),
        (FlowOptions(local_share=float("nan")), "local_share must lie between 0 and 1, got nan"),
        (FlowOptions(variant="workshop", local_share=0.3), "local_share=0.3 has nothing to divide"),
        (FlowOptions(variant="neurips", ablation="client", local_share=0.3), "local_share=0.3 has nothing to divide"),
        (FlowOptions(variant="workshop", ablation="client"), "ablation='client' is one of variant='neurips'"),
        (FedProxOptions(mu=-0.1), "mu must be a finite number at least 0, got -0.1; 0 switches the pull off"),
        (FedProxOptions(mu=1.0), "mu=1.0 times lr=2.0 must be at most 1: a step would go beyond"),
        (DittoOptions(lam=float("nan")), "lam must be a finite number at least 0, got nan"),
        (DittoOptions(lam=2.5), "lam=2.5 times personal_lr=0.5 must be at most 1"),
        (DittoOptions(personal_lr=None, lam=0.6), "lam=0.6 times personal_lr=2.0 must be at most 1"),
        (FedProxOptions(personal_lr=4.0, mu=0.3), "mu=0.3 times personal_lr=4.0 must be at most 1"),
        (FedAvgFTOptions(personal_lr=0.0), "personal_lr must be a finite number above 0, got 0.0; leave it out"),
        (APFLOptions(personal_lr=float("inf")), "personal_lr must be a finite number above 0, got inf"),
        (LGFedAvgOptions(personal_epochs=0), "personal_epochs must be a finite number at least 1, got 0"),
        (APFLOptions(alpha=1.5), "alpha must be a finite number from 0 to 1, got 1.5; leave it out"),
        (FedRepOptions(personal_lr=0.0), "personal_lr must be a finite number above 0, got 0.0; leave it out"),
        (FedRepOptions(head_epochs=0), "head_epochs must be a finite number at least 1, got 0"),
        (LGFedAvgOptions(pretrain_rounds=-1), "pretrain_rounds must be a finite number at least 0, got -1"),
        (FedReconOptions(recon_epochs=0), "recon_epochs must be a finite number at least 1, got 0"),
        (FedReconOptions(recon_lr=-1.0), "recon_lr must be a finite number at least 0, got -1.0"),
        (LocalOptions(personal_epochs=0), "personal_epochs must be a finite number at least 1, got 0"),
        (DynamicRoutingOptions(temperature=0.0), "temperature must be a finite number at least 0.001, got 0.0"),
    ],
    ids=lambda value: type(value).__name__ if dataclasses.is_dataclass(value) else "",
)
def test_options_out_of_range_are_refused(options: Any, message: str) -> None:
    from flow.algorithms import algorithm_of

    with pytest.raises(UserError, match="^" + message):
        algorithm_of(options).check(options)
