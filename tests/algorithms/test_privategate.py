"""The private gate against its oracle: rounds, predictions of old and new clients, and what never leaves a client."""

import math
from collections.abc import Mapping
from typing import Any, cast

import harness
import numpy as np
import oracles
import pytest
import torch
from harness import ROUND, SEED, Bench, close, row
from optional import present
from oracles import privategate as oracle

from flow.algorithms.privategate import PrivateGateOptions
from flow.errors import UserError
from flow.evaluation.score import _guesses
from flow.model.flops import per_token
from flow.model.parameters import Tensors, names_of, nbytes, tagged, untagged
from flow.training.batches import gather
from flow.training.predict import predict

CLIENTS = harness.TRAINING
FIRST, SECOND = CLIENTS[:4], CLIENTS[2:6]  # of two rounds: some take part once, some twice, the last one never
EVERYBODY = list(harness.POPULATION.clients)
BASE: dict[str, Any] = {"lr": 0.4, "batch_size": 2, "epochs": 2, "personal_lr": 0.9, "personal_epochs": 3, "gate_lr": 1.5}
OPTIONS: dict[str, Any] = {
    "received": PrivateGateOptions(**BASE, clip=0.0),
    "received, clipped": PrivateGateOptions(**BASE, clip=0.2),
    "initial": PrivateGateOptions(**BASE, new_private="initial", clip=0.0),
}


def newcomer(bench: Bench, general: Tensors) -> tuple[Tensors, oracle.Gate]:
    """The private model and the gate of a client that has none."""
    start = general if bench.options.new_private == "received" else bench.initial
    return {name: start[name] for name in general}, (torch.zeros(3, dtype=torch.float64), torch.zeros((), dtype=torch.float64))


def trained(options: PrivateGateOptions) -> tuple[Bench, Tensors, dict[str, tuple[Tensors, oracle.Gate]]]:
    """The bench after two rounds, each compared with the oracle, with what the oracle knows: w, and what clients keep."""
    bench = Bench(options)
    general, kept = dict(bench.state), dict[str, tuple[Tensors, oracle.Gate]]()
    assert set(general) == set(names_of(bench.initial, "global"))
    for round, clients in ((1, FIRST), (2, SECOND)):
        upload = bench.local(clients, round)
        sent = []
        for k, client in enumerate(clients):
            private, gate = kept.get(client.id) or newcomer(bench, general)
            w, private, gate, losses = oracle.work(general, private, gate, client, bench.plain, SEED, round)
            close(row(upload.tensors, k), w, f"{round} {client.id}")
            own = {"gate/weight": gate[0], "gate/bias": gate[1], **tagged("private", private)}
            close(row(upload.kept, k), own, f"{round} {client.id}")
            loss = sum(mean * tokens for mean, tokens in losses)
            assert float(upload.phases[0].nats[k]) == pytest.approx(loss, rel=1e-11)
            assert upload.weights[k] == len(client.train)
            sent.append((w, len(client.train)))
            kept[client.id] = private, gate
        bench.round(clients, round, group=3)
        general = oracles.weighted_mean(sent)
        close(bench.state, general, f"after round {round}")
    return bench, general, kept


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_rounds_and_predictions(options: PrivateGateOptions) -> None:
    bench, general, kept = trained(options)
    assert len(kept) == 6 and max(abs(gate[1]) for _, gate in kept.values()) > 0.01
    own, test = bench.personalize(EVERYBODY), gather(EVERYBODY, "test", "cpu")
    guesses = {routing: predict(bench.model, own, test, routing) for routing in ("soft", "hard")}
    private_first = 0
    for k, client in enumerate(EVERYBODY):
        private, gate = kept.get(client.id) or newcomer(bench, general)
        w, private, gate, _ = oracle.work(general, private, gate, client, bench.plain, SEED, ROUND, "evaluation")
        assert w is general
        close(row(own.parameters, k), {name.replace("gru.", "gru.local_"): t for name, t in private.items()}, client.id)
        for number, (sequence, length) in enumerate(zip(client.test.tokens, client.test.lengths, strict=True)):
            at = test.rows[k][number]
            for routing, guess in guesses.items():
                places = oracle.predictions(general, private, gate, sequence, int(length), routing == "hard")
                for t, (p, local_weight) in enumerate(places):
                    assert guess.tokens[at, t] == int(p.argmax())
                    nats = -math.log(float(p[int(sequence[t + 1])]))
                    np.testing.assert_allclose(guess.nats[at, t], nats, rtol=1e-6, atol=1e-7)
                    np.testing.assert_allclose(guess.probability[at, t], float(p.max()), rtol=1e-6)
                    np.testing.assert_allclose(guess.local_weight[at, t], local_weight, rtol=1e-6, atol=1e-7)
                    private_first += local_weight == 1
    assert private_first > 5, "the hard gate takes the private model somewhere"


def test_the_private_model_and_the_gate_never_leave_the_client() -> None:
    bench = Bench(OPTIONS["received"])
    size = nbytes(bench.state)
    for round in (1, 2):
        upload = bench.local(CLIENTS, round)
        assert set(upload.tensors) == set(bench.state)
        assert set(present(upload.kept)) == {"gate/weight", "gate/bias", *tagged("private", bench.state)}
        sent = bench.algorithm.download(bench.options, bench.model, bench.state, bench.members(CLIENTS))
        assert sent.nbytes == [size] * len(CLIENTS) and set(sent.tensors) == set(bench.state)
        assert bench.round(CLIENTS, round).upload_bytes == size * len(CLIENTS)
    own = bench.personalize(EVERYBODY)
    assert own.sent is own.received is None


def test_what_a_new_client_predicts_from() -> None:
    """Its private model is the general one or the initial one, and both models weigh the same."""
    for options in OPTIONS.values():
        bench = Bench(options)
        bench.round(FIRST, 1)
        visit = bench.visit(EVERYBODY[-2:])
        assert not visit.kept.known.any() and not visit.kept.tensors["gate/weight"].any()
        start = bench.state if options.new_private == "received" else bench.initial
        for name, tensor in untagged("private", visit.kept.tensors).items():
            assert all(torch.equal(part, start[name]) for part in tensor), name
            assert not torch.equal(bench.state[name], bench.initial[name])


def test_personalization_lowers_the_mixtures_loss_on_what_it_trains_on() -> None:
    """By the same answers as the test texts get, before and after."""
    bench = Bench(PrivateGateOptions(**{**BASE, "personal_epochs": 15}))
    bench.round(CLIENTS, 1)
    train = gather(EVERYBODY, "train", "cpu")
    own = bench.personalize(EVERYBODY)
    before = predict(
        bench.model,
        present(bench.algorithm.general(bench.options, bench.model, bench.state)),
        train._replace(ids=("",), rows=(np.arange(len(train.lengths) - 1),)),
    )
    after = predict(bench.model, own, train)
    for rows in train.rows:
        assert after.nats[rows].sum() < 0.9 * before.nats[rows].sum()


def test_the_private_model_alone_and_both_routings_are_reported() -> None:
    bench = Bench(OPTIONS["received"])
    bench.round(CLIENTS, 1)
    own, test = bench.personalize(EVERYBODY), gather(EVERYBODY, "test", "cpu")

    class Task:
        algorithm, config = bench.algorithm, type("Config", (), {"algorithm": bench.options})  # all that is asked of it

    guesses = _guesses(cast(Any, Task), bench.model, bench.state, own, test, False)
    assert set(guesses) == {"global", "local", "personal", "soft", "hard"}
    assert (guesses["local"].local_weight[test.rows[0]][:, :1] == 1).all()
    plain = {name.replace("local_", ""): tensor for name, tensor in own.parameters.items()}
    alone = predict(bench.model, own._replace(parameters=plain, route="global", answering=None), test)
    np.testing.assert_allclose(guesses["local"].nats, alone.nats, rtol=1e-6)
    assert not np.allclose(guesses["local"].nats, guesses["soft"].nats, rtol=1e-3)


def test_computation_is_counted() -> None:
    """Both models forward and backward in a round; before a prediction the general one forward alone; two products a gate."""
    bench = Bench(OPTIONS["received"])
    trained_, frozen = (per_token(bench.model, "global", names) for names in (bench.state, ()))
    gate = 2 * 2 * 3  # embedding of 3 numbers
    work, own = bench.local(CLIENTS).phases[0], bench.personalize(CLIENTS).phases[0]
    tokens = np.array([client.train.lengths.sum() for client in CLIENTS])
    assert work.flops.tolist() == (2 * tokens * (2 * trained_ + gate)).tolist()
    assert own.flops.tolist() == (3 * tokens * (trained_ + frozen + gate)).tolist()
    assert (work.sequences, own.sequences) == tuple(epochs * sum(len(c.train) for c in CLIENTS) for epochs in (2, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate_lr": 0.0}, "gate_lr must be a finite number above 0, got 0.0; leave it out for the default"),
        ({"gate_lr": 1e39}, "gate_lr must be at most 3.4e\\+38, as float32 is, got 1e\\+39"),
        ({"personal_lr": -1.0}, "personal_lr must be a finite number above 0, got -1.0"),
        ({"personal_epochs": 0}, "personal_epochs must be a finite number at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Bench(PrivateGateOptions(**options))


def test_it_is_personalized_per_client_and_per_token() -> None:
    bench = Bench(PrivateGateOptions())
    assert bench.algorithm.scope(bench.options) == (True, True)
    assert (bench.options.personal_lr, bench.options.personal_epochs) == (0.5, 3)
