"""The algorithms once more, as plainly as the formulas of docs/algorithms.md: one client, sequence and step at a time.

Float64, no batching, no padding, no code of the package. Also a tiny population to run them on.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flow.data import Client, Population, Sequences, Vocabulary

torch.set_num_threads(1)

Tensors = dict[str, Tensor]
"""Parameters by name."""
Options = Mapping[str, Any]
"""The options of an algorithm by name."""
Tokens = npt.NDArray[np.int32]
Batch = list[tuple[Tokens, int]]
"""Sequences with their lengths."""
Steps = list[tuple[float, int]]
"""Of every step the loss before it and the number of tokens."""

VOCABULARY = 9
STEPS = 6
HEAD_ROUTERS = ("head.router_weight", "head.router_bias")


def population(
    sizes: Sequence[int] = (5, 1, 11, 2, 8, 3, 4), held_out: Sequence[int] = (6, 9), texts: int = 12, seed: int = 3
) -> Population:
    """Clients with `sizes` training sequences; those of `held_out` never train. Every client has 3 test sequences."""
    rng = np.random.default_rng(seed)

    def sequences(n: int) -> Sequences:
        lengths = rng.integers(1, STEPS + 1, n).astype(np.int32)
        tokens = rng.integers(1, VOCABULARY, (n, STEPS + 1)).astype(np.int32)
        tokens[np.arange(STEPS + 1) > lengths[:, None]] = 0
        return Sequences(tokens, lengths)

    clients = [
        Client(f"client {index}", "group", index >= len(sizes), texts, sequences(n), sequences(3))
        for index, n in enumerate((*sizes, *held_out))
    ]
    names = ("<pad>", "<oov>", "<bos>", "<eos>", *(chr(97 + i) for i in range(VOCABULARY - 4)))
    return Population(
        "tiny", tuple(sorted(clients, key=lambda client: client.id)), Vocabulary(names, "character"), STEPS, "made up"
    )


def stream(seed: int, round: int, purpose: str, *labels: str) -> np.random.Generator:
    digest = hashlib.sha256("\n".join([purpose, *labels]).encode()).digest()
    words = [int.from_bytes(digest[4 * i : 4 * i + 4], "little") for i in range(4)]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, round, *words])))


def batches(
    sequences: Sequences, numbers: Sequence[int], batch_size: int, epochs: int, generator: np.random.Generator
) -> Iterator[Batch]:
    for _ in range(epochs):
        order = [numbers[i] for i in generator.permutation(len(numbers))]
        for start in range(0, len(order), batch_size):
            yield [(sequences.tokens[i], int(sequences.lengths[i])) for i in order[start : start + batch_size]]


def halves(
    client: Client, seed: int, round: int, purpose: str, share: float = 0.5, rule: str = "time"
) -> tuple[list[int], list[int]]:
    """Numbers of the sequences of both parts; from two sequences on, none is empty."""
    if rule == "time":
        cut = older(client, share)
        return list(range(cut)), list(range(cut, len(client.train)))
    order = [int(i) for i in stream(seed, round, purpose, "split", client.id).permutation(len(client.train))]
    cut = min(max(int(share * len(order)), 1), len(order) - 1)
    return order[:cut], order[cut:]


def older(client: Client, share: float) -> int:
    """How many sequences are the older part: as near to the share as a boundary of texts, or where there is none of
    sequences, allows; of two equally near places the earlier one."""
    inside = range(1, len(client.train))
    ends = [n for n in inside if client.train.tokens[n][0] == 2] or list(inside)
    return min(ends, key=lambda end: (abs(end - share * len(client.train)), end), default=0)


def gru(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    n = h.shape[0]
    gi, gh = w_ih @ x + b_ih, w_hh @ h + b_hh
    r = torch.sigmoid(gi[:n] + gh[:n])
    z = torch.sigmoid(gi[n : 2 * n] + gh[n : 2 * n])
    new = torch.tanh(gi[2 * n :] + r * gh[2 * n :])
    return (1 - z) * new + z * h


def expert(p: Tensors, x: Tensor, h: Tensor, local: bool, layer: int = 0) -> Tensor:
    prefix = "gru.local_" if local else "gru."
    return gru(x, h, *(p[f"{prefix}{name}_l{layer}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")))


def run(
    p: Tensors, tokens: Tokens, length: int, route: str, temperature: float, hard: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Logits [length, V] and the q of every routed layer, each [length, 2]."""

    def gate(scores: Tensor) -> Tensor:
        q = torch.softmax(scores / temperature, 0)
        if not hard:
            return q
        return torch.tensor([1.0, 0.0] if q[0] >= q[1] else [0.0, 1.0], dtype=q.dtype)

    routed_head = HEAD_ROUTERS[0] in p and route == "mixture"
    layers = sum(name.startswith("gru.weight_ih_l") for name in p)
    states = [torch.zeros(p["gru.weight_hh_l0"].shape[1], dtype=torch.float64)] * layers
    logits: list[Tensor] = []
    gates: list[list[Tensor]] = [[] for _ in range(layers + 1)]
    for t in range(length):
        x = p["embedding.weight"][int(tokens[t])]
        for layer, h in enumerate(states):
            if route == "mixture":
                q = gate(p[f"gru.router_weight_l{layer}"] @ torch.cat([x, h]) + p[f"gru.router_bias_l{layer}"])
                x = q[0] * expert(p, x, h, False, layer) + q[1] * expert(p, x, h, True, layer)
                gates[layer].append(q)
            else:
                x = expert(p, x, h, route == "local", layer)
            states[layer] = x
        h = x
        own = "local_" if route == "local" and "head.local_weight" in p else ""
        out = p[f"head.{own}weight"] @ h + p[f"head.{own}bias"]
        if routed_head:
            q = gate(p[HEAD_ROUTERS[0]] @ h + p[HEAD_ROUTERS[1]])
            out = q[0] * out + q[1] * (p["head.local_weight"] @ h + p["head.local_bias"])
            gates[-1].append(q)
        logits.append(out)
    return torch.stack(logits), [torch.stack(g) for g in gates if g]


def batch_loss(p: Tensors, batch: Batch, route: str, temperature: float, gamma: float) -> tuple[Tensor, Tensor]:
    """Mean loss over the batch's tokens, and the same with the regulariser of Eq. 4."""
    nats, logs, tokens = torch.zeros(()), [], 0
    for sequence, length in batch:
        logits, gates = run(p, sequence, length, route, temperature)
        for t in range(length):
            nats = nats - torch.log_softmax(logits[t], 0)[int(sequence[t + 1])]
        logs.append([torch.log(q[:, 0]).sum() for q in gates])
        tokens += length
    loss = nats / tokens
    layers = len(logs[0])
    regulariser = sum(sum(sums) / tokens for sums in zip(*logs, strict=True))
    return loss, loss - gamma / layers * regulariser if gamma else loss


def clipped(gradients: Sequence[Tensor], bound: float) -> list[Tensor]:
    """The gradients, scaled down together where their common norm is above the bound; 0: no bound."""
    norm = sum(float((g**2).sum()) for g in gradients) ** 0.5
    shrink = bound / norm if bound and norm > bound else 1.0
    return [shrink * g for g in gradients]


def sgd_step(
    p: Tensors, names: Sequence[str], batch: Batch, options: Options, route: str, temperature: float = 1.0, gamma: float = 0.0
) -> tuple[float, int]:
    """One step on these parameters, in place; returns the loss before it and the number of tokens."""
    leaves = {name: p[name].clone().requires_grad_() for name in names}
    loss, target = batch_loss({**p, **leaves}, batch, route, temperature, gamma)
    gradients = clipped(torch.autograd.grad(target, list(leaves.values())), options["clip"])
    for name, gradient in zip(names, gradients, strict=True):
        p[name] = p[name] - options["lr"] * gradient
    return float(loss.detach()), sum(length for _, length in batch)


def sgd_phase(
    p: Tensors,
    names: Sequence[str],
    phase: Iterable[Batch],
    options: Options,
    route: str,
    temperature: float = 1.0,
    gamma: float = 0.0,
) -> Steps:
    """Such steps on all batches of a phase, in place."""
    return [sgd_step(p, names, batch, options, route, temperature, gamma) for batch in phase]


def fedavg(w: Tensors, client: Client, options: Options, seed: int, round: int) -> tuple[Tensors, int, Steps]:
    """w_m and n_m of one client, and its mean training loss."""
    p = dict(w)
    generator = stream(seed, round, "train", "shuffle", "global", client.id)
    numbers = list(range(len(client.train)))
    losses = [
        sgd_step(p, list(w), batch, options, "global")
        for batch in batches(client.train, numbers, options["batch_size"], options["epochs"], generator)
    ]
    return p, len(numbers), losses


def flow(
    received: Tensors,
    shapes: Mapping[str, tuple[int, ...]],
    client: Client,
    options: Options,
    seed: int,
    round: int,
    purpose: str = "train",
) -> tuple[Tensors, int, Steps]:
    """What Flow makes of one client: all its parameters after both phases, |zeta_g|, and the losses of the second.

    purpose "train": as in a round; "evaluation" or another: personalization, where only the routers move after w_l.
    """
    workshop = options["variant"] == "workshop"
    p = dict(received)
    local = [name for name in shapes if "local_" in name]
    routers = [name for name in shapes if "router_" in name]
    for name in local:
        p[name] = received[name.replace("local_", "")]
    if workshop:
        p.update({name: torch.zeros(shapes[name], dtype=torch.float64) for name in routers})
    world = [name for name in received if name not in routers]
    numbers = list(range(len(client.train)))
    support = query = numbers
    if not workshop:
        support, query = halves(client, seed, round, purpose, options.get("local_share", 0.5))
    generator = stream(seed, round, purpose, "shuffle", "local", client.id)
    for batch in batches(client.train, support, options["batch_size"], options["epochs"], generator):
        sgd_step(p, local, batch, {**options, "lr": options["personal_lr"]}, "local")
    phase = "global" if purpose == "train" else "router"
    generator = stream(seed, round, purpose, "shuffle", phase, client.id)
    losses = []
    for batch in batches(client.train, query, options["batch_size"], options["epochs"], generator):
        tau, gamma = options["temperature"], options["gamma"]
        if purpose != "train":
            sgd_step(p, routers, batch, options, "mixture", tau, gamma)
        elif workshop:
            losses.append(sgd_step(p, world + routers, batch, options, "mixture", tau, gamma))
        else:
            sgd_step(p, routers, batch, options, "mixture", tau, gamma)
            losses.append(sgd_step(p, world, batch, options, "mixture", tau, 0.0))
    return p, len(query), losses


def weighted_mean(uploads: Sequence[tuple[Tensors, float]]) -> Tensors:
    """uploads: (parameters, weight) of every client."""
    total = sum(weight for _, weight in uploads)
    return {name: sum((weight * p[name] for p, weight in uploads), torch.zeros(())) / total for name in uploads[0][0]}


def hits(p: Tensors, client: Client, route: str, temperature: float = 1.0, hard: bool = False) -> tuple[int, int]:
    """Scored test tokens and how many of them are predicted right."""
    tokens = right = 0
    for sequence, length in zip(client.test.tokens, client.test.lengths, strict=True):
        logits, _ = run(p, sequence, int(length), route, temperature, hard)
        for t in range(int(length)):
            if sequence[t + 1] >= 4:
                tokens += 1
                right += int(logits[t].argmax()) == int(sequence[t + 1])
    return tokens, right
