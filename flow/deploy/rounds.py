"""The rounds of the server: the draws, the aggregation and the server's step of a simulation, around an exchange with nodes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from flow.data import Client
from flow.deploy.application import Application, allowed
from flow.deploy.options import Deployment
from flow.deploy.packet import TRAIN, Exchange, Packet
from flow.deploy.roster import Roster, gathered, question
from flow.deploy.tensors import of_clients, to_clients
from flow.draws import Draw
from flow.engine import rates
from flow.engine.participation import turnout
from flow.engine.run import RunState, begin
from flow.engine.task import Task, prepare
from flow.errors import Diverged, UserError, plural
from flow.model.parameters import Tensors
from flow.server import aggregators
from flow.server.uploads import Received, Uploads, all_finite, collect
from flow.simulation import summary
from flow.simulation.loop import sample
from flow.storage import run_folder
from flow.training.messages import Upload
from flow.training.records import Work

Say = Callable[[str], None]


class Cohort(NamedTuple):
    """Who is asked in a round."""

    clients: dict[int, list[Client]]
    """By node, the clients that it trains."""
    skipped: int
    """They have too few sequences."""
    away: int
    """Their node cannot be reached."""


@dataclass
class Server:
    """A run as its server sees it."""

    application: Application
    options: Deployment
    roster: Roster
    task: Task
    run: RunState
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """The rows of metrics.jsonl."""

    @property
    def state(self) -> Tensors:
        """The server's state."""
        return self.run.state

    def cohort(self, round: int, nodes: Sequence[int]) -> Cohort:
        """Who is asked in a round, of the nodes that can be reached; the same clients as in a simulation."""
        task, config = self.task, self.task.config
        drawn = sample(task.clients, config.cohort, Draw(config.seed, round, "cohort"))
        who = turnout(config, drawn, task.minimum, task.population.numbers(drawn), round)
        by_node: dict[int, list[Client]] = {}
        for client in who.able:
            by_node.setdefault(self.roster.node_of[client.id], []).append(client)
        clients = {node: sorted(own, key=lambda c: c.id) for node, own in sorted(by_node.items()) if node in set(nodes)}
        return Cohort(clients, len(who.idle), len(who.able) - sum(map(len, clients.values())))

    def question(self, round: int, clients: Sequence[Client]) -> Packet:
        """What a node is asked to do with some of its clients in a round."""
        task, draw = self.task.in_round(round), Draw(self.task.config.seed, round, "train")
        members = task.members(clients, self.run.states, draw, "train")
        received = task.download(task.model, self.run.state, members).tensors
        fields = {"round": round, "ids": list(members.ids), "rows": members.rows.tolist(), "names": list(received)}
        return Packet({**question(self.application).fields, **fields}, of_clients(received))

    def step(
        self, round: int, uploads: Uploads, counts: summary.Counts, kept: int, seconds: float, nodes: int
    ) -> dict[str, Any]:
        """The server's step on what came in, and the end of the round.

        Args:
            kept: bytes that clients keep, as far as their nodes said.
            seconds: since the round began.
            nodes: that worked side by side.

        Returns:
            The row of metrics.jsonl.

        Raises:
            Diverged: the loss or the state is not finite.
        """
        now, run = self.task.in_round(round), self.run
        started = time.perf_counter()
        if uploads.clients:
            draw = Draw(now.config.seed, round, "server")
            run.state, run.moments = now.algorithm.server_step(
                now.config.algorithm, run.state, run.moments, uploads, now.config.server, draw
            )
        if not (uploads.finite and all_finite(run.state.values())):
            raise Diverged(
                f"training diverged in round {round}: the loss or a parameter is no longer finite; write the app again with a "
                "smaller lr, or with a smaller clip above 0"
            )
        run.commit(round)
        uploads.aggregation_seconds += time.perf_counter() - started
        seconds += time.perf_counter() - started
        row = summary.row(round, uploads, counts, kept, seconds, max(nodes, 1)) | rates.row(now.config)
        self.metrics.append(row)
        if run.folder is not None:
            run_folder.append_metrics(run.folder, run.labelled(row))
            if round % now.config.checkpoint_every == 0 or round == now.config.rounds:
                run.save(round)
        return row


@contextmanager
def opened(application: Application, options: Deployment, exchange: Exchange, say: Say, pause: float = 1.0) -> Iterator[Server]:
    """Wait for the nodes, start a run in its folder, and hold the folder's lock.

    Args:
        pause: seconds between two looks at who is there.

    Raises:
        UserError: the app cannot run on devices, too few nodes came, or the folder exists.
    """
    allowed(application.config, options)
    folder = run_folder.new_folder(options.folder)
    roster = gathered(application, exchange, options.nodes, options.wait, say, pause)
    task = prepare(application.config, roster.population)
    run = begin(task, folder)
    clients, nodes = len(task.clients), len(set(roster.node_of.values()))
    say(f"{clients} {plural(clients, 'client')} that may train on {nodes} {plural(nodes, 'node')}")
    with run_folder.started(folder):
        run_folder.create(folder, run_folder.describe(task.config, task.algorithm.name, task.population))
        yield Server(application, options, roster, task, run)


def rounds(server: Server, exchange: Exchange, say: Say) -> None:
    """All rounds, each uploads in the clear.

    Raises:
        Diverged: see :meth:`Server.step`.
    """
    for round in range(1, server.task.config.rounds + 1):
        started = time.perf_counter()
        cohort = server.cohort(round, exchange.nodes())
        questions = {node: server.question(round, clients) for node, clients in cohort.clients.items()}
        answers = exchange.ask(TRAIN, questions, round, server.options.timeout)
        for node, reason in answers.refused.items():
            say(f"round {round} goes on without node {node}: {reason}")
        received, kept = [], 0
        for node, answer in sorted(answers.packets.items()):
            received.append(_received(server, cohort.clients[node], questions[node], answer))
            kept += answer.fields["kept"]
        each = server.task.algorithm.one_by_one or aggregators.one_by_one(server.task.config.server)
        uploads = collect(received, each, server.run.sums)
        uploads.finite &= all(answer.fields["finite"] for answer in answers.packets.values())
        asked = sum(map(len, cohort.clients.values()))
        counts = summary.Counts(cohort.skipped, cohort.away + asked - uploads.clients, 0)
        seconds = time.perf_counter() - started
        report(server.step(round, uploads, counts, kept, seconds, len(received)), server, say)


def report(row: dict[str, Any], server: Server, say: Say) -> None:
    """One line on a round."""
    loss = "-" if row["loss"] is None else f"{row['loss']:.4f}"
    lost = f", {row['dropped']} lost" if row["dropped"] else ""
    say(f"round {row['round']} of {server.task.config.rounds}: loss {loss}, {row['clients']} uploads{lost}")


def _received(server: Server, clients: Sequence[Client], question: Packet, answer: Packet) -> Received:
    """The uploads of a node's clients.

    Raises:
        UserError: the node sent what is no upload of these clients.
    """
    fields, ids = answer.fields, [client.id for client in clients]
    if sorted(fields["ids"]) != sorted(ids):
        raise UserError(f"a node sent uploads of {json.dumps(fields['ids'])}, and was asked for those of {json.dumps(ids)}")
    own = {client.id: client for client in clients}
    rows = server.task.population.numbers([own[name] for name in fields["ids"]])
    nats, tokens = (torch.tensor(fields[name], dtype=torch.float64) for name in ("nats", "tokens"))
    flops = torch.tensor([fields["flops"], *[0.0] * (len(ids) - 1)], dtype=torch.float64)
    work = Work(nats, tokens, fields["sequences"], flops)
    device = server.task.config.model.device
    tensors = to_clients({name: answer.arrays[name] for name in fields["names"]}, len(ids), device)
    upload = Upload(tensors, fields["weights"], (work,), None, tuple(fields["voted"]), fields["votes"])
    return Received(np.asarray(rows), upload, question.nbytes, training_seconds=fields["seconds"])


def uploaded(tensors: Tensors, clients: int, loss: float) -> Uploads:
    """The uploads of a round as one, where only their mean is known.

    Args:
        tensors: the mean, float64.
        clients: whose mean it is.
        loss: nats a token.
    """
    uploads = Uploads(each={name: tensor[None] for name, tensor in tensors.items()}, rows=np.arange(clients))
    uploads.weights = torch.ones(1, dtype=torch.float64)
    uploads.client_nats, uploads.tokens = torch.tensor([loss], dtype=torch.float64), 1.0
    return uploads
