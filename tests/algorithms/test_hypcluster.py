"""HypCluster against its oracle, and what is known to go wrong in it."""

import dataclasses
from typing import Any

import harness
import numpy as np
import oracles
import pytest
import torch
from harness import SEED, Bench, close, row
from optional import present
from oracles import hypcluster
from torch import Tensor

from flow import Config, ModelOptions, simulate
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.hypcluster import CHOICE, HypClusterOptions
from flow.data import Client, Population, Sequences, Vocabulary
from flow.errors import UserError
from flow.model.parameters import Tensors, nbytes
from flow.server.options import ServerOptions

CLIENTS = harness.TRAINING
EVERYBODY = list(harness.POPULATION.clients)
BASE: dict[str, Any] = {"lr": 0.4, "batch_size": 2, "epochs": 2}


def models_of(state: Tensors, clusters: int) -> list[Tensors]:
    return [{n.removeprefix(f"{c}/"): t for n, t in state.items() if n.startswith(f"{c}/")} for c in range(clusters)]


@pytest.mark.parametrize("clip", [0.0, 0.3])
@pytest.mark.parametrize("random_rounds", [0, 1])
@pytest.mark.parametrize("clusters", [1, 2, 3])
def test_rounds_and_personalization(clip: float, random_rounds: int, clusters: int) -> None:
    options = HypClusterOptions(
        **BASE, clip=clip, random_rounds=random_rounds, clusters=clusters, personal_epochs=1, personal_lr=0.25
    )
    bench = Bench(options)
    models = models_of(bench.state, clusters)
    taken = set()
    for round, some in ((1, CLIENTS[:4]), (2, CLIENTS[2:]), (3, CLIENTS)):
        upload = bench.local(some, round)
        sums: dict[int, list[tuple[Tensors, float]]] = {}
        for k, client in enumerate(some):
            cluster, p, n = hypcluster.hypcluster(models, client, bench.plain, SEED, round)
            assert int(upload.tensors[CHOICE][k]) == cluster, (round, client.id)
            own = row(upload.tensors, k)
            own.pop(CHOICE)
            close(own, p, f"round {round}, {client.id}")
            assert upload.weights[k] == n
            sums.setdefault(cluster, []).append((p, n))
            taken.add(cluster)
        bench.round(some, round, group=2)
        # Only those that chose a model count in its mean; one that nobody chose stays.
        models = [oracles.weighted_mean(sums[c]) if c in sums else p for c, p in enumerate(models)]
        for c, (own, p) in enumerate(zip(models_of(bench.state, clusters), models, strict=True)):
            close(own, p, f"round {round}, cluster {c}")
    assert len(taken) == clusters or random_rounds == 0
    personal = bench.personalize(EVERYBODY, round=3)
    for k, client in enumerate(EVERYBODY):
        p, start = hypcluster.personal(models, client, bench.plain, SEED, 3)
        close(row(personal.parameters, k), p, client.id)
        close(row(present(personal.before).parameters, k), start, client.id)


def test_the_choice_is_made_before_training() -> None:
    """By the loss of the models as received; the loss of the last epoch of training would choose otherwise."""
    bench = Bench(HypClusterOptions(lr=2.0, batch_size=2, epochs=3, random_rounds=0))
    models = models_of(bench.state, 2)
    late = [hypcluster.training_loss_after(models, client, bench.plain, SEED, 1) for client in CLIENTS]
    other = [losses.index(min(losses)) for losses in late]
    chosen = bench.local(CLIENTS, 1).tensors[CHOICE].tolist()
    assert chosen == [hypcluster.choose_cluster(models, client) for client in CLIENTS]
    assert chosen != other


def test_one_cluster_is_fedavg() -> None:
    single, plain = Bench(HypClusterOptions(**BASE, clusters=1)), Bench(FedAvgOptions(**BASE))
    for round in (1, 2):
        for bench in (single, plain):
            bench.round(CLIENTS, round)
        close(models_of(single.state, 1)[0], plain.state)


def test_a_server_optimiser_steps_for_every_cluster_by_itself() -> None:
    bench = Bench(HypClusterOptions(**BASE, random_rounds=3))
    yogi = ServerOptions(server="yogi", server_lr=0.1)
    before = dict(bench.state)
    alone = [c for c in CLIENTS if hypcluster.at_random([{}, {}], c, SEED, 1, "train") == 0]
    assert 0 < len(alone) < len(CLIENTS)
    bench.round(alone, 1, yogi)
    assert all(torch.equal(t, before[n]) for n, t in bench.state.items() if n.startswith("1/"))
    assert {name.split("/")[1] for name in bench.moments} == {"0"}
    w = oracles.weighted_mean(
        [(hypcluster.hypcluster(models_of(before, 2), c, bench.plain, SEED, 1)[1], len(c.train)) for c in alone]
    )
    from oracles.baselines import server

    for name, start in models_of(before, 2)[0].items():

        def goal(_: Tensor, mean: Tensor = w[name]) -> Tensor:
            return mean

        expected = server("yogi", start, [goal], 0.1, 0.9, 0.99, 1e-3)
        torch.testing.assert_close(bench.state[f"0/{name}"], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("aggregator", ["median", "geometric_median", "centered_clipping"])
def test_a_robust_aggregator_works_inside_a_cluster(aggregator: Any) -> None:
    bench = Bench(HypClusterOptions(**BASE, clusters=1))
    plain = Bench(FedAvgOptions(**BASE))
    server_options = ServerOptions(aggregator=aggregator)
    for each in (bench, plain):
        each.algorithm = dataclasses.replace(each.algorithm, one_by_one=True)
        each.round(CLIENTS, 1, server_options)
    close(models_of(bench.state, 1)[0], plain.state)


def test_what_is_sent_is_counted() -> None:
    bench = Bench(HypClusterOptions(**BASE, clusters=3))
    model_bytes = nbytes(models_of(bench.state, 3)[0])
    download = bench.algorithm.download(bench.options, bench.model, bench.state, bench.members(CLIENTS))
    assert download.nbytes == [3 * model_bytes] * len(CLIENTS)
    assert nbytes(bench.local(CLIENTS).tensors) == len(CLIENTS) * (model_bytes + 8)  # the model chosen, and which one it is


def test_the_start() -> None:
    equal = models_of(Bench(HypClusterOptions(**BASE, clusters=3)).state, 3)
    other = models_of(Bench(HypClusterOptions(**BASE, clusters=3, random_rounds=0)).state, 3)
    for name, tensor in equal[0].items():
        assert torch.equal(tensor, equal[1][name]) and torch.equal(tensor, equal[2][name])
        assert torch.equal(tensor, other[0][name])
        for a, b in ((0, 1), (0, 2), (1, 2)):
            assert (other[a][name] != other[b][name]).all()
        assert other[1][name].dtype == tensor.dtype
        if name != "embedding.weight":
            assert all(p[name].abs().max() <= 0.5 for p in other)  # 1 / sqrt(4)


def planted(clients: int = 12) -> Population:
    """Half of the clients count upwards, half downwards."""
    made, steps, size = [], 8, 6
    for n in range(clients):
        up = np.arange(9 * 10).reshape(10, 9) + n
        tokens = 4 + (up if n % 2 else -up) % size
        rows = Sequences(tokens.astype(np.int32), np.full(10, steps, np.int32))
        made.append(Client(f"c{n:02d}", "up" if n % 2 else "down", n >= clients - 2, 20, rows, rows))
    names = ("<pad>", "<oov>", "<bos>", "<eos>", *"abcdef")
    return Population("planted", tuple(made), Vocabulary(names, "character"), steps, "made up")


def test_clients_of_planted_clusters_part() -> None:
    config: Config[Any] = Config(
        algorithm=HypClusterOptions(lr=1.0, batch_size=5, epochs=2, personal_epochs=0),
        model=ModelOptions(embedding_dim=4, hidden_size=8, dtype="float64"),
        rounds=25,
        cohort=10,
        evaluate_every=0,
        threads=1,
        validation_share=0.0,
    )
    result = simulate(config, None, population=planted(), progress=False)
    models = models_of(result.state, 2)
    choices = {
        group: {hypcluster.choose_cluster(models, c) for c in planted().clients if c.group == group} for group in ("up", "down")
    }
    assert len(choices["up"]) == len(choices["down"]) == 1
    assert choices["up"] != choices["down"]
    common: Config[Any] = dataclasses.replace(config, algorithm=FedAvgOptions(lr=1.0, batch_size=5, epochs=2))
    fedavg = simulate(common, None, population=planted(), progress=False).evaluation["summary"]["unseen"]
    own = result.evaluation["summary"]["unseen"]
    assert own["personal_token"] > 0.99 > 0.95 > fedavg["global_token"]
    assert own["helped"] == own["hurt"] == 0  # without epochs of their own, they take the model as it is


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("clusters", 0, "at least 1"),
        ("random_rounds", -1, "at least 0"),
        ("personal_epochs", -1, "at least 0"),
        ("personal_lr", 0, "above 0"),
    ],
)
def test_options_out_of_range(option: str, value: float, rule: str) -> None:
    change: dict[str, Any] = {option: value}
    options = dataclasses.replace(HypClusterOptions(), **change)
    with pytest.raises(UserError, match=f"{option} must be a finite number {rule}, got {value}"):
        Bench(options)
