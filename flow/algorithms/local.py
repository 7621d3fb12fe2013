"""Local: every client trains a model of its own and nothing is exchanged; what federation must beat."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flow.algorithms.interface import Algorithm, Tunable, any_batch, nothing_changes, nothing_is_sent
from flow.checks import check_number
from flow.model.interface import Model
from flow.model.parameters import Tensors, copy, initial, stack
from flow.training.messages import Personal, Upload, Visit
from flow.training.sgd import Sgd, Update, check_sgd
from flow.training.work import finetune, train


@dataclass(frozen=True)
class LocalOptions(Sgd):
    """Training alone. Published: 10 epochs at lr 0.05 for EMNIST, 20 at 0.1 for CIFAR (Astuary/Flow)."""

    personal_epochs: int = 10
    """Passes over the training sequences before the client is tested, on top of those of the rounds it took part in."""


def check(options: LocalOptions) -> None:
    """Raise UserError for an option out of range."""
    check_sgd(options)
    check_number("personal_epochs", options.personal_epochs, 1)


def fresh(options: LocalOptions, model: Model, received: Tensors, clients: int) -> Tensors:
    """Client state: v, from the initial parameters, the same for all."""
    return stack(initial(model, "global"), clients)


def local(options: LocalOptions, model: Model, visit: Visit) -> Upload:
    """E epochs of SGD on v, which stays with the client."""
    parameters = copy(visit.kept.tensors)
    work = train(model, parameters, visit.data, [Update(tuple(parameters), "global")], options, visit.draw, "local")
    return Upload({}, visit.data.sizes(), (work,), parameters)


def personalize(options: LocalOptions, model: Model, visit: Visit) -> Personal:
    """Further epochs from v; a new client's v is the initial model."""
    longer = replace(options, epochs=options.personal_epochs)
    return finetune(model, visit.kept.tensors, visit, Update(tuple(visit.kept.tensors), "global"), longer)


ALGORITHM = Algorithm(
    name="local",
    about="Every client alone, without any exchange.",
    options=LocalOptions,
    local=local,
    stopping=any_batch,
    personalize=personalize,
    check=check,
    tuned=(Tunable("lr"), Tunable("personal_epochs", "count")),
    init=lambda options, model, seed, clients: {},
    download=nothing_is_sent,
    general=lambda options, model, state: None,
    fresh=fresh,
    averages=False,
    beyond_the_sum=lambda options: "nothing leaves a client, so there is nothing to protect",
    server_step=nothing_changes,
)
