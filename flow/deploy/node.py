"""The node's side: it holds the data of its clients, does their local work, and sends what the algorithm uploads.

What leaves the node is written out here: `described` before the first round, `trained` in every round. Texts stay, and so do
personal models and whatever else clients keep.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from flow.data import Client, DataOptions, Population, load, opened, paths
from flow.data.by_client import ClientTexts, joined
from flow.data.population import scored_targets
from flow.data.tabular import SUFFIXES as TABLES
from flow.data.validation import trusted
from flow.deploy.application import Application, population_of
from flow.deploy.packet import DESCRIBE, TRAIN, Packet
from flow.deploy.states import NodeStates
from flow.deploy.tensors import of_clients, to_clients
from flow.draws import Draw
from flow.engine.task import Task, prepare
from flow.errors import UserError
from flow.model.interface import Model
from flow.model.parameters import Tensors, nbytes
from flow.parallel.workers import Workers
from flow.personal.texts import LINES, Columns, read_file
from flow.server.uploads import all_finite
from flow.storage.client_states import ClientStates
from flow.training.batches import gather, groups
from flow.training.messages import Upload, Visit
from flow.version import __version__

NODE_OPTIONS = ("texts", "data", "clients", "state", "secagg")


@dataclass(frozen=True)
class NodeOptions:
    """What a node says of itself; Flower calls it the node config."""

    texts: str = ""
    """A .txt, .jsonl or .csv file with the texts of its clients."""

    data: str = ""
    """In its place: a value of `flow run --data` on this machine, with the vocabulary of the app."""

    clients: str = ""
    """The ids of its clients, separated by commas. Empty: all of `data` or of a .jsonl file, else the one of the file."""

    state: str = ""
    """Folder in which its clients keep what they keep; needed where the algorithm has them keep anything."""

    secagg: bool = False
    """Whether uploads leave this node by secure aggregation alone, whatever the server asks for."""


def options_of(node_config: Mapping[str, Any]) -> NodeOptions:
    """The options of a node.

    Raises:
        UserError: one is unknown or of another type, or none names data.
    """
    for name, value in node_config.items():
        if name not in NODE_OPTIONS:
            raise UserError(f"node config {name}={value!r} is no option of a node; the options are {', '.join(NODE_OPTIONS)}")
        kind = bool if name == "secagg" else str
        if not isinstance(value, kind):
            raise UserError(f"node config {name}={value!r} must be {'true or false' if kind is bool else 'a string'}")
    options = NodeOptions(**node_config)
    if bool(options.texts) == bool(options.data):
        raise UserError(
            f"node config texts={options.texts!r}, data={options.data!r}: exactly one of them says where the node's texts are; "
            'start the node with --node-config \'texts="FILE" clients="ID"\''
        )
    return options


@dataclass
class Node:
    """A node as it answers one question after the other.

    Args:
        application: the app as it reached this node.
        options: of the node.
        run: which run of the app it is, for the folder of its states.
    """

    application: Application
    options: NodeOptions
    run: str
    clients: tuple[Client, ...] = field(init=False)
    """Sorted by their ids."""

    def __post_init__(self) -> None:
        self.clients = tuple(sorted(_clients(self.application, self.options), key=lambda client: client.id))

    def answer(self, what: str, question: Packet) -> Packet:
        """The answer to a question.

        Args:
            what: DESCRIBE or TRAIN.

        Raises:
            UserError: the server's version, app or question is not this node's.
        """
        check_same(self.application, question)
        if what == DESCRIBE:
            return self.described()
        assert what == TRAIN
        if self.options.secagg:
            raise UserError(
                "secagg=true in the configuration of this node has uploads leave it by secure aggregation alone, and the "
                "server asks for single ones; write the app with --secagg, or leave secagg out of the node's configuration"
            )
        return self.trained(question)

    def described(self) -> Packet:
        """What the server learns of the node's clients: their ids, how much they have, and whether they train."""
        scored = population_of(self.application, self.clients).scored
        known = [
            {
                "id": client.id,
                "texts": client.texts,
                "sequences": len(client.train),
                "scored": scored_targets(client.test, scored),
                "held_out": client.held_out,
            }
            for client in self.clients
        ]
        return Packet({"flow": __version__, "clients": known}, {})

    def trained(self, question: Packet) -> Packet:
        """A round's local work of the clients that the server names: their uploads, weights, losses and counts.

        Raises:
            UserError: the node has no such client, or nowhere to keep what they keep.
        """
        started, work = time.perf_counter(), self.work(question)
        tensors = {name: torch.cat([upload.tensors[name] for upload in work.uploads]) for name in work.uploads[0].tensors}
        last = [upload.phases[-1] for upload in work.uploads]
        phases = [phase for upload in work.uploads for phase in upload.phases]
        arrays = of_clients(tensors)
        fields = {
            "ids": work.ids,
            "names": list(arrays),
            "weights": [float(weight) for upload in work.uploads for weight in upload.weights],
            "voted": list(work.uploads[0].voted),
            "votes": [float(vote) for upload in work.uploads for vote in upload.votes],
            "nats": torch.cat([own.nats for own in last]).tolist(),
            "tokens": torch.cat([own.tokens for own in last]).tolist(),
            "sequences": sum(phase.sequences for phase in phases),
            "flops": float(sum(float(phase.flops.sum()) for phase in phases)),
            "finite": work.finite,
            "kept": work.kept,
            "seconds": time.perf_counter() - started,
        }
        return Packet(fields, arrays)

    def work(self, question: Packet) -> Done:
        """The local work of a round; what clients keep is on the disk when it ends.

        Raises:
            UserError: as :meth:`trained`.
        """
        fields = question.fields
        own = {client.id: client for client in self.clients}
        if missing := [name for name in fields["ids"] if name not in own]:
            raise UserError(f"client {missing[0]!r} is asked for, and is none of the {len(own)} on this node")
        asked = [own[name] for name in fields["ids"]]
        task = self._task(asked).in_round(fields["round"])
        draw = Draw(task.config.seed, fields["round"], "train")
        rows = np.array(fields["rows"], dtype=np.int64)
        stateful = task.algorithm.stateful(task.config.algorithm)
        store = self._states() if stateful else None
        states = ClientStates() if store is None else store.read(rows, draw.round)
        received = to_clients({name: question.arrays[name] for name in question.arrays}, len(asked), task.config.model.device)
        received = {name: received[name] for name in fields["names"]}
        number = {client.id: place for place, client in enumerate(asked)}

        def local(model: Model, group: list[Client]) -> tuple[list[int], Upload]:
            places = [number[client.id] for client in group]
            index = torch.tensor(places)
            part = {name: _of(tensor, index) for name, tensor in received.items()}
            visit = _visit(task, model, group, rows[places], part, states, draw)
            return places, task.algorithm.local(task.config.algorithm, model, visit)

        uploads, order = [], list[int]()
        finite, kept = True, 0
        with Workers(task.model, task.workers) as workers:
            for places, upload in workers.map(local, groups(asked, task.chunk, 1)):
                uploads.append(upload)
                order += places
                if upload.kept is not None:
                    finite &= all_finite(upload.kept.values())
                    kept += nbytes(upload.kept)
                    if store is not None:
                        store.write(rows[places], upload.kept, draw.round)
        return Done([asked[place].id for place in order], uploads, finite, kept)

    def _task(self, clients: Sequence[Client]) -> Task:
        """The app's task with these clients alone."""
        config = replace(self.application.config, cohort=len(clients), validation_share=0.0)
        return prepare(config, trusted(population_of(self.application, tuple(clients))))

    def _states(self) -> NodeStates:
        if not self.options.state:
            name = self.application.algorithm.name
            raise UserError(
                f"state='': the clients of {name} keep a state from round to round, and this node has no folder for it; start "
                'the node with state="FOLDER" in --node-config'
            )
        return NodeStates(Path(self.options.state) / self.run, self.application.digest)


class Done(NamedTuple):
    """The local work of a round."""

    ids: list[str]
    uploads: list[Upload]
    """Of groups of clients, in the order of `ids`."""
    finite: bool
    """Whether all that they keep is finite."""
    kept: int
    """Its bytes."""


def check_same(application: Application, question: Packet) -> None:
    """Raise UserError unless the server has this version of flow and this app."""
    theirs = question.fields["flow"], question.fields["app"]
    if theirs[0] != __version__:
        raise UserError(
            f"this node has flow {__version__} and the server flow {theirs[0]}, whose numbers may differ; install the server's "
            "version on the node"
        )
    if theirs[1] != application.digest:
        raise UserError(
            f"this node has the app {application.digest[:12]} and the server the app {theirs[1][:12]}, with another "
            "configuration or vocabulary; start the run again with one app"
        )


def _visit(
    task: Task, model: Model, group: Sequence[Client], rows: Any, received: Tensors, states: ClientStates, draw: Draw
) -> Visit:
    """What :meth:`flow.engine.task.Task.visit` gives the same clients, from what the server sent."""
    fresh = task.algorithm.fresh
    start = {} if fresh is None else fresh(task.config.algorithm, model, received, len(group))
    kept, data = states.of(rows, start), gather(group, "train", task.config.model.device)
    sizes = [nbytes(received) // len(group)] * len(group)
    return Visit(rows, received, sizes, kept, data, draw, "train", None, task.config.split)


def _of(tensor: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows of a tensor [K, ..]; of one that is the same for all, a view again."""
    return tensor[:1].expand(len(index), *tensor.shape[1:]) if tensor.stride(0) == 0 else tensor[index.to(tensor.device)]


def _clients(application: Application, options: NodeOptions) -> list[Client]:
    """The node's clients from its own files."""
    ids = [name.strip() for name in options.clients.split(",") if name.strip()]
    if options.data:
        return _from_data(application, options, ids)
    if application.cutting is None:
        raise UserError(
            f"node config texts={options.texts!r}: the data of this app are numbers and no texts, so nobody knows how a text "
            "becomes tokens; give data in place of texts"
        )
    data = application.config.data
    path, columns = Path(options.texts), Columns()
    if path.name.lower().endswith(LINES):
        return [_cut(application, own) for own in _of_lines(path, ids, data.label_column)]
    if path.name.lower().endswith(TABLES):
        columns = Columns(*(getattr(data, name) for name in Columns._fields))
    named: Sequence[str | None] = ids or [None]
    return [_cut(application, read_file(path, name, columns)) for name in named]


def _of_lines(path: Path, ids: Sequence[str], label_column: str | None) -> list[ClientTexts]:
    """The texts of these clients of a .jsonl file, which is read once; of all where there are no ids."""
    where = f"texts={str(path)!r}"
    with paths.given_by("texts"):
        stream = opened(DataOptions(str(path), label_column=label_column))
        assert stream is not None
        parts = {part.client: part for part in stream.parts() if not ids or part.client in ids}
    if missing := [name for name in ids if name not in parts]:
        raise UserError(f"{where} has no client {missing[0]!r}; correct clients in --node-config, or put it into the file")
    return [joined(part.client, [part], where) for part in parts.values()]


def _cut(application: Application, own: ClientTexts) -> Client:
    """A client's texts in the windows of the run."""
    cutting = application.cutting
    assert cutting is not None
    if cutting.classes:
        if not own.train_labels:
            raise UserError(
                f"the run classifies texts, and those of client {own.id!r} have no classes; name their column with label_column"
            )
        train, test = cutting.rows(own.train, own.train_labels), cutting.rows(own.test, own.test_labels)
    else:
        train, test = cutting.windows(own.train), cutting.windows(own.test)
    return Client(own.id, own.group, own.held_out, len(own.train) + len(own.test), train, test)


def _from_data(application: Application, options: NodeOptions, ids: Sequence[str]) -> list[Client]:
    population = load(replace(application.config.data, data=options.data))
    _check_vocabulary(application, population, options.data)
    own = {client.id: client for client in population.clients if not ids or client.id in ids}
    if missing := [name for name in ids if name not in own]:
        raise UserError(f"node config clients={missing[0]!r} is no client of data={options.data!r}; give ids that it has")
    return list(own.values())


def _check_vocabulary(application: Application, population: Population, data: str) -> None:
    """Raise UserError unless the node's data were cut as the app says."""
    theirs = application.vocabulary, application.sequence_length, application.classes
    own = population.vocabulary, population.sequence_length, population.classes
    if own != theirs:
        raise UserError(
            f"data={data!r} of this node have {len(own[0])} tokens, sequences of {own[1]} and {len(own[2])} classes, and the "
            f"app of the server has {len(theirs[0])} tokens, sequences of {theirs[1]} and {len(theirs[2])} classes, or other "
            "ones; give texts in place of data, which are cut by the app's vocabulary"
        )
