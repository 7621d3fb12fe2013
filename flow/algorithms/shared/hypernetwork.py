"""A hypernetwork: from a vector for every client to tensors of a model, as published for pFedHN (Shamsian et al., ICML 2021).

An MLP reads the vector; one linear layer for every tensor writes it. Parameters are a flat dictionary of tensors, phi:
"in.weight" [W, D], "hidden0.weight" [W, W], .., "out.<name>.weight" [*shape, W] and "out.<name>.bias" [*shape], and the
biases of the first two kinds.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flow.model.parameters import Tensors


def fresh_phi(targets: Tensors, inputs: int, width: int, layers: int, generator: np.random.Generator) -> Tensors:
    """Initial phi for tensors like `targets` from vectors of `inputs` numbers, by an MLP with `layers` hidden layers.

    All is drawn as torch.nn.Linear draws it, except for the biases of the outputs. These are the targets, so that every
    client's model starts near usual initial values.
    """
    some = next(iter(targets.values()))

    def uniform(reads: int, *shape: int) -> Tensor:
        bound = 1 / math.sqrt(reads)
        return torch.from_numpy(generator.uniform(-bound, bound, shape)).to(some)

    def layer(name: str, reads: int) -> Tensors:
        return {name + ".weight": uniform(reads, width, reads), name + ".bias": uniform(reads, width)}

    phi = layer("in", inputs)
    for n in range(layers):
        phi |= layer(f"hidden{n}", width)
    for name, target in targets.items():
        phi |= {f"out.{name}.weight": uniform(width, *target.shape, width), f"out.{name}.bias": target.clone()}
    return phi


def generate(phi: Tensors, vectors: Tensor) -> Tensors:
    """h(v; phi): vectors [K, D] -> the tensors of K clients, [K, ..] each.

    The hidden layers read the ReLU of what is below, as published; the outputs read the last one as it is.
    """
    features = F.linear(vectors, phi["in.weight"], phi["in.bias"])
    for n in range(sum(name.startswith("hidden") for name in phi) // 2):
        features = F.linear(features.relu(), phi[f"hidden{n}.weight"], phi[f"hidden{n}.bias"])
    tensors = {}
    for key, bias in phi.items():
        if key.startswith("out.") and key.endswith(".bias"):
            name = key.removeprefix("out.").removesuffix(".bias")
            product = features @ phi[f"out.{name}.weight"].flatten(0, -2).mT
            tensors[name] = product.view(-1, *bias.shape) + bias
    return tensors


def generate_each(phi: Tensors, vectors: Tensor) -> Tensors:
    """:func:`generate`, one client after the other, so that a client's bits do not depend on its company."""
    each = [generate(phi, vector) for vector in torch.split(vectors, 1)]
    return {name: torch.cat([made[name] for made in each]) for name in each[0]}


def pull_back_each(phi: Tensors, vectors: Tensor, delta: Tensors) -> Tensor:
    """J_v(theta_i)^T delta_i [K, D] of :func:`pull_back`, one client after the other."""
    own = ({name: tensor[k : k + 1] for name, tensor in delta.items()} for k in range(len(vectors)))
    return torch.cat(
        [pull_back(phi, vector, d, frozen=True)[1] for vector, d in zip(torch.split(vectors, 1), own, strict=True)]
    )


def pull_back(phi: Tensors, vectors: Tensor, delta: Tensors, frozen: bool = False) -> tuple[Tensors, Tensor]:
    """(sum_i J_phi(theta_i)^T delta_i, J_v(theta_i)^T delta_i [K, D]), in one vector-Jacobian product.

    Args:
        delta: [K, ..], by the names that :func:`generate` gives.
        frozen: leave out the first.
    """
    leaves = {} if frozen else {name: tensor.detach().requires_grad_() for name, tensor in phi.items()}
    own = vectors.detach().requires_grad_()
    with torch.enable_grad():
        made = generate({**phi, **leaves}, own)
    names = list(made)
    gradients = torch.autograd.grad([made[n] for n in names], [*leaves.values(), own], [delta[n].to(own) for n in names])
    return dict(zip(leaves, gradients, strict=False)), gradients[-1]
