"""A part of the model that every client keeps for itself, under or above one that all share, for LG-FedAvg, FedSim and FedAlt.

The run begins with rounds of FedAvg. After them the server leaves the private part as it is, for clients that have none yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

from flow.algorithms.shared import finetuning
from flow.algorithms.shared.finetuning import FineTuning, personal
from flow.checks import check_number
from flow.draws import Draw
from flow.model.interface import Model, Part
from flow.model.parameters import Tensors, body_of, nbytes
from flow.training.messages import Download, Members, Personal, Upload, Visit, broadcast
from flow.training.sgd import Sgd, Update
from flow.training.work import finetune, fit

Private = Literal["head", "gru", "embedding", "body"]
"""The output layer, the recurrent layer, the input layer, or everything below the head."""


class WithPrivatePart(Protocol):
    """Options of an algorithm whose clients keep a part of the model."""

    @property
    def private(self) -> Private:
        """What every client has for itself."""


class PretrainedPart(WithPrivatePart, Protocol):
    """The same after rounds of FedAvg."""

    @property
    def pretrain_rounds(self) -> int | None:
        """How many."""


@dataclass(frozen=True)
class Pretrained(FineTuning):
    """Rounds of FedAvg before the model is divided, and fine-tuning of the private part before a client predicts."""

    pretrain_rounds: int | None = None
    """Rounds of FedAvg before every client has a part of the model for itself. None: half of the run's rounds."""


@dataclass(frozen=True)
class ChosenPart(Pretrained):
    """The same with a choice of the private part."""

    private: Private = "head"
    """What every client keeps for itself: "head": the output layer; "gru": the recurrent layer; "embedding": the input layer;
    "body": everything below the head. (Paper, StackOverflow: a layer of the transformer, or adapters.)"""


def needs_part(options: ChosenPart) -> tuple[Part, ...]:
    """The layer that stays private, by its name."""
    return ("head" if options.private == "body" else options.private,)


Options = TypeVar("Options", bound=Pretrained)


def part_of(part: Private, parameters: Tensors) -> tuple[str, ...]:
    """The names of the parameters of a part, in their own order. A projection belongs to the body alone."""
    return body_of(parameters) if part == "body" else tuple(name for name in parameters if layer_of(name) == part)


def layer_of(name: str) -> str:
    """The layer of a parameter: "embedding", "gru", "projection" or "head"."""
    return name.partition(".")[0]


def resolve(options: Options, rounds: int) -> Options:
    """The options with nothing left open."""
    options = finetuning.resolve(options, rounds)
    return replace(options, pretrain_rounds=rounds // 2) if options.pretrain_rounds is None else options


def check(options: Pretrained, **rates: float | None) -> None:
    """Raise UserError for an option out of range; rates: further learning rates of the same optimiser."""
    finetuning.check(options, **rates)
    if options.pretrain_rounds is not None:
        check_number("pretrain_rounds", options.pretrain_rounds, 0)


def in_step(options: Pretrained) -> str:
    """Clients upload all of the model at first, and the shared part later."""
    if not options.pretrain_rounds:
        return ""
    return (
        f"with pretrain_rounds={options.pretrain_rounds} clients upload the whole model up to that round and a part of it "
        "after it, and one step would get both; give pretrain_rounds=0"
    )


def pretraining(options: Pretrained, draw: Draw) -> bool:
    """Whether this round still belongs to FedAvg."""
    assert options.pretrain_rounds is not None
    return draw.round <= options.pretrain_rounds


def uploaded(options: PretrainedPart, state: Tensors, round: int) -> tuple[str, ...]:
    """All of the model in rounds of FedAvg, then the shared part."""
    assert options.pretrain_rounds is not None
    private = () if round <= options.pretrain_rounds else part_of(options.private, state)
    return tuple(name for name in state if name not in private)


def sent(state: Tensors, private: Iterable[str], to: Members) -> Download:
    """The server's state; those that have a private part are not sent the server's."""
    hidden = set(private)
    rest = nbytes({name: tensor for name, tensor in state.items() if name not in hidden})
    known = to.states.known(to.rows).tolist()
    return Download(broadcast(state, len(known)).tensors, [rest if has_part else nbytes(state) for has_part in known])


def download(options: WithPrivatePart, model: Model, state: Tensors, to: Members) -> Download:
    """The shared part; to those without a private part the one that FedAvg left, too."""
    return sent(state, part_of(options.private, state), to)


def fresh(options: WithPrivatePart, model: Model, received: Tensors, clients: int) -> Tensors:
    """Client state: the private part; a new client's is the one received."""
    return {name: received[name] for name in part_of(options.private, received)}


def whole(visit: Visit) -> Tensors:
    """The clients' models: the shared part received, and their private parts."""
    return {**visit.received, **visit.kept.tensors}


def divided(visit: Visit, parameters: Tensors) -> tuple[Tensors, Tensors]:
    """The shared part, to be sent, and the private part, to be kept."""
    private = visit.kept.tensors
    return {name: t for name, t in parameters.items() if name not in private}, {name: parameters[name] for name in private}


def fedavg(options: Sgd, model: Model, visit: Visit) -> Upload:
    """A round of FedAvg on all of the model; nothing is kept."""
    return fit(model, visit.received, visit, Update(tuple(visit.received), "global"), options)


def together(options: Sgd, model: Model, visit: Visit) -> Upload:
    """E epochs of SGD on both parts at once; uploads the shared one, weighted by the client's sequences, keeps the other."""
    upload = fit(model, whole(visit), visit, Update(tuple(visit.received), "global"), options)
    shared, private = divided(visit, upload.tensors)
    return upload._replace(tensors=shared, kept=private)


def personalize(options: FineTuning, model: Model, visit: Visit) -> Personal:
    """Fine-tune the private part under the shared one received, which stays."""
    return finetune(model, whole(visit), visit, Update(tuple(visit.kept.tensors), "global"), personal(options))
