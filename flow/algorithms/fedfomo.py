"""FedFomo (Zhang et al., ICLR 2021, arXiv 2012.08565): every client mixes the models of those that help on its own data.

No model for all is trained. The server holds the last upload of every client (see flow/storage/client_states.py) and sends each
client a few of them. The client weighs them by the loss on its validation sequences, its target distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from flow.algorithms.interface import Algorithm, Tunable, only_whole
from flow.checks import check_number
from flow.draws import Draw
from flow.errors import UserError
from flow.model.interface import Model
from flow.model.parameters import Rows, Tensors, copy, initial, nbytes, per_client, tagged, untagged
from flow.server.options import ServerOptions
from flow.server.uploads import Uploads, weighted_mean
from flow.training.batches import Data, split
from flow.training.messages import Download, Members, Personal, Upload, Visit, broadcast
from flow.training.records import Work
from flow.training.sgd import Sgd, Update, check_sgd
from flow.training.work import measure, train

PREFERENCE = "preference"
MOST = 20_000  # clients: of each pair the server keeps a number, 1.6 GB of them in float32


@dataclass(frozen=True)
class FedFomoOptions(Sgd):
    """FedFomo. Published: 5 epochs, batch 50, lr 0.1 times 0.99 per round, 20 rounds of all 15 clients (NVlabs/FedFomo)."""

    models: int = 4
    """Models of other clients that a client is sent, M. (NVlabs/FedFomo: 4, with the client's own "5 models".)"""

    epsilon: float = 0.3
    """Chance that a model is picked at random instead of by preference, in the first round. (NVlabs/FedFomo: 0.3.)"""

    epsilon_decay: float = 0.05
    """By how much that chance falls per round, down to 0. (NVlabs/FedFomo: 0.05.)"""

    weighing_share: float = field(default=0.2, metadata={"formerly": "validation_share"})
    """Share of a client's training sequences on which models are weighed and which it is not trained on. (NVlabs/FedFomo:
    0.2.)"""

    distance: Literal["l1", "l2"] = "l1"
    """Norm of the distance between two models. (NVlabs/FedFomo: "l1"; TsingZ0/PFLlib: "l2".)"""

    mean_candidate: bool = True
    """Whether the mean of the models uploaded last is sent and weighed too, beyond the M of single clients. Without it a
    client that is drawn rarely mixes nothing but old models. (NVlabs/FedFomo: yes, with averages of clusters besides.)"""


def check(options: FedFomoOptions) -> None:
    """Raise UserError for an option out of range."""
    check_sgd(options)
    check_number("models", options.models, 1)
    check_number("epsilon", options.epsilon, 0, 1)
    check_number("epsilon_decay", options.epsilon_decay, 0, remedy="0 explores as much in every round")
    if not 0 < options.weighing_share < 1:
        raise UserError(
            f"weighing_share must lie between 0 and 1, got {options.weighing_share!r}; both the training and the weighing "
            "of models need sequences"
        )


def init(options: FedFomoOptions, model: Model, seed: int, clients: int) -> Tensors:
    """Server state: where a new client starts, at first the initial model; P [N, N], row i how much client i gains by
    others."""
    if clients > MOST:
        raise UserError(
            f"clients={clients} that may train are more than the {MOST} for which fedfomo's server can keep a number for each "
            "pair; lower max_clients"
        )
    start = {name: tensor.clone() for name, tensor in initial(model, "global").items()}
    return {**start, PREFERENCE: next(iter(start.values())).new_zeros(clients, clients)}


def general(options: FedFomoOptions, model: Model, state: Tensors) -> Personal | None:
    """The mean of the models uploaded last, where a new client starts."""
    return Personal(broadcast(without_preference(state), 1).tensors, "global")


def download(options: FedFomoOptions, model: Model, state: Tensors, to: Members) -> Download:
    """M models of others and the mean of those uploaded last; to a new client in a round the mean alone, and for prediction
    with it M at random.

    Tensors: "start/..", the mean; "others/..", the models [K, M, ..]; "sender" int64 [K, M], whose they are, -1: none.
    """
    mean, stored = without_preference(state), to.states.rows()
    known = to.states.known(to.rows).tolist()
    sender = np.full((len(known), options.models), -1, dtype=np.int64)
    for k, (id, row, old) in enumerate(zip(to.ids, to.rows.tolist(), known, strict=True)):
        if old:
            # The chance to explore serves later rounds; a prediction is made with the models that are liked best.
            epsilon = exploration(options, to.draw.round) if to.phase == "train" else 0.0
            picks = choose_models(
                stored[stored != row], state[PREFERENCE][row], options.models, epsilon, to.draw.stream("models", id)
            )
        elif to.phase == "train":
            picks = stored[:0]
        else:
            picks = choose_models(stored[stored != row], None, options.models, 1.0, to.draw.stream("models", id))
        sender[k, : len(picks)] = picks
    senders, index = np.unique(sender[sender >= 0]), torch.zeros(sender.shape, dtype=torch.int64)
    others = {name: tensor.expand(*sender.shape, *tensor.shape) for name, tensor in mean.items()}
    if len(senders):
        device = next(iter(mean.values())).device
        index[sender >= 0] = torch.from_numpy(np.searchsorted(senders, sender[sender >= 0]))
        models = untagged("model", to.states.read(senders, device))
        others = {name: tensor[index.to(device)] for name, tensor in models.items()}
    tensors = {**tagged("start", broadcast(mean, len(known)).tensors), **tagged("others", others)}
    counts = (sender >= 0).sum(1).tolist()
    sizes = [nbytes(mean) * (n + (options.mean_candidate or not old)) for n, old in zip(counts, known, strict=True)]
    return Download({**tensors, "sender": torch.from_numpy(sender).to(state[PREFERENCE].device)}, sizes)


def exploration(options: FedFomoOptions, round: int) -> float:
    """Chance of a random pick in this round, counted from 1."""
    return max(0.0, options.epsilon - options.epsilon_decay * max(round - 1, 0))


def choose_models(
    candidates: Rows, preference: Tensor | None, models: int, epsilon: float, stream: np.random.Generator
) -> Rows:
    """At most `models` different candidates: each at random with chance epsilon, else the most preferred one that is left.

    Clients that are liked the same come in random order; otherwise all would get the models of the first few.
    """
    rest = stream.permutation(candidates)
    if preference is not None:
        rest = rest[np.argsort(-preference.cpu().numpy()[rest], kind="stable")]
    left: list[int] = rest.tolist()
    picks: list[int] = []
    while left and len(picks) < models:
        picks.append(left.pop(int(stream.integers(len(left))) if stream.random() < epsilon else 0))
    return np.array(picks, dtype=np.int64)


def fresh(options: FedFomoOptions, model: Model, received: Tensors, clients: int) -> Tensors:
    """Client state: its model as uploaded, and as it was before the training that led there; a new client's are the mean."""
    start = untagged("start", received)
    return {**tagged("model", start), **tagged("before", start)}


def local(options: FedFomoOptions, model: Model, visit: Visit) -> Upload:
    """Mix the models received, train the result; uploads it and what the clients think of each model.

    A client's first round has nothing to mix: it trains where it starts.
    """
    learning, target = parts(options, visit)
    own = untagged("model", visit.kept.tensors)
    before, weights, work = federate(options, model, visit, own, target.of(visit.kept.known.tolist()))
    parameters = copy(before)
    training = train(model, parameters, learning, [Update(tuple(parameters), "global")], options, visit.draw, "local")
    sent = {**parameters, "sender": visit.received["sender"], "weights": weights[:, 1 : 1 + options.models]}
    kept = {**tagged("model", parameters), **tagged("before", before)}
    return Upload(sent, visit.data.sizes(), (work, training), kept)


def personalize(options: FedFomoOptions, model: Model, visit: Visit) -> Personal:
    """Mix the models received and predict with the result, before any training on it, as published.

    A new client first trains where it starts, as in the first round of all others.
    """
    learning, target = parts(options, visit)
    own = copy(untagged("model", visit.kept.tensors))
    update = Update(tuple(own), "global")
    training = train(model, own, learning.of((~visit.kept.known).tolist()), [update], options, visit.draw, "local")
    mixed, _, work = federate(options, model, visit, own, target)
    return Personal(mixed, "global", phases=(training, work))


def parts(options: FedFomoOptions, visit: Visit) -> tuple[Data, Data]:
    """What a client trains on and what it weighs models on, the same in every round and at prediction."""
    draw = visit.draw._replace(round=0, purpose="validation")
    return split(visit.data, draw, 1 - options.weighing_share, visit.split)


def federate(options: FedFomoOptions, model: Model, visit: Visit, own: Tensors, target: Data) -> tuple[Tensors, Tensor, Work]:
    """Mix the client's own model and those received: (the result [K, ..], w float64 [K, 1 + M or 2 + M], work).

    With theta the client's model before its last training, L its loss on the target sequences and theta_0 its own model:

        w_n = (L(theta) - L(theta_n)) / ||theta_n - theta||,  theta <- sum_n max(w_n, 0) theta_n / sum_k max(w_k, 0)

    Where no w_n is above 0, and where there is no target, the client's own model stays as it is.
    """
    received, known = visit.received, visit.kept.known
    before, others = untagged("before", visit.kept.tensors), untagged("others", received)
    candidates = [own, *({name: tensor[:, m] for name, tensor in others.items()} for m in range(options.models))]
    usable = [torch.ones_like(known), *(received["sender"] >= 0).unbind(1)]
    if options.mean_candidate:  # not to a new client, whose model before its first training it is
        candidates.append(untagged("start", received))
        usable.append(known)
    passes = [measure(model, candidate, target, "global", options.batch_size) for candidate in (before, *candidates)]
    tokens = passes[0].tokens.clamp_min(1)
    gains = torch.stack([(passes[0].nats - candidate.nats) / tokens for candidate in passes[1:]], dim=1)
    distances = torch.stack([distance(options, candidate, before) for candidate in candidates], dim=1)
    # A model at no distance has gained nothing; the smallest number keeps its quotient, which is not used, finite.
    tiny = torch.finfo(torch.float64).tiny
    counted = torch.stack(usable, dim=1) & (distances > 0)
    weights = torch.where(counted, gains / distances.clamp_min(tiny), 0.0)
    positive = weights.clamp_min(0)
    total = positive.sum(1, keepdim=True)
    shares = torch.where(total > 0, positive / total.clamp_min(tiny), 0.0)
    shares[:, 0] += total.squeeze(1) == 0
    mixed = {name: mixture(shares, [candidate[name] for candidate in candidates]) for name in own}
    flops = passes[0].flops * (1 + torch.stack(usable).sum(0))
    return mixed, weights, Work(passes[0].nats, passes[0].tokens, 0, flops)


def distance(options: FedFomoOptions, model: Tensors, reference: Tensors) -> Tensor:
    """float64 [K]: the norm of all parameters' differences together."""
    order = 1 if options.distance == "l1" else 2
    norms = [torch.linalg.vector_norm((model[n].double() - reference[n].double()).flatten(1), order, dim=1) for n in reference]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms), order, dim=0)
    return total


def mixture(shares: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """sum_n shares[:, n] tensors[n], in their own format."""
    total = torch.zeros_like(tensors[0], dtype=torch.float64)
    for n, tensor in enumerate(tensors):
        total += per_client(shares[:, n], tensor) * tensor.double()
    return total.to(tensors[0].dtype)


def server_step(
    options: FedFomoOptions, state: Tensors, moments: Tensors, uploads: Uploads, server_options: ServerOptions, draw: Draw
) -> tuple[Tensors, Tensors]:
    """P_in <- P_in + w_n for every model that was sent; the mean of the models, weighted by the clients' sequences."""
    preference = state[PREFERENCE].clone()
    sender, weights = uploads.each["sender"], uploads.each["weights"]
    row = torch.from_numpy(uploads.rows).to(sender.device).unsqueeze(1).expand_as(sender)
    was_sent = sender >= 0
    preference.index_put_((row[was_sent], sender[was_sent]), weights[was_sent].to(preference.dtype), accumulate=True)
    mean = weighted_mean({name: uploads.each[name] for name in without_preference(state)}, uploads.weights)
    return {name: preference if name == PREFERENCE else mean[name].to(old.dtype) for name, old in state.items()}, moments


def without_preference(state: Tensors) -> Tensors:
    """The model in the server state."""
    return {name: tensor for name, tensor in state.items() if name != PREFERENCE}


ALGORITHM = Algorithm(
    name="fedfomo",
    about="Every client mixes the models of those others that lower the loss on its validation texts.",
    options=FedFomoOptions,
    local=local,
    stopping=only_whole("has clients weigh the models that they received by all validation texts before they train"),
    personalize=personalize,
    check=check,
    tuned=(Tunable("lr"), Tunable("models", "count")),
    models=lambda options: {"models": options.models},
    minimum_sequences=lambda options: 2,
    init=init,
    download=download,
    general=general,
    fresh=fresh,
    one_by_one=True,
    averages=False,
    beyond_the_sum=lambda options: "the server keeps the model of every client and sends it to others as it is",
    server_step=server_step,
)
