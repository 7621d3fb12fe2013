"""A population on disk, memory-mapped: prepared once, opened in milliseconds, read client by client.

A folder of raw arrays and index.json, which says what they are. What belongs to a client lies side by side:

    tokens    [S, T + 1]  all sequences, client by client, the training ones first; uint16 where the vocabulary and the
                          number of classes allow it; of labelled texts the last column is the class
    lengths   [S]         their valid targets
    edges     [2 N + 1]   client n trains on edges[2n] .. edges[2n + 1] and is tested on what follows, up to edges[2n + 2]
    checks    [N]         CRC-32 of a client's tokens and lengths, compared whenever they are read
    held_out, texts, scored  [N]  of every client, see flow.data.population.Table
    ids, id_ends, groups, group_ends  UTF-8, one after the other, and where each ends

The small arrays have their SHA-256 in index.json and are compared when the folder is opened; reading all of the large
ones then would cost what preparing saves.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import numpy.typing as npt

from flow.data.population import (
    Client,
    Indexed,
    Population,
    Sequences,
    Table,
    Vocabulary,
    add_to_fingerprint,
    scored_targets,
)
from flow.data.spool import Place
from flow.data.validation import trusted
from flow.errors import UserError
from flow.terminal.progress import Progress

VERSION = 1
"""Part of the name of every prepared folder. Raise it by hand whenever the layout or the meaning of prepared data changes."""

INDEX = "index.json"
LARGE = ("tokens", "lengths")
SMALL = {
    "edges": "int64", "checks": "uint32", "held_out": "bool", "texts": "int32", "scored": "int32",
    "ids": "uint8", "id_ends": "int64", "groups": "uint8", "group_ends": "int64",
}  # fmt: skip
RELEASE = 8  # clients read before the pages of the mappings are given back

Array = npt.NDArray[Any]


def write(
    folder: Path, population: Population, progress: bool = False, clients: tuple[Iterable[Client], int] | None = None
) -> None:
    """Prepare a population, whole or not at all: everything is on the disk before the folder gets its name.

    Its clients are read one by one and not kept. Where the folder is there already, made by another process, that one stays.

    Args:
        clients: clients in the order of their ids and how many they are, in place of those of the population.
    """
    with Place(folder) as place:  # removed with all in it; one of a process that was killed by whoever prepares next
        partial = place.new_file()
        partial.mkdir()
        index = _write_arrays(partial, population, progress, *(clients or (population.clients, len(population.clients))))
        _sync(partial / INDEX, (json.dumps(index | {"sha256": _digest(index)}) + "\n").encode())
        try:
            partial.rename(folder)
        except OSError:
            if not (folder / INDEX).is_file():
                raise


def _write_arrays(
    folder: Path, population: Population, progress: bool, clients: Iterable[Client], count: int
) -> dict[str, Any]:
    vocabulary = population.vocabulary
    kinds = {"tokens": type_of_tokens(population), "lengths": np.dtype("int32")}
    small = {name: array("q") for name in ("edges", "checks", "held_out", "texts", "scored", "id_ends", "group_ends")}
    small["edges"].append(0)
    names: dict[str, bytearray] = {"ids": bytearray(), "groups": bytearray()}
    everything, scored, previous = hashlib.sha256(), population.scored, None
    with (folder / "tokens").open("wb") as tokens_file, (folder / "lengths").open("wb") as lengths_file:
        for client in Progress(clients, what="preparing", unit="client", total=count, delay=1, visible=progress):
            if previous is not None and client.id <= previous:
                raise ValueError(f"client {client.id!r} follows {previous!r}: clients must be sorted by id, each id once")
            previous = client.id
            tokens, lengths = (
                np.concatenate([getattr(client.train, name), getattr(client.test, name)]).astype(kinds[name]) for name in LARGE
            )
            tokens_file.write(tokens.data)
            lengths_file.write(lengths.data)
            for side in (client.train, client.test):
                small["edges"].append(small["edges"][-1] + len(side))
            small["checks"].append(_check(tokens, lengths))
            small["held_out"].append(client.held_out)
            small["texts"].append(client.texts)
            small["scored"].append(scored_targets(client.test, scored))
            for kind, text in (("id", client.id), ("group", client.group)):
                names[kind + "s"] += text.encode()
                small[kind + "_ends"].append(len(names[kind + "s"]))
            add_to_fingerprint(everything, client)
        for file in (tokens_file, lengths_file):
            file.flush()
            os.fsync(file.fileno())
    hashes = {}
    for name, kind in SMALL.items():
        content = bytes(names[name]) if name in names else np.array(small[name]).astype(kind).tobytes()
        hashes[name] = hashlib.sha256(content).hexdigest()
        _sync(folder / name, content)
    return {
        "version": VERSION,
        "name": population.name,
        "about": population.about,
        "unit": vocabulary.unit,
        "oov_buckets": vocabulary.oov_buckets,
        "sequence_length": population.sequence_length,
        "clients": count,
        "sequences": small["edges"][-1],
        "types": {name: str(kind) for name, kind in kinds.items()},
        "hashes": hashes,
        "fingerprint": everything.hexdigest(),
        "vocabulary": vocabulary.tokens,
        **({"classes": population.classes} if population.classes else {}),
    }


def type_of_tokens(population: Population) -> np.dtype[Any]:
    """The smallest type of tokens that a prepared population may have; labels lie among them."""
    return np.dtype("uint16" if max(len(population.vocabulary), len(population.classes)) <= 1 << 16 else "int32")


def read(folder: Path) -> Population:
    """Open what :func:`write` left.

    Raises:
        UserError: a file is missing, cut or changed, or of another version; the message names it and what to do.
    """
    index = _read_index(folder)
    clients = StoredClients(folder, index)
    vocabulary = Vocabulary(tuple(index["vocabulary"]), index["unit"], index["oov_buckets"])
    classes = tuple(index.get("classes", ()))
    return trusted(Population(index["name"], clients, vocabulary, index["sequence_length"], index["about"], classes=classes))


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}, this is {VERSION}")
        if content.pop("sha256") != _digest(content):
            raise ValueError("its content does not have the SHA-256 stored with it")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"not the index of prepared data ({error!r})", folder) from error
    return content


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check(tokens: Array, lengths: Array) -> int:
    return zlib.crc32(lengths.data, zlib.crc32(tokens.data))


def _sync(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _damaged(path: Path, what: str, folder: Path) -> UserError:
    return UserError(f"{path}: {what}; delete the folder {folder}, and the data are prepared again")


class StoredClients(Indexed):
    """The clients of a prepared folder. An item is a new object every time, which reads its sequences when they are asked
    for and holds them as long as it lives."""

    def __init__(self, folder: Path, index: dict[str, Any]) -> None:
        self._folder, self.fingerprint = folder, index["fingerprint"]
        self._count: int = index["clients"]
        sequences, width = index["sequences"], index["sequence_length"] + 1
        self._maps: list[mmap.mmap] = []
        small = {name: self._small(name, kind, index["hashes"][name]) for name, kind in SMALL.items()}
        self._edges, self._checks, self._small_arrays = small["edges"], small["checks"], small
        self._tokens = self._map("tokens", index["types"]["tokens"], (sequences, width))
        self._lengths = self._map("lengths", index["types"]["lengths"], (sequences,))
        self._ids, self._groups = (_Texts(small[kind + "s"], small[kind + "_ends"]) for kind in ("id", "group"))
        self._labelled = "classes" in index
        self._unreleased = 0

    def _small(self, name: str, kind: str, sha256: str) -> Array:
        """A small array, mapped: only what is looked at takes memory."""
        path = self._folder / name
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                if digest != sha256:
                    raise _damaged(path, "damaged, its content does not have the SHA-256 stored with it", self._folder)
                return self._mapped(file, kind)
        except OSError as error:
            raise _damaged(path, f"cannot be read ({error})", self._folder) from error

    def _map(self, name: str, kind: str, shape: tuple[int, ...]) -> Array:
        """A large array, mapped."""
        path = self._folder / name
        expected = int(np.prod(shape)) * np.dtype(kind).itemsize
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != expected:
                    raise _damaged(path, f"{size} bytes where {expected} must be", self._folder)
                return self._mapped(file, kind).reshape(shape)
        except OSError as error:
            raise _damaged(path, f"cannot be read ({error})", self._folder) from error

    def _mapped(self, file: BinaryIO, kind: str) -> Array:
        if not os.fstat(file.fileno()).st_size:  # such as the groups of clients that have none
            return np.zeros(0, kind)
        self._maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return np.frombuffer(self._maps[-1], dtype=kind)

    @cached_property
    def table(self) -> Table:  # type: ignore[override]
        """See :class:`flow.data.population.Indexed`."""
        small, edges = self._small_arrays, self._edges
        train = (edges[1::2] - edges[:-1:2]).astype(np.int32)
        return Table(small["held_out"], small["texts"], train, small["scored"])

    def position(self, client_id: str) -> int:
        """See :class:`flow.data.population.Indexed`; the ids are sorted."""
        place = bisect_left(self._ids, client_id)
        if place == self._count or self._ids[place] != client_id:
            raise KeyError(client_id)
        return place

    def ids(self) -> Sequence[str]:
        """See :class:`flow.data.population.Indexed`; no client is made."""
        return self._ids

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, item: int) -> Client: ...
    @overload
    def __getitem__(self, item: slice) -> Sequence[Client]: ...
    def __getitem__(self, item: int | slice) -> Client | Sequence[Client]:
        if isinstance(item, slice):
            return tuple(self[n] for n in range(*item.indices(self._count)))
        n = int(item)
        if not -self._count <= n < self._count:
            raise IndexError(f"client {n} of {self._count}")
        n %= self._count
        own, (a, b, c) = _Own(self, n), self._edges[2 * n : 2 * n + 3].tolist()
        small = self._small_arrays
        train, test = (StoredSequences(own, rows, self._labelled) for rows in (slice(0, b - a), slice(b - a, c - a)))
        return Client(self._ids[n], self._groups[n], bool(small["held_out"][n]), int(small["texts"][n]), train, test)

    def load(self, n: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """A copy of tokens and lengths of client n, both sides.

        Raises:
            UserError: they are not what was written.
        """
        rows = slice(int(self._edges[2 * n]), int(self._edges[2 * n + 2]))
        tokens, lengths = self._tokens[rows], self._lengths[rows]
        if _check(tokens, lengths) != self._checks[n]:
            raise _damaged(self._folder / "tokens", f"damaged, client {self._ids[n]!r} is not what was written", self._folder)
        copies = tokens.astype(np.int32), lengths.astype(np.int32)
        self._unreleased += 1
        if self._unreleased >= RELEASE and hasattr(mmap, "MADV_DONTNEED"):
            # Pages that were looked at count as memory of this process until it gives them back; the system keeps them.
            self._unreleased = 0
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)
        return copies


class _Own:
    """The sequences of one client, read once."""

    def __init__(self, store: StoredClients, number: int) -> None:
        self._store, self._number = store, number

    @cached_property
    def arrays(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        return self._store.load(self._number)


class StoredSequences(Sequences):
    """One side of a client; its length is known before it is read."""

    def __init__(self, own: _Own, rows: slice, labelled: bool) -> None:
        object.__setattr__(self, "_own", own)
        object.__setattr__(self, "_rows", rows)
        object.__setattr__(self, "labelled", labelled)

    _own: _Own
    _rows: slice

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        """See :class:`flow.data.population.Sequences`."""
        return self._own.arrays[0][self._rows]

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """See :class:`flow.data.population.Sequences`."""
        return self._own.arrays[1][self._rows]

    def __len__(self) -> int:
        return int(self._rows.stop - self._rows.start)


class _Texts(Sequence[str]):
    """Short texts that lie one after the other."""

    def __init__(self, content: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> None:
        self._content, self._ends = content, ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, item: Any) -> Any:
        start = int(self._ends[item - 1]) if item else 0
        return self._content[start : int(self._ends[item])].tobytes().decode()
