"""Flower's side of the server: the exchange over Flower's Grid, and the ServerApp. Needs the extra `flower`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import Message
from flwr.serverapp import ServerApp

from flow.deploy import application, options, rounds, secure_server
from flow.deploy.flower import TYPES, of_record, to_record
from flow.deploy.packet import Answers, Packet, sentence

POLL = 0.3
"""Seconds between two looks at what has come."""


class FlowerExchange:
    """The nodes behind a Grid of Flower."""

    def __init__(self, grid: Any) -> None:
        self._grid = grid

    def nodes(self) -> Sequence[int]:
        """The numbers of the nodes that the SuperLink takes for reachable, ascending."""
        return sorted(self._grid.get_node_ids())

    def ask(self, what: str, questions: Mapping[int, Packet], round: int, timeout: float) -> Answers:
        """See :class:`flow.deploy.packet.Exchange`."""
        messages = [
            Message(to_record(question), node, TYPES[what], ttl=timeout, group_id=str(round))
            for node, question in questions.items()
        ]
        packets, refused = dict[int, Packet](), dict[int, str]()
        for reply in self.send_and_receive(messages, timeout=timeout):
            node = reply.metadata.src_node_id
            if not reply.has_error():
                packets[node] = of_record(reply.content)
            elif node in questions:
                refused[node] = sentence(reply.error.reason)
        for node in questions:
            if node not in packets:
                refused.setdefault(node, f"no answer in {timeout:g} s")
        return Answers(packets, refused)

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> list[Any]:
        """Send messages and wait for the replies, or for so many seconds; Flower's own looks for them every three seconds."""
        waiting = {number for number in self._grid.push_messages(list(messages)) if number}
        end = None if timeout is None else time.monotonic() + timeout
        replies: list[Any] = []
        while waiting:
            for reply in self._grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
            if not waiting or (end is not None and time.monotonic() >= end):
                break
            time.sleep(POLL)
        return replies

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)


def say(text: str) -> None:
    """A line of the run, which `flwr log` shows."""
    print(f"flow: {text}", flush=True)


def server_app(folder: Path) -> Any:
    """See :func:`flow.deploy.server_app`."""

    def main(grid: Any, context: Any) -> None:
        deployment = options.read(context.run_config)
        exchange = FlowerExchange(grid)
        with rounds.opened(application.read(folder), deployment, exchange, say) as server:
            if deployment.secagg:
                secure_server.rounds(server, exchange, context, say)
            else:
                rounds.rounds(server, exchange, say)

    app = ServerApp()
    app.main()(main)
    return app
