"""FFGG as plainly as its formulas: one client, one sequence, one gradient at a time, in float64.

`received` is theta as the client got it, `hidden` what its private part starts from.
"""

from collections.abc import Sequence

import torch

from flow.data import Client
from oracles import Options, Tensors, batch_loss, clipped, sgd_step, stream
from oracles.baselines import plan


class Parts:
    """The private part that every client starts from; `initial` for a new one, and for all where options say so."""

    def __init__(self, initial: Tensors, options: Options) -> None:
        self.initial, self.keeps = initial, options["start"] == "kept"
        self.kept: dict[str, Tensors] = {}

    def own(self, client: Client) -> Tensors:
        return self.kept.get(client.id, self.initial)

    def keep(self, client: Client, w: Tensors) -> None:
        if self.keeps:
            self.kept[client.id] = w


def fine_tuned(
    theta: Tensors,
    w: Tensors,
    client: Client,
    options: Options,
    seed: int,
    round: int,
    purpose: str,
    phase: str,
    epochs: int | None = None,
) -> Tensors:
    """w after E epochs of SGD with theta frozen."""
    p = {**theta, **w}
    for batch in plan(client, options, seed, round, purpose, phase, epochs):
        sgd_step(p, list(w), batch, options, "global")
    return {name: p[name] for name in w}


def gradient(theta: Tensors, w: Tensors, client: Client, options: Options) -> tuple[Tensors, float]:
    """grad_theta of the mean loss over every training token of the client, and that loss."""
    everything = [(client.train.tokens[i], int(client.train.lengths[i])) for i in range(len(client.train))]
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in theta.items()}
    loss, _ = batch_loss({**w, **leaves}, everything, "global", 1.0, 0.0)
    gradients = clipped(torch.autograd.grad(loss, list(leaves.values())), options["clip"])
    return dict(zip(theta, gradients, strict=True)), float(loss.detach())


def client_round(
    received: Tensors, hidden: Tensors, client: Client, options: Options, seed: int, round: int
) -> tuple[Tensors, float, Tensors]:
    """What one client sends, its gradients' sum; the loss at the last of them, and w there."""
    theta, w = dict(received), dict(hidden)
    sent = {name: torch.zeros_like(tensor) for name, tensor in theta.items()}
    for pair in range(options["pairs"]):
        w = fine_tuned(theta, w, client, options, seed, round, "train", f"private {pair}")
        g, loss = gradient(theta, w, client, options)
        sent = {name: sent[name] + g[name] for name in sent}
        theta = {name: theta[name] - options["shared_lr"] * g[name] for name in theta}
    return sent, loss, w


def synchronous(theta: Tensors, parts: Parts, clients: Sequence[Client], options: Options, seed: int, round: int) -> Tensors:
    """A round of Algorithm 1: the next theta; parts: :class:`Parts`, in which the clients keep theirs."""
    sent = []
    for client in clients:
        g, _, w = client_round(theta, parts.own(client), client, options, seed, round)
        parts.keep(client, w)
        sent.append(g)
    rate = options["shared_lr"] / len(sent)
    return {name: theta[name] - rate * sum(g[name] for g in sent) for name in theta}


def asynchronous(
    history: Sequence[Tensors], parts: Parts, clients: Sequence[Client], options: Options, seed: int, round: int
) -> list[Tensors]:
    """A round's arrivals: history is every theta so far, the first the start; clients in the order of their numbers."""
    sent = []
    for client in clients:
        age = int(stream(seed, round, "train", "delay", client.id).integers(options["delay"]))
        stale = history[max(len(history) - 1 - age, 0)]
        g, _, w = client_round(stale, parts.own(client), client, options, seed, round)
        parts.keep(client, w)
        sent.append(g)
    history = list(history)
    for index in stream(seed, round, "server", "arrival").permutation(len(clients)):
        newest = history[-1]
        history.append({name: newest[name] - options["shared_lr"] * sent[index][name] for name in newest})
    return history
