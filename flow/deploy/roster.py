"""What the server knows of the clients: their ids, on which node they are, and how many sequences they train on. No text."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from flow.data import Client, Population, Sequences
from flow.data.validation import trusted
from flow.deploy.application import Application, population_of
from flow.deploy.packet import DESCRIBE, Exchange, Packet
from flow.errors import UserError, plural
from flow.version import __version__

POLL = 1.0
"""Seconds between two looks at who is there."""


class Roster(NamedTuple):
    """The clients of a run."""

    population: Population
    """Of clients without texts: every sequence is padding."""
    node_of: dict[str, int]
    """By the id of a client, the node that holds it."""


def gathered(
    application: Application, exchange: Exchange, nodes: int, wait: float, say: Callable[[str], None], pause: float = POLL
) -> Roster:
    """Ask the nodes for their clients until so many have answered.

    Args:
        application: the server's own.
        nodes: to wait for.
        wait: seconds after which it gives up.
        say: what is told of a node that is refused.
        pause: seconds between two looks.

    Raises:
        UserError: too few nodes came, or two hold clients of one id.
    """
    end, known, refused = time.monotonic() + wait, dict[int, Packet](), dict[int, str]()
    while True:
        new = [node for node in exchange.nodes() if node not in known and node not in refused]
        left = max(end - time.monotonic(), pause)
        answers = exchange.ask(DESCRIBE, {node: question(application) for node in new}, 0, left) if new else None
        if answers is not None:
            known |= answers.packets
            for node, reason in answers.refused.items():
                refused[node] = reason
                say(f"node {node} takes no part: {reason}")
        if len(known) >= nodes:
            return _roster(application, known)
        if time.monotonic() >= end:
            others = "".join(f"; node {node} takes no part: {reason}" for node, reason in refused.items())
            raise UserError(
                f"nodes={nodes} have to answer before the first round, and {len(known)} did in wait={wait:g} s{others}; start "
                "the others, or lower nodes"
            )
        time.sleep(pause)


def question(application: Application) -> Packet:
    """What a node is asked before the first round."""
    return Packet({"flow": __version__, "app": application.digest}, {})


def _roster(application: Application, described: dict[int, Packet]) -> Roster:
    node_of: dict[str, int] = {}
    clients = []
    width = application.sequence_length + 1
    for node, answer in sorted(described.items()):
        for client in answer.fields["clients"]:
            name = client["id"]
            if name in node_of:
                raise UserError(
                    f"client {name!r} is on node {node_of[name]} and on node {node}, and the server could not tell them apart; "
                    "rename one"
                )
            node_of[name] = node
            train, none = (_blank(count, width, bool(application.classes)) for count in (client["sequences"], 0))
            clients.append(Client(name, "", client["held_out"], client["texts"], train, none))
    if not any(not client.held_out for client in clients):
        many = len(clients)
        raise UserError(
            f"none of the {many} {plural(many, 'client')} on the nodes may train, as one id in ten is held out; give other "
            'ids, or a field "split" to a .jsonl file'
        )
    population = population_of(application, tuple(sorted(clients, key=lambda client: client.id)))
    return Roster(trusted(population), node_of)


def _blank(count: int, width: int, labelled: bool) -> Sequences:
    """So many sequences of padding, which take no memory."""
    return Sequences(np.broadcast_to(np.int32(0), (count, width)), np.broadcast_to(np.int32(1), (count,)), labelled)
