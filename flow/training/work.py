"""The cohort engine: K clients trained at once, their parameters stacked on a leading axis of the same tensors.

Clients are independent: flow/training/descent.py says how a step of all of them is computed. A client's numbers do not depend
on the rest of its cohort. Its loss is a mean over its own tokens, its gradient is clipped by its own norm, and its randomness
comes from (seed, round, client) alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from flow.draws import Draw
from flow.model.flops import per_token
from flow.model.interface import Model
from flow.model.parameters import Route, Tensors, copy
from flow.training.autograd import objective
from flow.training.batches import Data, batches
from flow.training.descent import Descent
from flow.training.fused import Fused, refusal
from flow.training.messages import Personal, Upload, Visit
from flow.training.records import Tally, Work
from flow.training.sgd import Sgd, Update


def train(
    model: Model,
    parameters: Tensors,
    data: Data,
    updates: Sequence[Update],
    sgd: Sgd,
    draw: Draw,
    label: str,
    after: Callable[[Tensors], None] | None = None,
) -> Work:
    """Train K clients side by side, in place.

    Args:
        model: says how to compute; its own parameters are not used.
        parameters: stacked [K, ..]; those that an update names are changed.
        data: the sequences to train on, clients with the most sequences first.
        updates: taken in this order on every batch.
        draw, label: the batches' order of client c comes from ``draw.stream("shuffle", label, c)``.
        after: called after every batch with the parameters of the clients that had one, to change in place.
    """
    tally = Tally(data)
    streams = [draw.stream("shuffle", label, id) for id in data.ids]
    descent = Descent(model, parameters, sgd)
    for batch in batches(data, sgd.batch_size, sgd.epochs, streams):
        for update in updates:
            loss = descent.step(batch, update)
        if after is not None:
            after({name: tensor[: len(batch.lengths)] for name, tensor in parameters.items()})
        tally.add_mean(batch, loss)
    cost = sum(per_token(model, update.route, update.names) for update in updates)
    each = data.trained(sgd.batch_size, sgd.epochs)
    return tally.work(sum(each), cost, each)


def fit(model: Model, start: Tensors, visit: Visit, update: Update, sgd: Sgd) -> Upload:
    """A round's work by one update: K clients upload what it makes of a copy of `start`, weighted by the number of their
    training sequences.

    Args:
        model: says how to compute; its own parameters are not used.
        start: [K, ..], mostly ``visit.received``; it is not changed.
    """
    parameters = copy(start)
    work = train(model, parameters, visit.data, [update], sgd, visit.draw, "global")
    return Upload(parameters, visit.data.sizes(), (work,))


def finetune(model: Model, start: Tensors, visit: Visit, update: Update, sgd: Sgd) -> Personal:
    """Personalization by one update: K clients predict with what it makes of a copy of `start` [K, ..]."""
    parameters = copy(start)
    work = train(model, parameters, visit.data, [update], sgd, visit.draw, "personal")
    return Personal(parameters, update.route, phases=(work,))


@torch.no_grad()
def measure(model: Model, parameters: Tensors, data: Data, route: Route, batch_size: int) -> Work:
    """The loss of K clients' parameters [K, ..] on their data, in nats, without training."""
    tally, update = Tally(data), Update((), route)
    fused = None if refusal(model, parameters) else Fused(model, route)
    plain = {name: t if fused is None else t.contiguous() for name, t in parameters.items()}
    for batch in batches(data, batch_size):
        active = {name: tensor[: len(batch.lengths)] for name, tensor in plain.items()}
        if fused is not None:
            tally.add(batch, fused.look(active, batch)[0].nats)
        else:
            tally.add_mean(batch, objective(model, active, batch, update)[1])
    return tally.work(sum(data.sizes()), per_token(model, route))
