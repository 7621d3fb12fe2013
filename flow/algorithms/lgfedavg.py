"""LG-FedAvg (Liang et al. 2020, arXiv 2001.01523): the head is global, every client keeps embedding and GRU of its own.

It starts from a model that FedAvg has trained; from a random start the heads have nothing in common to be averaged for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flow.algorithms.interface import Algorithm
from flow.algorithms.shared import finetuning
from flow.algorithms.shared.finetuning import TUNED, FineTuning, personal
from flow.checks import check_number
from flow.draws import Draw
from flow.model.language_model import LanguageModel
from flow.model.parameters import Tensors, body_of, head_of, nbytes
from flow.training.messages import Download, Members, Personal, Upload, Visit, broadcast
from flow.training.sgd import Update
from flow.training.work import finetune, fit


@dataclass(frozen=True)
class LGFedAvgOptions(FineTuning):
    """LG-FedAvg. Published: 1 epoch, batch 50, lr 0.1 for CIFAR-10, momentum 0.5 (pliang279/LG-FedAvg)."""

    pretrain_rounds: int | None = None
    """Rounds of FedAvg before bodies become the clients' own. None: half of the run's rounds."""


def resolve(options: LGFedAvgOptions, rounds: int) -> LGFedAvgOptions:
    """The options with nothing left open."""
    options = finetuning.resolve(options, rounds)
    return replace(options, pretrain_rounds=rounds // 2) if options.pretrain_rounds is None else options


def check(options: LGFedAvgOptions) -> None:
    """Raise UserError for an option out of range."""
    finetuning.check(options)
    if options.pretrain_rounds is not None:
        check_number("pretrain_rounds", options.pretrain_rounds, 0)


def pretraining(options: LGFedAvgOptions, draw: Draw) -> bool:
    """Whether this round still belongs to FedAvg."""
    assert options.pretrain_rounds is not None
    return draw.round <= options.pretrain_rounds


def download(options: LGFedAvgOptions, model: LanguageModel, state: Tensors, to: Members) -> Download:
    """The head; to those without a body the one that FedAvg left, too."""
    head = nbytes({name: state[name] for name in head_of(state)})
    known = to.states.known(to.rows).tolist()
    return Download(broadcast(state, len(known)).tensors, [head if one else nbytes(state) for one in known])


def fresh(options: LGFedAvgOptions, model: LanguageModel, received: Tensors, clients: int) -> Tensors:
    """Client state: the body; a new client's is the one received."""
    return {name: received[name] for name in body_of(received)}


def local(options: LGFedAvgOptions, model: LanguageModel, visit: Visit) -> Upload:
    """All of the model, from the global head and the client's body; uploads the head, keeps the body.

    Heads count alike in the mean, whatever the clients' sizes. Before that, rounds of FedAvg.
    """
    update = Update(tuple(visit.received), "global")
    if pretraining(options, visit.draw):
        return fit(model, visit.received, visit, update, options)
    made = fit(model, {**visit.received, **visit.kept.tensors}, visit, update, options)
    head, body = ({name: made.tensors[name] for name in names} for names in (head_of(visit.received), body_of(visit.received)))
    return Upload(head, [1] * len(visit.data.ids), made.phases, body)


def personalize(options: LGFedAvgOptions, model: LanguageModel, visit: Visit) -> Personal:
    """Fine-tune the body under the global head, which stays."""
    body = tuple(visit.kept.tensors)
    return finetune(model, {**visit.received, **visit.kept.tensors}, visit, Update(body, "global"), personal(options))


ALGORITHM = Algorithm(
    name="lgfedavg",
    about="After rounds of FedAvg a global head, every client embedding and GRU of its own.",
    options=LGFedAvgOptions,
    local=local,
    personalize=personalize,
    resolve=resolve,
    check=check,
    tuned=TUNED,
    download=download,
    fresh=fresh,
)
