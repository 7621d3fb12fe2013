"""Flower's own apps, mods and workflow in one process: a Grid that hands every message to the ClientApp of its node at once."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flow.deploy.node import NodeOptions

RUN = 7


def context(node: int, node_config: Mapping[str, Any], run_config: Mapping[str, Any]) -> Any:
    """What Flower gives an app beside a message."""
    from flwr.app import Context, RecordDict

    return Context(RUN, node, dict(node_config), RecordDict(), dict(run_config), RUN)


class InProcess:
    """The Grid of a run whose nodes are in this process.

    Args:
        app: the folder of the app.
        nodes: by number.
        dies: the place, from 0, of the first message in a round of secure aggregation that a node does not answer any more.
    """

    def __init__(self, app: Path, nodes: Sequence[NodeOptions], dies: Mapping[int, int] | None = None) -> None:
        from flow.deploy import client_app

        self._app = client_app(app)
        self._contexts = {
            2**63 + place: context(2**63 + place, {k: v for k, v in asdict(own).items() if v}, {})
            for place, own in enumerate(nodes)
        }
        self._dies = {2**63 + place: stage for place, stage in (dies or {}).items()}
        self._trained = dict.fromkeys(self._contexts, 0)
        self._replies: list[Any] = []
        self._count = 0
        self.run = SimpleNamespace(run_id=RUN)
        self.sent: list[Any] = []
        """Every reply that left a node."""

    def get_node_ids(self) -> list[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Any]) -> list[str]:
        """Have the nodes answer at once."""
        from flwr.app import Error, Message

        numbers = []
        for message in messages:
            self._count += 1
            message.metadata.__dict__["_message_id"] = f"message {self._count}"
            numbers.append(message.metadata.message_id)
            node = message.metadata.dst_node_id
            if message.metadata.message_type == "train":
                if self._trained[node] >= self._dies.get(node, 10**9):
                    continue
                self._trained[node] += 1
            try:
                reply = self._app(copy.deepcopy(message), self._contexts[node])
            except Exception as error:  # as Flower wraps whatever an app raises
                reply = Message(Error(3, f"{type(error)}:<'{error}'>"), reply_to=message)
            self.sent.append(reply)
            self._replies.append(reply)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
        """What was answered."""
        wanted = set(message_ids)
        ready = [reply for reply in self._replies if reply.metadata.reply_to_message_id in wanted]
        self._replies = [reply for reply in self._replies if reply not in ready]
        return ready


def run_app(app: Path, grid: InProcess, **config: Any) -> None:
    """The ServerApp of a folder over a Grid."""
    from flwr.supercore.task_identity import TaskIdentity

    from flow.deploy import server_app

    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, 1, 1  # as Flower's process of a ServerApp does
    server_app(app)(grid, context(0, {}, config))
