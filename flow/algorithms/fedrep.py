"""FedRep (Collins et al., ICML 2021): embedding and GRU are global, every client keeps a head of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flow.algorithms.interface import Algorithm, Tunable
from flow.checks import check_number
from flow.model.language_model import LanguageModel
from flow.model.parameters import Tensors, body_of, copy, head_of, initial, stack
from flow.training.messages import Personal, Upload, Visit
from flow.training.sgd import Sgd, Update, check_sgd
from flow.training.work import finetune, train


@dataclass(frozen=True)
class FedRepOptions(Sgd):
    """FedRep; `epochs` are those of the body. Published: 1 for each part (TsingZ0/PFLlib)."""

    head_epochs: int = 3
    """Passes over the training sequences for the head, before the body's."""


def check(options: FedRepOptions) -> None:
    """Raise UserError for an option out of range."""
    check_sgd(options)
    check_number("head_epochs", options.head_epochs, 1)


def init(options: FedRepOptions, model: LanguageModel, seed: int, clients: int) -> Tensors:
    """Server state: the body."""
    start = initial(model, "global")
    return {name: start[name].clone() for name in body_of(start)}


def fresh(options: FedRepOptions, model: LanguageModel, received: Tensors, clients: int) -> Tensors:
    """Client state: the head; a new client's has its initial values, the same for all."""
    start = initial(model, "global")
    return stack({name: start[name] for name in head_of(start)}, clients)


def local(options: FedRepOptions, model: LanguageModel, visit: Visit) -> Upload:
    """The head with the body frozen, then the body with the head frozen; uploads the body, keeps the head."""
    parameters = copy({**visit.received, **visit.kept.tensors})
    heads = replace(options, epochs=options.head_epochs)
    first = train(model, parameters, visit.data, [Update(tuple(visit.kept.tensors), "global")], heads, visit.draw, "head")
    then = train(model, parameters, visit.data, [Update(tuple(visit.received), "global")], options, visit.draw, "global")
    body, head = ({name: parameters[name] for name in names} for names in (visit.received, visit.kept.tensors))
    return Upload(body, visit.data.sizes(), (first, then), head)


def personalize(options: FedRepOptions, model: LanguageModel, visit: Visit) -> Personal:
    """Fit the head to the body received."""
    heads = replace(options, epochs=options.head_epochs)
    return finetune(model, {**visit.received, **visit.kept.tensors}, visit, Update(tuple(visit.kept.tensors), "global"), heads)


ALGORITHM = Algorithm(
    name="fedrep",
    about="A global body, every client a head of its own.",
    options=FedRepOptions,
    local=local,
    personalize=personalize,
    check=check,
    tuned=(Tunable("lr"), Tunable("head_epochs", "count")),
    init=init,
    general=lambda options, model, state: None,
    fresh=fresh,
)
