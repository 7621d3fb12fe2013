"""HypCluster (Mansour, Mohri, Ro and Suresh 2020, arXiv 2002.10619): a few global models; every client takes the one that
fits its data best."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flow.algorithms.interface import Algorithm, Tunable, needing, only_whole
from flow.algorithms.shared import finetuning
from flow.algorithms.shared.finetuning import TUNED, FineTuning, personal
from flow.checks import check_number
from flow.draws import Draw
from flow.model.interface import Model
from flow.model.language_model import LanguageModel
from flow.model.parameters import Tensors, copy, initial, tagged, untagged
from flow.server import aggregators, optimizers
from flow.server.options import ServerOptions
from flow.server.uploads import Uploads
from flow.training.messages import Personal, Upload, Visit
from flow.training.records import Work
from flow.training.sgd import Update, check_sgd
from flow.training.work import finetune, measure, train

CHOICE = "cluster"


@dataclass(frozen=True)
class HypClusterOptions(FineTuning):
    """HypCluster. Published: 2 clusters, 3 epochs, Shakespeare 5, lr 0.1 (Panchal et al. 2023, App. B)."""

    clusters: int = 2
    """Global models, among which every client chooses. (Panchal et al. 2023: 2.)"""

    random_rounds: int = 1
    """Rounds at the start in which clients choose at random among models that start equal. With 0 the models start
    from different random values, and clients choose by the loss from the first round on. (google/fedjax offers different
    random values, or models of clients far from each other.)"""

    personal_epochs: int | None = None
    """Passes over its training sequences by which a client fine-tunes the model of its choice before it predicts. 0: it takes
    the model as it is, as Mansour et al. do. None: epochs. (Panchal et al. 2023: the same.)"""


def check(options: HypClusterOptions) -> None:
    """Raise UserError for an option out of range."""
    check_sgd(options, personal_lr=options.personal_lr)
    finetuning.check_rate("personal_lr", options.personal_lr)
    check_number("clusters", options.clusters, 1)
    check_number("random_rounds", options.random_rounds, 0)
    if options.personal_epochs is not None:
        check_number("personal_epochs", options.personal_epochs, 0)


def init(options: HypClusterOptions, model: Model, seed: int, clients: int) -> Tensors:
    """Server state: the models w_0, w_1, ... as "0/name", "1/name", ...; all equal, or each drawn on its own."""
    state: Tensors = {}
    for cluster in range(options.clusters):
        own = initial(model, "global")
        if cluster and not options.random_rounds:
            own = drawn(model, seed, cluster)
        state |= tagged(str(cluster), {name: tensor.clone() for name, tensor in own.items()})
    return state


def drawn(model: Model, seed: int, cluster: int) -> Tensors:
    """Other initial values, distributed as those of the model."""
    generator = Draw(seed, 0, "cluster").stream(str(cluster))
    assert isinstance(model, LanguageModel)  # which `needs` says
    bound = model.gru.hidden_size**-0.5
    tensors = {}
    for name, tensor in initial(model, "global").items():
        normal = name == "embedding.weight"
        values = generator.normal(size=tensor.shape) if normal else generator.uniform(-bound, bound, tensor.shape)
        tensors[name] = torch.from_numpy(values).to(tensor)
    return tensors


def local(options: HypClusterOptions, model: Model, visit: Visit) -> Upload:
    """Choose a model before any step, then E epochs of SGD on it; uploads it with the number of its cluster."""
    choice, phases = chosen(options, model, visit)
    parameters = chosen_model(options, visit.received, choice)
    work = train(model, parameters, visit.data, [Update(tuple(parameters), "global")], options, visit.draw, "global")
    return Upload({**parameters, CHOICE: choice}, visit.data.sizes(), (*phases, work))


def personalize(options: HypClusterOptions, model: Model, visit: Visit) -> Personal:
    """The model with the lowest loss on the client's training sequences, fine-tuned; before: as it was received."""
    losses, phases = measured(options, model, visit)
    start = chosen_model(options, visit.received, losses.argmin(0))
    before = Personal(start, "global")
    options = personal(options)
    if not options.epochs:
        return before._replace(phases=phases, before=before)
    own = finetune(model, start, visit, Update(tuple(start), "global"), options)
    return own._replace(phases=(*phases, *own.phases), before=before)


def chosen(options: HypClusterOptions, model: Model, visit: Visit) -> tuple[Tensor, tuple[Work, ...]]:
    """int64 [K]: every client's cluster, and the work of finding it."""
    if visit.draw.round <= options.random_rounds:
        picks = [int(visit.draw.stream("cluster", id).integers(options.clusters)) for id in visit.data.ids]
        return torch.tensor(picks, device=visit.data.tokens.device), ()
    losses, phases = measured(options, model, visit)
    return losses.argmin(0), phases


def measured(options: HypClusterOptions, model: Model, visit: Visit) -> tuple[Tensor, tuple[Work, ...]]:
    """[clusters, K]: mean loss of every model on the clients' training sequences."""
    works = tuple(
        measure(model, untagged(str(cluster), visit.received), visit.data, "global", options.batch_size)
        for cluster in range(options.clusters)
    )
    return torch.stack([work.nats / work.tokens for work in works]), works


def chosen_model(options: HypClusterOptions, received: Tensors, choice: Tensor) -> Tensors:
    """A copy of the model of everyone's choice: [K, ..]."""
    models = [untagged(str(cluster), received) for cluster in range(options.clusters)]
    parameters = copy(models[0])
    for cluster, own in enumerate(models[1:], start=1):
        mine = choice == cluster
        for name, tensor in parameters.items():
            tensor[mine] = own[name][mine]
    return parameters


def server_step(
    options: HypClusterOptions, state: Tensors, moments: Tensors, uploads: Uploads, server_options: ServerOptions, draw: Draw
) -> tuple[Tensors, Tensors]:
    """A server step for every cluster on the uploads of those that chose it; one that nobody chose stays as it is."""
    choice = uploads.each[CHOICE]
    for cluster in range(options.clusters):
        mine = choice == cluster
        if not bool(mine.any()):
            continue
        each = tagged(str(cluster), {name: t[mine] for name, t in uploads.each.items() if name != CHOICE})
        weights = uploads.weights[mine.cpu()]
        own = Uploads(each=each, rows=uploads.rows[mine.cpu().numpy()], weights=weights)
        target, moments = aggregators.aggregate(own, moments, server_options, draw, state)
        state, moments = optimizers.step(state, moments, target, server_options)
    return state, moments


ALGORITHM = Algorithm(
    name="hypcluster",
    about="A few global models; every client takes the one with the lowest loss and fine-tunes it.",
    options=HypClusterOptions,
    needs=needing("gru"),
    local=local,
    stopping=only_whole("has clients choose a model by all of their texts before they train it"),
    personalize=personalize,
    resolve=finetuning.resolve,
    check=check,
    tuned=(*TUNED, Tunable("clusters", "count")),
    models=lambda options: {"clusters": options.clusters},
    init=init,
    general=lambda options, model, state: None,
    one_by_one=True,
    beyond_the_sum=lambda options: (
        "the server averages over those who took the same model, and how many these are depends on their texts"
    ),
    server_step=server_step,
)
