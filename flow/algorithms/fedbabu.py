"""FedBABU (Oh, Kim, Yun, ICLR 2022, arXiv 2106.06042): the head stays at its first values while the body is federated.

Only the body is trained and averaged, under one random head that all clients share. A client fine-tunes both to predict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flow.algorithms.interface import Algorithm, any_batch, needing
from flow.algorithms.shared.finetuning import TUNED, FineTuning, check, personal, resolve
from flow.algorithms.shared.heads import first_body, first_head
from flow.model.interface import Model
from flow.model.parameters import Tensors, body_of, copy, head_of
from flow.training.messages import Personal, Upload, Visit, broadcast
from flow.training.sgd import Update
from flow.training.work import finetune, train


@dataclass(frozen=True)
class FedBABUOptions(FineTuning):
    """FedBABU. Published: 5 epochs of fine-tuning; here as many as in a round."""

    tuned_part: Literal["all", "head", "body"] = "all"
    """What a client fine-tunes before it predicts. (The paper's abstract: the head; its experiments fine-tune all, too.)"""


def head_at_first(model: Model, clients: int) -> Tensors:
    """[K, ..]: the initial head, which nobody sends."""
    return broadcast(first_head(model), clients).tensors


def init(options: FedBABUOptions, model: Model, seed: int, clients: int) -> Tensors:
    """Server state: the body."""
    return first_body(model)


def general(options: FedBABUOptions, model: Model, state: Tensors) -> Personal:
    """The body under the first head."""
    return Personal({**broadcast(state, 1).tensors, **head_at_first(model, 1)}, "global")


def local(options: FedBABUOptions, model: Model, visit: Visit) -> Upload:
    """E epochs of SGD on the body; uploads it, weighted by the number of sequences."""
    body = copy(visit.received)
    parameters = {**body, **head_at_first(model, len(visit.data.ids))}
    work = train(model, parameters, visit.data, [Update(tuple(body), "global")], options, visit.draw, "global")
    return Upload(body, visit.data.sizes(), (work,))


def personalize(options: FedBABUOptions, model: Model, visit: Visit) -> Personal:
    """Fine-tune, the same for a client that never trained."""
    start = {**visit.received, **head_at_first(model, len(visit.data.ids))}
    names = {"all": tuple(start), "head": head_of(start), "body": body_of(start)}[options.tuned_part]
    return finetune(model, start, visit, Update(names, "global"), personal(options))


ALGORITHM = Algorithm(
    name="fedbabu",
    about="A global body under a head that stays random, which every client fine-tunes with it.",
    options=FedBABUOptions,
    needs=needing("head"),
    local=local,
    stopping=any_batch,
    personalize=personalize,
    resolve=resolve,
    check=check,
    tuned=TUNED,
    init=init,
    general=general,
)
