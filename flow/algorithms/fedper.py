"""FedPer (Arivazhagan et al. 2019, arXiv 1912.00818): embedding and GRU are global, every client keeps a head of its own.

Body and head are trained together, which FedRep does one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from flow.algorithms.interface import Algorithm, any_batch, needing
from flow.algorithms.shared import heads
from flow.algorithms.shared.finetuning import TUNED, FineTuning, check, personal, resolve
from flow.model.interface import Model
from flow.model.parameters import copy
from flow.training.messages import Personal, Upload, Visit
from flow.training.sgd import Update
from flow.training.work import finetune, train


@dataclass(frozen=True)
class FedPerOptions(FineTuning):
    """FedPer; `personal_lr` and `personal_epochs` are of the head, before a client predicts. Published: 4 epochs a round."""

    new_head: heads.NewHead = "average"
    """What a client that never trained starts from. "average": the mean of the heads, which clients upload for it. "initial":
    the initial values, and no head ever leaves a client, as in the paper, which has no new clients."""


def local(options: FedPerOptions, model: Model, visit: Visit) -> Upload:
    """E epochs of SGD on body and head together; uploads what it received, weighted by its sequences, and keeps the head."""
    parameters = copy({**visit.received, **visit.kept.tensors})
    work = train(model, parameters, visit.data, [Update(tuple(parameters), "global")], options, visit.draw, "global")
    sent, kept = heads.uploaded(parameters, visit.received)
    return Upload(sent, visit.data.sizes(), (work,), kept)


def personalize(options: FedPerOptions, model: Model, visit: Visit) -> Personal:
    """Fit the head to the body received."""
    update = Update(tuple(visit.kept.tensors), "global")
    return finetune(model, {**visit.received, **visit.kept.tensors}, visit, update, personal(options))


ALGORITHM = Algorithm(
    name="fedper",
    about="A global body, and a head of every client's own that is trained along with it.",
    options=FedPerOptions,
    needs=needing("head"),
    local=local,
    stopping=any_batch,
    personalize=personalize,
    resolve=resolve,
    check=check,
    tuned=TUNED,
    init=heads.init,
    download=heads.download,
    general=heads.general,
    fresh=heads.fresh,
)
