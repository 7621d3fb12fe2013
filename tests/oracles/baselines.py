"""The baselines as plainly as their formulas: one client, one batch, one step at a time, in float64.

Every function returns what one client has after the round (or after personalizing): parameters by name, and its weight in the
server's mean. `options` is a dictionary; `received` what the server sent; `kept` what the client kept, None for a new one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from flow.data import Client
from oracles import Batch, Options, Tensors, batch_loss, batches, clipped, halves, sgd_step, stream


def plan(
    client: Client,
    options: Options,
    seed: int,
    round: int,
    purpose: str,
    phase: str,
    epochs: int | None = None,
    numbers: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """The batches of one phase."""
    numbers = list(range(len(client.train))) if numbers is None else numbers
    generator = stream(seed, round, purpose, "shuffle", phase, client.id)
    return batches(client.train, numbers, options["batch_size"], epochs or options["epochs"], generator)


def gradient(
    p: Tensors, names: Sequence[str], batch: Batch, model: Callable[[Tensors], Tensors] = lambda p: p, route: str = "global"
) -> Tensors:
    """d f / d names at p, where the model computes with model(p)."""
    leaves = {name: p[name].clone().requires_grad_() for name in names}
    loss, _ = batch_loss(model({**p, **leaves}), batch, route, 1.0, 0.0)
    return dict(zip(names, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def clip(gradients: Tensors, bound: float) -> Tensors:
    return dict(zip(gradients, clipped(list(gradients.values()), bound), strict=True))


def personal(options: Options) -> Options:
    """The options of the fine-tuning before a prediction, by a rate and a length of its own."""
    return {**options, "lr": options["personal_lr"], "epochs": options["personal_epochs"]}


def alone(
    start: Tensors, client: Client, options: Options, seed: int, round: int, purpose: str = "train", phase: str = "local"
) -> tuple[Tensors, int]:
    """SGD from `start`."""
    p = dict(start)
    epochs = options["personal_epochs"] if purpose != "train" and "personal_epochs" in options else None
    for batch in plan(client, options, seed, round, purpose, phase, epochs):
        sgd_step(p, list(start), batch, options, "global")
    return p, len(client.train)


def fedprox(
    received: Tensors,
    client: Client,
    options: Options,
    seed: int,
    round: int,
    purpose: str = "train",
    phase: str = "global",
    mu: str = "mu",
    start: Tensors | None = None,
) -> tuple[Tensors, int]:
    """w <- w - eta (grad f(w) + mu (w - w_g)); with `start` this is Ditto's step on v."""
    w = dict(start or received)
    for batch in plan(client, options, seed, round, purpose, phase):
        g = clip(gradient(w, list(w), batch), options["clip"])
        for name in w:
            w[name] = w[name] - options["lr"] * (g[name] + options[mu] * (w[name] - received[name]))
    return w, len(client.train)


def ditto(
    received: Tensors, kept: Tensors | None, client: Client, options: Options, seed: int, round: int
) -> tuple[Tensors, Tensors, int]:
    """Interleaved, as published: on every batch one step on v, at its own rate, then one on w. Returns w and v."""
    w, v = dict(received), dict(kept or received)
    for batch in plan(client, options, seed, round, "train", "global"):
        g = clip(gradient(v, list(v), batch), options["clip"])
        for name in v:
            v[name] = v[name] - options["personal_lr"] * (g[name] + options["lam"] * (v[name] - received[name]))
        g = clip(gradient(w, list(w), batch), options["clip"])
        for name in w:
            w[name] = w[name] - options["lr"] * g[name]
    return w, v, len(client.train)


def apfl(
    received: Tensors,
    kept: tuple[Tensors, float] | None,
    client: Client,
    options: Options,
    seed: int,
    round: int,
    purpose: str = "train",
    phase: str = "global",
) -> tuple[Tensors, Tensors, float]:
    """Returns w, v and alpha."""
    w = dict(received)
    v, alpha = (dict(received), options["alpha"]) if kept is None else (dict(kept[0]), kept[1])
    for batch in plan(client, options, seed, round, purpose, phase):
        g = clip(gradient(w, list(w), batch), options["clip"])
        for name in w:
            w[name] = w[name] - options["lr"] * g[name]
        mixed = {name: alpha * v[name] + (1 - alpha) * w[name] for name in w}
        g = gradient(mixed, list(mixed), batch)
        step = {name: alpha * g[name] for name in g}
        if options["adaptive"]:
            step["alpha"] = sum((((v[name] - w[name]) * g[name]).sum() for name in g), torch.zeros(()))
        step = clip(step, options["clip"])
        for name in v:
            v[name] = v[name] - options["lr"] * step[name]
        if options["adaptive"]:
            alpha = min(max(float(alpha - options["lr"] * step["alpha"]), 0.0), 1.0)
    return w, v, alpha


def fedrep(
    body: Tensors, head: Tensors, client: Client, options: Options, seed: int, round: int
) -> tuple[Tensors, Tensors, int]:
    """Head, then body. Returns both."""
    p = {**body, **head}
    for batch in plan(client, options, seed, round, "train", "head", options["head_epochs"]):
        sgd_step(p, list(head), batch, options, "global")
    for batch in plan(client, options, seed, round, "train", "global"):
        sgd_step(p, list(body), batch, options, "global")
    return {name: p[name] for name in body}, {name: p[name] for name in head}, len(client.train)


def tuned(
    start: Tensors,
    names: Iterable[str],
    client: Client,
    options: Options,
    seed: int,
    round: int,
    epochs: int | None = None,
    route: str = "global",
    temperature: float = 1.0,
) -> Tensors:
    """Fine-tuning of these parameters before the evaluation."""
    p = dict(start)
    for batch in plan(client, options, seed, round, "evaluation", "personal", epochs):
        sgd_step(p, list(names), batch, options, route, temperature)
    return p


def fedrecon(
    received: Tensors,
    unknown: Tensor,
    oov: Sequence[int],
    client: Client,
    options: Options,
    seed: int,
    round: int,
    purpose: str = "train",
) -> tuple[Tensors, Tensor, Tensors, int]:
    """received: w_g with the table of known tokens only; unknown: initial rows of the tokens `oov`.

    A token's vector is the sum of a global and a local part, one of which is zero. Returns w_g and the local rows.
    """
    table = "embedding.weight"
    known = [token for token in range(len(received[table]) + len(oov)) if token not in oov]
    p = {**received, "local": unknown}

    def whole(p: Tensors) -> Tensors:
        rows = [
            p["local"][oov.index(token)] if token in oov else p[table][known.index(token)]
            for token in range(len(known) + len(oov))
        ]
        return {**{name: tensor for name, tensor in p.items() if name != "local"}, table: torch.stack(rows)}

    def steps(p: Tensors, names: Sequence[str], rate: float, phase: str, epochs: int, numbers: Sequence[int]) -> None:
        for batch in plan(client, options, seed, round, purpose, phase, epochs, numbers):
            g = clip(gradient(p, names, batch, whole), options["clip"])
            for name in names:
                p[name] = p[name] - rate * g[name]

    support = query = list(range(len(client.train)))
    if purpose == "train":
        support, query = halves(client, seed, round, purpose)
    steps(p, ["local"], options["recon_lr"], "recon", options["recon_epochs"], support)
    if purpose == "train":
        steps(p, list(received), options["lr"], "global", options["epochs"], query)
    return {name: p[name] for name in received}, p["local"], whole(p), len(query)


def server(
    optimizer: str,
    w: Tensor,
    targets: Iterable[Callable[[Tensor], Tensor]],
    lr: float,
    beta1: float,
    beta2: float | None,
    tau: float,
) -> Tensor:
    """Some rounds of Algorithm 2 of Reddi et al. (2021), number by number; targets: the rounds' means. Returns w."""
    flat, m = w.flatten().tolist(), [0.0] * w.numel()
    v = [tau**2] * w.numel()
    for target in targets:
        goal = target(torch.tensor(flat, dtype=torch.float64).view_as(w)).flatten().tolist()
        for i in range(len(flat)):
            delta = goal[i] - flat[i]
            m[i] = beta1 * m[i] + (1 - beta1) * delta
            if optimizer == "adagrad":
                v[i] = v[i] + delta**2
            elif optimizer == "adam":
                assert beta2 is not None
                v[i] = beta2 * v[i] + (1 - beta2) * delta**2
            else:
                assert beta2 is not None
                sign = (v[i] > delta**2) - (v[i] < delta**2)
                v[i] = v[i] - (1 - beta2) * delta**2 * sign
            flat[i] = flat[i] + lr * m[i] / (v[i] ** 0.5 + tau)
    return torch.tensor(flat, dtype=torch.float64).view_as(w)


def fedper(
    body: Tensors, head: Tensors, client: Client, options: Options, seed: int, round: int
) -> tuple[Tensors, Tensors, int]:
    """Body and head at once. Returns both."""
    p = {**body, **head}
    for batch in plan(client, options, seed, round, "train", "global"):
        sgd_step(p, list(p), batch, options, "global")
    return {name: p[name] for name in body}, {name: p[name] for name in head}, len(client.train)


def fedbabu(body: Tensors, head: Tensors, client: Client, options: Options, seed: int, round: int) -> tuple[Tensors, int]:
    """The body under a head that never moves."""
    p = {**body, **head}
    for batch in plan(client, options, seed, round, "train", "global"):
        sgd_step(p, list(body), batch, options, "global")
    return {name: p[name] for name in body}, len(client.train)


def perfedavg(received: Tensors, client: Client, options: Options, seed: int, round: int) -> tuple[Tensors, int]:
    """One step ahead on the first half of a batch; from where it was, by the gradient there on the second half."""
    w = dict(received)
    for batch in plan(client, options, seed, round, "train", "global"):
        half = (len(batch) + 1) // 2
        near, far = (batch[:half], batch[half:]) if len(batch) > 1 else (batch, batch)
        ahead = dict(w)
        sgd_step(ahead, list(ahead), near, {**options, "lr": options["inner_lr"]}, "global")
        g = clip(gradient(ahead, list(ahead), far), options["clip"])
        for name in w:
            w[name] = w[name] - options["lr"] * (g[name] + options["weight_decay"] * w[name])
    return w, len(client.train)
