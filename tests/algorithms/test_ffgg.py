"""FFGG against its oracle, one property of the formulas at a time."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import harness
import numpy as np
import oracles
import pytest
import torch
from harness import ROUND, SEED, Bench, close, row
from optional import present
from oracles import ffgg as oracle
from torch import Tensor

from flow import Config, ModelOptions, UserError, simulate
from flow.algorithms.ffgg import FFGGOptions, current
from flow.data import Client
from flow.model.flops import per_token
from flow.model.parameters import Tensors, body_of, group_of, head_of, names_of, nbytes
from flow.server.options import ServerOptions
from flow.training.messages import Upload

CLIENTS = harness.TRAINING
FIRST, SECOND = CLIENTS[:4], CLIENTS[2:]
EVERYBODY = list(harness.POPULATION.clients)
BASE: dict[str, Any] = {"lr": 0.4, "batch_size": 2, "epochs": 2, "shared_lr": 0.7}
CLIPS = pytest.mark.parametrize("clip", [0.0, 0.3])


def hidden(bench: Bench) -> Tensors:
    """Initial values of the private part."""
    names = (head_of if bench.options.private == "head" else body_of)(bench.initial)
    return {name: bench.initial[name] for name in names if group_of(name) == "global"}


def check_upload(
    bench: Bench, upload: Upload, starts: Sequence[Tensors], parts: oracle.Parts, clients: Sequence[Client], round: int
) -> None:
    for k, (start, client) in enumerate(zip(starts, clients, strict=True)):
        sent, loss, w = oracle.client_round(start, parts.own(client), client, bench.plain, SEED, round)
        close(row(upload.tensors, k), sent, client.id)
        close(row(upload.kept or {}, k), w if parts.keeps else {}, client.id)
        last = upload.phases[-1]
        assert float(last.nats[k] / last.tokens[k]) == pytest.approx(loss, rel=1e-11)
    assert upload.weights == [1] * len(clients)


@CLIPS
@pytest.mark.parametrize(
    ("private", "pairs", "start"),
    [("head", 1, "kept"), ("head", 1, "initial"), ("head", 3, "kept"), ("body", 1, "initial"), ("body", 2, "kept")],
)
def test_synchronous_and_local(
    private: Literal["head", "body"], pairs: int, start: Literal["kept", "initial"], clip: float
) -> None:
    bench = Bench(FFGGOptions(**BASE, clip=clip, private=private, pairs=pairs, start=start, personal_epochs=3))
    parts = oracle.Parts(hidden(bench), bench.plain)
    assert set(bench.state) == set(names_of(bench.initial, "global")) - set(hidden(bench))
    theta = dict(bench.state)
    for round, clients in ((1, FIRST), (2, SECOND)):
        check_upload(bench, bench.local(clients, round), [theta] * len(clients), parts, clients, round)
        bench.round(clients, round, group=2)
        theta = oracle.synchronous(theta, parts, clients, bench.plain, SEED, round)
        close(bench.state, theta, f"after round {round}")
    own = bench.personalize(EVERYBODY)
    for k, client in enumerate(EVERYBODY):
        w = oracle.fine_tuned(theta, parts.own(client), client, bench.plain, SEED, ROUND, "evaluation", "personal", 3)
        close(row(own.parameters, k), {**theta, **w}, client.id)
        close(row(bench.personalize([client]).parameters, 0), {**theta, **w}, client.id)
    assert bench.algorithm.general(bench.options, bench.model, bench.state) is None
    assert len(bench.states.rows()) == (len({c.id for c in FIRST + SECOND}) if start == "kept" else 0)
    assert bench.algorithm.stateful(bench.options) == (start == "kept")


@pytest.mark.parametrize(("delay", "pairs", "start"), [(1, 1, "kept"), (3, 1, "initial"), (3, 1, "kept"), (20, 2, "kept")])
def test_asynchronous(delay: int, pairs: int, start: Literal["kept", "initial"]) -> None:
    bench = Bench(FFGGOptions(**BASE, asynchronous=True, delay=delay, pairs=pairs, start=start))
    parts = oracle.Parts(hidden(bench), bench.plain)
    names = [name for name in names_of(bench.initial, "global") if name not in hidden(bench)]
    history = [{name: bench.initial[name] for name in names}]
    for round, clients in ((1, FIRST), (2, SECOND), (3, CLIENTS)):
        ages = [int(oracles.stream(SEED, round, "train", "delay", c.id).integers(delay)) for c in clients]
        starts = [history[max(len(history) - 1 - age, 0)] for age in ages]
        check_upload(bench, bench.local(clients, round), starts, parts, clients, round)
        bench.round(clients, round, group=2)
        history = oracle.asynchronous(history, parts, clients, bench.plain, SEED, round)
        close(current(bench.state), history[-1], f"after round {round}")
        last = ([history[0]] * delay + history)[-delay:][::-1]
        close(
            {name: tensor for name, tensor in bench.state.items() if name.startswith("past/")},
            {"past/" + name: torch.stack([version[name] for version in last]) for name in names},
        )
    assert len(history) == 1 + len(FIRST) + len(SECOND) + len(CLIENTS)  # every gradient was a step
    own = bench.personalize(EVERYBODY)  # from the newest theta, whatever the delay
    for k in range(len(EVERYBODY)):
        close(row({name: own.parameters[name] for name in names}, k), history[-1])


def test_one_asynchronous_client_without_delay_is_a_synchronous_round() -> None:
    options = FFGGOptions(**BASE)
    synchronous, asynchronous = Bench(options), Bench(dataclasses.replace(options, asynchronous=True, delay=1))
    for round in (1, 2, 3):
        for bench in (synchronous, asynchronous):
            bench.round(CLIENTS[round : round + 1], round)
    close(current(asynchronous.state), synchronous.state)


def plain_state(bench: Bench) -> Tensors:
    return bench.algorithm.init(bench.options, bench.model, SEED, len(CLIENTS))


def test_the_shared_part_is_not_moved_before_the_gradient() -> None:
    """One gradient at theta as received: not the difference that SGD on theta makes."""
    bench = Bench(FFGGOptions(**BASE, clip=0.0))
    twice = [bench.local(CLIENTS, round=1).tensors for _ in range(2)]
    close(*twice)
    other = dataclasses.replace(bench.options, shared_lr=5.0)
    for name, tensor in Bench(other).local(CLIENTS, round=1).tensors.items():
        assert torch.equal(tensor, twice[0][name]), "the step's size belongs to the server"
    shared = Bench(dataclasses.replace(bench.options, pairs=2))
    moved = Bench(dataclasses.replace(other, pairs=2))
    assert not torch.equal(shared.local(CLIENTS).tensors["gru.bias_ih_l0"], moved.local(CLIENTS).tensors["gru.bias_ih_l0"])


def test_kept_private_parts_come_to_solve_the_inner_problem() -> None:
    """Under a shared part that stands still they go on falling where those that start anew stay; a new client is as both."""
    losses: dict[str, list[Tensor]] = {}
    new: dict[str, Tensor] = {}
    start: Literal["kept", "initial"]
    for start in ("kept", "initial"):
        bench = Bench(FFGGOptions(**{**BASE, "shared_lr": 1e-30}, start=start, personal_epochs=1))
        losses[start] = []
        for round in range(1, 9):
            work = bench.local(CLIENTS, round).phases[-1]
            losses[start].append(work.nats / work.tokens)
            bench.round(CLIENTS, round)
        new[start] = bench.personalize(EVERYBODY[-2:]).parameters["head.bias"]
    kept, initial = losses["kept"], losses["initial"]
    assert (kept[0] == initial[0]).all() and (kept[-1] < 0.95 * initial[-1]).all()
    assert kept[-1].mean() < 0.85 * initial[-1].mean()
    assert ((initial[-1] - initial[0]).abs() < 0.1 * initial[0]).all()
    assert torch.equal(new["kept"], new["initial"])


def test_passes_before_a_prediction_have_a_number_of_their_own() -> None:
    bench = Bench(FFGGOptions(**BASE, personal_epochs=None))
    assert bench.options.personal_epochs == 2
    for options in (bench.options, dataclasses.replace(bench.options, personal_epochs=5)):
        (work,) = Bench(options).personalize(CLIENTS).phases
        assert work.sequences == options.personal_epochs * sum(len(client.train) for client in CLIENTS)


def test_what_is_sent_and_computed() -> None:
    for options in (FFGGOptions(**BASE, pairs=2), FFGGOptions(**BASE, pairs=2, asynchronous=True, delay=4)):
        bench = Bench(options)
        theta = nbytes(current(bench.state))
        for purpose in ("train", "evaluation"):
            to = bench.members(CLIENTS, purpose)
            sent = bench.algorithm.download(bench.options, bench.model, bench.state, to)
            assert list(sent.nbytes) == [theta] * len(CLIENTS)
        upload = bench.local(CLIENTS)
        assert nbytes(upload.tensors) == theta * len(CLIENTS) and set(present(upload.kept)) == set(hidden(bench))
        tokens = np.array([client.train.lengths.sum() for client in CLIENTS])
        names = list(current(bench.state))
        private = options.epochs * tokens * per_token(bench.model, "global", list(hidden(bench)))
        shared = tokens * per_token(bench.model, "global", names)
        assert [work.flops.tolist() for work in upload.phases] == [private.tolist(), shared.tolist()] * 2
        assert sum(work.sequences for work in upload.phases) == 2 * 3 * sum(len(c.train) for c in CLIENTS)


def test_gradients_meet_the_optimisers_of_the_server_but_one_by_one_no_aggregator() -> None:
    bench, plain = Bench(FFGGOptions(**BASE)), Bench(FFGGOptions(**BASE))
    bench.round(CLIENTS, 1, ServerOptions("yogi"))
    plain.round(CLIENTS, 1)
    for name, tensor in bench.state.items():
        moved = (plain.state[name] - plain_state(plain)[name]).sign()
        assert torch.equal((tensor - plain_state(plain)[name]).sign(), moved), "the same direction, another length"
    robust = Bench(FFGGOptions(**BASE))
    robust.round(CLIENTS, 1, ServerOptions(aggregator="median"))
    sent = [oracle.client_round(plain_state(plain), hidden(plain), c, plain.plain, SEED, 1)[0] for c in CLIENTS]
    expected = {
        name: tensor - 0.7 * torch.stack([g[name] for g in sent]).median(0).values
        for name, tensor in plain_state(plain).items()
    }
    close(robust.state, expected)


def test_an_aggregator_of_gradients_that_never_meet_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = Config(
        algorithm=FFGGOptions(**BASE, asynchronous=True),
        server=ServerOptions(aggregator="median"),
        cohort=3,
        model=ModelOptions(embedding_dim=4, hidden_size=8),
    )
    with pytest.raises(UserError, match=r"^aggregator='median' needs .* asynchronous=True .*; leave either out$"):
        simulate(config, tmp_path / "run", population=harness.POPULATION, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "values"),
    [("shared_lr", (0, -1, float("nan"), float("inf"))), ("pairs", (0,)), ("delay", (0,)), ("personal_epochs", (0,))],
)
def test_options_out_of_range_are_refused(key: str, values: Sequence[float]) -> None:
    for value in values:
        change: dict[str, Any] = {key: value}
        with pytest.raises(UserError, match=f"{key} must be .* got {value}"):
            Bench(FFGGOptions(**change))


def test_the_loss_under_fitted_heads_falls() -> None:
    config = Config(
        algorithm=FFGGOptions(lr=1.0, batch_size=4, epochs=5, shared_lr=1.0),
        rounds=25,
        cohort=7,
        evaluate_every=0,
        model=ModelOptions(embedding_dim=4, hidden_size=8),
    )
    losses = [row["loss"] for row in simulate(config, None, population=harness.POPULATION, progress=False).metrics]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:2])
