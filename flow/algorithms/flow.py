"""Flow (Panchal et al., NeurIPS 2023) and its workshop form (CrossFL 2022): per-instance routing between two experts.

Symbols as in docs/algorithms.md: w_g the global weights, w_l the local experts, psi the routers. The published variants are
here; flow/algorithms/shared/decoupled.py has the default.
"""

from __future__ import annotations

from flow.algorithms.interface import Algorithm, only_whole
from flow.algorithms.shared.decoupled import first_state, parts, prediction, restored, work_of_round
from flow.algorithms.shared.flow_options import (
    FlowOptions,
    check,
    minimum_sequences,
    resolve,
    scope,
    settings,
    traits,
    tuned,
)
from flow.algorithms.shared.two_experts import make_local, start
from flow.draws import Draw
from flow.model.interface import Model, Part
from flow.model.language_model import second_expert
from flow.model.parameters import Tensors, initial, names_of
from flow.training.batches import Data, split
from flow.training.messages import Personal, Upload, Visit, broadcast
from flow.training.records import Work
from flow.training.sgd import Update
from flow.training.work import train

__all__ = ["ALGORITHM", "FlowOptions", "resolve"]


def init(options: FlowOptions, model: Model, seed: int, clients: int) -> Tensors:
    """Server state: w_g and psi; in the workshop variant and in PC-Flow w_g alone; in PI-Flow a second expert too."""
    if options.variant == "decoupled":
        return first_state(options, model, seed)
    groups = ("global", "router") if settings(options).split and options.ablation != "client" else ("global",)
    state = {name: tensor.clone() for name, tensor in initial(model, *groups).items()}
    if options.ablation == "instance":
        state |= second_expert(model, Draw(seed, 0, "second expert").stream())
    return state


def general(options: FlowOptions, model: Model, state: Tensors) -> Personal | None:
    """w_g by the global route; in PI-Flow, where no expert stands for itself, both with the router."""
    shared = broadcast(state, 1).tensors
    if options.variant == "decoupled":
        return Personal(parts(shared).world, "global")
    return Personal(shared, "mixture", "hard") if options.ablation == "instance" else Personal(shared, "global")


def local(options: FlowOptions, model: Model, visit: Visit) -> Upload:
    """Train w_g, make w_l, and train psi; uploads what was received, weighted by the sequences w_g was trained on."""
    if options.variant == "decoupled":
        return work_of_round(options, model, visit)
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


def personalize(options: FlowOptions, model: Model, visit: Visit) -> Personal:
    """Make w_l, then train psi alone. Nothing is remembered: an unseen client does the same as one that trained."""
    if options.variant == "decoupled":
        return prediction(options, model, visit)
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


def prepare(options: FlowOptions, model: Model, visit: Visit) -> tuple[Tensors, Data, tuple[Work, ...]]:
    """K clients' parameters with w_l made, the data for the next phase, and the work so far; ablations make no w_l here."""
    parameters = start(model, visit.received)
    if options.ablation != "none":
        return parameters, visit.data, ()
    _, personal, _, _, share, split_in_two = settings(options)
    support, query = visit.data, visit.data
    if split_in_two:
        support, query = split(visit.data, visit.draw, share, visit.split)
    return parameters, query, (make_local(model, parameters, support, personal, visit.draw),)


def needs(options: FlowOptions) -> tuple[Part, ...]:
    """Routers, and with a memory what follows a token."""
    return ("routers", "next_token") if options.memory else ("routers",)


ALGORITHM = Algorithm(
    name="flow",
    about="A global expert and a local one made from it on the spot, mixed anew at every token.",
    options=FlowOptions,
    needs=needs,
    local=local,
    stopping=only_whole("has its parts trained one after the other, each by what came of the one before"),
    personalize=personalize,
    restored=restored,
    resolve=resolve,
    check=check,
    rates=("lr", "router_lr"),
    tuned=tuned,
    minimum_sequences=minimum_sequences,
    traits=traits,
    scope=scope,
    init=init,
    general=general,
)
