"""pFedHN as plainly as its formulas, in float64: one client at a time, the hypernetwork's Jacobian written out.

phi is a dictionary as the package has it, without the tag: "in.weight", "in.bias", "hidden0.weight", .., "out.<name>.weight"
[*shape, W], "out.<name>.bias" [*shape].
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from flow.data import Client
from oracles import Options, Tensors, batch_loss, batches, clipped, sgd_step, stream

Buffers = dict[str | int, Tensor]
"""Momentum, by the names of phi and the numbers of clients."""


def layers(phi: Tensors) -> int:
    return 1 + sum(name.startswith("hidden") and name.endswith("weight") for name in phi)


def activations(phi: Tensors, v: Tensor) -> list[Tensor]:
    """z of every layer: z_0 = In v + b, z_l = H_l max(z_(l-1), 0) + b_l."""
    z = [phi["in.weight"] @ v + phi["in.bias"]]
    for n in range(layers(phi) - 1):
        z.append(phi[f"hidden{n}.weight"] @ z[-1].clamp(min=0) + phi[f"hidden{n}.bias"])
    return z


def written(phi: Tensors) -> list[str]:
    return [name[len("out.") : -len(".bias")] for name in phi if name.startswith("out.") and name.endswith(".bias")]


def theta(phi: Tensors, v: Tensor) -> Tensors:
    """h(v; phi), element by element."""
    z, tensors = activations(phi, v)[-1], {}
    for name in written(phi):
        weight, bias = phi[f"out.{name}.weight"], phi[f"out.{name}.bias"]
        flat = [float(row @ z + b) for row, b in zip(weight.reshape(-1, len(z)), bias.flatten(), strict=True)]
        tensors[name] = torch.tensor(flat, dtype=torch.float64).view(bias.shape)
    return tensors


def jacobian(phi: Tensors, v: Tensor) -> Tensors:
    """{parameter: [size of theta, size of the parameter]}, and "v", by the chain rule; theta is flat, its tensors in order."""
    z = activations(phi, v)
    names = written(phi)
    matrix = torch.cat([phi[f"out.{name}.weight"].reshape(-1, len(z[-1])) for name in names])
    blocks, start = dict[str, Tensor](), 0
    for name in names:
        size = phi[f"out.{name}.bias"].numel()
        weight, bias = torch.zeros(len(matrix), size, len(z[-1])), torch.zeros(len(matrix), size)
        weight, bias = weight.double(), bias.double()
        for j in range(size):
            weight[start + j, j] = z[-1]
            bias[start + j, j] = 1
        blocks |= {f"out.{name}.weight": weight.flatten(1), f"out.{name}.bias": bias}
        start += size
    for n in reversed(range(layers(phi) - 1)):  # matrix is d theta / d z_(n+1)
        blocks[f"hidden{n}.weight"] = (matrix[:, :, None] * z[n].clamp(min=0)).flatten(1)
        blocks[f"hidden{n}.bias"] = matrix
        matrix = (matrix @ phi[f"hidden{n}.weight"]) * (z[n] > 0)
    blocks |= {"in.weight": (matrix[:, :, None] * v).flatten(1), "in.bias": matrix, "v": matrix @ phi["in.weight"]}
    return blocks


def pulled(phi: Tensors, v: Tensor, delta: Tensors) -> Tensors:
    """J^T Delta for every parameter and for v."""
    flat = torch.cat([delta[name].flatten() for name in written(phi)])
    shapes = {**{name: tensor.shape for name, tensor in phi.items()}, "v": v.shape}
    return {name: (j.T @ flat).view(shapes[name]) for name, j in jacobian(phi, v).items()}


def steps(
    p: Tensors, names: Sequence[str], client: Client, options: Options, seed: int, round: int, purpose: str, phase: str
) -> Tensors:
    """K steps, every one on a batch drawn from all of the client's sequences."""
    p = dict(p)
    generator = stream(seed, round, purpose, "shuffle", phase, client.id)
    for _ in range(options["steps"]):
        numbers = generator.permutation(len(client.train))[: options["batch_size"]]
        batch = [(client.train.tokens[i], int(client.train.lengths[i])) for i in numbers]
        leaves = {name: p[name].clone().requires_grad_() for name in names}
        loss, _ = batch_loss({**p, **leaves}, batch, "global", 1.0, 0.0)
        gradients = clipped(torch.autograd.grad(loss, list(leaves.values())), options["clip"])
        for name, gradient in zip(names, gradients, strict=True):
            p[name] = p[name] - options["lr"] * gradient
    return p


def local(
    phi: Tensors, v: Tensor, shared: Tensors, head: Tensors, client: Client, options: Options, seed: int, round: int
) -> tuple[Tensors, Tensors, Tensors]:
    """(Delta, the shared tensors, the head) after a client's work."""
    start = theta(phi, v)
    p = steps({**start, **shared, **head}, [*start, *shared, *head], client, options, seed, round, "train", "global")
    return {n: start[n] - p[n] for n in start}, {n: p[n] for n in shared}, {n: p[n] for n in head}


def sgd(x: Tensor, gradient: Tensor, buffer: Tensor | float, rate: float, options: Options) -> tuple[Tensor, Tensor]:
    moved = options["hyper_momentum"] * buffer + gradient + options["hyper_decay"] * x
    return x - rate * moved, moved


def server(
    phi: Tensors, vectors: Mapping[int, Tensor], buffers: Buffers, deltas: Mapping[int, Tensors], options: Options
) -> tuple[Tensors, dict[int, Tensor], Buffers]:
    """The step after a round. vectors, deltas: by client; buffers: of phi's names and of clients, {} at first.

    Returns the new phi, vectors of these clients and buffers.
    """
    each = {client: pulled(phi, vectors[client], delta) for client, delta in deltas.items()}
    change = {name: sum((pullback[name] for pullback in each.values()), torch.zeros(())) / len(each) for name in phi}
    moved = {client: pullback["v"] for client, pullback in each.items()}
    norm = sum(float((g**2).sum()) for g in (*change.values(), *moved.values())) ** 0.5
    bound = options["hyper_clip"]
    shrink = bound / norm if bound and norm > bound else 1.0
    phi, vectors, buffers = dict(phi), dict(vectors), dict(buffers)
    for name, g in change.items():
        phi[name], buffers[name] = sgd(phi[name], shrink * g, buffers.get(name, 0.0), options["hyper_lr"], options)
    for client, g in moved.items():
        vectors[client], buffers[client] = sgd(
            vectors[client], shrink * g, buffers.get(client, 0.0), options["vector_lr"], options
        )
    return phi, vectors, buffers


def server_one_by_one(
    phi: Tensors, vectors: Mapping[int, Tensor], buffers: Buffers, deltas: Mapping[int, Tensors], options: Options
) -> tuple[Tensors, dict[int, Tensor], Buffers]:
    """The same, a step for each client in the order of their numbers."""
    vectors = dict(vectors)
    for client in sorted(deltas):
        phi, vectors, buffers = server(phi, vectors, buffers, {client: deltas[client]}, options)
    return phi, vectors, buffers


def fitted(p: Tensors, names: Sequence[str], client: Client, options: Options, seed: int, round: int) -> Tensors:
    """The last passes over all sequences before a client predicts, on these parameters."""
    p, numbers = dict(p), list(range(len(client.train)))
    generator = stream(seed, round, "evaluation", "shuffle", "personal", client.id)
    own = {**options, "lr": options["personal_lr"]}
    for batch in batches(client.train, numbers, options["batch_size"], options["personal_epochs"], generator):
        sgd_step(p, names, batch, own, "global")
    return p


def newcomer(
    phi: Tensors, v: Tensor, shared: Tensors, head: Tensors, client: Client, options: Options, seed: int, round: int
) -> tuple[Tensor, Tensors]:
    """(v, all that a new client predicts with) after its exchanges; of the server's only v moves."""
    buffer: Tensor | float = 0.0
    for exchange in range(options["new_exchanges"]):
        start = theta(phi, v)
        p = steps(
            {**start, **shared, **head}, [*start, *head], client, options, seed, round, "evaluation", f"exchange {exchange}"
        )
        head = {n: p[n] for n in head}
        gradient = pulled(phi, v, {n: start[n] - p[n] for n in start})["v"]
        (gradient,) = clipped([gradient], options["hyper_clip"])
        v, buffer = sgd(v, gradient, buffer, options["vector_lr"], options)
    return v, {**theta(phi, v), **shared, **head}
