"""One occasion of an algorithm outside the loop: K clients receive, work or personalize, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import oracles
import torch
from optional import present

from flow.algorithms import algorithm_of
from flow.data import Client
from flow.draws import Draw
from flow.model.language_model import LanguageModel
from flow.model.parameters import Tensors, group_of
from flow.server.optimizers import resolve
from flow.server.options import ServerOptions
from flow.server.uploads import Received, Uploads, collect
from flow.storage.client_states import ClientStates
from flow.training.batches import gather
from flow.training.messages import Members, Personal, Phase, Upload, Visit

SEED, ROUND, ROUNDS = 5, 2, 10
OOV = (1, 7, 8)
TIGHT: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-12}  # float64, some hundred operations deep
POPULATION = oracles.population()
TRAINING = [client for client in POPULATION.clients if not client.held_out]


@dataclass
class Bench:
    """An algorithm with a model and the state of its server; what clients keep."""

    options: Any
    dtype: torch.dtype = torch.float64
    backend: str = "auto"
    num_layers: int = 1
    projection_dim: int | None = None
    classes: int = 0
    states: ClientStates = field(default_factory=ClientStates)

    def __post_init__(self) -> None:
        self.algorithm = algorithm_of(self.options)
        self.options = self.algorithm.resolve(self.options, ROUNDS)
        self.algorithm.check(self.options)
        self.model = LanguageModel(
            oracles.VOCABULARY, 3, 4, dtype=self.dtype, generator=torch.Generator().manual_seed(1), backend=self.backend,
            num_layers=self.num_layers, projection_dim=self.projection_dim, classes=self.classes, oov=OOV,
            **self.algorithm.traits(self.options),
        )  # fmt: skip
        self.state = self.algorithm.init(self.options, self.model, SEED, len(TRAINING))
        # Routers and gates start at zero, where an error in them could hide.
        generator = torch.Generator().manual_seed(2)
        for name in self.state:
            if group_of(name) == "router" or name.startswith("gate/"):
                self.state[name] = torch.randn(self.state[name].shape, generator=generator, dtype=torch.float64).to(self.dtype)
        self.moments: Tensors = {}
        self.shapes = {name: tuple(p.shape) for name, p in self.model.named_parameters()}
        self.initial = {name: p.detach() for name, p in self.model.named_parameters()}
        self.plain = dict(vars(self.options))

    def able(self, clients: Sequence[Client] = TRAINING) -> list[Client]:
        """Those of the clients that have enough to train on."""
        return [c for c in clients if len(c.train) >= self.algorithm.minimum_sequences(self.options)]

    def members(self, clients: Sequence[Client], purpose: str = "train", round: int = ROUND) -> Members:
        numbers = {client.id: n for n, client in enumerate(TRAINING)}
        rows = np.array([numbers.get(client.id, -1) for client in clients], dtype=np.int64)
        phase: Phase = "train" if purpose == "train" else "predict"
        return Members(tuple(client.id for client in clients), rows, self.states, Draw(SEED, round, purpose), phase)

    def visit(self, clients: Sequence[Client], purpose: str = "train", round: int = ROUND) -> Visit:
        """What `local` and `personalize` are given after the model."""
        to = self.members(clients, purpose, round)
        received, nbytes, server_side = self.algorithm.download(self.options, self.model, self.state, to)
        fresh = self.algorithm.fresh
        start = {} if fresh is None else fresh(self.options, self.model, received, len(clients))
        kept, data = self.states.of(to.rows, start), gather(clients, "train", "cpu")
        return Visit(to.rows, received, nbytes, kept, data, to.draw, to.phase, server_side)

    def local(self, clients: Sequence[Client], round: int = ROUND) -> Upload:
        """The upload of these clients; the algorithm's arguments must come out of it as they went in."""
        visit = self.visit(clients, "train", round)
        given = (visit.received, visit.kept.tensors, self.state)
        before = [{n: t.clone() for n, t in tensors.items()} for tensors in given]
        upload = self.algorithm.local(self.options, self.model, visit)
        for was, now in zip(before, given, strict=True):
            assert all(torch.equal(tensor, now[name]) for name, tensor in was.items()), "changed in place"
        return upload

    def personalize(self, clients: Sequence[Client], purpose: str = "evaluation", round: int = ROUND) -> Personal:
        """What these clients predict with."""
        personalize = self.algorithm.personalize
        assert personalize is not None, f"{self.algorithm.name} has no models of its own for clients"
        return personalize(self.options, self.model, self.visit(clients, purpose, round))

    def round(self, clients: Sequence[Client], round: int, server: ServerOptions | None = None, group: int = 5) -> Uploads:
        """A whole round, clients in groups of this size; returns the uploads as the server saw them."""
        received = []
        for start in range(0, len(clients), group):
            some = clients[start : start + group]
            upload, rows = self.local(some, round), self.members(some).rows
            if upload.kept is not None:
                self.states.write(rows, upload.kept, round)
            received.append(Received(rows, upload, 0))
        uploads = collect(received, self.algorithm.one_by_one)
        server_options = resolve(server or ServerOptions())
        draw = Draw(SEED, round, "server")
        self.state, self.moments = self.algorithm.server_step(
            self.options, self.state, self.moments, uploads, server_options, draw
        )
        self.states.commit(round)
        return uploads


def close(actual: Tensors | None, expected: Tensors | None, what: object = "") -> None:
    """Two dictionaries of tensors are the same, tightly."""
    actual, expected = present(actual), present(expected)
    assert set(actual) == set(expected), what
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, **TIGHT, msg=labelled(f"{what} {name}"))


def labelled(label: object) -> Callable[[str], str]:
    """For a message of torch: which of several comparisons it is of."""
    return lambda text: f"{label}: {text}"


def row(tensors: Tensors | None, index: int) -> Tensors:
    """Those of one client."""
    return {name: tensor[index] for name, tensor in present(tensors).items()}
