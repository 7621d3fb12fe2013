"""The server's side of a round: the weighted mean of the uploads and the step it takes towards it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from flow.cohort import Upload
from flow.models import Tensors


@dataclass(frozen=True)
class ServerOptions:
    """What the server does with the mean of the uploads."""

    server_optimizer: Literal["average"] = "average"
    """"average": the mean of the uploads becomes the next global model (FedAvg)."""


@dataclass
class Sum:
    """Uploads of one round, added up as they come; float64, so that their order and grouping leave no trace."""

    tensors: Tensors
    weight: int = 0
    nats: float = 0.0
    tokens: float = 0.0
    clients: int = 0
    sequences: int = 0
    nbytes: int = 0


def aggregate(uploads: Iterable[Upload]) -> Sum:
    """Add up every upload times its weight."""
    total = Sum({})
    for upload in uploads:
        for name, stacked in upload.tensors.items():
            weights = torch.tensor(upload.weights, dtype=torch.float64, device=stacked.device)
            part = torch.tensordot(weights, stacked.double(), dims=1)
            total.tensors[name] = total.tensors[name] + part if name in total.tensors else part
        total.weight += sum(upload.weights)
        total.nats += float(upload.work.nats.sum())
        total.tokens += float(upload.work.tokens.sum())
        total.clients += len(upload.weights)
        total.sequences += upload.sequences
        total.nbytes += nbytes(upload.tensors)
    return total


def mean(total: Sum, like: Tensors) -> Tensors:
    """The weighted mean, in the dtype of the state it will meet."""
    return {name: (tensor / total.weight).to(like[name].dtype) for name, tensor in total.tensors.items()}


def step(state: Tensors, mean: Tensors, options: ServerOptions) -> Tensors:
    """The next server state. Every server optimiser starts here; "average" moves all the way to the mean."""
    return {**state, **mean}


def nbytes(tensors: Tensors) -> int:
    """Size of these tensors when sent as they are."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
