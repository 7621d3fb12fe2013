"""Predictions of K clients with their own parameters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flow.model.interface import Model, Prediction
from flow.model.language_model import LanguageModel
from flow.training.batches import Batch, Data, batches
from flow.training.fused import Fused, refusal
from flow.training.messages import Personal

ANSWERED = 8  # sequences of each client at a time, where clients answer in a way of their own


class Guess(NamedTuple):
    """Predictions for every row of a table of N sequences."""

    tokens: npt.NDArray[np.int32]
    """[N, T]: the most likely next token; -1 where there was nothing to predict."""
    local_weight: npt.NDArray[np.float32]
    """[N, T]: weight of the GRU's local expert; where a gate mixes at the output, the mean of the networks' by its weights."""
    nats: npt.NDArray[np.float32]
    """[N, T]: cross-entropy of the target, minus the natural logarithm of its probability; 0 where there was none."""
    probability: npt.NDArray[np.float32]
    """[N, T]: of the most likely token; 0 where there was nothing to predict."""


@torch.no_grad()
def predict(model: Model, own: Personal, data: Data, routing: str | None = None, logits: int = 1 << 22) -> Guess:
    """Predict every target of K clients with their own parameters. At most `logits` logits are held at a time. The kernels hold
    no logits, but about as many numbers of the layers below.

    routing: in place of the clients' own.
    """
    parameters, routing = own.parameters, routing or own.routing
    count, width = len(data.lengths), data.tokens.shape[1] - 1
    tokens = torch.full((count, width), -1, dtype=torch.int32)
    local_weight, nats, probability = torch.zeros(3, count, width)
    fused, size, answers = None, 256, None
    if own.answering is not None:  # a number of sequences that does not depend on how many clients there are, nor do the bits
        size, answers = ANSWERED, own.answering(routing)
    elif own.probabilities is None and not refusal(model, parameters):
        fused = Fused(model, own.route)  # which holds no logits, but states
        assert isinstance(model, LanguageModel)  # or there would be a refusal
        wide = model.gru.input_size + (1 + model.gru.num_layers) * model.gru.hidden_size
        size = min(size, max(1, 2 * logits // (len(data.ids) * width * wide)))
        parameters = {name: tensor.contiguous() for name, tensor in parameters.items()}
    else:
        size = min(size, max(1, logits // (len(data.ids) * width * model.outputs)))
    for batch in batches(data, size):
        k, _, steps = batch.valid.shape
        active = {name: tensor[:k] for name, tensor in parameters.items()}
        if answers is not None:
            best, weight, lost, sure = answers(batch)
        elif fused is not None:
            look, q = fused.look(active, batch, routing, best=True)
            assert look.best is not None and look.row_nats is not None and look.probability is not None
            best, lost, sure = (part.view(batch.valid.shape) for part in (look.best, look.row_nats, look.probability))
            weight = q[..., 1]
        else:
            routing_options = {"route": own.route, "routing": routing}
            out = torch.func.functional_call(model, active, (batch.inputs, batch.lengths), routing_options)
            log_p, weight = _log_probabilities(own, out, batch), out.gru_routing[..., 1]
            top = log_p.max(-1)
            lost = -log_p.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1)
            best = top.indices.where(batch.valid, -1)
            lost, sure = (part.where(batch.valid, 0) for part in (lost, top.values.exp()))
        rows = batch.rows.cpu()
        for table, part in ((tokens, best), (local_weight, weight), (nats, lost), (probability, sure)):
            table[rows, :steps] = part.to("cpu", table.dtype)
    return Guess(*(table[:-1].numpy() for table in (tokens, local_weight, nats, probability)))


def _log_probabilities(own: Personal, out: Prediction, batch: Batch) -> Tensor:
    """[k, B, T, V]; a probability of zero counts as the smallest normal number, so that no loss is infinite."""
    if own.probabilities is None:
        return out.logits.log_softmax(-1)
    p = own.probabilities(out, batch)
    return p.clamp(torch.finfo(p.dtype).tiny, 1).log()
