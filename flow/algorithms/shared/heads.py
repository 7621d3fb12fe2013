"""A global body under a head of every client's own, for FedRep and FedPer: what the server has and what a client starts from.

In the released code of FedRep (lgcollins/FedRep) the heads are averaged, too, and a client that never trained starts from their
mean. So clients upload their heads, for others alone: one that has a head neither needs nor receives the mean.
"""

from __future__ import annotations

from typing import Literal, Protocol

from flow.algorithms.interface import as_received, global_model
from flow.algorithms.shared.private_part import sent
from flow.model.interface import Model
from flow.model.parameters import Tensors, body_of, head_of, initial, stack
from flow.training.messages import Download, Members, Personal

NewHead = Literal["average", "initial"]


class WithHeads(Protocol):
    """Options of such an algorithm."""

    @property
    def new_head(self) -> NewHead:
        """What a client without a head starts from."""


def first_body(model: Model) -> Tensors:
    """The initial values below the head, to be the server's."""
    start = initial(model, "global")
    return {name: start[name].clone() for name in body_of(start)}


def first_head(model: Model) -> Tensors:
    """The head's initial values, which everybody can draw from the run's seed."""
    start = initial(model, "global")
    return {name: start[name] for name in head_of(start)}


def init(options: WithHeads, model: Model, seed: int, clients: int) -> Tensors:
    """Server state: the body, and the mean of the heads where new clients start from it."""
    return global_model(options, model, seed, clients) if options.new_head == "average" else first_body(model)


def download(options: WithHeads, model: Model, state: Tensors, to: Members) -> Download:
    """The body; to those without a head the mean of the heads, too."""
    return sent(state, head_of(state), to)


def fresh(options: WithHeads, model: Model, received: Tensors, clients: int) -> Tensors:
    """Client state: the head."""
    if options.new_head == "average":
        return {name: received[name] for name in head_of(received)}
    return stack(first_head(model), clients)


def general(options: WithHeads, model: Model, state: Tensors) -> Personal | None:
    """The body under the mean of the heads; None where nobody has that mean."""
    return as_received(options, model, state) if options.new_head == "average" else None


def uploaded(parameters: Tensors, received: Tensors) -> tuple[Tensors, Tensors]:
    """What a client sends, as much as it might have received, and its head."""
    head = {name: parameters[name] for name in head_of(parameters)}
    return {name: parameters[name] for name in received}, head
