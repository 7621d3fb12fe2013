"""APFL (Deng et al. 2020, arXiv 2003.13461): every client predicts with a mixture of its own model and the global one."""

from __future__ import annotations

from dataclasses import dataclass

from flow.algorithms.interface import Algorithm, Tunable, any_batch
from flow.algorithms.shared import finetuning
from flow.algorithms.shared.finetuning import RATES, FineTuning, personal
from flow.checks import check_number
from flow.model.interface import Model
from flow.model.parameters import Tensors, copy, per_client, tagged, untagged
from flow.training.messages import Personal, Upload, Visit
from flow.training.records import Work
from flow.training.sgd import Update
from flow.training.work import train


@dataclass(frozen=True)
class APFLOptions(FineTuning):
    """APFL. Published: 3 epochs at lr 0.1, Shakespeare 5 (Panchal et al. 2023, App. B)."""

    alpha: float = 0.25
    """Share of a client's own model in the mixture; where it is adapted, the first value. (Panchal et al. 2023: 0.25 for
    StackOverflow, 0.3 for Shakespeare; FedTorch: 0.5.)"""

    adaptive: bool = False
    """Whether every client adapts its alpha by gradient descent, on every batch. (FedTorch: off.)"""


def check(options: APFLOptions) -> None:
    """Raise UserError for an option out of range."""
    finetuning.check(options)
    check_number("alpha", options.alpha, 0, 1)


def fresh(options: APFLOptions, model: Model, received: Tensors, clients: int) -> Tensors:
    """Client state: v and alpha; a new client's v is w_g."""
    some = next(iter(received.values()))
    return {**tagged("v", received), "alpha": some.new_full((clients,), options.alpha)}


def local(options: APFLOptions, model: Model, visit: Visit) -> Upload:
    """Train w and v in turn; uploads w, keeps v and alpha."""
    parameters, work = both(options, model, visit, "global")
    own = {name: parameters[name] for name in visit.kept.tensors}
    return Upload(untagged("w", parameters), visit.data.sizes(), (work,), own)


def personalize(options: APFLOptions, model: Model, visit: Visit) -> Personal:
    """The local work once more, by the rate and epochs of fine-tuning; prediction with alpha v + (1 - alpha) w."""
    parameters, work = both(personal(options), model, visit, "personal")
    return Personal(mixture(parameters), "global", phases=(work,))


def both(options: APFLOptions, model: Model, visit: Visit, label: str) -> tuple[Tensors, Work]:
    """On every batch w <- w - eta grad f(w), then v <- v - eta grad_v f(alpha v + (1 - alpha) w) with the new w.

    Where alpha is adapted it moves with v, by the gradient at the same point: alpha - eta <v - w, grad f>, within 0..1.
    """
    parameters = copy({**tagged("w", visit.received), **visit.kept.tensors})
    own = tuple(tagged("v", visit.received))
    updates = [
        Update(tuple(tagged("w", visit.received)), "global", compose=lambda p: untagged("w", p)),
        Update((*own, "alpha") if options.adaptive else own, "global", compose=mixture),
    ]
    return parameters, train(
        model, parameters, visit.data, updates, options, visit.draw, label, bound if options.adaptive else None
    )


def mixture(parameters: Tensors) -> Tensors:
    """alpha v + (1 - alpha) w"""
    w, v, alpha = untagged("w", parameters), untagged("v", parameters), parameters["alpha"]
    share = {name: per_client(alpha, tensor) for name, tensor in w.items()}
    return {name: share[name] * v[name] + (1 - share[name]) * w[name] for name in w}


def bound(parameters: Tensors) -> None:
    """Keep alpha within 0..1."""
    parameters["alpha"].clamp_(0, 1)


ALGORITHM = Algorithm(
    name="apfl",
    about="Every client mixes the global model with one of its own.",
    options=APFLOptions,
    local=local,
    stopping=any_batch,
    personalize=personalize,
    resolve=finetuning.resolve,
    check=check,
    tuned=(*RATES, Tunable("alpha", "share", 3.0)),
    fresh=fresh,
)
