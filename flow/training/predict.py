"""Predictions of K clients with their own parameters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flow.errors import UserError
from flow.model.interface import Model, Prediction
from flow.model.language_model import LanguageModel
from flow.model.parameters import Tensors
from flow.training.batches import Batch, Data, batches
from flow.training.fused import Fused, pieces, refusal
from flow.training.messages import Personal
from flow_kernels.training import finish, on_gpu

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
    rank: npt.NDArray[np.int32]
    """[N, T]: how many tokens are more likely than the target; -1 where there was nothing to predict, and where nobody asked
    for ranks. Behind all others is a target whose probability is no number."""


@torch.no_grad()
def predict(
    model: Model, own: Personal, data: Data, routing: str | None = None, logits: int = 1 << 22, ranked: bool = False
) -> Guess:
    """Predict every target of K clients with their own parameters. At most `logits` logits are held at a time. The kernels hold
    no logits, but about as many numbers of the layers below.

    routing: in place of the clients' own.
    ranked: whether to compute the targets' ranks, which the kernels do not; it takes one more pass.
    """
    parameters, routing = own.parameters, routing or own.routing
    count, width, device = len(data.lengths), data.tokens.shape[1] - 1, data.tokens.device
    tokens, ranks = torch.full((2, count, width), -1, dtype=torch.int32, device=device)
    local_weight, nats, probability = torch.zeros(3, count, width, device=device)
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
            best, weight, lost, sure, rank = answers(batch)
            if ranked and rank is None:
                raise UserError("metric='top3' needs ranks, which the algorithm's own answers do not have; leave it out")
        elif fused is not None:
            look, q = fused.look(active, batch, routing, best=True)
            assert look.best is not None and look.row_nats is not None and look.probability is not None
            best, lost, sure = (part.view(batch.valid.shape) for part in (look.best, look.row_nats, look.probability))
            weight, rank = q[..., 1], _ranks_by_kernels(fused, active, batch, routing) if ranked else None
        else:
            routing_options = {"route": own.route, "routing": routing}
            out = torch.func.functional_call(model, active, (batch.inputs, batch.lengths), routing_options)
            log_p, weight = _log_probabilities(own, out, batch), out.gru_routing[..., 1]
            top = log_p.max(-1)
            lost = -log_p.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1)
            best = top.indices.where(batch.valid, -1)
            rank = ranks_of(log_p, -lost).where(batch.valid, -1) if ranked else None
            lost, sure = (part.where(batch.valid, 0) for part in (lost, top.values.exp()))
        parts = [(tokens, best), (local_weight, weight), (nats, lost), (probability, sure)]
        for table, part in (*parts, *([] if rank is None or not ranked else [(ranks, rank)])):
            table[batch.rows, :steps] = part.to(table.dtype)
    finish(device)
    return Guess(*(table[:-1].cpu().numpy() for table in (tokens, local_weight, nats, probability, ranks)))


def ranks_of(scores: Tensor, own: Tensor) -> Tensor:
    """int64 [..]: how many of the scores [.., V] are above that of the target [..]; V where the target's is no number."""
    above = (scores > own.unsqueeze(-1)).sum(-1)
    return torch.where(own.isnan(), scores.shape[-1], above)


def _ranks_by_kernels(fused: Fused, parameters: Tensors, batch: Batch, routing: str) -> Tensor:
    """int64 [k, B, T]: the targets' ranks, on a GPU of several clients at once, else of one after the other: the scores of all
    would take much memory."""
    states = fused.states(parameters, batch, routing)
    ranks = torch.full(batch.valid.shape, -1, device=batch.valid.device)
    if on_gpu(batch.valid, fused.backend):
        for clients in pieces(len(ranks), 2 * batch.valid[0].numel() * fused.model.outputs):
            scores, valid = fused.scores(parameters, states, clients), batch.valid[clients]
            own = scores.gather(2, batch.targets[clients].flatten(1).unsqueeze(2)).squeeze(2)
            ranks[clients] = ranks_of(scores, own).view(valid.shape).where(valid, -1)
        return ranks
    for client in range(len(batch.lengths)):
        valid = batch.valid[client]
        scores = fused.logits(parameters, states, batch, client)
        own = scores.gather(1, batch.targets[client][valid].unsqueeze(1)).squeeze(1)
        ranks[client][valid] = ranks_of(scores, own)
    return ranks


def _log_probabilities(own: Personal, out: Prediction, batch: Batch) -> Tensor:
    """[k, B, T, V]; a probability of zero counts as the smallest normal number, so that no loss is infinite."""
    if own.probabilities is None:
        return out.logits.log_softmax(-1)
    p = own.probabilities(out, batch)
    return p.clamp(torch.finfo(p.dtype).tiny, 1).log()
