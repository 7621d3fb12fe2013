"""HypCluster for one client at a time: `models` is a list of parameters by name, one entry per cluster."""

import torch

from oracles import batch_loss, batches, run, sgd_step, stream


def loss(p, client):
    """Mean nats per token over all training sequences."""
    nats = tokens = 0
    for sequence, length in zip(client.train.tokens, client.train.lengths, strict=True):
        logits, _ = run(p, sequence, int(length), "global", 1.0)
        nats -= sum(float(torch.log_softmax(logits[t], 0)[int(sequence[t + 1])]) for t in range(int(length)))
        tokens += int(length)
    return nats / tokens


def choose_cluster(models, client):
    found = [loss(p, client) for p in models]
    return found.index(min(found))


def at_random(models, client, seed, round, purpose):
    return int(stream(seed, round, purpose, "cluster", client.id).integers(len(models)))


def trained(start, client, options, seed, round, purpose, phase, epochs):
    p = dict(start)
    generator = stream(seed, round, purpose, "shuffle", phase, client.id)
    for batch in batches(client.train, list(range(len(client.train))), options["batch_size"], epochs, generator):
        sgd_step(p, list(p), batch, options, "global")
    return p


def hypcluster(models, client, options, seed, round):
    """One client's part of a round: its cluster, what it uploads, its weight."""
    first = round <= options["random_rounds"]
    cluster = at_random(models, client, seed, round, "train") if first else choose_cluster(models, client)
    p = trained(models[cluster], client, options, seed, round, "train", "global", options["epochs"])
    return cluster, p, len(client.train)


def personal(models, client, options, seed, round):
    """The model a client predicts with, and the one it chose for it."""
    start = models[choose_cluster(models, client)]
    epochs, slower = options["personal_epochs"], {**options, "lr": options["personal_lr"]}
    return trained(start, client, slower, seed, round, "evaluation", "personal", epochs), start


def training_loss_after(models, client, options, seed, round):
    """By cluster, the mean loss of the last epoch of training: what another rule of choice would go by."""
    found = []
    for start in models:
        p, losses = dict(start), []
        generator = stream(seed, round, "train", "shuffle", "global", client.id)
        for batch in batches(client.train, list(range(len(client.train))), options["batch_size"], options["epochs"], generator):
            losses.append(float(batch_loss(p, batch, "global", 1.0, 0.0)[0]))
            sgd_step(p, list(p), batch, options, "global")
        last = losses[-(len(losses) // options["epochs"]) :]
        found.append(sum(last) / len(last))
    return found
