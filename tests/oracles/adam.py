"""Algorithms whose clients train by Adam, one client and one batch at a time, in float64, by the optimisers of torch."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from flow.data import Client
from oracles import Batch, Options, Steps, Tensors, batch_loss, batches, clipped, decoupled, halves, stream
from oracles.baselines import plan


class Own:
    """Parameters of one client under an optimiser of torch, from its first step on."""

    def __init__(self, p: Tensors, names: Iterable[str], options: Options) -> None:
        self.leaves = {name: p[name].detach().clone().requires_grad_() for name in names}
        self.clip = options["clip"]
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options["client_optimizer"]]
        betas = (options["client_beta1"], options["client_beta2"])
        self.optimizer = kind(
            self.leaves.values(),
            lr=options["lr"],
            betas=betas,
            eps=options["client_epsilon"],
            weight_decay=options["weight_decay"],
        )

    def step(self, loss: Tensor, mu: float = 0.0, anchor: Tensors | None = None) -> None:
        """One step by the clipped gradient of a loss, to which the pull to the anchor is added."""
        gradients = clipped(torch.autograd.grad(loss, list(self.leaves.values())), self.clip)
        for (name, leaf), gradient in zip(self.leaves.items(), gradients, strict=True):
            leaf.grad = gradient if anchor is None else gradient + mu * (leaf.detach() - anchor[name])
        self.optimizer.step()

    def values(self) -> Tensors:
        return {name: leaf.detach().clone() for name, leaf in self.leaves.items()}


def phase(
    p: Tensors,
    names: Sequence[str],
    phase: Iterable[Batch],
    options: Options,
    route: str,
    temperature: float = 1.0,
    gamma: float = 0.0,
    mu: float = 0.0,
    anchor: Tensors | None = None,
) -> Steps:
    """Steps on all batches of a phase, in place, with moments that start at zero."""
    own, losses = Own(p, names, options), []
    for batch in phase:
        loss, target = batch_loss({**p, **own.leaves}, batch, route, temperature, gamma)
        own.step(target, mu, anchor)
        losses.append((float(loss.detach()), sum(length for _, length in batch)))
    p.update(own.values())
    return losses


def fit(mixture: decoupled.Mixture, gate: Tensors, phase: Iterable[Batch], options: Options) -> Tensors:
    """The gate of Flow's decoupled variant."""
    own = Own(gate, gate, options)
    for batch in phase:
        own.step(mixture.loss(own.leaves, batch))
    return own.values()


def pulled(
    start: Tensors,
    anchor: Tensors,
    mu: float,
    client: Client,
    options: Options,
    seed: int,
    round: int,
    purpose: str = "train",
    label: str = "global",
) -> Tensors:
    """FedAvg, FedProx and Ditto's own model: steps from `start`, pulled to the anchor."""
    p = dict(start)
    phase(p, list(p), plan(client, options, seed, round, purpose, label), options, "global", mu=mu, anchor=anchor)
    return p


def apfl(
    received: Tensors,
    kept: tuple[Tensors, float] | None,
    client: Client,
    options: Options,
    seed: int,
    round: int,
    purpose: str = "train",
    label: str = "global",
) -> tuple[Tensors, Tensors, float]:
    """On every batch a step of w, then one of v, or of v and alpha; both have an Adam of their own. Returns w, v and alpha."""
    v, alpha = (received, options["alpha"]) if kept is None else kept
    world = Own(received, received, options)
    start = {**v, "alpha": torch.tensor(alpha, dtype=torch.float64)}
    own = Own(start, start if options["adaptive"] else v, options)
    for batch in plan(client, options, seed, round, purpose, label):
        world.step(batch_loss(world.leaves, batch, "global", 1.0, 0.0)[0])
        w, mine = world.values(), {**start, **own.leaves}
        mixed = {name: mine["alpha"] * mine[name] + (1 - mine["alpha"]) * w[name] for name in w}
        own.step(batch_loss(mixed, batch, "global", 1.0, 0.0)[0])
        if options["adaptive"]:
            own.leaves["alpha"].data.clamp_(0, 1)
    after = {**start, **own.values()}
    return world.values(), {name: after[name] for name in v}, float(after["alpha"])


def published(
    received: Tensors,
    shapes: Mapping[str, tuple[int, ...]],
    client: Client,
    options: Options,
    seed: int,
    round: int,
    purpose: str = "train",
) -> tuple[Tensors, int]:
    """Flow's variant "neurips": w_l on one half; on the other the routers and, in a round, w_g in turn, each its own Adam."""
    local = [name for name in shapes if "local_" in name]
    routers = [name for name in shapes if "router_" in name]
    p = {**received, **{name: received[name.replace("local_", "")] for name in local}}
    support, query = halves(client, seed, round, purpose, options["local_share"])

    def shuffled(label: str, numbers: list[int]) -> Iterable[Batch]:
        generator = stream(seed, round, purpose, "shuffle", label, client.id)
        return batches(client.train, numbers, options["batch_size"], options["epochs"], generator)

    phase(p, local, shuffled("local", support), {**options, "lr": options["personal_lr"]}, "local")
    both = [Own(p, routers, options)]
    if purpose == "train":
        both.append(Own(p, [name for name in received if name not in routers], options))
    for batch in shuffled("global" if purpose == "train" else "router", query):
        for own, gamma in zip(both, (options["gamma"], 0.0), strict=False):
            now = {**p, **{name: leaf for each in both for name, leaf in each.values().items()}, **own.leaves}
            own.step(batch_loss(now, batch, "mixture", options["temperature"], gamma)[1])
    return {**p, **{name: leaf for own in both for name, leaf in own.values().items()}}, len(query)
