"""kNN-Per (Marfoq et al., ICML 2022, arXiv 2111.09360): FedAvg, and every client lets its own nearest examples vote.

A client stores the features of its training tokens with the token that followed. It predicts with a mixture of the global
model's distribution and that of the labels of the nearest stored features. Nothing is trained for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from flow.algorithms.interface import Algorithm, Tunable, any_batch, needing
from flow.checks import check_number
from flow.errors import UserError
from flow.model.flops import per_token
from flow.model.interface import Model, Prediction
from flow.model.parameters import Route, Tensors
from flow.training.batches import Batch, batches
from flow.training.messages import Personal, Upload, View, Visit
from flow.training.records import Tally, Work
from flow.training.sgd import Sgd, Update, check_sgd
from flow.training.work import fit

DISTANCES = 1 << 21  # at most so many are held at a time; of 2^18 to 2^24 the fastest on two cores with a shared cache


@dataclass(frozen=True)
class KNNPerOptions(Sgd):
    """kNN-Per. Published: neighbours and lam 5 and 0.5 for StackOverflow, 3 and 0.45 for Shakespeare (Panchal et al. 2023)."""

    neighbours: int = 5
    """Stored examples that vote, k; all of them where a client has fewer."""

    lam: float = 0.5
    """Share of the neighbours' vote in the mixture; 0: the global model alone."""

    scale: float = 1.0
    """Width of the kernel: a vote weighs exp(-squared distance / (H * scale)). (omarfoq/knn-per: 1.)"""

    capacity: int = 0
    """Most examples that a client stores, drawn at random; 0: all."""


class Store(NamedTuple):
    """One client's examples."""

    features: Tensor
    """[n, H]"""
    labels: Tensor
    """int64 [n]: the true next tokens."""
    squares: Tensor
    """[n]: the squared length of every feature."""


def check(options: KNNPerOptions) -> None:
    """Raise UserError for an option out of range."""
    check_sgd(options)
    check_number("neighbours", options.neighbours, 1)
    check_number("lam", options.lam, 0, 1)
    check_number("scale", options.scale, 0)
    check_number("capacity", options.capacity, 0)
    if options.scale == 0:
        raise UserError(f"scale must be above 0, got {options.scale!r}; leave it out for the default")


def local(options: KNNPerOptions, model: Model, visit: Visit) -> Upload:
    """E epochs of SGD from w_g, as FedAvg; weighted by the number of training sequences."""
    return fit(model, visit.received, visit, Update(tuple(visit.received), "global"), options)


def personalize(options: KNNPerOptions, model: Model, visit: Visit) -> Personal:
    """Fill the stores by the received model; every client predicts with (1 - lam) p_model + lam p_knn."""
    filled, work = stores(options, model, visit)
    return Personal(visit.received, "global", phases=(work,), probabilities=Neighbours(options, filled))


@torch.no_grad()
def stores(options: KNNPerOptions, model: Model, visit: Visit) -> tuple[list[Store], Work]:
    """Every client's store, over its training tokens."""
    parts: list[list[Store]] = [[] for _ in visit.data.ids]
    tally = Tally(visit.data)
    for batch in batches(visit.data, options.batch_size):
        k = len(batch.lengths)
        active = {name: tensor[:k] for name, tensor in visit.received.items()}
        out = torch.func.functional_call(model, active, (batch.inputs, batch.lengths), {"route": "global"})
        losses = F.cross_entropy(out.logits.flatten(0, 2), batch.targets.flatten(), reduction="none").view_as(batch.targets)
        tally.add(batch, (losses.double() * batch.valid).sum((1, 2)))
        for client in range(k):
            valid = batch.valid[client]
            own = out.features[client][valid]
            parts[client].append(Store(own, batch.targets[client][valid], own.square().sum(1)))
    filled = []
    for id, own_parts in zip(visit.data.ids, parts, strict=True):
        store = Store(*(torch.cat(tensors) for tensors in zip(*own_parts, strict=True)))
        if 0 < options.capacity < len(store.labels):
            kept = torch.from_numpy(visit.draw.stream("store", id).choice(len(store.labels), options.capacity, replace=False))
            store = Store(*(tensor[kept.to(tensor.device)] for tensor in store))
        filled.append(store)
    return filled, tally.work(sum(visit.data.sizes()), per_token(model, "global"))


def mixture(options: KNNPerOptions, filled: list[Store], out: Prediction, batch: Batch) -> Tensor:
    """[k, B, T, V]: probabilities of the next token, for the first k clients."""
    result = out.logits.softmax(-1) * (1 - options.lam)
    for client in range(len(batch.lengths)):
        valid = batch.valid[client]
        for start, query in _pieces(out.features[client][valid], filled[client]):
            weights, labels = votes(options, filled[client], query)
            places = valid.nonzero()[start : start + len(query)]
            row, step = (column.unsqueeze(1).expand_as(labels) for column in places.unbind(1))
            result[client].index_put_((row, step, labels), options.lam * weights, accumulate=True)
    return result


def _pieces(queries: Tensor, store: Store) -> list[tuple[int, Tensor]]:
    """Queries in pieces whose distances to the store fit into memory, and where each begins."""
    size = max(1, DISTANCES // len(store.labels))
    return [(start, queries[start : start + size]) for start in range(0, len(queries), size)]


def votes(options: KNNPerOptions, store: Store, query: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and labels of the nearest neighbours, [n, k] each: exp(-d / (H scale)) over the sum, d the squared distance."""
    order = torch.addmm(store.squares, query, store.features.T, alpha=-2)  # d without the query's own square
    nearest = order.topk(min(options.neighbours, len(store.labels)), dim=1, largest=False).indices
    square = (query.unsqueeze(1) - store.features[nearest]).square().sum(2)
    return (-square / (query.shape[1] * options.scale)).softmax(1), store.labels[nearest]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """How K clients predict with the votes of their stores; it can be stored and followed token by token."""

    options: KNNPerOptions
    filled: list[Store]

    def __call__(self, out: Prediction, batch: Batch) -> Tensor:
        return mixture(self.options, self.filled, out, batch)

    @property
    def networks(self) -> Sequence[tuple[Tensors, Route]]:
        """See :class:`flow.training.messages.Mixture`, likewise the others."""
        return ()

    @property
    def holds(self) -> str:
        return (
            "every word in its order, as the label of a stored example," if not self.options.capacity else "some of the words"
        )

    @property
    def refusal(self) -> str:
        return "it lets nearest examples vote, and of equally near ones another library takes others"

    def stored(self) -> Tensors:
        return self.filled[0]._asdict()

    def mixed(self, views: Sequence[View], before: Tensor, token: Tensor, routing: str) -> tuple[Tensor, Tensor]:
        (view,) = views
        weights, labels = votes(self.options, self.filled[0], view.features)
        p = view.log_p.exp() * (1 - self.options.lam)
        return p.scatter_add(1, labels, self.options.lam * weights), view.local_weight


def restored(options: KNNPerOptions, model: Model, personal: Personal, stored: Tensors) -> Personal:
    """How a client predicts, of its store."""
    store = Store(**stored)
    n = len(store.features)
    if store.labels.shape != (n,) or store.squares.shape != (n,):
        raise ValueError(f"labels {list(store.labels.shape)} and squares {list(store.squares.shape)} must be [{n}]")
    if n and not 0 <= int(store.labels.min()) <= int(store.labels.max()) < model.outputs:
        raise ValueError(f"labels are not from 0 to {model.outputs - 1}")
    return personal._replace(probabilities=Neighbours(options, [store]))


ALGORITHM = Algorithm(
    name="knnper",
    about="FedAvg, mixed at every client with the vote of its nearest training examples.",
    options=KNNPerOptions,
    needs=needing("features"),
    local=local,
    stopping=any_batch,
    personalize=personalize,
    restored=restored,
    check=check,
    tuned=(Tunable("lr"), Tunable("neighbours", "count"), Tunable("lam", "share", 3.0)),
)
