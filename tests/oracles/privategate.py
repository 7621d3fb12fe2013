"""The private gate one client, one token at a time, in float64; the gradients by responsibilities, not through the mixture.

r = alpha p_G / (alpha p_G + (1 - alpha) p_P) is the general model's share of the probability given to the target. The mixture's
gradient is that of r (-log p_G) by the general model, of (1 - r) (-log p_P) by the private one, and (alpha - r) by the gate's
log odds.
"""

import math

import torch
from torch import Tensor

from flow.data import Client
from oracles import Batch, Options, Steps, Tensors, Tokens, batches, clipped, run, stream

Gate = tuple[Tensor, Tensor]
"""a and b: the logit of the general model's weight is a x + b."""


def alpha(gate: Gate, private: Tensors, token: int) -> float:
    """How much the general model counts after this token."""
    a, b = gate
    x = private["embedding.weight"][int(token)]
    return 1 / (1 + math.exp(-(sum(float(i) * float(j) for i, j in zip(a, x, strict=True)) + float(b))))


def step(
    general: Tensors, private: Tensors, gate: Gate, batch: Batch, options: Options, frozen: bool = False
) -> tuple[Tensors, Tensors, Gate, float]:
    """(general, private, gate, mean loss) after one step on a batch."""
    tokens = sum(length for _, length in batch)
    leaves = [{name: tensor.clone().requires_grad_() for name, tensor in model.items()} for model in (general, private)]
    weighted, loss, da, db = [torch.zeros(())] * 2, 0.0, torch.zeros_like(gate[0]), 0.0
    for sequence, length in batch:
        log_p = [torch.log_softmax(run(model, sequence, length, "global", 1.0)[0], 1) for model in leaves]
        for t in range(length):
            target = int(sequence[t + 1])
            p = [float(view[t, target].detach().exp()) for view in log_p]
            own = alpha(gate, private, sequence[t])
            mixed = own * p[0] + (1 - own) * p[1]
            r = own * p[0] / mixed
            loss -= math.log(mixed) / tokens
            weighted[0] = weighted[0] - r * log_p[0][t, target] / tokens
            weighted[1] = weighted[1] - (1 - r) * log_p[1][t, target] / tokens
            da, db = da + (own - r) / tokens * private["embedding.weight"][int(sequence[t])], db + (own - r) / tokens
    moved = []
    for leaf_tensors, objective, rate in zip(leaves, weighted, (options["lr"], options["personal_lr"]), strict=True):
        gradients = clipped(torch.autograd.grad(objective, list(leaf_tensors.values())), options["clip"])
        moved.append(
            {name: (tensor - rate * g).detach() for (name, tensor), g in zip(leaf_tensors.items(), gradients, strict=True)}
        )
    slopes = clipped([da, torch.as_tensor(db, dtype=torch.float64)], options["clip"])
    gate = (gate[0] - options["gate_lr"] * slopes[0], gate[1] - options["gate_lr"] * slopes[1])
    return general if frozen else moved[0], moved[1], gate, loss


def work(
    general: Tensors,
    private: Tensors,
    gate: Gate,
    client: Client,
    options: Options,
    seed: int,
    round: int,
    purpose: str = "train",
) -> tuple[Tensors, Tensors, Gate, Steps]:
    """(general, private, gate, losses) after a round, or before a prediction, when the general model is frozen."""
    train = purpose == "train"
    generator = stream(seed, round, purpose, "shuffle", "global" if train else "personal", client.id)
    epochs, losses = options["epochs" if train else "personal_epochs"], []
    for batch in batches(client.train, list(range(len(client.train))), options["batch_size"], epochs, generator):
        general, private, gate, loss = step(general, private, gate, batch, options, not train)
        losses.append((loss, sum(length for _, length in batch)))
    return general, private, gate, losses


def predictions(
    general: Tensors, private: Tensors, gate: Gate, sequence: Tokens, length: int, hard: bool = False
) -> list[tuple[Tensor, float]]:
    """[(probabilities [V], weight of the private model)] of every place of a sequence."""
    outputs = [torch.softmax(run(model, sequence, length, "global", 1.0)[0], 1) for model in (general, private)]
    mixed = []
    for t in range(length):
        own = alpha(gate, private, sequence[t])
        if hard:
            own = float(own >= 0.5)
        mixed.append((own * outputs[0][t] + (1 - own) * outputs[1][t], 1 - own))
    return mixed
