"""Flow (Panchal et al., NeurIPS 2023) and its workshop form (CrossFL 2022): per-instance routing between two experts.

Symbols as in docs/algorithms.md: w_g the global weights, w_l the local experts, psi the routers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple

import torch

from flow.algorithms.interface import Algorithm, Scope, Tunable
from flow.algorithms.shared.finetuning import RATES, check_rate
from flow.checks import check_number
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

    variant: Literal["decoupled", "neurips", "workshop"] = "decoupled"
    """"decoupled": global weights as FedAvg trains them, on all data; the routers apart, on newer texts, between experts that
    stay as they are. "neurips": GRU and head routed; the data split in two; router and global weights trained in turn through
    the mixture. "workshop": only the GRU routed; all data for both phases; both trained together; the router stays private."""

    lr: float = 2.0
    """Learning rate of the global weights, in the published variants of the router too. (Paper: 0.1, Shakespeare 0.11, over
    1500 rounds and more; with clipping, 2 does in a hundred.)"""

    personal_lr: float | None = 1.0
    """Learning rate of the local expert, which is fine-tuned from the global one, in rounds and before a client predicts. None:
    lr. (Paper: the same.)"""

    epochs: int | None = None
    """Passes over the data of each phase, K1 = K2. None: 3, in the workshop variant 1. (Paper: 3, Shakespeare 5.)"""

    personal_epochs: int | None = None
    """Passes by which the local expert is made. None: epochs, as published; another number in the decoupled variant alone."""

    batch_size: int = 8
    """Sequences per SGD step of a client. (Paper: 16 for StackOverflow, 4 for Shakespeare.)"""

    clip: float = 1.0
    """Largest norm of a client's gradient over the weights trained in a step. 0: no clipping."""

    momentum: float = 0.0
    """Heavy-ball momentum; it starts at zero in every phase of every round. (Paper: none.)"""

    weight_decay: float = 0.0
    """weight_decay * parameter joins the gradient, after clipping. (Paper: none.)"""

    gamma: float | None = None
    """Weight of the term that draws the router to the global expert. None: 0.1 in the neurips variant, else 0.
    (Paper: 1e-3, the best of 1e-1 to 1e-4 after 2000 rounds on StackOverflow; in a short run so little leaves
    the global expert behind.)"""

    temperature: float | None = None
    """The router's scores are divided by it; at least 0.001. None: 1, in the workshop variant 0.75."""

    local_share: float | None = None
    """Share of a client's sequences that trains the local expert; the others train the router, in the neurips variant the
    global weights too. Between 0 and 1; the workshop variant uses all for both. None: 0.75, in the neurips variant 0.5.
    (Paper: 0.5, the best of 1/4, 1/2 and 3/4.)"""

    ablation: Literal["none", "instance", "client"] = "none"
    """What is left out of the neurips variant, for comparison (paper, Sec. 5.2). "instance": nothing is made by a client, both
    experts are global and averaged, only the router decides (PI-Flow). "client": no router, every client fine-tunes its local
    expert and predicts with it alone (PC-Flow)."""

    router_lr: float = 1.0
    """Decoupled: learning rate of the routers in rounds."""

    router_epochs: int = 1
    """Decoupled: passes of the routers over the newer texts in a round."""

    router_every: int = 1
    """Decoupled: the routers are trained in every n-th round, for the first time in round n."""

    router_share: float = 1.0
    """Decoupled: share of a round's clients, drawn at random, that train the routers in it. Above 0, at most 1."""

    adapt_epochs: int = 0
    """Decoupled: passes by which a client adapts the routers to its newer texts before it predicts; 0: it takes them as they
    are."""

    adapt_lr: float = 0.1
    """Decoupled: learning rate of that."""

    through: Literal["local", "mixture"] = "local"
    """Decoupled: what the local expert of a prediction is trained through, on all of a client's texts: "local": alone;
    "mixture": through the routed mixture, with the routers as they are."""


DECOUPLED = (
    "personal_epochs", "router_lr", "router_epochs", "router_every", "router_share", "adapt_epochs", "adapt_lr", "through",
)  # fmt: skip


class Settings(NamedTuple):
    """The options with the variant's own values filled in."""

    sgd: Sgd
    """Of the global weights, in the published variants of the routers too."""
    personal: Sgd
    """Of the local expert."""
    gamma: float
    temperature: float
    local_share: float
    split: bool
    """Whether the data are split in two, and router and global weights both uploaded."""


def settings(options: FlowOptions) -> Settings:
    """Fill in what the variant decides where an option is None."""
    epochs, gamma, temperature, share = {
        "decoupled": (3, 0.0, 1.0, 0.75), "neurips": (3, 0.1, 1.0, 0.5), "workshop": (1, 0.0, 0.75, 0.5)
    }[options.variant]  # fmt: skip
    sgd = Sgd(
        options.lr, epochs if options.epochs is None else options.epochs, options.batch_size, options.clip, options.momentum,
        options.weight_decay,
    )  # fmt: skip
    return Settings(
        sgd,
        replace(
            sgd,
            lr=sgd.lr if options.personal_lr is None else options.personal_lr,
            epochs=sgd.epochs if options.personal_epochs is None else options.personal_epochs,
        ),
        gamma if options.gamma is None else options.gamma,
        temperature if options.temperature is None else options.temperature,
        share if options.local_share is None else options.local_share,
        options.variant != "workshop",
    )


def resolve(options: FlowOptions, rounds: int) -> FlowOptions:
    """The options with nothing left open: what a run records."""
    chosen = settings(options)
    return replace(
        options, personal_lr=chosen.personal.lr, epochs=chosen.sgd.epochs, personal_epochs=chosen.personal.epochs,
        gamma=chosen.gamma, temperature=chosen.temperature, local_share=chosen.local_share,
    )  # fmt: skip


def check(options: FlowOptions) -> None:
    """Raise UserError for an option out of range."""
    sgd, personal, gamma, temperature, share, _ = settings(options)
    check_sgd(sgd)
    check_rate("personal_lr", options.personal_lr)
    check_number("personal_epochs", personal.epochs, 1)
    if not (gamma >= 0 and math.isfinite(gamma)):
        raise UserError(f"gamma must be a finite number of at least 0, got {gamma!r}; 0 switches the regulariser off")
    if not (temperature >= COLDEST and math.isfinite(temperature)):
        raise UserError(
            f"temperature must be a finite number of at least {COLDEST}, got {temperature!r}; 1 is a plain softmax, and from "
            "about 0.01 down the router chooses one expert or the other"
        )
    if not 0 < share < 1:
        raise UserError(
            f"local_share must lie between 0 and 1, got {share!r}; for no local expert or for that one alone "
            "choose variant='neurips' with ablation='instance' or ablation='client'"
        )
    if options.variant != "neurips" and options.ablation != "none":
        raise UserError(
            f"ablation={options.ablation!r} is one of variant='neurips', got variant={options.variant!r}; leave one of them out"
        )
    if share != 0.5 and (options.variant == "workshop" or options.ablation != "none"):
        raise UserError(
            f"local_share={share!r} has nothing to divide: with variant={options.variant!r}, "
            f"ablation={options.ablation!r} every phase uses all sequences; leave it out"
        )
    check_rate("router_lr", options.router_lr)
    check_rate("adapt_lr", options.adapt_lr)
    check_number("router_epochs", options.router_epochs, 1)
    check_number("router_every", options.router_every, 1)
    check_number("adapt_epochs", options.adapt_epochs, 0)
    if not 0 < options.router_share <= 1:
        raise UserError(
            f"router_share must be above 0 and at most 1, got {options.router_share!r}; 1 has every client train the routers"
        )
    for one in fields(options):
        own = {one.default, None} | ({sgd.epochs} if one.name == "personal_epochs" else set())
        if one.name in DECOUPLED and options.variant != "decoupled" and getattr(options, one.name) not in own:
            raise UserError(
                f"{one.name}={getattr(options, one.name)!r} is one of variant='decoupled', got variant={options.variant!r}; "
                "leave one of them out"
            )


def minimum_sequences(options: FlowOptions) -> int:
    """A client with fewer training sequences is skipped: two parts need two, and the decoupled global weights only one."""
    return 2 if options.variant == "neurips" and options.ablation == "none" else 1


def tuned(options: FlowOptions) -> tuple[Tunable, ...]:
    """What a comparison tunes of each variant."""
    if options.variant == "decoupled":
        return (*RATES, Tunable("router_lr"), Tunable("personal_epochs", "count"))
    if options.ablation == "instance":
        return (Tunable("lr"),)
    return RATES if options.ablation == "client" else (*RATES, Tunable("gamma", "weight", 10**0.5))


def traits(options: FlowOptions) -> dict[str, bool | float]:
    """What of :class:`~flow.model.language_model.LanguageModel` the algorithm decides."""
    return {"routed_head": options.variant != "workshop", "temperature": settings(options).temperature}


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
    """Train w_g, make w_l, and train psi; uploads what was received, weighted by the sequences w_g was trained on."""
    if options.variant == "decoupled":
        return apart(options, model, visit)
    sgd, _, gamma, _, _, split_in_two = settings(options)
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


def apart(options: FlowOptions, model: LanguageModel, visit: Visit) -> Upload:
    """Train w_g as FedAvg does. Then make w_l from the w_g that was received, and train psi between these two."""
    router, everything = names_of(visit.received, "router"), visit.data
    world = copy({name: tensor for name, tensor in visit.received.items() if name not in router})
    work = train(model, world, everything, [Update(tuple(world), "global")], settings(options).sgd, visit.draw, "global")
    due = visit.draw.round % options.router_every == 0
    chosen = [
        due and len(rows) > 1 and taken(options, visit, id) for id, rows in zip(everything.ids, everything.rows, strict=True)
    ]
    parameters = start(model, visit.received)
    sgd = replace(settings(options).sgd, lr=options.router_lr, epochs=options.router_epochs)
    phases = route_newer(options, model, parameters, visit._replace(data=everything.of(chosen)), sgd)
    return Upload({**world, **{name: parameters[name] for name in router}}, everything.sizes(), (*phases, work))


def taken(options: FlowOptions, visit: Visit, id: str) -> bool:
    """Whether a client is among those that train the routers in this round."""
    return options.router_share == 1 or bool(visit.draw.stream("router", id).random() < options.router_share)


def route_newer(options: FlowOptions, model: LanguageModel, parameters: Tensors, visit: Visit, sgd: Sgd) -> tuple[Work, Work]:
    """Make w_l on the older texts, then train psi on the newer ones, in place; w_g and then w_l stay as they are."""
    chosen = settings(options)
    support, query = split(visit.data, visit.draw, chosen.local_share, visit.split)
    update = Update(names_of(parameters, "router"), "mixture", chosen.gamma)
    made = make_local(model, parameters, support, chosen.personal, visit.draw, "older")
    return made, train(model, parameters, query, [update], sgd, visit.draw, "router")


def adapted(options: FlowOptions, model: LanguageModel, visit: Visit) -> Personal:
    """Adapt psi to the newer texts, where asked to, and make w_l again on all of them."""
    parameters, chosen = start(model, visit.received), settings(options)
    phases: tuple[Work, ...] = ()
    if options.adapt_epochs:
        several = visit.data.of([len(rows) > 1 for rows in visit.data.rows])
        sgd = replace(chosen.sgd, lr=options.adapt_lr, epochs=options.adapt_epochs)
        phases = route_newer(options, model, parameters, visit._replace(data=several), sgd)
        again = start(model, visit.received)
        parameters |= {name: again[name] for name in names_of(parameters, "local")}
    update = Update(names_of(parameters, "local"), options.through)
    made = train(model, parameters, visit.data, [update], chosen.personal, visit.draw, "local")
    return Personal(parameters, "mixture", "soft", (*phases, made), alone="local")


def personalize(options: FlowOptions, model: LanguageModel, visit: Visit) -> Personal:
    """Make w_l, then train psi alone. Nothing is remembered: an unseen client does the same as one that trained."""
    if options.variant == "decoupled":
        return adapted(options, model, visit)
    sgd, personal, gamma, _, _, split_in_two = settings(options)
    if options.ablation == "instance":
        return Personal(visit.received, "mixture", "hard")
    if options.ablation == "client":
        parameters = start(model, visit.received)
        return Personal(parameters, "local", phases=(make_local(model, parameters, visit.data, personal, visit.draw),))
    parameters, query, phases = prepare(options, model, visit)
    work = train(
        model, parameters, query, [Update(names_of(parameters, "router"), "mixture", gamma)], sgd, visit.draw, "router"
    )
    return Personal(parameters, "mixture", "hard" if split_in_two else "soft", (*phases, work), alone="local")


def prepare(options: FlowOptions, model: LanguageModel, visit: Visit) -> tuple[Tensors, Data, tuple[Work, ...]]:
    """K clients' parameters with w_l made, the data for the next phase, and the work so far; ablations make no w_l here."""
    parameters = start(model, visit.received)
    if options.ablation != "none":
        return parameters, visit.data, ()
    _, personal, _, _, share, split_in_two = settings(options)
    support, query = visit.data, visit.data
    if split_in_two:
        support, query = split(visit.data, visit.draw, share, visit.split)
    return parameters, query, (make_local(model, parameters, support, personal, visit.draw),)


def start(model: LanguageModel, received: Tensors) -> Tensors:
    """K clients' parameters: what was received, w_l copied from w_g, and routers at zero, where none came."""
    clients = len(next(iter(received.values())))
    own = {name: received[global_name(name)] for name in initial(model, "local")}
    own |= {n: torch.zeros_like(psi).expand(clients, *psi.shape) for n, psi in initial(model, "router").items()}
    return copy({**own, **received})


def make_local(model: LanguageModel, parameters: Tensors, data: Data, sgd: Sgd, draw: Draw, label: str = "local") -> Work:
    """Train w_l by the local route on this part of the data; embedding, w_g and psi stay as they are."""
    update = Update(names_of(parameters, "local"), "local")
    return train(model, parameters, data, [update], sgd, draw, label)


ALGORITHM = Algorithm(
    name="flow",
    about="A global expert, a local one made from it on the spot, and a router that mixes them at every token.",
    options=FlowOptions,
    local=local,
    personalize=personalize,
    resolve=resolve,
    check=check,
    tuned=tuned,
    minimum_sequences=minimum_sequences,
    traits=traits,
    scope=scope,
    init=init,
    general=general,
)
