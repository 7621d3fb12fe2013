"""A local expert beside the global one: made from it, and trained on its own."""

from __future__ import annotations

import torch

from flow.draws import Draw
from flow.model.interface import Model
from flow.model.parameters import Tensors, copy, global_name, initial, names_of
from flow.training.batches import Data
from flow.training.records import Work
from flow.training.sgd import Sgd, Update
from flow.training.work import train


def start(model: Model, received: Tensors) -> Tensors:
    """K clients' parameters: what was received, w_l copied from w_g, and routers at zero, where none came."""
    clients = len(next(iter(received.values())))
    own = {name: received[global_name(name)] for name in initial(model, "local")}
    own |= {n: torch.zeros_like(psi).expand(clients, *psi.shape) for n, psi in initial(model, "router").items()}
    return copy({**own, **received})


def make_local(model: Model, parameters: Tensors, data: Data, sgd: Sgd, draw: Draw, label: str = "local") -> Work:
    """Train w_l by the local route on this part of the data; embedding, w_g and psi stay as they are."""
    update = Update(names_of(parameters, "local"), "local")
    return train(model, parameters, data, [update], sgd, draw, label)
