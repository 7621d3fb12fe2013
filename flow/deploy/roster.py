"""What the server knows of the clients: their ids, on which node they are, and how many sequences they train on. No text."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, overload

import numpy as np

from flow.data import Client, Population, Sequences
from flow.data.population import Indexed, Table
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


class Known(Indexed):
    """Clients of which the server knows no text: every sequence is padding, which takes no memory.

    Args:
        application: the app, whose data give the fingerprint, so that the run's folder is tied to the app.
        clients: what the nodes say of their clients, in the order of the ids.
    """

    def __init__(self, application: Application, clients: Sequence[dict[str, Any]]) -> None:
        self._clients, self._application = clients, application
        self._places = {client["id"]: place for place, client in enumerate(clients)}
        self.fingerprint = application.fingerprint
        counts = ([client[name] for client in clients] for name in ("texts", "sequences", "scored"))
        held_out = np.array([client["held_out"] for client in clients], dtype=np.bool_)
        self.table = Table(held_out, *(np.array(count, dtype=np.int64) for count in counts))

    def __len__(self) -> int:
        return len(self._clients)

    @overload
    def __getitem__(self, item: int) -> Client: ...
    @overload
    def __getitem__(self, item: slice) -> Sequence[Client]: ...
    def __getitem__(self, item: int | slice) -> Client | Sequence[Client]:
        if isinstance(item, slice):
            return [self[place] for place in range(len(self))[item]]
        own = self._clients[item]
        train, test = (self._blank(count) for count in (own["sequences"], 0))
        return Client(own["id"], "", own["held_out"], own["texts"], train, test)

    def position(self, client_id: str) -> int:
        """See :class:`flow.data.population.Indexed`."""
        return self._places[client_id]

    def ids(self) -> list[str]:
        """See :class:`flow.data.population.Indexed`."""
        return list(self._places)

    def _blank(self, count: int) -> Sequences:
        width, labelled = self._application.sequence_length + 1, bool(self._application.classes)
        return Sequences(np.broadcast_to(np.int32(0), (count, width)), np.broadcast_to(np.int32(1), (count,)), labelled)


def _roster(application: Application, described: dict[int, Packet]) -> Roster:
    node_of: dict[str, int] = {}
    clients: list[dict[str, Any]] = []
    for node, answer in sorted(described.items()):
        for client in answer.fields["clients"]:
            name = client["id"]
            if name in node_of:
                raise UserError(
                    f"client {name!r} is on node {node_of[name]} and on node {node}, and the server could not tell them apart; "
                    "rename one"
                )
            node_of[name] = node
            clients.append(client)
    if not any(not client["held_out"] for client in clients):
        many = len(clients)
        raise UserError(
            f"none of the {many} {plural(many, 'client')} on the nodes may train, as one id in ten is held out; give other "
            'ids, or a field "split" to a .jsonl file'
        )
    known = Known(application, sorted(clients, key=lambda client: str(client["id"])))
    return Roster(trusted(population_of(application, known)), node_of)
