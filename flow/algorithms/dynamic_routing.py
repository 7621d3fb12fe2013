"""Dynamic routing, the baseline of Panchal et al. (CrossFL 2022): the routed network itself is the global model.

Two experts and the router between them are all federated; a client personalizes by fine-tuning everything.
"""

from __future__ import annotations

from dataclasses import dataclass

from flow.algorithms.interface import Algorithm, Scope, any_batch, needing
from flow.algorithms.shared import finetuning
from flow.algorithms.shared.finetuning import TUNED, FineTuning, personal
from flow.checks import check_number
from flow.draws import Draw
from flow.model.interface import Model
from flow.model.language_model import second_expert
from flow.model.parameters import Tensors, initial
from flow.training.messages import Personal, Upload, Visit, broadcast
from flow.training.sgd import Update
from flow.training.work import finetune, fit


@dataclass(frozen=True)
class DynamicRoutingOptions(FineTuning):
    """Federated routed network. Published: 1 epoch, temperature 0.75, only the recurrent layer routed (the poster)."""

    temperature: float = 1.0
    """The router's scores are divided by it; at least 0.001."""

    routed_head: bool = True
    """Whether the head has two experts and a router too, as Flow's."""


def check(options: DynamicRoutingOptions) -> None:
    """Raise UserError for an option out of range."""
    finetuning.check(options)
    check_number("temperature", options.temperature, 0.001)


def traits(options: DynamicRoutingOptions) -> dict[str, bool | float]:
    """What of :class:`~flow.model.language_model.LanguageModel` the algorithm decides."""
    return {"routed_head": options.routed_head, "temperature": options.temperature}


def init(options: DynamicRoutingOptions, model: Model, seed: int, clients: int) -> Tensors:
    """Server state: all parameters; the second expert is drawn anew, for two equal ones would stay equal."""
    state = {name: tensor.clone() for name, tensor in initial(model, "global", "router").items()}
    return state | second_expert(model, Draw(seed, 0, "second expert").stream())


def local(options: DynamicRoutingOptions, model: Model, visit: Visit) -> Upload:
    """E epochs of SGD on everything; uploads the result, weighted by the number of training sequences."""
    return fit(model, visit.received, visit, Update(tuple(visit.received), "mixture"), options)


def general(options: DynamicRoutingOptions, model: Model, state: Tensors) -> Personal | None:
    """The routed network as it is."""
    return Personal(broadcast(state, 1).tensors, "mixture")


def personalize(options: DynamicRoutingOptions, model: Model, visit: Visit) -> Personal:
    """SGD on everything, the same for a client that never trained."""
    return finetune(model, visit.received, visit, Update(tuple(visit.received), "mixture"), personal(options))


ALGORITHM = Algorithm(
    name="dynamic_routing",
    about="The routed network itself federated: two global experts and a router, fine-tuned by every client.",
    options=DynamicRoutingOptions,
    needs=needing("routers"),
    local=local,
    stopping=any_batch,
    personalize=personalize,
    resolve=finetuning.resolve,
    check=check,
    tuned=TUNED,
    traits=traits,
    scope=lambda options: Scope(client=True, instance=True),
    init=init,
    general=general,
)
