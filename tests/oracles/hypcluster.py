"""HypCluster for one client at a time: `models` is a list of parameters by name, one entry per cluster."""

from collections.abc import Sequence

import torch

from flow.data import Client
from oracles import Options, Tensors, batch_loss, batches, run, sgd_step, stream


def loss(p: Tensors, client: Client) -> float:
    """Mean nats per token over all training sequences."""
    nats, tokens = 0.0, 0
    for sequence, length in zip(client.train.tokens, client.train.lengths, strict=True):
        logits, _ = run(p, sequence, int(length), "global", 1.0)
        nats -= sum(float(torch.log_softmax(logits[t], 0)[int(sequence[t + 1])]) for t in range(int(length)))
        tokens += int(length)
    return nats / tokens


def choose_cluster(models: Sequence[Tensors], client: Client) -> int:
    losses = [loss(p, client) for p in models]
    return losses.index(min(losses))


def at_random(models: Sequence[Tensors], client: Client, seed: int, round: int, purpose: str) -> int:
    return int(stream(seed, round, purpose, "cluster", client.id).integers(len(models)))


def trained(
    start: Tensors, client: Client, options: Options, seed: int, round: int, purpose: str, phase: str, epochs: int
) -> Tensors:
    p = dict(start)
    generator = stream(seed, round, purpose, "shuffle", phase, client.id)
    for batch in batches(client.train, list(range(len(client.train))), options["batch_size"], epochs, generator):
        sgd_step(p, list(p), batch, options, "global")
    return p


def hypcluster(models: Sequence[Tensors], client: Client, options: Options, seed: int, round: int) -> tuple[int, Tensors, int]:
    """One client's part of a round: its cluster, what it uploads, its weight."""
    first = round <= options["random_rounds"]
    cluster = at_random(models, client, seed, round, "train") if first else choose_cluster(models, client)
    p = trained(models[cluster], client, options, seed, round, "train", "global", options["epochs"])
    return cluster, p, len(client.train)


def personal(models: Sequence[Tensors], client: Client, options: Options, seed: int, round: int) -> tuple[Tensors, Tensors]:
    """The model a client predicts with, and the one it chose for it."""
    start = models[choose_cluster(models, client)]
    epochs, slower = options["personal_epochs"], {**options, "lr": options["personal_lr"]}
    return trained(start, client, slower, seed, round, "evaluation", "personal", epochs), start


def training_loss_after(models: Sequence[Tensors], client: Client, options: Options, seed: int, round: int) -> list[float]:
    """By cluster, the mean loss of the last epoch of training: what another rule of choice would go by."""
    means = []
    for start in models:
        p, losses = dict(start), []
        generator = stream(seed, round, "train", "shuffle", "global", client.id)
        for batch in batches(client.train, list(range(len(client.train))), options["batch_size"], options["epochs"], generator):
            losses.append(float(batch_loss(p, batch, "global", 1.0, 0.0)[0]))
            sgd_step(p, list(p), batch, options, "global")
        last = losses[-(len(losses) // options["epochs"]) :]
        means.append(sum(last) / len(last))
    return means
