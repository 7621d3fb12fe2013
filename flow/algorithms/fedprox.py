"""FedProx (Li et al., MLSys 2020): FedAvg whose clients are pulled back to the model they received."""

from __future__ import annotations

from dataclasses import dataclass

from flow.algorithms.interface import Algorithm, Tunable, any_batch
from flow.algorithms.shared import finetuning
from flow.algorithms.shared.finetuning import RATES, FineTuning, personal
from flow.model.interface import Model
from flow.model.parameters import Tensors
from flow.training.messages import Personal, Upload, Visit
from flow.training.sgd import Update
from flow.training.work import finetune, fit


@dataclass(frozen=True)
class FedProxOptions(FineTuning):
    """FedProx. Published: 20 epochs (litian96/FedProx)."""

    mu: float = 0.001
    """Strength of the proximal term mu/2 |w - w_g|^2. (Paper: the best of 0.001, 0.01, 0.1, 0.5 and 1, by data set, at smaller
    lr; a step pulls by lr * mu.)"""


def check(options: FedProxOptions) -> None:
    """Raise UserError for an option out of range."""
    finetuning.check(options)
    finetuning.check_pull("mu", options.mu, {"lr": options.lr, "personal_lr": personal(options).lr})


def local(options: FedProxOptions, model: Model, visit: Visit) -> Upload:
    """E epochs of w <- w - eta (grad f(w) + mu (w - w_g)), from w_g; weighted by the number of training sequences."""
    return fit(model, visit.received, visit, proximal(options, visit.received), options)


def personalize(options: FedProxOptions, model: Model, visit: Visit) -> Personal:
    """The same kind of steps from the same w_g, for every client: FedProx as a stateless personalization."""
    return finetune(model, visit.received, visit, proximal(options, visit.received), personal(options))


def proximal(options: FedProxOptions, received: Tensors) -> Update:
    """A step on all of w with the pull to what was received."""
    return Update(tuple(received), "global", mu=options.mu, anchor=received)


ALGORITHM = Algorithm(
    name="fedprox",
    about="FedAvg with a pull back to the received model, which each client fine-tunes by the same rule.",
    options=FedProxOptions,
    local=local,
    stopping=any_batch,
    personalize=personalize,
    resolve=finetuning.resolve,
    check=check,
    tuned=(*RATES, Tunable("mu", "weight", 10**0.5)),
)
