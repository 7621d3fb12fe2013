"""Flow (Panchal et al., NeurIPS 2023) and its workshop form (CrossFL 2022): per-instance routing between two experts.

Symbols as in docs/algorithms.md: w_g the global weights, w_l the local experts, psi the routers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch

from flow.algorithms.interface import Algorithm, Scope, Tunable
from flow.algorithms.shared.finetuning import RATES, check_rate
from flow.draws import Draw
from flow.errors import UserError
from flow.model.language_model import LanguageModel, second_expert
from flow.model.parameters import Tensors, copy, global_name, initial, names_of
from flow.training.batches import Data, split
from flow.training.messages import Personal, Upload, Visit, broadcast
from flow.training.records import Work
from flow.training.sgd import Sgd, Update, check_sgd
from flow.training.work import train

COLDEST = 0.001  # the router's gradient grows as 1 / temperature, and float32 ends where a far smaller one begins


@dataclass(frozen=True)
class FlowOptions:
    """A global expert, a local one made from it on the spot, and a router that mixes them at every token."""

    variant: Literal["neurips", "workshop"] = "neurips"
    """"neurips": GRU and head routed; the data split in two; router and global weights trained in turn.
    "workshop": only the GRU routed; all data for both phases; both trained together; the router stays private."""

    lr: float = 2.0
    """Learning rate of the router and the global weights. (Paper: 0.1, Shakespeare 0.11, over 1500 rounds and more; with
    clipping, 2 does in a hundred.)"""

    personal_lr: float | None = 1.0
    """Learning rate of the local expert, which is fine-tuned from the global one, in rounds and before a client predicts. None:
    lr. (Paper: the same.)"""

    epochs: int | None = None
    """Passes over the data of each phase, K1 = K2. None: 3, in the workshop variant 1. (Paper: 3, Shakespeare 5.)"""

    batch_size: int = 8
    """Sequences per SGD step of a client. (Paper: 16 for StackOverflow, 4 for Shakespeare.)"""

    clip: float = 1.0
    """Largest norm of a client's gradient over the weights trained in a step. 0: no clipping."""

    momentum: float = 0.0
    """Heavy-ball momentum; it starts at zero in every phase of every round. (Paper: none.)"""

    weight_decay: float = 0.0
    """weight_decay * parameter joins the gradient, after clipping. (Paper: none.)"""

    gamma: float | None = None
    """Weight of the term that draws the router to the global expert. None: 0.1, in the workshop
    variant 0. (Paper: 1e-3, the best of 1e-1 to 1e-4 after 2000 rounds on StackOverflow; in a short run so little leaves
    the global expert behind.)"""

    temperature: float | None = None
    """The router's scores are divided by it; at least 0.001. None: 1, in the workshop variant 0.75."""

    local_share: float = 0.5
    """Share of a client's sequences that trains the local expert; the others train router and global weights. Between 0
    and 1; the workshop variant uses all for both. (Paper: 0.5, the best of 1/4, 1/2 and 3/4.)"""

    ablation: Literal["none", "instance", "client"] = "none"
    """What is left out, for comparison (paper, Sec. 5.2). "instance": nothing is made by a client, both experts are global
    and averaged, only the router decides (PI-Flow). "client": no router, every client fine-tunes its local expert and
    predicts with it alone (PC-Flow)."""


class Settings(NamedTuple):
    """The options with the variant's own values filled in."""

    sgd: Sgd
    personal: Sgd
    """Of the local expert."""
    gamma: float
    temperature: float
    split: bool
    """Whether the data are split in two, and the router and the global weights trained in turn and both uploaded."""


def settings(options: FlowOptions) -> Settings:
    """Fill in what the variant decides where an option is None."""
    epochs, gamma, temperature = (1, 0.0, 0.75) if options.variant == "workshop" else (3, 0.1, 1.0)
    sgd = Sgd(
        options.lr, epochs if options.epochs is None else options.epochs, options.batch_size, options.clip, options.momentum,
        options.weight_decay,
    )  # fmt: skip
    return Settings(
        sgd,
        sgd if options.personal_lr is None else replace(sgd, lr=options.personal_lr),
        gamma if options.gamma is None else options.gamma,
        temperature if options.temperature is None else options.temperature,
        options.variant == "neurips",
    )


def resolve(options: FlowOptions, rounds: int) -> FlowOptions:
    """The options with nothing left open: what a run records."""
    chosen = settings(options)
    return replace(
        options, personal_lr=chosen.personal.lr, epochs=chosen.sgd.epochs, gamma=chosen.gamma, temperature=chosen.temperature
    )


def check(options: FlowOptions) -> None:
    """Raise UserError for an option out of range."""
    sgd, _, gamma, temperature, split_in_two = settings(options)
    check_sgd(sgd)
    check_rate("personal_lr", options.personal_lr)
    if not (gamma >= 0 and math.isfinite(gamma)):
        raise UserError(f"gamma must be a finite number of at least 0, got {gamma!r}; 0 switches the regulariser off")
    if not (temperature >= COLDEST and math.isfinite(temperature)):
        raise UserError(
            f"temperature must be a finite number of at least {COLDEST}, got {temperature!r}; 1 is a plain softmax, and from "
            "about 0.01 down the router chooses one expert or the other"
        )
    if not 0 < options.local_share < 1:
        raise UserError(
            f"local_share must lie between 0 and 1, got {options.local_share!r}; for no local expert or for that one alone "
            "choose ablation='instance' or ablation='client'"
        )
    if not split_in_two and options.ablation != "none":
        raise UserError(
            f"ablation={options.ablation!r} is one of variant='neurips', got variant={options.variant!r}; leave one of them out"
        )
    if options.local_share != 0.5 and (not split_in_two or options.ablation != "none"):
        raise UserError(
            f"local_share={options.local_share!r} has nothing to divide: with variant={options.variant!r}, "
            f"ablation={options.ablation!r} every phase uses all sequences; leave it out"
        )


def minimum_sequences(options: FlowOptions) -> int:
    """A client with fewer training sequences is skipped: two parts need two."""
    return 2 if settings(options).split and options.ablation == "none" else 1


def traits(options: FlowOptions) -> dict[str, bool | float]:
    """What of :class:`~flow.model.language_model.LanguageModel` the algorithm decides."""
    return {"routed_head": options.variant == "neurips", "temperature": settings(options).temperature}


def scope(options: FlowOptions) -> Scope:
    """Per client and per instance; an ablation is one of the two."""
    return Scope(client=options.ablation != "instance", instance=options.ablation != "client")


def init(options: FlowOptions, model: LanguageModel, seed: int, clients: int) -> Tensors:
    """Server state: w_g and psi; in the workshop variant and in PC-Flow w_g alone; in PI-Flow a second expert too."""
    groups = ("global", "router") if settings(options).split and options.ablation != "client" else ("global",)
    state = {name: tensor.clone() for name, tensor in initial(model, *groups).items()}
    if options.ablation == "instance":
        state |= second_expert(model, Draw(seed, 0, "second expert").stream())
    return state


def general(options: FlowOptions, model: LanguageModel, state: Tensors) -> Personal | None:
    """w_g by the global route; in PI-Flow, where no expert stands for itself, both with the router."""
    shared = broadcast(state, 1).tensors
    return Personal(shared, "mixture", "hard") if options.ablation == "instance" else Personal(shared, "global")


def local(options: FlowOptions, model: LanguageModel, visit: Visit) -> Upload:
    """Make w_l, then train psi and w_g; uploads what was received, weighted by the sequences w_g was trained on."""
    sgd, _, gamma, _, split_in_two = settings(options)
    parameters, query, phases = prepare(options, model, visit)
    router = names_of(parameters, "router")
    world = tuple(name for name in visit.received if name not in router)
    if options.ablation == "client":
        updates = [Update(world, "global")]
    elif split_in_two:
        updates = [Update(router, "mixture", gamma), Update(world, "mixture")]
    else:
        updates = [Update(router + world, "mixture", gamma)]
    work = train(model, parameters, query, updates, sgd, visit.draw, "global")
    return Upload({name: parameters[name] for name in visit.received}, query.sizes(), (*phases, work))


def personalize(options: FlowOptions, model: LanguageModel, visit: Visit) -> Personal:
    """Make w_l, then train psi alone. Nothing is remembered: an unseen client does the same as one that trained."""
    sgd, personal, gamma, _, split_in_two = settings(options)
    if options.ablation == "instance":
        return Personal(visit.received, "mixture", "hard")
    if options.ablation == "client":
        parameters = start(model, visit.received)
        return Personal(parameters, "local", phases=(make_local(model, parameters, visit.data, personal, visit.draw),))
    parameters, query, phases = prepare(options, model, visit)
    work = train(
        model, parameters, query, [Update(names_of(parameters, "router"), "mixture", gamma)], sgd, visit.draw, "router"
    )
    return Personal(parameters, "mixture", "hard" if split_in_two else "soft", (*phases, work))


def prepare(options: FlowOptions, model: LanguageModel, visit: Visit) -> tuple[Tensors, Data, tuple[Work, ...]]:
    """K clients' parameters with w_l made, the data for the next phase, and the work so far; ablations make no w_l here."""
    parameters = start(model, visit.received)
    if options.ablation != "none":
        return parameters, visit.data, ()
    _, personal, _, _, split_in_two = settings(options)
    support, query = visit.data, visit.data
    if split_in_two:
        support, query = split(visit.data, visit.draw, options.local_share, visit.split)
    return parameters, query, (make_local(model, parameters, support, personal, visit.draw),)


def start(model: LanguageModel, received: Tensors) -> Tensors:
    """K clients' parameters: what was received, w_l copied from w_g, and routers at zero, where none came."""
    clients = len(next(iter(received.values())))
    own = {name: received[global_name(name)] for name in initial(model, "local")}
    own |= {n: torch.zeros_like(psi).expand(clients, *psi.shape) for n, psi in initial(model, "router").items()}
    return copy({**own, **received})


def make_local(model: LanguageModel, parameters: Tensors, data: Data, sgd: Sgd, draw: Draw) -> Work:
    """Train w_l by the local route on this part of the data; embedding, w_g and psi stay as they are."""
    update = Update(names_of(parameters, "local"), "local")
    return train(model, parameters, data, [update], sgd, draw, "local")


ALGORITHM = Algorithm(
    name="flow",
    about="A global expert, a local one made from it on the spot, and a router that mixes them at every token.",
    options=FlowOptions,
    local=local,
    personalize=personalize,
    resolve=resolve,
    check=check,
    tuned=(*RATES, Tunable("gamma", "weight", 10**0.5)),
    minimum_sequences=minimum_sequences,
    traits=traits,
    scope=scope,
    init=init,
    general=general,
)
