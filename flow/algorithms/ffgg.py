"""FFGG (Mishchenko et al., TMLR 2025, arXiv 2305.18285): fine-tune the private part, then one gradient of the shared part.

The private part w_m never leaves the client, which goes on from it or starts anew. The gradient is taken at the shared part as
received. So with an optimal w_m the server descends the mean of min_w f_m(theta, w), with a step size of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from flow.algorithms.interface import Algorithm, Tunable, needing, only_whole
from flow.checks import check_number
from flow.draws import Draw
from flow.errors import UserError
from flow.model.flops import per_token
from flow.model.interface import Model
from flow.model.parameters import Tensors, body_of, copy, head_of, initial, nbytes, per_client, stack
from flow.server import aggregators, optimizers
from flow.server.options import ServerOptions
from flow.server.uploads import Uploads
from flow.training.batches import Data, batches
from flow.training.descent import gradients
from flow.training.messages import Download, Members, Personal, Upload, Visit, broadcast
from flow.training.records import Tally, Work
from flow.training.sgd import Sgd, Update, check_sgd
from flow.training.work import finetune, train

PAST = "past/"


@dataclass(frozen=True)
class FFGGOptions(Sgd):
    """FFGG; `lr` and `epochs` are those of the fine-tuning. Published, on quadratics: fine-tuning solved exactly, or 10 to 200
    full gradient steps (Rustem-Islamov/FL_representations)."""

    private: Literal["head", "body"] = "head"
    """What every client has for itself: the head, or embedding and GRU."""

    start: Literal["kept", "initial"] = field(default="kept", metadata={"absent": "initial"})
    """Where fine-tuning starts. "kept": at the private part that the client kept, for a new client at the initial values.
    "initial": at the initial values every time, and a client keeps nothing. (The paper asks for the best private part, wherever
    the search for it starts; notebooks: a new draw every time.)"""

    personal_epochs: int | None = field(default=10, metadata={"absent": None})
    """Passes by which the private part is fitted before a client predicts, as many as in local and fedrep. None: epochs.
    (Notebooks: 10 to 200 steps, the same as in a round.)"""

    shared_lr: float = 20.0
    """Step along the mean gradient of the shared part, one a round. (Notebooks: 1/L, where the gradient is L-Lipschitz.)"""

    pairs: int = 1
    """Times a client fine-tunes and then steps along its gradient by shared_lr, before it uploads the sum of these gradients.
    Above 1 the server takes the mean of the clients' shared parts (local FFGG)."""

    asynchronous: bool = False
    """Gradients come one by one, each made at an older shared part, and each is a step of its own."""

    delay: int = 16
    """With asynchronous: a client starts from the shared part as it was 0 to delay - 1 steps before the round, at random.
    (Notebook: 40 workers, each of which starts from the newest when it is done.)"""


def check(options: FFGGOptions) -> None:
    """Raise UserError for an option out of range."""
    check_sgd(options)
    if not options.shared_lr > 0 or options.shared_lr == float("inf"):
        raise UserError(f"shared_lr must be a finite number above 0, got {options.shared_lr!r}; leave it out for the default")
    check_number("pairs", options.pairs, 1)
    if options.personal_epochs is not None:
        check_number("personal_epochs", options.personal_epochs, 1)
    check_number("delay", options.delay, 1)


def resolve(options: FFGGOptions, rounds: int) -> FFGGOptions:
    """The options with nothing left open."""
    return replace(options, personal_epochs=options.epochs) if options.personal_epochs is None else options


def check_server(options: FFGGOptions, server_options: ServerOptions) -> None:
    """Raise UserError for an aggregator with asynchronous gradients, which never meet."""
    if options.asynchronous and server_options.aggregator != "mean":
        raise UserError(
            f"aggregator={server_options.aggregator!r} needs the gradients of a round together, and with "
            "asynchronous=True each is a step of its own; leave either out"
        )


def init(options: FFGGOptions, model: Model, seed: int, clients: int) -> Tensors:
    """Server state: theta; asynchronous also its last versions, the newest first, as "past/<name>" [delay, ..]."""
    start, hidden = initial(model, "global"), private(options, model)
    theta = {name: tensor.clone() for name, tensor in start.items() if name not in hidden}
    return theta if not options.asynchronous else {**theta, **remember([theta] * options.delay)}


def download(options: FFGGOptions, model: Model, state: Tensors, to: Members) -> Download:
    """theta; asynchronous, to clients that train, one of its last versions."""
    theta = current(state)
    if not options.asynchronous or to.phase != "train":
        return broadcast(theta, len(to.ids))
    ages = torch.tensor([int(to.draw.stream("delay", id).integers(options.delay)) for id in to.ids])
    return Download({name: state[PAST + name][ages.to(state[name].device)] for name in theta}, [nbytes(theta)] * len(to.ids))


def fresh(options: FFGGOptions, model: Model, received: Tensors, clients: int) -> Tensors:
    """Client state: w, a new client's the initial values, the same for all; none where it starts from these every time."""
    return stack(private(options, model), clients) if options.start == "kept" else {}


def local(options: FFGGOptions, model: Model, visit: Visit) -> Upload:
    """Fine-tune w with theta frozen; upload grad_theta f(theta, w) over all training sequences, and keep w.

    With more pairs, each goes on from the last w and from theta after the last gradient's step. All clients count alike.
    """
    hidden = own_part(options, model, visit)
    parameters = copy({**visit.received, **hidden})
    total = {name: torch.zeros_like(tensor, memory_format=torch.contiguous_format) for name, tensor in visit.received.items()}
    phases: list[Work] = []
    for pair in range(options.pairs):
        phases.append(
            train(model, parameters, visit.data, [Update(tuple(hidden), "global")], options, visit.draw, f"private {pair}")
        )
        uploaded, work = gradient(model, parameters, tuple(visit.received), visit.data, options)
        phases.append(work)
        for name, tensor in uploaded.items():
            total[name] += tensor
            parameters[name] -= options.shared_lr * tensor
    kept = {name: parameters[name] for name in visit.kept.tensors}
    return Upload(total, [1] * len(visit.data.ids), tuple(phases), kept or None)


def gradient(model: Model, parameters: Tensors, names: tuple[str, ...], data: Data, sgd: Sgd) -> tuple[Tensors, Work]:
    """Gradient [K, ..] of K clients' mean loss over all their tokens, clipped as a whole; nothing moves."""
    where = Update(names, "global")
    sums = {name: torch.zeros_like(parameters[name]) for name in names}
    tally = Tally(data)
    of_rows = torch.ones_like(data.lengths) if data.labelled else data.lengths
    tokens = torch.stack([of_rows[torch.from_numpy(rows)].sum() for rows in data.rows]).to(tally.tokens)
    for batch in batches(data, sgd.batch_size):
        k = len(batch.lengths)
        loss, parts = gradients(model, {name: tensor[:k] for name, tensor in parameters.items()}, batch, where)
        share = batch.valid.sum((1, 2)) / tokens[:k]
        for name, part in parts.items():
            sums[name][:k] += part * per_client(share.to(part.dtype), part)
        tally.add_mean(batch, loss)
    if sgd.clip:
        shrink = sgd.clip / aggregators.norms(sums).clamp_min(sgd.clip)
        sums = {name: tensor * per_client(shrink, tensor) for name, tensor in sums.items()}
    return sums, tally.work(sum(data.sizes()), per_token(model, "global", names))


def server_step(
    options: FFGGOptions, state: Tensors, moments: Tensors, uploads: Uploads, server_options: ServerOptions, draw: Draw
) -> tuple[Tensors, Tensors]:
    """theta <- theta - shared_lr * aggregate of the gradients, by the server's optimiser; asynchronous: the same for every
    single one, in the order of ``draw.stream("arrival")``."""
    theta = current(state)
    if not options.asynchronous:
        gradients, moments = aggregators.aggregate(uploads, moments, server_options, draw)
        return descend(options, theta, moments, gradients, server_options)
    delay = len(next(tensor for name, tensor in state.items() if name.startswith(PAST)))
    versions = [{name: state[PAST + name][age] for name in theta} for age in range(delay)]
    for index in draw.stream("arrival").permutation(uploads.clients).tolist():
        single = {name: tensor[index].double() for name, tensor in uploads.each.items()}
        theta, moments = descend(options, theta, moments, single, server_options)
        versions.insert(0, theta)
    return {**theta, **remember(versions[:delay])}, moments


def descend(
    options: FFGGOptions, theta: Tensors, moments: Tensors, gradients: Tensors, server_options: ServerOptions
) -> tuple[Tensors, Tensors]:
    """A step of the server's optimiser along this gradient."""
    target = {name: theta[name].double() - options.shared_lr * tensor for name, tensor in gradients.items()}
    return optimizers.step(theta, moments, target, server_options)


def personalize(options: FFGGOptions, model: Model, visit: Visit) -> Personal:
    """Fit w to the theta received."""
    hidden = own_part(options, model, visit)
    epochs = options.epochs if options.personal_epochs is None else options.personal_epochs
    sgd = replace(options, epochs=epochs)
    return finetune(model, {**visit.received, **hidden}, visit, Update(tuple(hidden), "global"), sgd)


def own_part(options: FFGGOptions, model: Model, visit: Visit) -> Tensors:
    """[K, ..]: what the private parts start from."""
    return visit.kept.tensors or stack(private(options, model), len(visit.data.ids))


def private(options: FFGGOptions, model: Model) -> Tensors:
    """The private part's initial values, the same for all clients."""
    start = initial(model, "global")
    return {name: start[name] for name in (head_of if options.private == "head" else body_of)(start)}


def current(state: Tensors) -> Tensors:
    """theta without its earlier versions."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(PAST)}


def remember(versions: list[Tensors]) -> Tensors:
    """Versions of theta, [delay, ..]."""
    return {PAST + name: torch.stack([version[name] for version in versions]) for name in versions[0]}


ALGORITHM = Algorithm(
    name="ffgg",
    about="A private head, fitted first, and one gradient of all the rest, taken under it.",
    options=FFGGOptions,
    needs=needing("head"),
    local=local,
    stopping=only_whole("has clients upload one gradient over all of their texts, which some batches do not give"),
    personalize=personalize,
    resolve=resolve,
    check=check,
    tuned=(Tunable("lr"), Tunable("shared_lr"), Tunable("pairs", "count")),
    check_server=check_server,
    init=init,
    download=download,
    general=lambda options, model, state: None,
    fresh=fresh,
    keeps=lambda options: options.start == "kept",
    one_by_one=True,
    beyond_the_sum=lambda options: (
        "with asynchronous=True the gradient of every client is a step of its own" if options.asynchronous else ""
    ),
    changes=True,
    server_step=server_step,
)
