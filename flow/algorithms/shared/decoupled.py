"""Flow's variant "decoupled": w_g is trained as in FedAvg; the routers and the gate at the output are trained separately.

The routers, psi, mix the experts in the cell; the gate mixes their probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from flow.algorithms.shared import gate
from flow.algorithms.shared.experts import Expert, Experts, Memories
from flow.algorithms.shared.flow_options import FlowOptions, Gate, gate_of, settings
from flow.algorithms.shared.gate import Gated
from flow.algorithms.shared.memory import Memory
from flow.algorithms.shared.two_experts import make_local, start
from flow.model.interface import Model
from flow.model.parameters import Route, Tensors, copy, initial, names_of
from flow.training.batches import Data, split
from flow.training.messages import Personal, Upload, Visit
from flow.training.records import Work
from flow.training.sgd import Sgd, Update
from flow.training.work import train

NETWORKS: dict[Gate, tuple[Route, ...]] = {
    "cell": ("mixture",),
    "output": ("global", "local"),
    "both": ("global", "local", "mixture"),
    "constant": ("global", "local"),
    "local": ("local",),
}
"""By the option gate, the routes whose predictions are mixed."""


class Parts(NamedTuple):
    """What a client receives."""

    world: Tensors
    """w_g"""
    psi: Tensors
    """The routers of the cell and of the head; empty where the cell does not route."""
    gate: Tensors
    """Empty where nothing is mixed at the output."""


def parts(received: Tensors) -> Parts:
    """Take apart what the server sends."""
    gates, psi = gate.names_of(received), names_of(received, "router")
    world = {name: tensor for name, tensor in received.items() if name not in (*gates, *psi)}
    return Parts(world, {name: received[name] for name in psi}, {name: received[name] for name in gates})


def first_state(options: FlowOptions, model: Model, seed: int) -> Tensors:
    """w_g, psi where the cell routes, and the gate where there is one."""
    routes = NETWORKS[gate_of(options)]
    groups = ("global", "router") if "mixture" in routes else ("global",)
    state = {name: tensor.clone() for name, tensor in initial(model, *groups).items()}
    if gate_of(options) != "constant" and len(routes) + options.memory > 1:
        state |= gate.initial(len(routes), options.memory, seed, state["head.weight"])
    return state


def work_of_round(options: FlowOptions, model: Model, visit: Visit) -> Upload:
    """Train w_g as FedAvg does. Then make w_l from the w_g that was received, and train psi and the gate between the two.

    w_g counts by the number of sequences; psi and the gate count alike, of the clients that trained them.
    """
    received, everything = parts(visit.received), visit.data
    world = copy(received.world)
    work = train(model, world, everything, [Update(tuple(world), "global")], settings(options).sgd, visit.draw, "global")
    due = visit.draw.round % options.router_every == 0
    chosen = [
        due and len(rows) > 1 and taken(options, visit, id) for id, rows in zip(everything.ids, everything.rows, strict=True)
    ]
    sgd = replace(settings(options).sgd, lr=options.router_lr, epochs=options.router_epochs)
    if received.psi or received.gate:
        psi, gates, phases = route_newer(options, model, visit._replace(data=everything.of(chosen)), sgd)
    else:
        psi, gates, phases = {}, {}, ()
    return Upload(
        {**world, **psi, **gates}, everything.sizes(), (*phases, work), None, (*psi, *gates), [float(share) for share in chosen]
    )


def taken(options: FlowOptions, visit: Visit, id: str) -> bool:
    """Whether a client is among those that train the routers in this round."""
    return options.router_share == 1 or bool(visit.draw.stream("router", id).random() < options.router_share)


def route_newer(options: FlowOptions, model: Model, visit: Visit, sgd: Sgd) -> tuple[Tensors, Tensors, tuple[Work, ...]]:
    """Make w_l on the older texts, then train psi and the gate on the newer ones. w_g is frozen, and so is w_l once made.

    Returns:
        psi and the gates, [K, ..] each, and the work. The gate mixes the cell by the psi that was received.
    """
    chosen, received = settings(options), parts(visit.received)
    parameters, gates = start(model, {**received.world, **received.psi}), copy(received.gate)
    support, query = split(visit.data, visit.draw, chosen.local_share, visit.split)
    phases = [make_local(model, parameters, support, chosen.personal, visit.draw, "older")]
    if gates:
        phases.append(gate.train(gates, experts(options, model, parameters, support), query, sgd, visit.draw))
    if received.psi:
        update = Update(tuple(received.psi), "mixture", chosen.gamma)
        phases.append(train(model, parameters, query, [update], sgd, visit.draw, "router"))
    return {name: parameters[name] for name in received.psi}, gates, tuple(phases)


def experts(options: FlowOptions, model: Model, parameters: Tensors, known: Data) -> Experts:
    """What the gate mixes; known: the sequences from which w_l was made, which the memory holds too."""
    constant = gate_of(options) == "constant"  # which asks for no counts
    memories: Sequence[Memory] = () if constant else Memories(known, model.vocabulary_size, options.memory_tokens)
    networks = tuple(Expert(parameters, route) for route in NETWORKS[gate_of(options)])
    return Experts(model, networks, memories, options.memory, tuple(known.sizes()))


def prediction(options: FlowOptions, model: Model, visit: Visit) -> Personal:
    """Adapt psi and the gate to the newer texts, where asked to, and make w_l again on all of them."""
    received, chosen = parts(visit.received), settings(options)
    psi, gates = received.psi, received.gate
    phases: tuple[Work, ...] = ()
    if options.adapt_epochs and (psi or gates):
        several = visit.data.of([len(rows) > 1 for rows in visit.data.rows])
        sgd = replace(chosen.sgd, lr=options.adapt_lr, epochs=options.adapt_epochs)
        psi, gates, phases = route_newer(options, model, visit._replace(data=several), sgd)
    parameters = start(model, {**received.world, **psi})
    update = Update(names_of(parameters, "local"), options.through)
    # The order of the batches is that of fine-tuning elsewhere, so that a comparison with it is not blurred by another.
    made = train(model, parameters, visit.data, [update], chosen.personal, visit.draw, "personal")
    routes = NETWORKS[gate_of(options)]
    personal = Personal(parameters, routes[-1], "soft", (*phases, made), alone="local")
    if gate_of(options) == "constant":
        gates = gate.constant((1 - options.local_weight, options.local_weight), len(visit.data.ids), parameters["head.weight"])
    if not gates:
        return personal
    return personal._replace(answering=Gated(gates, experts(options, model, parameters, visit.data)))


def restored(options: FlowOptions, model: Model, personal: Personal, stored: Tensors) -> Personal:
    """How a client predicts, of what its mixture has stored; the published variants predict by the cell alone."""
    networks = tuple(Expert(personal.parameters, route) for route in NETWORKS[gate_of(options)])
    return personal._replace(answering=gate.restored(model, networks, options.memory, stored))
