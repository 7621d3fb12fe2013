"""FedPer (Arivazhagan et al. 2019, arXiv 1912.00818): embedding and GRU are global, every client keeps a head of its own.

Body and head are trained together, which FedRep does one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from flow.algorithms.interface import Algorithm
from flow.algorithms.shared.finetuning import TUNED, FineTuning, check, personal, resolve
from flow.model.language_model import LanguageModel
from flow.model.parameters import Tensors, body_of, copy, head_of, initial, stack
from flow.training.messages import Personal, Upload, Visit
from flow.training.sgd import Update
from flow.training.work import finetune, train


@dataclass(frozen=True)
class FedPerOptions(FineTuning):
    """FedPer; `personal_lr` and `personal_epochs` are those of the head before a client predicts. Published: 4 epochs."""


def init(options: FedPerOptions, model: LanguageModel, seed: int, clients: int) -> Tensors:
    """Server state: the body."""
    start = initial(model, "global")
    return {name: start[name].clone() for name in body_of(start)}


def fresh(options: FedPerOptions, model: LanguageModel, received: Tensors, clients: int) -> Tensors:
    """Client state: the head; a new client's has its initial values, the same for all."""
    start = initial(model, "global")
    return stack({name: start[name] for name in head_of(start)}, clients)


def local(options: FedPerOptions, model: LanguageModel, visit: Visit) -> Upload:
    """E epochs of SGD on body and head together; uploads the body, weighted by the number of sequences, keeps the head."""
    parameters = copy({**visit.received, **visit.kept.tensors})
    work = train(model, parameters, visit.data, [Update(tuple(parameters), "global")], options, visit.draw, "global")
    body, head = ({name: parameters[name] for name in names} for names in (visit.received, visit.kept.tensors))
    return Upload(body, visit.data.sizes(), (work,), head)


def personalize(options: FedPerOptions, model: LanguageModel, visit: Visit) -> Personal:
    """Fit the head to the body received."""
    update = Update(tuple(visit.kept.tensors), "global")
    return finetune(model, {**visit.received, **visit.kept.tensors}, visit, update, personal(options))


ALGORITHM = Algorithm(
    name="fedper",
    about="A global body, and a head of every client's own that is trained along with it.",
    options=FedPerOptions,
    local=local,
    personalize=personalize,
    resolve=resolve,
    check=check,
    tuned=TUNED,
    init=init,
    general=lambda options, model, state: None,
    fresh=fresh,
)
