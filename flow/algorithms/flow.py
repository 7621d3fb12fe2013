"""Flow (Panchal et al., NeurIPS 2023) and its workshop form (CrossFL 2022): per-instance routing between two experts.

Symbols as in docs/algorithms.md: w_g the global weights, w_l the local experts, psi the routers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch

from flow import server
from flow.cohort import Data, Draw, Personal, Sgd, Update, Upload, Work, check_sgd, halves, stack, train
from flow.errors import UserError
from flow.models import LanguageModel, Tensors, global_name, group_of, names_of

COLDEST = 0.001  # the router's gradient grows as 1 / temperature, and float32 ends where a far smaller one begins


@dataclass(frozen=True)
class FlowOptions:
    """A global expert, a local one made from it on the spot, and a router that mixes them at every token."""

    variant: Literal["neurips", "workshop"] = "neurips"
    """"neurips": GRU and head routed; the data split in halves; router and global weights trained in turn.
    "workshop": only the GRU routed; all data for both phases; both trained together; the router stays private."""

    lr: float = 2.0
    """Learning rate of the local expert, the router and the global weights alike. (Paper: 0.1, Shakespeare 0.11, over
    1500 rounds and more; with clipping, 2 does in a hundred.)"""

    epochs: int | None = None
    """Passes over the data of each phase, K1 = K2. None: 3, in the workshop variant 1. (Paper: 3, Shakespeare 5.)"""

    batch_size: int = 8
    """Sequences per SGD step of a client. (Paper: 16 for StackOverflow, 4 for Shakespeare.)"""

    clip: float = 1.0
    """Largest norm of a client's gradient over the weights trained in a step. 0: no clipping."""

    gamma: float | None = None
    """Weight of the term that draws the router to the global expert. None: 0.1, in the workshop
    variant 0. (Paper: 1e-3, the best of 1e-1 to 1e-4 after 2000 rounds on StackOverflow; in a short run so little leaves
    the global expert behind.)"""

    temperature: float | None = None
    """The router's scores are divided by it; at least 0.001. None: 1, in the workshop variant 0.75."""


class Settings(NamedTuple):
    """The options with the variant's own values filled in."""

    sgd: Sgd
    gamma: float
    temperature: float
    split: bool
    """Whether the data are split in halves, and the router and the global weights trained in turn and both uploaded."""


def settings(options: FlowOptions) -> Settings:
    """Fill in what the variant decides where an option is None."""
    epochs, gamma, temperature = (1, 0.0, 0.75) if options.variant == "workshop" else (3, 0.1, 1.0)
    return Settings(
        Sgd(options.lr, epochs if options.epochs is None else options.epochs, options.batch_size, options.clip),
        gamma if options.gamma is None else options.gamma,
        temperature if options.temperature is None else options.temperature,
        options.variant == "neurips",
    )


def resolve(options: FlowOptions) -> FlowOptions:
    """The options with nothing left open: what a run records."""
    chosen = settings(options)
    return replace(options, epochs=chosen.sgd.epochs, gamma=chosen.gamma, temperature=chosen.temperature)


def check(options: FlowOptions) -> None:
    """Raise UserError for an option out of range."""
    sgd, gamma, temperature, _ = settings(options)
    check_sgd(sgd)
    if not (gamma >= 0 and math.isfinite(gamma)):
        raise UserError(f"gamma must be a finite number of at least 0, got {gamma!r}; 0 switches the regulariser off")
    if not (temperature >= COLDEST and math.isfinite(temperature)):
        raise UserError(
            f"temperature must be a finite number of at least {COLDEST}, got {temperature!r}; 1 is a plain softmax, and from "
            "about 0.01 down the router chooses one expert or the other"
        )


def minimum_sequences(options: FlowOptions) -> int:
    """A client with fewer training sequences is skipped: two halves need two."""
    return 2 if settings(options).split else 1


def traits(options: FlowOptions) -> dict[str, bool | float]:
    """What of :class:`~flow.models.LanguageModel` the algorithm decides."""
    return {"routed_head": options.variant == "neurips", "temperature": settings(options).temperature}


def init(options: FlowOptions, parameters: Tensors) -> Tensors:
    """Server state: w_g and psi; in the workshop variant w_g alone."""
    groups = ("global", "router") if settings(options).split else ("global",)
    return {name: parameters[name].detach().clone() for name in names_of(parameters, *groups)}


def download(options: FlowOptions, state: Tensors) -> Tensors:
    """What every client of a round receives: the server state."""
    return state


def local(options: FlowOptions, model: LanguageModel, received: Tensors, data: Data, draw: Draw) -> Upload:
    """Make w_l, then train psi and w_g; uploads what was received, weighted by the sequences w_g was trained on."""
    sgd, gamma, _, split = settings(options)
    parameters = start(model, received, len(data.ids))
    support, query = halves(data, draw) if split else (data, data)
    adapted = make_local(model, parameters, support, sgd, draw)
    router, world = names_of(parameters, "router"), names_of(parameters, "global")
    if split:
        updates = [Update(router, "mixture", gamma), Update(world, "mixture")]
    else:
        updates = [Update(router + world, "mixture", gamma)]
    work = train(model, parameters, query, updates, sgd, draw, "global")
    upload = {name: parameters[name] for name in received}
    return Upload(upload, query.sizes(), work, adapted.sequences + work.sequences)


def server_step(options: FlowOptions, state: Tensors, mean: Tensors, how: server.ServerOptions) -> Tensors:
    """w_g and psi <- their weighted means, through the server optimiser."""
    return server.step(state, mean, how)


def personalize(options: FlowOptions, model: LanguageModel, received: Tensors, data: Data, draw: Draw) -> Personal:
    """Make w_l, then train psi alone. Nothing is remembered: a client never seen does the same as one that trained."""
    sgd, gamma, _, split = settings(options)
    parameters = start(model, received, len(data.ids))
    support, query = halves(data, draw) if split else (data, data)
    make_local(model, parameters, support, sgd, draw)
    train(model, parameters, query, [Update(names_of(parameters, "router"), "mixture", gamma)], sgd, draw, "router")
    return Personal(parameters, "mixture", "hard" if split else "soft")


def start(model: LanguageModel, received: Tensors, clients: int) -> Tensors:
    """K clients' parameters: what was received, w_l copied from w_g, and routers at zero where none came."""
    own = {}
    for name, parameter in model.named_parameters():
        if group_of(name) == "local":
            own[name] = received[global_name(name)]
        elif group_of(name) == "router" and name not in received:
            own[name] = torch.zeros_like(parameter)
    return stack({**received, **own}, clients)


def make_local(model: LanguageModel, parameters: Tensors, data: Data, sgd: Sgd, draw: Draw) -> Work:
    """Train w_l by the local route on this part of the data; embedding, w_g and psi stay as they are."""
    update = Update(names_of(parameters, "local"), "local")
    return train(model, parameters, data, [update], sgd, draw, "local")
