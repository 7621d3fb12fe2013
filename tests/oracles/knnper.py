"""kNN-Per for one client, one token at a time."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flow.data import Client
from oracles import Options, Tensors, Tokens, expert, run, stream


def features(p: Tensors, tokens: Tokens, length: int) -> Tensor:
    """What the head reads after every token, [length, H]."""
    h = torch.zeros(p["gru.weight_hh_l0"].shape[1], dtype=torch.float64)
    states = []
    for t in range(length):
        h = expert(p, p["embedding.weight"][int(tokens[t])], h, False)
        states.append(h)
    return torch.stack(states)


def store(p: Tensors, client: Client, options: Options, seed: int, round: int, purpose: str) -> list[tuple[Tensor, int]]:
    """(feature, label) of every training token, in the order of the text; at most `capacity` of them."""
    pairs = []
    for sequence, length in zip(client.train.tokens, client.train.lengths, strict=True):
        states = features(p, sequence, int(length))
        pairs += [(states[t], int(sequence[t + 1])) for t in range(int(length))]
    if 0 < options["capacity"] < len(pairs):
        generator = stream(seed, round, purpose, "store", client.id)
        kept = generator.choice(len(pairs), (options["capacity"],), replace=False)
        pairs = [pairs[int(i)] for i in kept]
    return pairs


def distribution(
    p: Tensors, pairs: Sequence[tuple[Tensor, int]], tokens: Tokens, length: int, options: Options
) -> list[list[float] | None]:
    """p(next token) at every position, a list of lists; None where the last neighbour and one left out are equally far and
    have other labels."""
    logits, _ = run(p, tokens, length, "global", 1.0)
    result: list[list[float] | None] = []
    k = options["neighbours"]
    for t, h in enumerate(features(p, tokens, length)):
        order = sorted((float(((h - feature) ** 2).sum()), label) for feature, label in pairs)
        near = order[:k]
        tied = [label for d, label in order if abs(d - near[-1][0]) < 1e-9]
        if len(order) > k and abs(order[k][0] - near[-1][0]) < 1e-9 and len(set(tied)) > 1:
            result.append(None)
            continue
        weights = [math.exp(-d / (len(h) * options["scale"])) for d, _ in near]
        mixed = [(1 - options["lam"]) * float(x) for x in torch.softmax(logits[t], 0)]
        for weight, (_, label) in zip(weights, near, strict=True):
            mixed[label] += options["lam"] * weight / sum(weights)
        result.append(mixed)
    return result
