"""Per-FedAvg (Fallah, Mokhtari, Ozdaglar, NeurIPS 2020), first order: a global model made to be fine-tuned by a step.

The published algorithm descends f(w - alpha grad f(w)). Its first-order form (Sec. 5, FO) leaves the Hessian out:

    w' = w - alpha grad f(w; D),     w <- w - beta grad f(w'; D')

with two batches, D and D', a step. Before it predicts a client fine-tunes what it received.
"""

from __future__ import annotations

from dataclasses import dataclass

from flow.algorithms.interface import Algorithm, Tunable, any_batch
from flow.algorithms.shared.finetuning import RATES, FineTuning, check_rate, personal, resolve
from flow.algorithms.shared.finetuning import check as check_finetuning
from flow.errors import UserError
from flow.model.flops import per_token
from flow.model.interface import Model
from flow.model.parameters import copy
from flow.training.batches import batches, halves
from flow.training.descent import Descent, descend, gradients
from flow.training.messages import Personal, Upload, Visit
from flow.training.records import Tally
from flow.training.sgd import Sgd, Update, adapts
from flow.training.work import finetune


@dataclass(frozen=True)
class PerFedAvgOptions(FineTuning):
    """Per-FedAvg, first order; `lr` is beta. Published: alpha 0.01, beta 0.001 for CIFAR, 10 steps a round (Sec. 5)."""

    inner_lr: float = 0.5
    """alpha, learning rate of the inner step, after which the loss is to be low."""


def check(options: PerFedAvgOptions) -> None:
    """Raise UserError for an option out of range."""
    if adapts(options):
        raise UserError(
            f"client_optimizer must be 'sgd' for perfedavg, whose steps stand alone, got {options.client_optimizer!r}; leave "
            "it out"
        )
    check_finetuning(options)
    check_rate("inner_lr", options.inner_lr)
    if options.momentum:
        raise UserError(f"momentum must be 0 for perfedavg, whose steps stand alone, got {options.momentum!r}; leave it out")


def local(options: PerFedAvgOptions, model: Model, visit: Visit) -> Upload:
    """E epochs of such steps from w_g; uploads the result, weighted by the number of training sequences."""
    parameters, data = copy(visit.received), visit.data
    update, inner = Update(tuple(parameters), "global"), Sgd(options.inner_lr, clip=options.clip)
    tally, beyond, outer = Tally(data), Tally(data), Descent(model, parameters, options)
    streams = [visit.draw.stream("shuffle", "global", id) for id in data.ids]
    for batch in batches(data, options.batch_size, options.epochs, streams):
        active = {name: tensor[: len(batch.lengths)] for name, tensor in parameters.items()}
        near, far = halves(batch)
        ahead = copy(active)
        tally.add_mean(near, descend(model, ahead, near, update, inner))
        loss, gradient = gradients(model, ahead, far, update)
        beyond.add_mean(far, loss)
        outer.apply(far, update, gradient)
    each = data.trained(options.batch_size, options.epochs)
    work = tally.work(sum(each), per_token(model, "global", update.names), each)
    flops = work.flops + beyond.read * per_token(model, "global", update.names)
    return Upload(parameters, data.sizes(), (work._replace(flops=flops),))


def personalize(options: PerFedAvgOptions, model: Model, visit: Visit) -> Personal:
    """SGD on all of w_g, the same for a client that never trained."""
    return finetune(model, visit.received, visit, Update(tuple(visit.received), "global"), personal(options))


ALGORITHM = Algorithm(
    name="perfedavg",
    about="A global model trained to be good after a step of a client's own, which every client then fine-tunes.",
    options=PerFedAvgOptions,
    local=local,
    stopping=any_batch,
    personalize=personalize,
    resolve=resolve,
    check=check,
    tuned=(*RATES, Tunable("inner_lr")),
)
