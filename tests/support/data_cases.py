"""Small data sets, and what is compared of a population."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

from flow.data import Population, Sequences, Vocabulary


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
