"""Rounds of algorithms whose clients train by Adam, against one client at a time by the optimisers of torch."""

from typing import Any

import harness
import pytest
from baseline_rounds import EVERYBODY, two_rounds
from harness import ROUND, SEED, Bench, close, row
from oracles import adam, baselines, decoupled

from flow.algorithms.apfl import APFLOptions
from flow.algorithms.ditto import DittoOptions
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.fedprox import FedProxOptions
from flow.algorithms.fedrep import FedRepOptions
from flow.algorithms.flow import FlowOptions
from flow.algorithms.perfedavg import PerFedAvgOptions
from flow.data import Client
from flow.errors import UserError
from flow.model.parameters import Tensors

# An epsilon far above the rounding of small gradients, which Adam would otherwise make as large as all others.
BASE: dict[str, Any] = {"lr": 0.05, "batch_size": 2, "epochs": 2, "client_epsilon": 1e-5, "client_beta2": 0.9}
ADAM: dict[str, Any] = {**BASE, "client_optimizer": "adam", "client_beta1": 0.7, "weight_decay": 0.0}
KINDS = pytest.mark.parametrize(
    "kind",
    [
        {**ADAM, "clip": 0.0},
        {**ADAM, "clip": 0.3, "weight_decay": 0.1},
        {**ADAM, "clip": 0.3, "weight_decay": 0.1, "client_optimizer": "adamw"},
    ],
    ids=["adam", "clipped and decayed", "adamw"],
)
TUNED: dict[str, Any] = {"personal_lr": 0.03, "personal_epochs": 3}
DAMPED = 0.05
"""An epsilon for pulls: lr * mu / epsilon is below 1. With a smaller one Adam makes more of the rounding in every step."""


@KINDS
def test_fedavg(kind: dict[str, Any]) -> None:
    bench = Bench(FedAvgOptions(**kind))

    def work(received: Tensors, kept: Any, client: Client, round: int) -> tuple[Tensors, float, Any]:
        return adam.pulled(received, received, 0.0, client, bench.plain, SEED, round), len(client.train), None

    two_rounds(bench, work)


@KINDS
def test_fedprox(kind: dict[str, Any]) -> None:
    bench = Bench(FedProxOptions(**{**kind, **TUNED, "client_epsilon": DAMPED}, mu=0.7))

    def work(received: Tensors, kept: Any, client: Client, round: int) -> tuple[Tensors, float, Any]:
        return adam.pulled(received, received, 0.7, client, bench.plain, SEED, round), len(client.train), None

    state, _ = two_rounds(bench, work)
    own, plain = bench.personalize(EVERYBODY), baselines.personal(bench.plain)
    for k, client in enumerate(EVERYBODY):
        w = adam.pulled(state, state, 0.7, client, plain, SEED, 2, "evaluation", "personal")
        close(row(own.parameters, k), w, client.id)


@KINDS
def test_ditto(kind: dict[str, Any]) -> None:
    bench = Bench(DittoOptions(**{**kind, **TUNED, "client_epsilon": DAMPED}, lam=0.6))

    def work(received: Tensors, kept: Any, client: Client, round: int) -> tuple[Tensors, float, Any]:
        slower = {**bench.plain, "lr": bench.plain["personal_lr"]}
        v = adam.pulled(kept or received, received, 0.6, client, slower, SEED, round)
        return adam.pulled(received, received, 0.0, client, bench.plain, SEED, round), len(client.train), v

    state, kept = two_rounds(bench, work)
    own, plain = bench.personalize(EVERYBODY), baselines.personal(bench.plain)
    for k, client in enumerate(EVERYBODY):
        v = adam.pulled(kept.get(client.id, state), state, 0.6, client, plain, SEED, 2, "evaluation", "personal")
        close(row(own.parameters, k), v, client.id)


@KINDS
@pytest.mark.parametrize("adaptive", [False, True], ids=["fixed", "adaptive"])
def test_apfl(kind: dict[str, Any], adaptive: bool) -> None:
    """Two models on every batch, each with moments and a count of steps of its own."""
    bench = Bench(APFLOptions(**kind, **TUNED, alpha=0.3, adaptive=adaptive))

    def work(received: Tensors, kept: Any, client: Client, round: int) -> tuple[Tensors, float, Any]:
        w, v, alpha = adam.apfl(received, kept, client, bench.plain, SEED, round)
        return w, len(client.train), (v, alpha)

    state, kept = two_rounds(bench, work)
    assert any(alpha != 0.3 for _, alpha in kept.values()) == adaptive
    own, plain = bench.personalize(EVERYBODY), baselines.personal(bench.plain)
    for k, client in enumerate(EVERYBODY):
        w, v, alpha = adam.apfl(state, kept.get(client.id), client, plain, SEED, 2, "evaluation", "personal")
        close(row(own.parameters, k), {name: alpha * v[name] + (1 - alpha) * w[name] for name in w}, client.id)


@KINDS
def test_fedrep(kind: dict[str, Any]) -> None:
    """Head and body are phases of their own, whose moments start at zero."""
    bench = Bench(FedRepOptions(**kind, head_epochs=3))
    upload, visit = bench.local(harness.TRAINING), bench.visit(harness.TRAINING)
    head = list(visit.kept.tensors)
    body = [name for name in visit.received if name not in head]
    for k, client in enumerate(harness.TRAINING):
        p = {**row(visit.received, k), **row(visit.kept.tensors, k)}
        for label, names, epochs in (("head", head, 3), ("global", body, 2)):
            plan = baselines.plan(client, bench.plain, SEED, ROUND, "train", label, epochs)
            adam.phase(p, names, plan, bench.plain, "global")
        close(row(upload.kept, k), {name: p[name] for name in head}, client.id)
        close(row(upload.tensors, k), {name: p[name] for name in visit.received}, client.id)


@KINDS
@pytest.mark.parametrize("purpose", ["train", "evaluation"])
def test_flow_as_published(kind: dict[str, Any], purpose: str) -> None:
    bench = Bench(FlowOptions(**kind, personal_lr=0.03, variant="neurips", gamma=0.05, temperature=0.7))
    able = bench.able()
    parameters = bench.local(able).tensors if purpose == "train" else bench.personalize(able).parameters
    for k, client in enumerate(able):
        expected, _ = adam.published(bench.state, bench.shapes, client, bench.plain, SEED, ROUND, purpose)
        close(row(parameters, k), {name: expected[name] for name in parameters}, client.id)


@KINDS
def test_flow_with_its_gate(kind: dict[str, Any]) -> None:
    """w_g, w_l, the routers and the gate at the output, each phase with moments of its own."""
    options = FlowOptions(**kind, personal_lr=0.03, router_lr=0.02, router_epochs=2, adapt_epochs=1, adapt_lr=0.04)
    bench = Bench(options)
    able = bench.able()
    upload, own = bench.local(able), bench.personalize(able)
    for k, client in enumerate(able):
        for purpose, actual in (("train", upload.tensors), ("evaluation", own.parameters)):
            expected, _, _ = decoupled.decoupled(
                bench.state, bench.shapes, client, bench.plain, SEED, ROUND, purpose, adam.phase, adam.fit
            )
            close(row(actual, k), {name: expected[name] for name in actual}, client.id)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (FedAvgOptions(client_optimizer="adam"), r"lr=2\.0 must be at most 0\.25 with client_optimizer='adam'.*give it anew"),
        (
            FedProxOptions(client_optimizer="adamw"),
            r"lr=2\.0 and personal_lr=0\.5 must be at most 0\.25 with client_optimizer='adamw'.*give them anew, such as 0\.01",
        ),
        (FlowOptions(client_optimizer="adam", lr=0.1, personal_lr=0.1), r"^router_lr=1\.0 must be at most 0\.25"),
        (FlowOptions(client_optimizer="adam", lr=0.1, variant="neurips"), r"^personal_lr=1\.0 must be at most 0\.25"),
        (FedAvgOptions(client_optimizer="adam", lr=0.1, momentum=0.9), r"momentum=0\.9 is an option of SGD"),
        (FedAvgOptions(client_beta1=0.5), r"client_beta1=0\.5 is an option of Adam, got client_optimizer='sgd'"),
        (FedAvgOptions(client_optimizer="adam", lr=0.1, client_beta2=1.0), r"client_beta2 must be at least 0 and below 1"),
        (FedAvgOptions(client_optimizer="adam", lr=0.1, client_epsilon=0.0), r"client_epsilon must be a finite number"),
        (PerFedAvgOptions(client_optimizer="adam"), r"client_optimizer must be 'sgd' for perfedavg"),
    ],
)
def test_options_that_would_train_nothing_are_refused(options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Bench(options)
