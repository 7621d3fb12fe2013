"""FedAlt (Pillutla et al., ICML 2022, arXiv 2204.03809): every client keeps a part of the model, and trains it before the rest.

FedSim is its sibling, which trains both at once. Both start from a model that FedAvg has trained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flow.algorithms.interface import Algorithm, Tunable, only_whole
from flow.algorithms.shared import finetuning, private_part
from flow.algorithms.shared.finetuning import RATES
from flow.algorithms.shared.private_part import ChosenPart
from flow.checks import check_number
from flow.model.interface import Model
from flow.model.parameters import copy
from flow.training.messages import Upload, Visit
from flow.training.sgd import Update
from flow.training.work import train


@dataclass(frozen=True)
class FedAltOptions(ChosenPart):
    """FedAlt; `lr` and `epochs` are those of the shared part. Published, StackOverflow: 1 epoch for each part, lr 0.1,
    batch 64, server Adam at 5e-5, 500 rounds after 1000 of FedAvg, then 5 epochs of fine-tuning at 0.1
    (facebookresearch/FL_partial_personalization)."""

    private_lr: float | None = None
    """Learning rate of the private part in a round. None: lr. (Published code: the same.)"""

    private_epochs: int | None = None
    """Passes over the training sequences for the private part, before those for the shared part. None: epochs. (Published code:
    the same.)"""


def resolve(options: FedAltOptions, rounds: int) -> FedAltOptions:
    """The options with nothing left open."""
    options = private_part.resolve(options, rounds)
    return replace(
        options,
        private_lr=options.lr if options.private_lr is None else options.private_lr,
        private_epochs=options.epochs if options.private_epochs is None else options.private_epochs,
    )


def check(options: FedAltOptions) -> None:
    """Raise UserError for an option out of range."""
    finetuning.check_rate("private_lr", options.private_lr)
    private_part.check(options, private_lr=options.private_lr)
    if options.private_epochs is not None:
        check_number("private_epochs", options.private_epochs, 1)


def local(options: FedAltOptions, model: Model, visit: Visit) -> Upload:
    """The private part with the shared one frozen, then the shared part with the private one frozen; uploads the shared part.

    It is weighted by the client's sequences. Before that, rounds of FedAvg.
    """
    if private_part.pretraining(options, visit.draw):
        return private_part.fedavg(options, model, visit)
    assert options.private_lr is not None and options.private_epochs is not None
    own = replace(options, lr=options.private_lr, epochs=options.private_epochs)
    parameters = copy(private_part.whole(visit))
    shared, private = private_part.divided(visit, parameters)
    first = train(model, parameters, visit.data, [Update(tuple(private), "global")], own, visit.draw, "private")
    then = train(model, parameters, visit.data, [Update(tuple(shared), "global")], options, visit.draw, "global")
    return Upload(shared, visit.data.sizes(), (first, then), private)


ALGORITHM = Algorithm(
    name="fedalt",
    about="After rounds of FedAvg every client keeps a part of the model and trains it before the shared one.",
    options=FedAltOptions,
    needs=private_part.needs_part,
    local=local,
    stopping=only_whole("has the private part trained before the shared one, so who stops early has nothing new to upload"),
    personalize=private_part.personalize,
    resolve=resolve,
    check=check,
    rates=("lr", "private_lr"),
    tuned=(*RATES, Tunable("private_epochs", "count"), Tunable("personal_epochs", "count")),
    in_step=private_part.in_step,
    uploaded=private_part.uploaded,
    download=private_part.download,
    fresh=private_part.fresh,
)
