"""Data sources. Whatever the source, `load` gives the same: clients with texts, split by client and by time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from flow.data import jsonl, prepared, shakespeare, synthetic
from flow.data.population import (
    Client,
    Corpus,
    Population,
    Sequences,
    Vocabulary,
    build_population,
    check_at_least_one,
    client_hash,
)

__all__ = ["Client", "DataOptions", "Population", "Sequences", "Vocabulary", "load", "prepared_folder"]

SOURCES = ("shakespeare", "synthetic")


@dataclass(frozen=True)
class DataOptions:
    """Which data set, and how it is cut."""

    data: str = "shakespeare"
    """The data set: "shakespeare" (next character), the path of your own .jsonl or .jsonl.gz file (next word), or
    "synthetic" (next word, of no meaning, any number of clients)."""

    sequence_length: int = 0
    """Targets per training sequence; 0: the source's own default, 80 characters or 20 words."""

    vocabulary_size: int = 10_000
    """How many of the most frequent tokens get an id, counted on the training clients' training texts only."""

    oov_buckets: int = 1
    """How many ids the other tokens share, by their hash. (FedRecon: 500.)"""

    max_clients: int = 0
    """Take only the first N clients in the order of the crc32 of their ids; 0: all."""

    clients: int | None = None
    """Clients of "synthetic", one in ten of them held out. None: 1000. (StackOverflow: 342,477 that train.)"""

    sequences: int | None = None
    """Training sequences of a client of "synthetic", on average; most have fewer, few have many. None: 64. (StackOverflow:
    397.)"""

    data_seed: int | None = None
    """Decides the clients of "synthetic". None: 0."""


def load(options: DataOptions, progress: bool = False) -> Population:
    """A data set split, numbered and cut; the same options and file always give the same population.

    What was read once is kept prepared, see docs/data.md: the next time it is opened, not read again.

    Args:
        options: which data.
        progress: whether to draw a bar on stderr while data are being prepared.

    Raises ValueError (an option out of range, an unknown source, a faulty file, no training clients, damaged prepared
    data), FileNotFoundError, ModuleNotFoundError (the plays' package is missing), RuntimeError (it is another version) or
    OSError (nothing can be written where prepared data are kept).
    """
    # Said before anything is read: a large file takes a while.
    _check(options)
    folder = prepared_folder(options)
    if folder is None:
        return _build(options)
    if not (folder / prepared.INDEX).is_file():
        population = _build(options)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            prepared.write(folder, population, progress)
        except OSError as error:
            raise OSError(
                f"FLOW_CACHE={str(folder.parent)!r}: prepared data cannot be kept there ({error}); set this variable of the "
                "environment to a folder that you may write to, or set it empty to prepare them anew every time"
            ) from error
    return prepared.read(folder)


def prepared_folder(options: DataOptions) -> Path | None:
    """Where a data set is kept once it is prepared: below $FLOW_CACHE, by default ~/.cache/flow; None where that is empty.

    Its name tells data, options and the code that reads them apart: what has changed is prepared anew.

    Raises as :func:`load`.
    """
    root = os.environ.get("FLOW_CACHE")
    if root is None:
        root = str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flow")
    if not root:
        return None
    name, digest = _source(options.data)
    key = hashlib.sha256(json.dumps([asdict(options) | {"data": digest}, prepared.VERSION], sort_keys=True).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        key.update(path.read_bytes())
    return Path(root) / f"{name}-{key.hexdigest()[:20]}"


def _check(options: DataOptions) -> None:
    if options.data not in SOURCES and not options.data.endswith(jsonl.SUFFIXES):
        raise ValueError(
            f"data={options.data!r}: no such data set; give one of the known names ({', '.join(SOURCES)}), or the path of a "
            "file of your own, which must end in .jsonl or .jsonl.gz and exist"
        )
    if options.sequence_length != 0:
        check_at_least_one("sequence_length", options.sequence_length, "or 0 for the source's own default")
    check_at_least_one("vocabulary_size", options.vocabulary_size)
    check_at_least_one("oov_buckets", options.oov_buckets)
    if options.max_clients != 0:
        check_at_least_one("max_clients", options.max_clients, "or 0 for all clients")
    for name in synthetic.Shape._fields:
        value = getattr(options, name)
        if value is None:
            continue
        if options.data != "synthetic":
            raise ValueError(f"{name}={value!r} is an option of data='synthetic', not of data={options.data!r}; leave it out")
        if name != "data_seed":
            check_at_least_one(name, value)
        elif value < 0:
            raise ValueError(f"data_seed={value!r} must be at least 0; leave it out for the default, 0")
    if options.data == "synthetic" and options.max_clients:
        raise ValueError(f"max_clients={options.max_clients!r} takes clients of a file; for data='synthetic' give clients")


def _source(data: str) -> tuple[str, str]:
    """The name of a source, and what tells its content apart."""
    if data == "shakespeare":
        plays = hashlib.sha256(json.dumps(shakespeare.read_plays(), sort_keys=True).encode())
        return data, plays.hexdigest()
    if data == "synthetic":
        return data, data
    path = Path(data)
    jsonl.check_file(path)
    with path.open("rb") as file:
        return jsonl.name_of(path), f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def _build(options: DataOptions) -> Population:
    """Read, split, number and cut."""
    if options.data == "synthetic":
        given = {name: getattr(options, name) for name in synthetic.Shape._fields}
        shape = synthetic.Shape(**{name: value for name, value in given.items() if value is not None})
        length = options.sequence_length or synthetic.SEQUENCE_LENGTH
        return synthetic.population(shape, length, options.vocabulary_size, options.oov_buckets)
    read: Callable[[], Corpus] = shakespeare.read if options.data == "shakespeare" else lambda: jsonl.read(Path(options.data))
    corpus = read()
    if options.max_clients:
        chosen = sorted(corpus.clients, key=lambda client: (client_hash(client.id), client.id))[: options.max_clients]
        corpus = replace(corpus, clients=tuple(chosen))
    length = options.sequence_length or corpus.sequence_length
    return build_population(corpus, length, options.vocabulary_size, options.oov_buckets)
