"""FedSim (Pillutla et al., ICML 2022, arXiv 2204.03809): every client keeps a part of the model, and trains both parts at once.

FedAlt is its sibling, which trains them one after the other. Both start from a model that FedAvg has trained.
"""

from __future__ import annotations

from dataclasses import dataclass

from flow.algorithms.interface import Algorithm, any_batch
from flow.algorithms.shared import private_part
from flow.algorithms.shared.finetuning import TUNED
from flow.algorithms.shared.private_part import ChosenPart
from flow.model.interface import Model
from flow.training.messages import Upload, Visit


@dataclass(frozen=True)
class FedSimOptions(ChosenPart):
    """FedSim. Published, StackOverflow: 1 epoch, lr 0.1, batch 64, server Adam at 5e-5, 500 rounds after 1000 of FedAvg, then 5
    epochs of fine-tuning at 0.1 (facebookresearch/FL_partial_personalization)."""


def local(options: FedSimOptions, model: Model, visit: Visit) -> Upload:
    """E epochs of SGD on the shared and the private part at once; uploads the first, keeps the second.

    Before that, rounds of FedAvg.
    """
    if private_part.pretraining(options, visit.draw):
        return private_part.fedavg(options, model, visit)
    return private_part.together(options, model, visit)


ALGORITHM = Algorithm(
    name="fedsim",
    about="After rounds of FedAvg every client keeps a part of the model and trains it along with the shared one.",
    options=FedSimOptions,
    needs=private_part.needs_part,
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
