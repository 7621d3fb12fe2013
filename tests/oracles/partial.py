"""FedSim, FedAlt and PartialFed as plainly as their formulas: one client, one batch, one step at a time, in float64.

`received` is what the server sent, `kept` what the client kept, None for a new one.
"""

import math
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from flow.data import Client
from oracles import Options, Tensors, stream
from oracles.baselines import clip, gradient, plan

LAYERS = {
    "embedding": ["embedding.weight"],
    "gru": ["gru.weight_ih_l0", "gru.weight_hh_l0", "gru.bias_ih_l0", "gru.bias_hh_l0"],
    "projection": ["projection.weight", "projection.bias"],
    "head": ["head.weight", "head.bias"],
}


def part(name: str) -> list[str]:
    """The names of a part, as far as a model has them."""
    layers = ("embedding", "gru", "projection") if name == "body" else (name,)
    return [tensor for layer in layers for tensor in LAYERS[layer]]


def folded(p: Tensors) -> Tensors:
    """A linear layer between GRU and head is part of the head: W (P h + c) + b = (W P) h + (W c + b)."""
    if "projection.weight" not in p:
        return p
    weight, bias = p["head.weight"], p["head.bias"]
    return {**p, "head.weight": weight @ p["projection.weight"], "head.bias": weight @ p["projection.bias"] + bias}


def descend(
    p: Tensors,
    names: Sequence[str],
    client: Client,
    options: Options,
    seed: int,
    round: int,
    purpose: str,
    phase: str,
    epochs: int | None = None,
    lr: float | None = None,
) -> None:
    """SGD on these parameters, in place."""
    for batch in plan(client, options, seed, round, purpose, phase, epochs):
        g = clip(gradient(p, names, batch, folded), options["clip"])
        for name in names:
            p[name] = p[name] - (lr or options["lr"]) * g[name]


def divided(p: Tensors, private: Collection[str]) -> tuple[Tensors, Tensors]:
    return {name: p[name] for name in p if name not in private}, {name: p[name] for name in private}


def fedsim(
    received: Tensors, kept: Tensors | None, private: Collection[str], client: Client, options: Options, seed: int, round: int
) -> tuple[Tensors, Tensors]:
    """Both parts at once. Returns the shared and the private part."""
    p = {**received, **(kept or {})}
    descend(p, list(p), client, options, seed, round, "train", "global")
    return divided(p, private)


def fedalt(
    received: Tensors, kept: Tensors | None, private: Collection[str], client: Client, options: Options, seed: int, round: int
) -> tuple[Tensors, Tensors]:
    """The private part, then the shared one. Returns the shared and the private part."""
    p = {**received, **(kept or {})}
    own = options["private_lr"], options["private_epochs"]
    descend(p, list(private), client, options, seed, round, "train", "private", own[1], own[0])
    descend(p, [name for name in p if name not in private], client, options, seed, round, "train", "global")
    return divided(p, private)


def tuned(start: Tensors, names: Iterable[str], client: Client, options: Options, seed: int, round: int) -> Tensors:
    """Fine-tuning of these parameters before the evaluation."""
    p = dict(start)
    epochs, lr = options["personal_epochs"], options["personal_lr"]
    descend(p, list(names), client, options, seed, round, "evaluation", "personal", epochs, lr)
    return p


def choose_layers(
    received: Tensors, own: Tensors, scores: Tensors, client: Client, options: Options, seed: int, round: int, purpose: str
) -> Tensors:
    """The scores (load, keep) of every layer after this client's choice; a new client's do not move."""
    temperature = max(options["temperature"] * options["temperature_decay"] ** (round - 1), 0.1)
    noise = stream(seed, round, purpose, "gumbel", client.id)
    scores = {layer: pair.clone() for layer, pair in scores.items()}
    for batch in plan(client, options, seed, round, purpose, "strategy", options["strategy_epochs"]):
        used, probability = dict[str, Tensor](), dict[str, float]()
        for layer, pair in zip(scores, noise.gumbel(size=(len(scores), 2)), strict=True):
            load, keep = float(scores[layer][0] + pair[0]), float(scores[layer][1] + pair[1])
            probability[layer] = 1 / (1 + math.exp((keep - load) / temperature))
            used |= {name: (received if load >= keep else own)[name] for name in LAYERS[layer]}
        g = gradient(used, list(used), batch, folded)
        slopes = {}
        for layer, p in probability.items():
            along = sum(float((g[name] * (received[name] - own[name])).sum()) for name in LAYERS[layer])
            slopes[layer] = torch.tensor([1.0, -1.0], dtype=torch.float64) * along * p * (1 - p) / temperature
        slopes = clip(slopes, options["clip"])
        scores = {layer: pair - options["strategy_lr"] * slopes[layer] for layer, pair in scores.items()}
    return scores


def loaded(received: Tensors, own: Tensors, scores: Tensors) -> Tensors:
    """Every layer of the model that its score says."""
    start: Tensors = {}
    for layer, (load, keep) in scores.items():
        start |= {name: (received if load >= keep else own)[name] for name in LAYERS[layer]}
    return start


def partialfed(
    received: Tensors, kept: tuple[Tensors, Tensors] | None, client: Client, options: Options, seed: int, round: int
) -> tuple[Tensors, Tensors]:
    """kept: (the client's own model, its scores). Returns the model after the round, and the scores."""
    layers = [layer for layer in LAYERS if LAYERS[layer][0] in received]
    own, scores = kept or (received, {layer: torch.zeros(2, dtype=torch.float64) for layer in layers})
    if kept:
        scores = choose_layers(received, own, scores, client, options, seed, round, "train")
    p = loaded(received, own, scores)
    descend(p, list(p), client, options, seed, round, "train", "global")
    return p, scores


def partialfed_personal(
    received: Tensors, kept: tuple[Tensors, Tensors] | None, client: Client, options: Options, seed: int, round: int
) -> Tensors:
    """What a client predicts with."""
    if not kept:
        return tuned(received, received, client, options, seed, round)
    scores = choose_layers(received, *kept, client, options, seed, round, "evaluation")
    return tuned(loaded(received, kept[0], scores), received, client, options, seed, round)
