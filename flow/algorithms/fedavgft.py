"""FedAvgFT: FedAvg, and every client fine-tunes the global model before it predicts (Panchal et al. 2023, baseline)."""

from __future__ import annotations

from dataclasses import dataclass

from flow.algorithms.interface import Algorithm, any_batch
from flow.algorithms.shared.finetuning import TUNED, FineTuning, check, personal, resolve
from flow.model.interface import Model
from flow.training.messages import Personal, Upload, Visit
from flow.training.sgd import Update
from flow.training.work import finetune, fit


@dataclass(frozen=True)
class FedAvgFTOptions(FineTuning):
    """FedAvg with fine-tuning. Published: 3 epochs for both, Shakespeare 5, lr 0.1 (Panchal et al. 2023, App. B)."""


def local(options: FedAvgFTOptions, model: Model, visit: Visit) -> Upload:
    """E epochs of SGD from w_g; uploads the result, weighted by the number of training sequences."""
    return fit(model, visit.received, visit, Update(tuple(visit.received), "global"), options)


def personalize(options: FedAvgFTOptions, model: Model, visit: Visit) -> Personal:
    """SGD on all of w_g, the same for a client that never trained."""
    return finetune(model, visit.received, visit, Update(tuple(visit.received), "global"), personal(options))


ALGORITHM = Algorithm(
    name="fedavgft",
    about="FedAvg, then every client fine-tunes the global model.",
    options=FedAvgFTOptions,
    local=local,
    stopping=any_batch,
    personalize=personalize,
    resolve=resolve,
    check=check,
    tuned=TUNED,
)
