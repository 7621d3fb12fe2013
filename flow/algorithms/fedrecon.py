"""FedRecon (Singhal et al., NeurIPS 2021): some parameters stay local and are reconstructed whenever they are needed.

Local are the embeddings of the buckets that unknown words share (`--oov-buckets`); nothing of them is kept or sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from flow.algorithms.interface import Algorithm, Tunable, needing, only_whole
from flow.checks import check_number
from flow.draws import Draw
from flow.model.interface import Model
from flow.model.parameters import Tensors, copy, initial
from flow.training.batches import Data, split
from flow.training.messages import Personal, Upload, Visit, broadcast
from flow.training.records import Work
from flow.training.sgd import Sgd, Update, check_sgd
from flow.training.work import train

TABLE = "embedding.weight"
LOCAL = "local/" + TABLE


@dataclass(frozen=True)
class FedReconOptions(Sgd):
    """FedRecon. Published: lr 0.3 for the global, 0.1 for the local part, batch 16, server Yogi at 0.1, 500 buckets."""

    recon_epochs: int = 5
    """Passes over the sequences that reconstruct the local part. (google-research/federated: 5.)"""

    recon_lr: float = 2.0
    """Learning rate of the reconstruction. (google-research/federated: 0.1.)"""


def check(options: FedReconOptions) -> None:
    """Raise UserError for an option out of range."""
    check_sgd(options, recon_lr=options.recon_lr)
    check_number("recon_epochs", options.recon_epochs, 1)
    check_number("recon_lr", options.recon_lr, 0)


def init(options: FedReconOptions, model: Model, seed: int, clients: int) -> Tensors:
    """Server state: w_g without the embeddings of unknown words."""
    state = {name: tensor.clone() for name, tensor in initial(model, "global").items()}
    return {**state, TABLE: state[TABLE][known(model)]}


def local(options: FedReconOptions, model: Model, visit: Visit) -> Upload:
    """Reconstruct on the support half, then train w_g on the query half with the local part frozen.

    Uploads w_g, weighted by the number of query sequences.
    """
    support, query = split(visit.data, visit.draw, rule=visit.split)
    parameters = start(model, visit.received)
    recon = reconstruct(options, model, parameters, support, visit.draw)
    update = Update(tuple(visit.received), "global", compose=joined(model))
    work = train(model, parameters, query, [update], options, visit.draw, "global")
    return Upload({name: parameters[name] for name in visit.received}, query.sizes(), (*recon, work))


def general(options: FedReconOptions, model: Model, state: Tensors) -> Personal | None:
    """w_g with the initial local part."""
    return Personal(joined(model)(start(model, broadcast(state, 1).tensors)), "global")


def personalize(options: FedReconOptions, model: Model, visit: Visit) -> Personal:
    """Reconstruct on all training sequences; the query set is what the client is tested on. The same for every client."""
    parameters = start(model, visit.received)
    recon = reconstruct(options, model, parameters, visit.data, visit.draw)
    return Personal(joined(model)(parameters), "global", phases=recon)


def start(model: Model, received: Tensors) -> Tensors:
    """K clients' parameters: what was received, and the local part at its initial values, the same for all."""
    own = initial(model, "global")[TABLE][list(model.oov)]
    clients = len(received[TABLE])
    return copy({**received, LOCAL: own.expand(clients, *own.shape)})


def reconstruct(options: FedReconOptions, model: Model, parameters: Tensors, data: Data, draw: Draw) -> tuple[Work]:
    """Train the local part alone, in place."""
    sgd = replace(options, lr=options.recon_lr, epochs=options.recon_epochs)
    return (train(model, parameters, data, [Update((LOCAL,), "global", compose=joined(model))], sgd, draw, "recon"),)


def known(model: Model) -> list[int]:
    """The tokens that are no bucket of unknown words."""
    return [token for token in range(model.vocabulary_size) if token not in model.oov]


def joined(model: Model) -> Callable[[Tensors], Tensors]:
    """Puts the global and the local rows of the embedding into one table."""
    order = torch.tensor([*known(model), *model.oov]).argsort()

    def compose(parameters: Tensors) -> Tensors:
        table = torch.cat((parameters[TABLE], parameters[LOCAL]), dim=1)
        rest = {name: tensor for name, tensor in parameters.items() if name != LOCAL}
        return {**rest, TABLE: table.index_select(1, order.to(table.device))}

    return compose


ALGORITHM = Algorithm(
    name="fedrecon",
    about="Embeddings of unknown words stay local and are reconstructed from a client's text; the rest is global.",
    options=FedReconOptions,
    needs=needing("embedding"),
    local=local,
    stopping=only_whole(
        "has the local part reconstructed before the rest is trained, so who stops early has nothing new to upload"
    ),
    personalize=personalize,
    check=check,
    tuned=(Tunable("lr"), Tunable("recon_lr"), Tunable("recon_epochs", "count")),
    minimum_sequences=lambda options: 2,
    init=init,
    general=general,
)
