"""LG-FedAvg (Liang et al. 2020, arXiv 2001.01523): the head is global, every client keeps embedding and GRU of its own.

It starts from a model that FedAvg has trained; from a random start the heads have nothing in common to be averaged for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flow.algorithms.interface import Algorithm, any_batch, needing
from flow.algorithms.shared import private_part
from flow.algorithms.shared.finetuning import TUNED
from flow.algorithms.shared.private_part import Pretrained, Private
from flow.model.interface import Model
from flow.training.messages import Upload, Visit


@dataclass(frozen=True)
class LGFedAvgOptions(Pretrained):
    """LG-FedAvg. Published: 1 epoch, batch 50, lr 0.1 for CIFAR-10, momentum 0.5 (pliang279/LG-FedAvg)."""

    private: ClassVar[Private] = "body"


def local(options: LGFedAvgOptions, model: Model, visit: Visit) -> Upload:
    """All of the model, from the global head and the client's body; uploads the head, keeps the body.

    Heads count alike in the mean, whatever the clients' sizes. Before that, rounds of FedAvg.
    """
    if private_part.pretraining(options, visit.draw):
        return private_part.fedavg(options, model, visit)
    return private_part.together(options, model, visit)._replace(weights=[1] * len(visit.data.ids))


ALGORITHM = Algorithm(
    name="lgfedavg",
    about="After rounds of FedAvg a global head, every client embedding and GRU of its own.",
    options=LGFedAvgOptions,
    needs=needing("head"),
    local=local,
    stopping=any_batch,
    personalize=private_part.personalize,
    resolve=private_part.resolve,
    check=private_part.check,
    tuned=TUNED,
    in_step=private_part.in_step,
    uploaded=private_part.uploaded,
    download=private_part.download,
    fresh=private_part.fresh,
)
