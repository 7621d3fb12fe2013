"""Deployments in one process: nodes with files of their own, and an exchange that carries packets as a transport would."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from adapted_cases import CLIENTS, config, write_jsonl

import flow
from flow.data.corpus import is_held_out
from flow.deploy import application, rounds
from flow.deploy.application import Application
from flow.deploy.node import Node, NodeOptions
from flow.deploy.options import Deployment
from flow.deploy.packet import Answers, Packet
from flow.draws import Draw
from flow.errors import UserError
from flow.model.parameters import Tensors

NODES = 3
SHARES = [{name: CLIENTS[name] for name in sorted(CLIENTS)[place::NODES]} for place in range(NODES)]
"""By node, its clients with their texts: eight for each of three nodes."""
QUICK = Deployment(nodes=NODES, wait=30.0, timeout=30.0)


def carried(packet: Packet) -> Packet:
    """A packet as it comes out at the other end: fields through JSON, arrays as bytes that nobody may write to."""
    arrays = {}
    for name, array in packet.arrays.items():
        arrays[name] = np.frombuffer(array.tobytes(), dtype=array.dtype).reshape(array.shape)
    return Packet(json.loads(json.dumps(packet.fields)), arrays)


@dataclass
class Exchange:
    """Nodes in this process. `dies` says from which round on a node does not answer any more, and `gone` whether it is not even
    listed after that round."""

    application: Application
    options: Sequence[NodeOptions]
    dies: Mapping[int, int] = field(default_factory=dict)
    gone: bool = False
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    _round: int = 0

    def nodes(self) -> list[int]:
        alive = [n for n in range(len(self.options)) if not (self.gone and self._round >= self.dies.get(n, 10**9))]
        return alive

    def ask(self, what: str, questions: Mapping[int, Packet], round: int, timeout: float) -> Answers:
        self._round = round
        packets, refused = {}, {}
        for node, question in questions.items():
            self.asked.append((what, node, round))
            if round >= self.dies.get(node, 10**9):
                refused[node] = f"no answer in {timeout:g} s"
                continue
            try:  # as in a process of its own: everything is read anew
                packets[node] = carried(Node(self.application, self.options[node], "7").answer(what, carried(question)))
            except UserError as error:
                refused[node] = str(error)
        return Answers(packets, refused)


def node_files(folder: Path, shares: Sequence[Mapping[str, Sequence[str]]] = SHARES) -> list[NodeOptions]:
    """A file and a folder for states on every node."""
    made = []
    for place, share in enumerate(shares):
        home = folder / f"node{place}"
        home.mkdir(parents=True)
        path = write_jsonl(home / "own.jsonl", share)
        made.append(NodeOptions(texts=str(path), clients=",".join(share), state=str(home / "state")))
    return made


def written(folder: Path, options: Any, deployment: Deployment = QUICK, **changes: Any) -> tuple[flow.Config[Any], Application]:
    """The configuration of two rounds on all clients' texts, and its app."""
    path = write_jsonl(folder / "all.jsonl", CLIENTS)
    run = replace(config(path), algorithm=options, final_clients=1, **changes)
    return run, application.write(folder / "app", run, deployment)


def deployed(app: Application, exchange: Exchange, folder: Path, **options: Any) -> tuple[rounds.Server, list[str]]:
    """All rounds; returns the server and what it said."""
    lines: list[str] = []
    with rounds.opened(app, replace(QUICK, folder=str(folder), **options), exchange, lines.append, pause=0.0) as server:
        rounds.rounds(server, exchange, lines.append)
    return server, lines


def seed_where(losses: Sequence[int | None], cohort: int, dropout: float) -> int:
    """The first seed by which in every round the cohort has clients of every node, and dropout takes exactly those of one node.

    losses: by round, the node; None: nobody is dropped.
    """
    trains = [name for name in sorted(CLIENTS) if not is_held_out(name)]

    def fits(seed: int, round: int, lost: int | None) -> bool:
        chosen = {trains[n] for n in Draw(seed, round, "cohort").stream().choice(len(trains), cohort, replace=False)}
        draw = Draw(seed, round, "participation")
        dropped = {name for name in chosen if draw.stream(name).random(3)[0] < dropout}
        of_nodes = [chosen & share.keys() for share in SHARES]
        return all(of_nodes) and dropped == (set() if lost is None else of_nodes[lost])

    for seed in range(100_000):
        if all(fits(seed, round, lost) for round, lost in enumerate(losses, start=1)):
            return seed
    raise AssertionError("no seed")


def difference(left: Tensors, right: Tensors) -> float:
    """The largest difference of two states with the same names and shapes."""
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)
