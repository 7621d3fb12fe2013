"""Flower's side of a node: packets as messages, and the ClientApp. Needs the extra `flower`.

What a message does not need is not loaded for it: a process of Flower's answers one message and ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp

from flow.deploy.packet import DESCRIBE, TRAIN, Packet

ARRAYS, FIELDS = "arrays", "fields"
TYPES = {DESCRIBE: "query", TRAIN: "train.clear"}
"""Flower's message types. "train" without an action is that of secure aggregation, whose mod knows no other."""


def to_record(packet: Packet) -> Any:
    """A packet as Flower's RecordDict: arrays by their names, and the fields as one JSON text."""
    arrays = ArrayRecord({name: Array(array) for name, array in packet.arrays.items()})
    return RecordDict({ARRAYS: arrays, FIELDS: ConfigRecord({"json": json.dumps(packet.fields)})})


def of_record(record: Any) -> Packet:
    """The packet of a RecordDict."""
    arrays = {name: array.numpy() for name, array in record[ARRAYS].items()}
    return Packet(json.loads(record[FIELDS]["json"]), arrays)


def client_app(folder: Path) -> Any:
    """See :func:`flow.deploy.client_app`."""

    def node(context: Any) -> Any:
        from flow.deploy import application
        from flow.deploy.node import Node, options_of

        return Node(application.read(folder), options_of(context.node_config), str(context.run_id))

    def answering(what: str) -> Callable[[Any, Any], Any]:
        def answer(message: Any, context: Any) -> Any:
            packet = node(context).answer(what, of_record(message.content))
            return Message(to_record(packet), reply_to=message)

        return answer

    def secured(message: Any, context: Any) -> Any:
        from flow.deploy import secure_node

        return secure_node.answer(node(context), message)

    app = ClientApp()
    app.query()(answering(DESCRIBE))
    app.train("clear")(answering(TRAIN))
    app.train(mods=[secaggplus_mod])(secured)
    return app
