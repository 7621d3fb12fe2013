"""FedAvg (McMahan et al., AISTATS 2017): every client trains the global model on its own data; the server takes the mean."""

from __future__ import annotations

from dataclasses import dataclass

from flow.algorithms.interface import Algorithm, Scope, any_batch
from flow.model.interface import Model
from flow.training.messages import Upload, Visit
from flow.training.sgd import Sgd, Update
from flow.training.work import fit


@dataclass(frozen=True)
class FedAvgOptions(Sgd):
    """FedAvg. Published: 1 epoch; lr 10^-0.5 for StackOverflow with server lr 1 (google-research/federated)."""


def local(options: FedAvgOptions, model: Model, visit: Visit) -> Upload:
    """E epochs of SGD from w_g; uploads the result, weighted by the number of training sequences."""
    return fit(model, visit.received, visit, Update(tuple(visit.received), "global"), options)


ALGORITHM = Algorithm(
    name="fedavg",
    about="One global model for all, nothing personal.",
    options=FedAvgOptions,
    local=local,
    stopping=any_batch,
    personalize=None,
    scope=lambda options: Scope(client=False, instance=False),
)
