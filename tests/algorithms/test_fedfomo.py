"""FedFomo against its oracle, what is published of its traps, and clients of planted clusters."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import harness
import numpy as np
import oracles
import pytest
import torch
from harness import ROUND, SEED, TIGHT, Bench, close, row
from optional import present
from oracles import fedfomo

from flow import Config, ModelOptions, simulate
from flow.algorithms.fedfomo import FedFomoOptions, choose_models, exploration
from flow.data import Client, Population, Sequences, Vocabulary
from flow.errors import UserError
from flow.model.flops import per_token
from flow.model.parameters import Tensors, nbytes

CLIENTS = harness.TRAINING
EVERYBODY = list(harness.POPULATION.clients)
NUMBER = {client.id: n for n, client in enumerate(CLIENTS)}
BASE: dict[str, Any] = {"lr": 0.4, "batch_size": 2, "epochs": 2, "models": 2}


def rounds_of(
    bench: Bench, cohorts: Iterable[Sequence[Client]]
) -> tuple[dict[int, tuple[Tensors, Tensors]], dict[int, dict[int, float]], Tensors]:
    """Rounds of the bench beside those of the oracle: (what clients kept, preferences, mean of the last uploads)."""
    mean = {name: tensor for name, tensor in bench.state.items() if name != "preference"}
    kept: dict[int, tuple[Tensors, Tensors]] = {}
    liking = {n: dict.fromkeys(range(len(CLIENTS)), 0.0) for n in range(len(CLIENTS))}
    for round, cohort in enumerate(cohorts, start=1):
        clients, results = bench.able(cohort), {}
        upload, received = bench.local(clients, round), bench.visit(clients, "train", round).received
        for k, client in enumerate(clients):
            i, new = NUMBER[client.id], NUMBER[client.id] not in kept
            senders = fedfomo.chosen(i, client.id, sorted(kept), liking[i], bench.plain, SEED, round, "train", new)
            others = [kept[n][0] for n in senders]
            model, before, weights = fedfomo.visit(mean, kept.get(i), others, client, bench.plain, SEED, round)
            assert received["sender"][k].tolist() == senders + [-1] * (bench.plain["models"] - len(senders))
            close({name: upload.tensors[name][k] for name in model}, model, f"round {round} {client.id}")
            torch.testing.assert_close(upload.tensors["weights"][k, : len(senders)].tolist(), weights, **TIGHT)
            results[i] = model, before, dict(zip(senders, weights, strict=True)), len(client.train)
        bench.round(clients, round, group=2)
        mean = oracles.weighted_mean([(model, n) for model, _, _, n in results.values()])
        for i, (model, before, weights, _) in results.items():
            kept[i] = model, before
            for n, w in weights.items():
                liking[i][n] += w
        close({name: bench.state[name] for name in mean}, mean, f"round {round} mean")
        table = torch.tensor([[liking[i][n] for n in sorted(liking)] for i in sorted(liking)], dtype=torch.float64)
        torch.testing.assert_close(bench.state["preference"], table, **TIGHT)
    return kept, liking, mean


@pytest.mark.parametrize("clip", [0.0, 0.3])
@pytest.mark.parametrize(("distance", "mean_candidate"), [("l1", True), ("l1", False), ("l2", True)])
def test_fedfomo(clip: float, distance: Literal["l1", "l2"], mean_candidate: bool) -> None:
    """Rounds in which some are new; then predictions of those that trained, of one that never did, and of those held out."""
    bench = Bench(FedFomoOptions(**BASE, clip=clip, distance=distance, epsilon=0.6, mean_candidate=mean_candidate))
    drawn = [CLIENTS[:4], CLIENTS[2:6], CLIENTS[:5]]
    kept, liking, mean = rounds_of(bench, drawn)
    assert any(value for values in liking.values() for value in values.values())
    clients = bench.able(EVERYBODY)
    assert {client.id for client in clients if NUMBER.get(client.id) not in kept} == {"client 6", "client 7", "client 8"}
    predictors = bench.personalize(clients)
    to = bench.members(clients, "evaluation")
    sizes = bench.algorithm.download(bench.options, bench.model, bench.state, to).nbytes
    for k, client in enumerate(clients):
        i = NUMBER.get(client.id, -1)
        senders = fedfomo.chosen(
            i, client.id, sorted(kept), liking.get(i, {}), bench.plain, SEED, ROUND, "evaluation", i not in kept
        )
        others = [kept[n][0] for n in senders]
        p, _, _ = fedfomo.visit(mean, kept.get(i), others, client, bench.plain, SEED, ROUND, "evaluation")
        close(row(predictors.parameters, k), p, client.id)
        assert len(senders) == 2 and sizes[k] == nbytes(p) * (len(senders) + (mean_candidate or i not in kept))
    close(row(present(bench.algorithm.general(bench.options, bench.model, bench.state)).parameters, 0), mean)


@pytest.mark.parametrize("mean_candidate", [False, True])
def test_what_is_sent_is_counted(mean_candidate: bool) -> None:
    """Down: a model to a new client; M to others, and the mean. Up: a model, and what the client thinks of M."""
    bench = Bench(FedFomoOptions(**BASE, mean_candidate=mean_candidate))
    model = nbytes({name: tensor for name, tensor in bench.state.items() if name != "preference"})
    clients = bench.able()
    for round, expected in ((1, [model] * len(clients)), (2, [(2 + mean_candidate) * model] * len(clients))):
        to = bench.members(clients, "train", round)
        sent = bench.algorithm.download(bench.options, bench.model, bench.state, to)
        assert list(sent.nbytes) == expected
        uploads = bench.round(clients, round)
        assert uploads.upload_bytes == len(clients) * (model + 2 * (8 + 8))


def test_weighing_is_counted_as_computation_where_it_is_done() -> None:
    bench = Bench(FedFomoOptions(**BASE))
    clients = bench.able()
    first = bench.local(clients, 1).phases[0].flops
    assert (first == 0).all()
    bench.round(clients, 1)
    work, training = bench.local(clients, 2).phases
    forward = per_token(bench.model, "global")
    assert per_token(bench.model, "global", bench.initial) == 3 * forward
    for k, client in enumerate(clients):
        tokens = [sum(int(client.train.lengths[n]) for n in part) for part in fedfomo.parts(client, bench.plain, SEED)]
        assert training.flops[k] == 2 * tokens[0] * 3 * forward
        # The model before the training, the own one, two of others, the mean.
        assert work.flops[k] == 5 * tokens[1] * forward
    assert work.sequences == 0


# ---- published traps ----------------------------------------------------------------------------------------------


def test_without_a_chance_to_explore_the_most_preferred_are_sent() -> None:
    """Not the least preferred (easyFL), and only of clients that have uploaded (PFLlib)."""
    liking, present = torch.tensor([0.0, -1.0, 5.0, 2.0, 3.0, 9.0]), np.array([0, 1, 2, 3, 4])
    for seed in range(5):
        stream = np.random.default_rng(seed)
        assert choose_models(present, liking, 3, 0.0, stream).tolist() == [2, 4, 3]
        assert choose_models(present, liking, 9, 0.0, stream).tolist() == [2, 4, 3, 0, 1]
        assert sorted(choose_models(present, liking, 9, 1.0, stream).tolist()) == [0, 1, 2, 3, 4]
    picks = [choose_models(present, liking, 1, 0.5, np.random.default_rng(seed)).item() for seed in range(400)]
    assert 0.5 < np.mean([pick == 2 for pick in picks]) < 0.7  # 1/2, and a fifth of the other half
    ties = [choose_models(present, torch.zeros(6), 1, 0.0, np.random.default_rng(seed)).item() for seed in range(100)]
    assert set(ties) == {0, 1, 2, 3, 4}


def test_exploration_falls_to_nothing_and_is_drawn_anew_every_round() -> None:
    """The published code seeds its draws anew with the same number in every round."""
    options = FedFomoOptions(epsilon=0.3, epsilon_decay=0.05)
    assert [round(exploration(options, r), 6) for r in (1, 2, 6, 7, 8)] == [0.3, 0.25, 0.05, 0.0, 0.0]
    bench = Bench(FedFomoOptions(**BASE, epsilon=1.0, epsilon_decay=0.0))
    bench.round(bench.able(), 1)
    sent = [bench.visit(bench.able(), "train", r).received["sender"] for r in (2, 3, 4)]
    assert not torch.equal(sent[0], sent[1]) and not torch.equal(sent[1], sent[2])


def test_nobody_is_sent_its_own_model_and_it_is_weighed_all_the_same() -> None:
    bench = Bench(FedFomoOptions(**{**BASE, "models": 9}, mean_candidate=False))
    clients = bench.able()
    bench.round(clients, 1)
    visit = bench.visit(clients, "train", 2)
    received, kept = visit.received, visit.kept
    for k, client in enumerate(clients):
        own = NUMBER[client.id]
        assert sorted(received["sender"][k].tolist()) == sorted(
            [NUMBER[c.id] for c in clients if c is not client] + [-1] * (10 - len(clients))
        )
        assert own not in received["sender"][k]
    alone = bench.personalize(clients)
    received["sender"].fill_(-1)
    unmixed = present(bench.algorithm.personalize)(bench.options, bench.model, visit)
    assert any((alone.parameters[n] != unmixed.parameters[n]).any() for n in unmixed.parameters)
    close(unmixed.parameters, {n.removeprefix("model/"): t for n, t in kept.tensors.items() if n.startswith("model/")})


def test_where_no_model_helps_the_clients_own_training_is_not_lost() -> None:
    """The published code goes back to the model before the last training."""
    bench = Bench(FedFomoOptions(**BASE, mean_candidate=False))
    clients = bench.able()
    bench.round(clients, 1)
    visit = bench.visit(clients, "evaluation", 2)
    received, kept = visit.received, visit.kept
    # The trained model takes the place of the one before, and all candidates become noise, which does not beat it.
    best = {"before/" + name.removeprefix("model/"): t for name, t in kept.tensors.items() if name.startswith("model/")}
    noise = torch.Generator().manual_seed(0)
    worse = {n: t + 3 * torch.randn(t.shape, generator=noise, dtype=t.dtype) for n, t in kept.tensors.items() if n[0] == "m"}
    others = {n: 30 * torch.randn(t.shape, generator=noise, dtype=t.dtype) for n, t in received.items() if n[:6] == "others"}
    kept = kept._replace(tensors={**best, **worse})
    visit = visit._replace(received={**received, **others}, kept=kept)
    predictors = present(bench.algorithm.personalize)(bench.options, bench.model, visit)
    unmixed = 0
    for k, client in enumerate(clients):
        own, before = ({n[n.index("/") + 1 :]: t[k] for n, t in part.items()} for part in (worse, best))
        theirs = [{n.removeprefix("others/"): t[k, m] for n, t in others.items()} for m in range(2)]
        _, weights = fedfomo.federated(before, own, theirs, client, fedfomo.parts(client, bench.plain, SEED)[1], bench.plain)
        if max(weights) < 0:
            unmixed += 1
            close(row(predictors.parameters, k), own, client.id)
    assert unmixed > len(clients) / 2


def test_what_a_client_thinks_is_added_as_it_is() -> None:
    """The published code divides by the sum of all w_n, which may be near 0."""
    bench = Bench(FedFomoOptions(**BASE))
    clients = bench.able()
    bench.round(clients, 1)
    before = bench.state["preference"].clone()
    uploads = bench.round(clients, 2)
    change = bench.state["preference"] - before
    for i, senders, weights in zip(uploads.rows, uploads.each["sender"], uploads.each["weights"], strict=True):
        torch.testing.assert_close(change[i, senders], weights, **TIGHT)
        assert (change[i] != 0).sum() <= 2
    assert (change < 0).any() and (change > 0).any()


def test_models_are_weighed_on_sequences_that_are_never_trained_on() -> None:
    """Changing what a client weighs models on changes no step of its training, in any round."""
    bench = Bench(FedFomoOptions(**BASE))
    client = CLIENTS[2]
    _, target = fedfomo.parts(client, bench.plain, SEED)
    tokens = client.train.tokens.copy()
    tokens[target, 1:] = np.where(tokens[target, 1:] > 0, 8, 0)  # not the first, which may say that a text begins
    other = dataclasses.replace(client, train=Sequences(tokens, client.train.lengths))
    for round in (1, 2, 3):
        first, second = (bench.local([c], round).tensors for c in (client, other))
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert 0 < len(target) < len(client.train)


# ---- planted clusters -----------------------------------------------------------------------------------------------

SHIFTS = (1, 3)  # in cluster c a token is followed by the one that stands so many places further on


def planted(clients: int = 5, sequences: int = 10, steps: int = 8, letters: int = 8) -> Population:
    """Clients in two clusters with different languages; the last of each cluster never trains."""
    rng = np.random.default_rng(4)

    def text(shift: int, n: int) -> Sequences:
        starts = rng.integers(0, letters, (n, 1))
        tokens = 4 + (starts + shift * np.arange(steps + 1)) % letters
        noise = rng.random(tokens.shape) < 0.1
        tokens[noise] = rng.integers(4, 4 + letters, noise.sum())
        return Sequences(tokens.astype(np.int32), np.full(n, steps, np.int32))

    made = [
        Client(f"client {n}{'ab'[c]}", "ab"[c], n == clients, 20, text(shift, sequences), text(shift, 4))
        for n in range(clients + 1)
        for c, shift in enumerate(SHIFTS)
    ]
    names = ("<pad>", "<oov>", "<bos>", "<eos>", *(chr(97 + i) for i in range(letters)))
    return Population("planted", tuple(made), Vocabulary(names, "character"), steps, "made up")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_clients_of_planted_clusters_find_each_other(seed: int) -> None:
    population = planted()
    clients = [client for client in population.clients if not client.held_out]
    options = FedFomoOptions(lr=1.0, batch_size=4, epochs=2, models=4)
    config = Config(
        algorithm=options,
        model=ModelOptions(embedding_dim=8, hidden_size=12),
        rounds=15,
        cohort=len(clients),
        seed=seed,
        evaluate_every=0,
        validation_share=0.0,
    )
    result = simulate(config, None, population=population, progress=False)
    preference = result.state["preference"].numpy()
    kin = np.array([[a.group == b.group for b in clients] for a in clients])
    for i in range(len(clients)):
        own = kin[i].copy()
        own[i] = False
        assert preference[i][own].mean() > preference[i][~kin[i]].mean(), clients[i].id
    np.fill_diagonal(preference, -np.inf)
    liked = np.take_along_axis(kin, np.argsort(-preference)[:, :4], axis=1)
    assert liked.mean() > 0.8  # 4 of 9 by chance
    # Mixing pays: with both languages in it the mean of all models is worse for everyone than what a client mixes.
    for side in ("seen", "unseen"):
        summary = result.evaluation["summary"][side]
        assert summary["personal_token"] > summary["global_token"] + 0.1, side


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": 0}, "models must be a finite number at least 1, got 0"),
        ({"epsilon": 1.5}, "epsilon must be a finite number from 0 to 1, got 1.5"),
        ({"epsilon_decay": -0.1}, "epsilon_decay must be a finite number at least 0, got -0.1; 0 explores as much"),
        ({"weighing_share": 1.0}, "weighing_share must lie between 0 and 1, got 1.0; both"),
        ({"weighing_share": float("nan")}, "weighing_share must lie between 0 and 1, got nan"),
    ],
)
def test_options_out_of_range_are_refused(change: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="^" + message):
        Bench(FedFomoOptions(**change))


def test_too_many_clients_for_a_matrix_of_pairs_are_refused() -> None:
    bench = Bench(FedFomoOptions())
    with pytest.raises(UserError, match=r"^clients=20001 that may train are more than the 20000 .*; lower max_clients"):
        bench.algorithm.init(bench.options, bench.model, 0, 20_001)
