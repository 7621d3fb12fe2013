"""PartialFed (Sun et al., NeurIPS 2021): every client loads some layers of the global model, and keeps the others of its own.

In the adaptive form a client learns for every layer which of the two it starts from; in the fixed form the layers are given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from flow.algorithms.interface import Algorithm, Tunable, only_whole
from flow.algorithms.shared import finetuning, private_part
from flow.algorithms.shared.finetuning import RATES, TUNED, FineTuning, personal
from flow.algorithms.shared.private_part import layer_of, part_of
from flow.checks import check_number
from flow.draws import Draw
from flow.model.interface import Model, Part
from flow.model.parameters import Tensors, copy, per_client, tagged, untagged
from flow.training.messages import Download, Members, Personal, Upload, Visit
from flow.training.records import Work
from flow.training.sgd import Update
from flow.training.work import finetune, fit, train

OWN, CHOICE, NOISE, LOADED = "own", "choice", "noise", "loaded"
LOWEST = 0.1  # temperature


@dataclass(frozen=True)
class PartialFedOptions(FineTuning):
    """PartialFed. `lr` and `epochs` are those of the model. Astuary/Flow, CIFAR: 5 epochs at lr 0.11."""

    strategy: Literal["adaptive", "head", "gru", "embedding", "body"] = "adaptive"
    """The layers that a client takes from its own model and does not load. "adaptive": the client learns them
    (PartialFed-Adaptive). Else they are always the output layer, the recurrent layer, the input layer, or everything below the
    head (PartialFed-Fix)."""

    strategy_lr: float = 1.0
    """Learning rate of the choice between the two models, where the strategy is adaptive."""

    strategy_epochs: int = 1
    """Passes over the training sequences for the choice, before those for the model."""

    temperature: float = 5.0
    """Temperature of the choice's Gumbel-softmax in the first round. (sunxm2357/AdaShare, which chooses layers in the same way:
    5.)"""

    temperature_decay: float = 0.965
    """Factor of the temperature from round to round; it ends at 0.1. 1: no decay. (AdaShare: 0.965.)"""


def check(options: PartialFedOptions) -> None:
    """Raise UserError for an option out of range."""
    finetuning.check_rate("strategy_lr", options.strategy_lr)
    finetuning.check(options, strategy_lr=options.strategy_lr if options.strategy == "adaptive" else None)
    check_number("strategy_epochs", options.strategy_epochs, 1)
    check_number("temperature", options.temperature, LOWEST)
    check_number("temperature_decay", options.temperature_decay, 0, 1, remedy="1 keeps the temperature as it is")


def download(options: PartialFedOptions, model: Model, state: Tensors, to: Members) -> Download:
    """w_g; where the layers that are kept are given, those that have them are sent the others alone."""
    return private_part.sent(state, () if options.strategy == "adaptive" else part_of(options.strategy, state), to)


def fresh(options: PartialFedOptions, model: Model, received: Tensors, clients: int) -> Tensors:
    """Client state: its own model, a new client's is w_g, and for every layer two scores, (load, keep), at first equal.

    Where the layers that are kept are given: these layers alone.
    """
    if options.strategy != "adaptive":
        return tagged(OWN, {name: received[name] for name in part_of(options.strategy, received)})
    some = next(iter(received.values()))
    scores = {layer_of(name): some.new_zeros((clients, 2)) for name in received}
    return {**tagged(OWN, received), **tagged(CHOICE, scores)}


def local(options: PartialFedOptions, model: Model, visit: Visit) -> Upload:
    """Learn the choice, load the layers chosen, then E epochs of SGD on all of the model; uploads all of it, and keeps it."""
    start, scores, phases = initialized(options, model, visit)
    upload = fit(model, start, visit, Update(tuple(start), "global"), options)
    own = tagged(OWN, upload.tensors)
    kept = {name: own[name] for name in own if name in visit.kept.tensors}
    return upload._replace(phases=(*phases, *upload.phases), kept={**kept, **scores})


def personalize(options: PartialFedOptions, model: Model, visit: Visit) -> Personal:
    """The same with the rate and the epochs of fine-tuning; a new client fine-tunes w_g."""
    start, _, phases = initialized(options, model, visit)
    own = finetune(model, start, visit, Update(tuple(start), "global"), personal(options))
    return own._replace(phases=(*phases, *own.phases))


def initialized(options: PartialFedOptions, model: Model, visit: Visit) -> tuple[Tensors, Tensors, tuple[Work, ...]]:
    """What K clients' training starts from, the scores by which they chose it, and the work of choosing."""
    own = untagged(OWN, visit.kept.tensors)
    if options.strategy != "adaptive":
        return {**visit.received, **own}, {}, ()
    scores, work = learned(options, model, visit)
    load = {layer: pair[:, 0] >= pair[:, 1] for layer, pair in untagged(CHOICE, scores).items()}
    start = {
        name: torch.where(per_client(load[layer_of(name)], tensor), tensor, own[name])
        for name, tensor in visit.received.items()
    }
    return start, scores, (work,)


def learned(options: PartialFedOptions, model: Model, visit: Visit) -> tuple[Tensors, Work]:
    """Train the scores of clients that have a model of their own, with both models frozen.

    On every batch a sample of the choice decides which layers compute; its gradient is that of the Gumbel-softmax
    (straight-through). A new client's two models are the same, so its scores would not move.
    """
    scores = copy(tagged(CHOICE, untagged(CHOICE, visit.kept.tensors)))
    noise = {NOISE + name.removeprefix(CHOICE): torch.zeros_like(tensor) for name, tensor in scores.items()}
    parameters = {**tagged(LOADED, visit.received), **visit.kept.tensors, **scores, **noise}
    redraw = drawing(visit.draw, visit.data.ids)
    redraw(parameters)
    update = Update(tuple(scores), "global", compose=mixed(temperature_of(options, visit.draw.round)))
    sgd = replace(options, lr=options.strategy_lr, epochs=options.strategy_epochs)
    data = visit.data.of(visit.kept.known.tolist())
    return scores, train(model, parameters, data, [update], sgd, visit.draw, "strategy", redraw)


def temperature_of(options: PartialFedOptions, round: int) -> float:
    """Of the Gumbel-softmax in this round, counted from 1."""
    return max(options.temperature * options.temperature_decay ** (round - 1), LOWEST)


def drawing(draw: Draw, ids: tuple[str, ...]) -> Callable[[Tensors], None]:
    """A function that draws the noise of the next batch for the first k clients, in place."""
    streams = [draw.stream("gumbel", id) for id in ids]

    def redraw(parameters: Tensors) -> None:
        noise = list(untagged(NOISE, parameters).values())
        values = np.stack([stream.gumbel(size=(len(noise), 2)) for stream in streams[: len(noise[0])]])
        for layer, tensor in enumerate(noise):
            tensor.copy_(torch.from_numpy(values[:, layer]))

    return redraw


def mixed(temperature: float) -> Callable[[Tensors], Tensors]:
    """Puts together the layers that a sample of the choice loads with those that it keeps."""

    def compose(parameters: Tensors) -> Tensors:
        received, own, scores, noise = (untagged(tag, parameters) for tag in (LOADED, OWN, CHOICE, NOISE))
        load = {layer: straight_through(pair + noise[layer], temperature) for layer, pair in scores.items()}
        share = {name: per_client(load[layer_of(name)], tensor) for name, tensor in received.items()}
        return {name: share[name] * tensor + (1 - share[name]) * own[name] for name, tensor in received.items()}

    return compose


def straight_through(scores: Tensor, temperature: float) -> Tensor:
    """[K, 2] -> [K]: 1 where the first score is the larger one or they are equal, else 0, with the gradient of the softmax."""
    soft = torch.softmax(scores / temperature, dim=1)[:, 0]
    hard = (scores[:, 0] >= scores[:, 1]).to(soft.dtype)
    return (hard - soft).detach() + soft


def tuned(options: PartialFedOptions) -> tuple[Tunable, ...]:
    """The rate of the choice where there is one."""
    return (*RATES, Tunable("strategy_lr"), Tunable("personal_epochs", "count")) if options.strategy == "adaptive" else TUNED


def needs(options: PartialFedOptions) -> tuple[Part, ...]:
    """The layer that stays private, by its name; where layers are chosen, whatever there are."""
    if options.strategy == "adaptive":
        return ()
    return ("head" if options.strategy == "body" else options.strategy,)


ALGORITHM = Algorithm(
    name="partialfed",
    about="Every client learns which layers it loads from the global model and which it keeps of its own.",
    options=PartialFedOptions,
    needs=needs,
    local=local,
    stopping=only_whole("has clients learn which layers to load before they train what they upload"),
    personalize=personalize,
    resolve=finetuning.resolve,
    check=check,
    tuned=tuned,
    download=download,
    fresh=fresh,
)
