"""Small data sets, and what is compared of a population."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow.data import Client, Population, Sequences, Vocabulary
from flow.data.population import Indexed, Table

if TYPE_CHECKING:
    from oracles.preparation import Plain, Window


def write_jsonl(path: Path, records: list[Any]) -> str:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def fingerprint(population: Population) -> str:
    digest = hashlib.sha256(repr((population.name, population.about, population.vocabulary)).encode())
    for client in population.clients:
        digest.update(repr((client.id, client.group, client.held_out, client.texts)).encode())
        for side in (client.train, client.test):
            digest.update(repr(side.tokens.shape).encode() + side.tokens.tobytes() + side.lengths.tobytes())
    return digest.hexdigest()


def targets(side: Sequences) -> list[int]:
    """All valid targets in order."""
    return [int(t) for row, n in zip(side.tokens, side.lengths, strict=True) for t in row[1 : n + 1]]


def spelled(side: Sequences, vocabulary: Vocabulary) -> list[str]:
    return [vocabulary.tokens[t] for t in targets(side)]


def plain(population: Population) -> Plain:
    """A population as the oracle has it, see :func:`oracles.preparation.prepared`."""

    def windows(side: Sequences) -> list[Window]:
        return list(zip(side.tokens.tolist(), side.lengths.tolist(), strict=True))

    return population.vocabulary.tokens, {
        client.id: (client.group, client.held_out, client.texts, windows(client.train), windows(client.test))
        for client in population.clients
    }


class Counting(Sequence[Client]):
    """Clients made when they are asked for, with a count of who was read."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients, self.reads = clients, Counter[int]()

    def __len__(self) -> int:
        return len(self._clients)

    def __getitem__(self, place: Any) -> Any:
        self.reads[place] += 1
        return self._clients[place]


class Mapped(Counting, Indexed):
    """Clients whose table is known without reading any, and with no method ids of their own."""

    def __init__(self, clients: Sequence[Client], table: Table) -> None:
        super().__init__(clients)
        self.table, self.fingerprint = table, "known"

    def position(self, client_id: str) -> int:
        return [client.id for client in self._clients].index(client_id)
