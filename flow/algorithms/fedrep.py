"""FedRep (Collins et al., ICML 2021): embedding and GRU are global, every client keeps a head of its own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from flow.algorithms.interface import Algorithm, Tunable, needing, only_whole
from flow.algorithms.shared import heads
from flow.algorithms.shared.finetuning import check_rate
from flow.checks import check_number
from flow.model.interface import Model
from flow.model.parameters import body_of, copy, head_of
from flow.training.messages import Personal, Upload, Visit
from flow.training.sgd import Sgd, Update, check_sgd
from flow.training.work import finetune, train


@dataclass(frozen=True)
class FedRepOptions(Sgd):
    """FedRep; `epochs` are those of the body. Published: 1 after 10 of the head for CIFAR, 5 after 10 for Sent140 and FEMNIST
    (lgcollins/FedRep)."""

    head_epochs: int = 10
    """Passes over the training sequences for the head, before the body's. (Published: 10.)"""

    personal_epochs: int = field(default=10, metadata={"absent": 3})
    """Passes for the head before a client predicts. (Published: at least 10.)"""

    personal_lr: float | None = None
    """Learning rate of these passes. None: lr. (Published: the same.)"""

    new_head: heads.NewHead = field(default="average", metadata={"absent": "initial"})
    """What a client that never trained starts from. "average": the mean of the heads, which clients upload for it, as in the
    published scripts. "initial": the initial values, and no head ever leaves a client, as in the paper."""


def check(options: FedRepOptions) -> None:
    """Raise UserError for an option out of range."""
    check_sgd(options, personal_lr=options.personal_lr)
    check_number("head_epochs", options.head_epochs, 1)
    check_number("personal_epochs", options.personal_epochs, 1)
    check_rate("personal_lr", options.personal_lr)


def resolve(options: FedRepOptions, rounds: int) -> FedRepOptions:
    """The options with nothing left open."""
    return replace(options, personal_lr=options.lr) if options.personal_lr is None else options


def local(options: FedRepOptions, model: Model, visit: Visit) -> Upload:
    """The head with the body frozen, then the body with the head frozen; uploads what it received, keeps the head."""
    parameters = copy({**visit.received, **visit.kept.tensors})
    first_sgd = replace(options, epochs=options.head_epochs)
    body, head = Update(body_of(parameters), "global"), Update(head_of(parameters), "global")
    first = train(model, parameters, visit.data, [head], first_sgd, visit.draw, "head")
    then = train(model, parameters, visit.data, [body], options, visit.draw, "global")
    sent, kept = heads.uploaded(parameters, visit.received)
    return Upload(sent, visit.data.sizes(), (first, then), kept)


def personalize(options: FedRepOptions, model: Model, visit: Visit) -> Personal:
    """Fit the head to the body received."""
    rate = options.lr if options.personal_lr is None else options.personal_lr
    sgd, update = replace(options, lr=rate, epochs=options.personal_epochs), Update(tuple(visit.kept.tensors), "global")
    return finetune(model, {**visit.received, **visit.kept.tensors}, visit, update, sgd)


ALGORITHM = Algorithm(
    name="fedrep",
    about="A global body, every client a head of its own.",
    options=FedRepOptions,
    needs=needing("head"),
    local=local,
    stopping=only_whole("has the head trained before the body, so who stops early has nothing new to upload"),
    personalize=personalize,
    resolve=resolve,
    check=check,
    tuned=(Tunable("lr"), Tunable("head_epochs", "count")),
    init=heads.init,
    download=heads.download,
    general=heads.general,
    fresh=heads.fresh,
)
