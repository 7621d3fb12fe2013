"""A node's part of secure aggregation: what goes into the sum, which Flower's mod masks before it leaves."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from flwr.app import Message
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common import recorddict_compat as compat

from flow.deploy.node import Node, check_same
from flow.deploy.packet import Packet
from flow.deploy.secure import LOSS, LOSS_NAME
from flow.deploy.tensors import EVERY
from flow.errors import UserError
from flow.model.parameters import Tensors


def answer(node: Node, message: Any) -> Any:
    """A node's part of the sum, which Flower's mod masks before it leaves.

    Raises:
        UserError: the server's version or app is not this node's; a change is above clip; or the weight above the largest.
    """
    instructions = compat.recorddict_to_fitins(message.content, keep_input=True)
    fields = json.loads(str(instructions.config["json"]))
    arrays = dict(zip(fields["arrays"], parameters_to_ndarrays(instructions.parameters), strict=True))
    question = Packet(fields, arrays)
    check_same(node.application, question)
    changes, weight, loss = _change(node, question)
    clip, largest = fields["clip"], fields["largest"]
    if weight > largest:
        raise UserError(
            f"the clients of this node weigh {weight:g} together, above the largest that the server expects, {largest:g}"
        )
    most = max((float(change.abs().max()) for change in changes.values() if change.numel()), default=0.0)
    if most > clip:
        raise UserError(
            f"secagg_clip={clip:g} is below the largest change of a parameter on this node in round {fields['round']}, "
            f"{most:.3g}; raise secagg_clip"
        )
    changes[LOSS_NAME] = torch.tensor([min(max(loss, -LOSS), LOSS) * clip / LOSS], dtype=torch.float64)
    parameters = ndarrays_to_parameters(
        [change.cpu().numpy().ravel() for change in changes.values()]
    )  # none without dimensions
    names = {"names": json.dumps(list(changes))}
    result = FitRes(Status(Code.OK, ""), parameters, weight, names)
    return Message(compat.fitres_to_recorddict(result, keep_input=False), reply_to=message)


def _change(node: Node, question: Packet) -> tuple[Tensors, float, float]:
    """The weighted mean of the changes of a node's clients in float64, the sum of their weights, and their mean loss."""
    done = node.work(question)
    if not done.finite:
        raise UserError(f"training diverged on this node in round {question.fields['round']}; lower lr")
    weight, nats, tokens = 0.0, 0.0, 0.0
    total: Tensors = {}
    for upload in done.uploads:
        if upload.voted:
            raise UserError("an upload counts by votes, which secure aggregation does not carry; leave secagg out")
        weights = torch.tensor(upload.weights, dtype=torch.float64)
        weight += float(weights.sum())
        last = upload.phases[-1]
        nats, tokens = nats + float(last.nats.sum()), tokens + float(last.tokens.sum())
        for name, tensor in upload.tensors.items():
            start = torch.from_numpy(np.array(question.arrays[EVERY + name])).double().to(tensor.device)
            change = torch.tensordot(weights.to(tensor.device), tensor.double() - start, dims=1)
            total[name] = total[name] + change if name in total else change
    if not weight:
        raise UserError("the clients of this node weigh nothing in this round, and have nothing to send")
    return {name: change / weight for name, change in total.items()}, weight, nats / tokens if tokens else 0.0
