"""Ditto (Li et al., ICML 2021): beside the global model every client keeps one of its own, pulled to the global one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flow.algorithms.interface import Algorithm, Stopping, Tunable
from flow.algorithms.shared import finetuning
from flow.algorithms.shared.finetuning import RATES, FineTuning, personal
from flow.model.interface import Model
from flow.model.parameters import Tensors, copy
from flow.training.messages import Personal, Upload, Visit
from flow.training.sgd import Update
from flow.training.work import finetune, fit, train


@dataclass(frozen=True)
class DittoOptions(FineTuning):
    """Ditto. Published: lr 0.05, batch 16, 2 local steps a round for Fashion-MNIST (litian96/ditto)."""

    lam: float = 0.2
    """Strength lambda of the pull of a client's own model to the global one; 0 trains it alone. In a short run a weak pull
    leaves it behind the global model. (Panchal et al. 2023: 0.1 for StackOverflow and Shakespeare, 0.01 for CIFAR;
    litian96/ditto: 0.1, 1 or 2.)"""


def check(options: DittoOptions) -> None:
    """Raise UserError for an option out of range."""
    finetuning.check(options)
    finetuning.check_pull("lam", options.lam, {"personal_lr": personal(options).lr})


def fresh(options: DittoOptions, model: Model, received: Tensors, clients: int) -> Tensors:
    """Client state: v, a new client's from w_g."""
    return received


def local(options: DittoOptions, model: Model, visit: Visit) -> Upload:
    """On every batch one step on v, at its own rate and pulled to the w_g received, and one on w; uploads w, keeps v.

    Neither step reads what the other changes, so the two are run one after the other, over the same batches.
    """
    own, slower = copy(visit.kept.tensors), replace(options, lr=personal(options).lr)
    work = train(model, own, visit.data, [pulled(options, visit.received)], slower, visit.draw, "global")
    upload = fit(model, visit.received, visit, Update(tuple(visit.received), "global"), options)
    return upload._replace(phases=(work, *upload.phases), kept=own)


def personalize(options: DittoOptions, model: Model, visit: Visit) -> Personal:
    """The steps on v alone, pulled to the w_g received now."""
    return finetune(model, visit.kept.tensors, visit, pulled(options, visit.received), personal(options))


def pulled(options: DittoOptions, received: Tensors) -> Update:
    """v <- v - eta_p (grad f(v) + lambda (v - w_g))"""
    return Update(tuple(received), "global", mu=options.lam, anchor=received)


ALGORITHM = Algorithm(
    name="ditto",
    about="FedAvg, and beside it a model of every client's own that is pulled to the global one.",
    options=DittoOptions,
    local=local,
    stopping=lambda options: Stopping(passes=2),
    personalize=personalize,
    resolve=finetuning.resolve,
    check=check,
    tuned=(*RATES, Tunable("lam", "weight", 10**0.5)),
    fresh=fresh,
)
