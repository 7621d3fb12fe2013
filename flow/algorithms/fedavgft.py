"""FedAvgFT: FedAvg, and every client fine-tunes the global model before it predicts (Panchal et al. 2023, baseline)."""

from __future__ import annotations

from dataclasses import dataclass

from flow.algorithms.interface import Algorithm
from flow.algorithms.shared.finetuning import TUNED, FineTuning, check, personal, resolve
from flow.draws import Draw
from flow.model.language_model import LanguageModel
from flow.model.parameters import Tensors
from flow.training.batches import Data
from flow.training.messages import ClientState, Personal, Upload
from flow.training.sgd import Update
from flow.training.work import finetune, fit


@dataclass(frozen=True)
class FedAvgFTOptions(FineTuning):
    """FedAvg with fine-tuning. Published: 3 epochs for both, Shakespeare 5, lr 0.1 (Panchal et al. 2023, App. B)."""


def local(
    options: FedAvgFTOptions, model: LanguageModel, received: Tensors, state: ClientState, data: Data, draw: Draw
) -> Upload:
    """E epochs of SGD from w_g; uploads the result, weighted by the number of training sequences."""
    return fit(model, received, data, Update(tuple(received), "global"), options, draw)


def personalize(
    options: FedAvgFTOptions, model: LanguageModel, received: Tensors, state: ClientState, data: Data, draw: Draw
) -> Personal:
    """SGD on all of w_g, the same for a client that never trained."""
    return finetune(model, received, data, Update(tuple(received), "global"), personal(options), draw)


ALGORITHM = Algorithm(
    name="fedavgft",
    about="FedAvg, then every client fine-tunes the global model.",
    options=FedAvgFTOptions,
    local=local,
    personalize=personalize,
    resolve=resolve,
    check=check,
    tuned=TUNED,
)
