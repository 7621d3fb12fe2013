"""Predictions of K clients with their own parameters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from flow.model.language_model import LanguageModel
from flow.training.batches import Data, batches
from flow.training.fused import Fused, refusal
from flow.training.messages import Personal


class Guess(NamedTuple):
    """Predictions for every row of a table of N sequences."""

    tokens: npt.NDArray[np.int32]
    """[N, T]: the most likely next token; -1 where there was nothing to predict."""
    local_weight: npt.NDArray[np.float32]
    """[N, T]: weight of the GRU's local expert."""


@torch.no_grad()
def predict(model: LanguageModel, own: Personal, data: Data, routing: str | None = None, logits: int = 1 << 22) -> Guess:
    """Predict every target of K clients with their own parameters; at most `logits` scores are held at a time, or about as
    many numbers of the layers below where the kernels, which hold no scores, compute them.

    routing: in place of the clients' own.
    """
    parameters, routing = own.parameters, routing or own.routing
    count, width = len(data.lengths), data.tokens.shape[1] - 1
    tokens = torch.full((count, width), -1, dtype=torch.int32)
    local_weight = torch.zeros(count, width)
    fused, size = None, 256
    if own.scores is None and not refusal(model, parameters):
        fused = Fused(model, own.route)  # which holds no logits, but states
        wide = model.gru.input_size + 2 * model.gru.hidden_size
        size = min(size, max(1, 2 * logits // (len(data.ids) * width * wide)))
        parameters = {name: tensor.contiguous() for name, tensor in parameters.items()}
    else:
        size = min(size, max(1, logits // (len(data.ids) * width * model.vocabulary_size)))
    for batch in batches(data, size):
        k, _, steps = batch.valid.shape
        active = {name: tensor[:k] for name, tensor in parameters.items()}
        if fused is not None:
            found, q = fused.look(active, batch, routing, best=True)
            assert found.best is not None
            best = found.best.view(batch.valid.shape)
        else:
            how = {"route": own.route, "routing": routing}
            out = torch.func.functional_call(model, active, (batch.inputs, batch.lengths), how)
            scores, q = out.logits if own.scores is None else own.scores(out, batch), out.gru_routing
            best = scores.argmax(-1).where(batch.valid, -1)
        rows = batch.rows.cpu()
        tokens[rows, :steps] = best.int().cpu()
        local_weight[rows, :steps] = q[..., 1].float().cpu()
    return Guess(tokens[:-1].numpy(), local_weight[:-1].numpy())
