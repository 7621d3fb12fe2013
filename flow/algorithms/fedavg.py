"""FedAvg (McMahan et al. 2017): every client trains the global model on its own data; the server takes the mean."""

from __future__ import annotations

from dataclasses import dataclass

from flow import server
from flow.cohort import Data, Draw, Sgd, Update, Upload, check_sgd, stack, train
from flow.models import LanguageModel, Tensors, names_of


@dataclass(frozen=True)
class FedAvgOptions:
    """One global model for all, nothing personal."""

    lr: float = 2.0
    """Learning rate of the clients' SGD."""

    epochs: int = 3
    """Passes of a client over its training sequences per round. (google-research/federated: 1.)"""

    batch_size: int = 8
    """Sequences per SGD step of a client. (google-research/federated: 4 for Shakespeare, 16 for StackOverflow.)"""

    clip: float = 1.0
    """Largest norm of a client's gradient; longer ones are scaled down. 0: no clipping."""


def sgd_of(options: FedAvgOptions) -> Sgd:
    """The clients' optimiser."""
    return Sgd(options.lr, options.epochs, options.batch_size, options.clip)


def check(options: FedAvgOptions) -> None:
    """Raise UserError for an option out of range."""
    check_sgd(sgd_of(options))


def minimum_sequences(options: FedAvgOptions) -> int:
    """A client with fewer training sequences is skipped."""
    return 1


def traits(options: FedAvgOptions) -> dict[str, bool | float]:
    """What of :class:`~flow.models.LanguageModel` the algorithm decides: only the global expert is ever used."""
    return {"routed_head": False, "temperature": 1.0}


def init(options: FedAvgOptions, parameters: Tensors) -> Tensors:
    """Server state: w_g."""
    return {name: parameters[name].detach().clone() for name in names_of(parameters, "global")}


def download(options: FedAvgOptions, state: Tensors) -> Tensors:
    """What every client of a round receives: w_g."""
    return state


def local(options: FedAvgOptions, model: LanguageModel, received: Tensors, data: Data, draw: Draw) -> Upload:
    """E epochs of SGD from w_g; uploads the result, weighted by the number of training sequences."""
    parameters = stack(received, len(data.ids))
    work = train(model, parameters, data, [Update(tuple(received), "global")], sgd_of(options), draw, "global")
    return Upload(parameters, data.sizes(), work, work.sequences)


def server_step(options: FedAvgOptions, state: Tensors, mean: Tensors, how: server.ServerOptions) -> Tensors:
    """w_g <- the weighted mean, through the server optimiser."""
    return server.step(state, mean, how)
