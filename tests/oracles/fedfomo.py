"""FedFomo as plainly as its formulas: one client, one model, one number at a time, in float64.

A client's state is the pair (its model as uploaded, the model before the training that led there); the server knows the first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from flow.data import Client
from oracles import Options, Tensors, batch_loss, batches, halves, sgd_step, stream


def pick(
    present: Sequence[int], liking: Mapping[int, float], models: int, epsilon: float, generator: np.random.Generator
) -> list[int]:
    """Epsilon-greedy: `there` are the numbers of the clients to choose from, `liking` what the client thinks of each."""
    rest = [present[i] for i in generator.permutation(len(present))]
    picks: list[int] = []
    while rest and len(picks) < models:
        if generator.random() < epsilon:
            place = int(generator.integers(len(rest)))
        else:
            best = max(liking[client] for client in rest)
            place = next(i for i, client in enumerate(rest) if liking[client] == best)
        picks.append(rest.pop(place))
    return picks


def chosen(
    row: int,
    id: str,
    present: Sequence[int],
    liking: Mapping[int, float],
    options: Options,
    seed: int,
    round: int,
    purpose: str,
    new: bool,
) -> list[int]:
    """Numbers of the clients whose models this one is sent; liking: the row of the preference matrix."""
    others = [client for client in present if client != row]
    epsilon = 0.0
    if purpose == "train":
        epsilon = max(0.0, options["epsilon"] - options["epsilon_decay"] * (round - 1))
    if new:
        liking, epsilon = dict.fromkeys(others, 0.0), 1.0
        if purpose == "train":
            return []
    return pick(others, liking, options["models"], epsilon, stream(seed, round, purpose, "models", id))


def parts(client: Client, options: Options, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the sequences to train on and of those to weigh models on."""
    return halves(client, seed, 0, "validation", 1 - options["weighing_share"])


def loss(p: Tensors, client: Client, numbers: Sequence[int]) -> float:
    """Mean over all tokens of these sequences."""
    batch = [(client.train.tokens[i], int(client.train.lengths[i])) for i in numbers]
    return float(batch_loss(p, batch, "global", 1.0, 0.0)[0])


def apart(first: Tensors, second: Tensors, kind: str) -> float:
    differences: list[float] = torch.cat([(first[name] - second[name]).flatten() for name in first]).tolist()
    if kind == "l1":
        return sum(abs(x) for x in differences)
    return float(sum(x * x for x in differences) ** 0.5)


def federated(
    before: Tensors, own: Tensors, others: Sequence[Tensors], client: Client, numbers: Sequence[int], options: Options
) -> tuple[Tensors, list[float]]:
    """(mixture, w of the own model and of the others)"""
    base, candidates, weights = loss(before, client, numbers), [own, *others], []
    for theta in candidates:
        length = apart(theta, before, options["distance"])
        weights.append((base - loss(theta, client, numbers)) / length if length else 0.0)
    positive = [max(w, 0.0) for w in weights]
    if sum(positive) == 0:
        return dict(own), weights
    mixed = dict(before)
    for w, theta in zip(positive, candidates, strict=True):
        mixed = {n: mixed[n] + w / sum(positive) * (theta[n] - before[n]) for n in mixed}
    return mixed, weights


def trained(
    start: Tensors, client: Client, numbers: Sequence[int], options: Options, seed: int, round: int, purpose: str
) -> Tensors:
    p = dict(start)
    generator = stream(seed, round, purpose, "shuffle", "local", client.id)
    for batch in batches(client.train, numbers, options["batch_size"], options["epochs"], generator):
        sgd_step(p, list(p), batch, options, "global")
    return p


def visit(
    mean: Tensors,
    kept: tuple[Tensors, Tensors] | None,
    others: Sequence[Tensors],
    client: Client,
    options: Options,
    seed: int,
    round: int,
    purpose: str = "train",
) -> tuple[Tensors, Any, Any]:
    """One visit of a client: (its model, the model before training, w of the others); kept None: a new one.

    In a round the mixture is trained; for prediction it is used as it is, and a new client trains first.
    """
    count = 1 + len(others)
    if kept is not None and options["mean_candidate"]:
        others = [*others, mean]
    learning, target = parts(client, options, seed)
    if purpose == "train":
        if kept is None:
            return trained(mean, client, learning, options, seed, round, purpose), mean, []
        mixed, weights = federated(kept[1], kept[0], others, client, target, options)
        return trained(mixed, client, learning, options, seed, round, purpose), mixed, weights[1:count]
    own, before = kept or (trained(mean, client, learning, options, seed, round, purpose), mean)
    return *federated(before, own, others, client, target, options), None
