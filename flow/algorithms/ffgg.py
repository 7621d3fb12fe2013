"""FFGG (Mishchenko et al., TMLR 2025, arXiv 2305.18285): fine-tune the private part, then one gradient of the shared part.

The private part starts anew every time and never leaves the client. The gradient is taken at the shared part as received, so
with the private part w_m at its best the server descends the mean of min_w f_m(theta, w), by steps of a size of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from flow.algorithms.interface import Algorithm, Tunable
from flow.checks import check_number
from flow.draws import Draw
from flow.errors import UserError
from flow.model.flops import per_token
from flow.model.language_model import LanguageModel
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

    shared_lr: float = 20.0
    """Step along the mean gradient of the shared part, one a round. (Notebooks: 1/L, where the gradient is L-Lipschitz.)"""

    pairs: int = 1
    """Times a client fine-tunes and then steps along its gradient by shared_lr, before it sends the sum of these gradients;
    above 1 the server takes the mean of the clients' shared parts (local FFGG)."""

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
    check_number("delay", options.delay, 1)


def check_server(options: FFGGOptions, how: ServerOptions) -> None:
    """Raise UserError for an aggregator with asynchronous gradients, which never meet."""
    if options.asynchronous and how.aggregator != "mean":
        raise UserError(
            f"aggregator={how.aggregator!r} needs the gradients of a round together, and with asynchronous=True each is a step "
            "of its own; leave either out"
        )


def init(options: FFGGOptions, model: LanguageModel, seed: int, clients: int) -> Tensors:
    """Server state: theta; asynchronous also its last versions, the newest first, as "past/<name>" [delay, ..]."""
    start, hidden = initial(model, "global"), private(options, model)
    theta = {name: tensor.clone() for name, tensor in start.items() if name not in hidden}
    return theta if not options.asynchronous else {**theta, **remember([theta] * options.delay)}


def download(options: FFGGOptions, model: LanguageModel, state: Tensors, to: Members) -> Download:
    """theta; asynchronous, to clients that train, one of its last versions."""
    theta = current(state)
    if not options.asynchronous or to.phase != "train":
        return broadcast(theta, len(to.ids))
    ages = torch.tensor([int(to.draw.stream("delay", id).integers(options.delay)) for id in to.ids])
    return Download({name: state[PAST + name][ages.to(state[name].device)] for name in theta}, [nbytes(theta)] * len(to.ids))


def local(options: FFGGOptions, model: LanguageModel, visit: Visit) -> Upload:
    """Fine-tune w from its initial values with theta frozen; upload grad_theta f(theta, w) over all training sequences.

    With more pairs, each goes on from the last w and from theta after the last gradient's step. All clients count alike.
    """
    hidden = private(options, model)
    parameters = copy({**visit.received, **stack(hidden, len(visit.data.ids))})
    total = {name: torch.zeros_like(tensor, memory_format=torch.contiguous_format) for name, tensor in visit.received.items()}
    phases: list[Work] = []
    for pair in range(options.pairs):
        phases.append(
            train(model, parameters, visit.data, [Update(tuple(hidden), "global")], options, visit.draw, f"private {pair}")
        )
        found, work = gradient(model, parameters, tuple(visit.received), visit.data, options)
        phases.append(work)
        for name, tensor in found.items():
            total[name] += tensor
            parameters[name] -= options.shared_lr * tensor
    return Upload(total, [1] * len(visit.data.ids), tuple(phases))


def gradient(model: LanguageModel, parameters: Tensors, names: tuple[str, ...], data: Data, sgd: Sgd) -> tuple[Tensors, Work]:
    """Gradient [K, ..] of K clients' mean loss over all their tokens, clipped as a whole; nothing moves."""
    where = Update(names, "global")
    found = {name: torch.zeros_like(parameters[name]) for name in names}
    tally = Tally(data)
    tokens = torch.stack([data.lengths[torch.from_numpy(rows)].sum() for rows in data.rows]).to(tally.tokens)
    for batch in batches(data, sgd.batch_size):
        k = len(batch.lengths)
        loss, parts = gradients(model, {name: tensor[:k] for name, tensor in parameters.items()}, batch, where)
        share = batch.valid.sum((1, 2)) / tokens[:k]
        for name, part in parts.items():
            found[name][:k] += part * per_client(share.to(part.dtype), part)
        tally.add_mean(batch, loss)
    if sgd.clip:
        shrink = sgd.clip / aggregators.norms(found).clamp_min(sgd.clip)
        found = {name: tensor * per_client(shrink, tensor) for name, tensor in found.items()}
    return found, tally.work(sum(data.sizes()), per_token(model, "global", names))


def server_step(
    options: FFGGOptions, state: Tensors, moments: Tensors, uploads: Uploads, how: ServerOptions, draw: Draw
) -> tuple[Tensors, Tensors]:
    """theta <- theta - shared_lr * aggregate of the gradients, by the server's optimiser; asynchronous: the same for every
    single one, in the order of ``draw.stream("arrival")``."""
    theta = current(state)
    if not options.asynchronous:
        found, moments = aggregators.aggregate(uploads, moments, how, draw)
        return descend(options, theta, moments, found, how)
    delay = len(next(tensor for name, tensor in state.items() if name.startswith(PAST)))
    versions = [{name: state[PAST + name][age] for name in theta} for age in range(delay)]
    for index in draw.stream("arrival").permutation(uploads.clients).tolist():
        single = {name: tensor[index].double() for name, tensor in uploads.each.items()}
        theta, moments = descend(options, theta, moments, single, how)
        versions.insert(0, theta)
    return {**theta, **remember(versions[:delay])}, moments


def descend(
    options: FFGGOptions, theta: Tensors, moments: Tensors, found: Tensors, how: ServerOptions
) -> tuple[Tensors, Tensors]:
    """A step of the server's optimiser along this gradient."""
    target = {name: theta[name].double() - options.shared_lr * tensor for name, tensor in found.items()}
    return optimizers.step(theta, moments, target, how)


def personalize(options: FFGGOptions, model: LanguageModel, visit: Visit) -> Personal:
    """Fine-tune w from its initial values under the theta received; the same for every client."""
    hidden = private(options, model)
    start = {**visit.received, **stack(hidden, len(visit.data.ids))}
    return finetune(model, start, visit, Update(tuple(hidden), "global"), options)


def private(options: FFGGOptions, model: LanguageModel) -> Tensors:
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
    about="A private head, fitted anew every time, and one gradient of all the rest, taken under it.",
    options=FFGGOptions,
    local=local,
    personalize=personalize,
    check=check,
    tuned=(Tunable("lr"), Tunable("shared_lr"), Tunable("pairs", "count")),
    check_server=check_server,
    init=init,
    download=download,
    general=lambda options, model, state: None,
    one_by_one=True,
    server_step=server_step,
)
