"""The server's part of secure aggregation: what Flower's workflow asks of a strategy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from flwr.common import FitIns, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import LegacyContext, ServerConfig
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow

from flow.deploy import rounds as plain
from flow.deploy.options import LEAST
from flow.deploy.packet import sentence
from flow.deploy.rounds import Cohort, Server
from flow.deploy.secure import LOSS, LOSS_NAME, MODULUS, SHARE, error, steps
from flow.errors import UserError
from flow.model.parameters import Tensors, nbytes
from flow.server.uploads import Uploads
from flow.simulation import summary

Say = Callable[[str], None]


def rounds(server: Server, exchange: Any, context: Any, say: Say) -> None:
    """All rounds by Flower's workflow.

    Raises:
        UserError: the cohort can never have enough nodes.
        Diverged: see :meth:`flow.deploy.rounds.Server.step`.
    """
    strategy = Strategy(server, exchange, say)
    nodes = len(set(server.roster.node_of.values()))
    workflow = SecAggPlusWorkflow(
        num_shares=1.0,
        reconstruction_threshold=SHARE,
        max_weight=strategy.largest,
        clipping_range=server.options.secagg_clip,
        quantization_range=steps(nodes),
        modulus_range=MODULUS,
        timeout=server.options.timeout,
    )
    bound = error(nodes, server.options.secagg_clip, strategy.largest, strategy.largest * LEAST)
    clip, count = server.options.secagg_clip, steps(nodes)
    say(f"secure aggregation in {count} steps between {-clip:g} and {clip:g}: the mean is off by less than {bound:.2g}")
    config = ServerConfig(num_rounds=server.task.config.rounds)
    legacy = LegacyContext(context=context, config=config, strategy=strategy)
    DefaultWorkflow(fit_workflow=workflow)(strategy, legacy)


class Strategy:
    """What Flower's workflow asks of a Strategy and of a Grid: whom to ask for what, and what to make of the mean."""

    def __init__(self, server: Server, exchange: Any, say: Say) -> None:
        self._server, self._exchange, self._say = server, exchange, say
        weights: dict[int, int] = {}
        for client in server.task.clients:
            node = server.roster.node_of[client.id]
            weights[node] = weights.get(node, 0) + len(client.train)
        self.largest = float(max(weights.values()))
        """The largest weight that a node can have: the training sequences of all of its clients."""
        self._silent: set[int] = set()
        self._cohort = Cohort({}, 0, 0)
        self._mean: tuple[Tensors, float, int, int] | None = None
        self._download = 0
        self._started = time.perf_counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exchange, name)

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Any]:
        """As the exchange does; a node that gives no answer at all is left out of later rounds."""
        messages = list(messages)
        replies: list[Any] = self._exchange.send_and_receive(messages, timeout=timeout)
        for reply in replies:
            if reply.has_error():
                self._say(f"node {reply.metadata.src_node_id} sends nothing: {sentence(reply.error.reason)}")
        silent = {message.metadata.dst_node_id for message in messages} - {reply.metadata.src_node_id for reply in replies}
        for node in sorted(silent):
            self._say(f"node {node} takes no part any more: no answer in {self._server.options.timeout:g} s")
        self._silent |= silent
        return replies

    def initialize_parameters(self, client_manager: Any) -> Any:
        """Nothing: the state is the run's own."""
        return ndarrays_to_parameters([])

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> list[tuple[Any, Any]]:
        """Whom to ask for what; nobody where fewer nodes than three are left, whose sum would give single uploads away."""
        self._started, self._mean, self._download = time.perf_counter(), None, 0
        proxies = {proxy.node_id: proxy for proxy in client_manager.all().values()}
        self._cohort = self._server.cohort(server_round, sorted(set(proxies) - self._silent))
        clients = self._cohort.clients
        if len(clients) < LEAST:
            count = f"reaches {len(clients)} of the nodes, and secure aggregation needs {LEAST}"
            self._say(f"round {server_round} {count}; nothing is sent")
            return []
        asked = []
        for node, own in clients.items():
            question = self._server.question(server_round, own)
            arrays = [question.arrays[name] for name in question.arrays]
            fields = {**question.fields, "largest": self.largest, "clip": self._server.options.secagg_clip}
            config = {"json": json.dumps({**fields, "arrays": list(question.arrays)})}
            self._download += question.nbytes
            asked.append((proxies[node], FitIns(ndarrays_to_parameters(arrays), config)))
        return asked

    def aggregate_fit(self, server_round: int, results: list[tuple[Any, Any]], failures: Any) -> tuple[Any, dict[str, Any]]:
        """Take the mean of the changes that the workflow unmasked."""
        names = {str(result.metrics["names"]) for _, result in results}
        if len(names) != 1:
            raise UserError(
                f"the nodes sent changes of different tensors in round {server_round}, {' and '.join(sorted(names))}"
            )
        arrays = parameters_to_ndarrays(results[0][1].parameters)
        changes = {name: torch.from_numpy(np.array(array)) for name, array in zip(json.loads(names.pop()), arrays, strict=True)}
        loss = float(changes.pop(LOSS_NAME)) * LOSS / self._server.options.secagg_clip
        own = {name: self._server.state[name] for name in changes}
        mean = {n: own[n].double() + change.view(own[n].shape).to(own[n].device) for n, change in changes.items()}
        clients = sum(len(self._cohort.clients[proxy.node_id]) for proxy, _ in results)
        self._mean = mean, loss, clients, len(results)
        return None, {}

    def evaluate(self, server_round: int, parameters: Any) -> None:
        """The end of a round, whether it had a sum or not."""
        if not server_round:
            return
        uploads, asked = Uploads(), sum(map(len, self._cohort.clients.values()))
        if self._mean is not None:
            mean, loss, clients, nodes = self._mean
            uploads = plain.uploaded(mean, clients, loss)
            uploads.upload_bytes, uploads.download_bytes = nodes * nbytes(mean), self._download
        counts = summary.Counts(self._cohort.skipped, self._cohort.away + asked - uploads.clients, 0)
        row = self._server.step(server_round, uploads, counts, 0, time.perf_counter() - self._started, 1)
        plain.report(row, self._server, self._say)

    def configure_evaluate(self, server_round: int, parameters: Any, client_manager: Any) -> list[Any]:
        """Nobody."""
        return []
