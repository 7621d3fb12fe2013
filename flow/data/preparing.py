"""From a stream of texts to a population, at constant memory: what all sources of texts share.

Three passes; the second and third run on all cores, and so does the first where a stream comes in pieces:

1. The parts of clients are read, and brought together by client in the order of the ids (:mod:`flow.data.by_client`).
2. The texts of every client are put in the order of time, split, cut into tokens and numbered within a chunk of clients. The
   tokens of the training texts of clients that are not held out are counted; few of them at a time are in memory.
3. The vocabulary is chosen, the numbers become ids, and windows are cut.

Where texts have labels, a text is its first tokens in one row, and a text without any token is left out in the second pass.

The result does not depend on the number of processes, the size of the chunks, or on what fits into memory.
"""

from __future__ import annotations

import heapq
import json
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flow.data import classes
from flow.data.by_client import Job, chunks, collect, decoded, joined
from flow.data.corpus import count_windows, cut_flat, first_tokens, label_rows
from flow.data.options import DataOptions
from flow.data.population import Client, Population, Sequences, Vocabulary, bucket, check_at_least_one, check_fits
from flow.data.processes import bar, mapped, most_processes
from flow.data.spool import Blobs, Place, Sorted
from flow.data.streams import Stream
from flow.data.tokenizer import LENGTHS, LENGTHS_OF_TEXTS, UNITS, FileTokenizer, is_file, read
from flow.data.tokens import BOS, EOS, OOV, SPECIALS, SPLITTERS, Numbering, runs_on
from flow.errors import UserError, say

ROWS = 1 << 25
"""Bytes of sequences that a process gives back at a time, or one client."""
DISTINCT = 1 << 20
"""Tokens that are counted in memory; where there are more, counts are put aside on disk."""
ALONE = 1 << 24
"""Bytes of texts that are not worth a second process."""
Array = npt.NDArray[Any]


class Prepared(NamedTuple):
    """A population whose clients are made one after the other, once."""

    frame: Population
    """All of it but the clients."""
    clients: Iterator[Client]
    number: int
    """How many clients there are."""
    sequences: int
    """Of all clients, both sides."""


@dataclass(frozen=True)
class _Cutting:
    """How texts are cut: what every process knows."""

    where: str
    """Of the data, for messages."""
    tokenizer: str
    """A name in SPLITTERS, where there is no file."""
    from_file: FileTokenizer | None
    sequence_length: int
    continuous: bool
    separator: str
    first_only: bool
    counted: bool
    """Whether the vocabulary is chosen by counts."""
    labelled: bool
    """Whether texts have labels."""


class _Names(NamedTuple):
    """How tokens become ids."""

    ids: dict[str, int] | None
    """None: the numbers are ids already, of a tokenizer's file."""
    vocabulary: Vocabulary
    classes: dict[str, int]
    """The number of every class; empty where texts have no labels."""


class _Counted(NamedTuple):
    """What a process found in a chunk of clients."""

    blobs: list[bytes]
    counts: list[tuple[str, int]]
    """Of the tokens that count for the vocabulary."""
    clients: int
    held_out: int
    sequences: int
    counted: int
    """Tokens to train on, of clients that are not held out."""
    texts: int
    """That are not empty."""
    run_on: int
    """Of these, those with long runs of letters without a space."""
    labels: set[str]
    """Of the texts that have a token, where texts have labels."""
    left_out: int
    """Texts with a label and without any token."""


@contextmanager
def preparing(
    stream: Stream, options: DataOptions, place: Place, progress: bool = False, processes: int | None = None
) -> Iterator[Prepared]:
    """Prepare the texts of a stream; the clients are made while the block runs.

    Args:
        stream: the texts.
        options: of which max_clients, tokenizer, sequence_length, vocabulary_size, oov_buckets and label_column are looked at.
        place: for what does not fit into memory.
        progress: whether to draw bars on stderr.
        processes: how many work; None: as many as there are cores, or one for little data.

    Raises:
        UserError: the data are faulty, no client has anything to train on, the tokenizer's file is faulty, or there are too few
            classes or too many.
        flow.data.spool.Failed: the disk is full, or cannot be written.
    """
    cutting, about = _cutting(stream, options)
    check_at_least_one("sequence_length", cutting.sequence_length)
    check_at_least_one("vocabulary_size", options.vocabulary_size)
    check_at_least_one("oov_buckets", options.oov_buckets)
    texts = Sorted(place)
    blobs, counts = Blobs(place), _Counts(place)
    try:
        chosen = collect(stream, texts, options.max_clients, processes, progress)
        if processes is None:
            processes = most_processes(texts.nbytes > ALONE)
        count, held_out, sequences, counted, nonempty, run_on, left_out = np.zeros(7, np.int64).tolist()
        labels: set[str] = set()
        with bar("counting", texts.nbytes, progress, "B") as progress_bar:
            jobs = chunks(texts, chosen, progress_bar)
            for chunk in mapped(_count, jobs, cutting, processes):
                for blob in chunk.blobs:
                    blobs.add(blob)
                counts.add(chunk.counts)
                count, held_out = count + chunk.clients, held_out + chunk.held_out
                sequences, counted = sequences + chunk.sequences, counted + chunk.counted
                nonempty, run_on, left_out = nonempty + chunk.texts, run_on + chunk.run_on, left_out + chunk.left_out
                labels |= chunk.labels
                classes.check_most(labels, cutting.where, options.label_column)
        texts.close()
        if not counted:
            raise UserError(
                f"{cutting.where}: no training clients: of {count} clients {held_out} are held out and no other has a word to "
                "train on; give at least one client that is not held out and has a text that is not empty (and raise "
                "max_clients where it is set)"
            )
        if cutting.tokenizer == "words" and 2 * run_on > nonempty:
            say(
                f"{cutting.where}: {run_on} of {nonempty} texts have long runs of letters without a space, each of them one "
                "word; give --tokenizer characters, or --tokenizer FILE.json (docs/data.md)"
            )
        if left_out:
            say(
                f"{cutting.where}: {left_out} of {sequences + left_out} texts have no token and are left out, for nothing says "
                "their class"
            )
        of_texts = classes.in_order(labels, cutting.where, options.label_column) if cutting.labelled else ()
        names = _names(stream, cutting, counts, options, of_texts)
        counts.close()
        frame = Population(stream.name, (), names.vocabulary, cutting.sequence_length, about, classes=of_texts)
        yield Prepared(frame, _clients(blobs, cutting, names, processes), count, sequences)
    finally:
        for store in (texts, blobs, counts):
            store.close()


def in_memory(stream: Stream, options: DataOptions, progress: bool = False, processes: int | None = None) -> Population:
    """The population of a stream, with its clients in memory.

    Raises:
        UserError: see :func:`preparing`.
        MemoryError: the sequences do not fit into memory.
    """
    with Place(None) as place, preparing(stream, options, place, progress, processes) as made:
        check_fits(made.sequences, made.frame.sequence_length)
        return replace(made.frame, clients=tuple(made.clients))


def _cutting(stream: Stream, options: DataOptions) -> tuple[_Cutting, str]:
    tokenizer = options.tokenizer or stream.tokenizer
    from_file, about = None, stream.about
    if is_file(tokenizer):
        from_file = read(Path(tokenizer))
        about = f"{about}; tokens by {from_file.about}"
    labelled = options.label_column is not None
    unit = UNITS.get(tokenizer, "token")
    own = stream.sequence_length if tokenizer == stream.tokenizer else LENGTHS[unit]
    length = options.sequence_length or (LENGTHS_OF_TEXTS[unit] if labelled else own)
    counted = from_file is None and (stream.vocabulary is None or tokenizer != stream.tokenizer)
    where = f"data={stream.path or stream.name!r}"
    continuous = stream.continuous and not labelled
    return _Cutting(
        where, tokenizer, from_file, length, continuous, stream.separator, stream.first_only, counted, labelled
    ), about  # fmt: skip


# --- 2: tokens, numbered within a chunk -------------------------------------------------------------------------------

_COUNTS = struct.Struct("<5Q")


def _count(job: Job, cutting: _Cutting) -> _Counted:
    """Split and number a chunk of clients, and count."""
    clients = [joined(key.decode(), decoded(key.decode(), parts), cutting.where) for key, parts in job]
    sides = [side for client in clients for side in (client.train, client.test)]
    pieces = [[cutting.separator.join(side)] if cutting.continuous and side else side for side in sides]
    numbering = Numbering()
    if cutting.from_file is None:
        split, number = SPLITTERS[cutting.tokenizer], numbering.__getitem__
        numbers: list[int] = []
        lengths = []
        for side in pieces:
            for piece in side:
                tokens = split(piece)
                lengths.append(len(tokens))
                numbers += map(number, tokens)
        flat, sizes = np.array(numbers, dtype=np.int32), np.array(lengths, dtype=np.int64)
    else:
        encoded = cutting.from_file.encode([piece for side in pieces for piece in side])
        flat = np.concatenate([np.zeros(0, np.int32), *encoded])
        sizes = np.array([len(piece) for piece in encoded], dtype=np.int64)
    in_chunk = list(numbering)
    per_side = np.array([len(side) for side in pieces], dtype=np.int64)
    held_out = np.array([client.held_out for client in clients])
    counts = np.repeat(np.stack([~held_out, np.zeros_like(held_out)], axis=1).ravel(), per_side)  # bool, of every piece
    counting = flat[np.repeat(counts, sizes)]
    by_number = np.bincount(counting, minlength=len(in_chunk)) if cutting.counted else np.zeros(0, np.int64)
    check_fits(1, cutting.sequence_length)
    total, of_texts = len(sizes), Numbering()
    if cutting.labelled:
        labels = (label for client in clients for side in (client.train_labels, client.test_labels) for label in side)
        kept = sizes > 0
        numbered = [of_texts[label] if keeps else 0 for label, keeps in zip(labels, kept.tolist(), strict=True)]
        per_side = np.bincount(np.repeat(np.arange(len(per_side)), per_side)[kept], minlength=len(per_side))
        flat, sizes = first_tokens(flat, sizes[kept], cutting.sequence_length)
        windows, classes_of = np.ones(len(sizes), np.int64), np.array(numbered, dtype=np.int32)[kept]
        texts = per_side.reshape(-1, 2).sum(axis=1).tolist()
    else:
        windows, classes_of = _windows(sizes, cutting), np.zeros(0, np.int32)
        texts = [len(client.train) + len(client.test) for client in clients]
    heads = [(client.id, client.group, client.held_out, count) for client, count in zip(clients, texts, strict=True)]
    pieces_of_chunk = _Pieces(flat, sizes, per_side, windows, classes_of)
    blobs = list(_blobs(heads, in_chunk, list(of_texts), pieces_of_chunk, cutting.sequence_length))
    return _Counted(
        blobs,
        [(token, int(by_number[n])) for n, token in enumerate(in_chunk) if by_number[n]] if cutting.counted else [],
        len(clients),
        int(held_out.sum()),
        int(windows.sum()),
        len(counting),
        sum(len(side) - side.count("") for side in sides),
        sum(map(runs_on, chain.from_iterable(sides))) if cutting.tokenizer == "words" else 0,
        set(of_texts),
        total - len(sizes),
    )


def _windows(sizes: Array, cutting: _Cutting) -> Array:
    """int64 [n]: how many sequences pieces of so many tokens become."""
    windows = count_windows(sizes + (1 if cutting.continuous else 2), cutting.sequence_length)
    return np.minimum(windows, 1) if cutting.first_only else windows


class _Pieces(NamedTuple):
    """The pieces of text of a chunk, client by client, the training ones first."""

    flat: Array
    """int32: the numbers of their tokens, one after the other."""
    sizes: Array
    """int64 [n]: the tokens of every piece."""
    per_side: Array
    """int64 [2 N]: the pieces of every side of a client."""
    windows: Array
    """int64 [n]: the sequences that every piece becomes."""
    classes: Array
    """int32 [n]: the number of every piece's label; empty where texts have none."""


def _blobs(
    clients: list[tuple[str, str, bool, int]], words: list[str], labels: list[str], pieces: _Pieces, length: int
) -> Iterator[bytes]:
    """The clients in bytes, in parts that become few sequences at a time."""
    flat, sizes, per_side, windows, classes_of = pieces
    piece_ends = np.concatenate([[0], np.cumsum(per_side)])[::2]  # of every client
    rows = np.add.reduceat(np.append(windows, 0), piece_ends[:-1]) * (np.diff(piece_ends) > 0)
    token_ends = np.concatenate([[0], np.cumsum(sizes)])
    begin = 0
    most = max(1, ROWS // ((length + 1) * 4))
    while begin < len(clients):
        end = begin + max(1, int(np.searchsorted(np.cumsum(rows[begin:]), most, side="right")))
        part = slice(int(piece_ends[begin]), int(piece_ends[min(end, len(clients))]))
        own = flat[token_ends[part.start] : token_ends[part.stop]]
        used, numbers = np.unique(own, return_inverse=True) if words else (np.zeros(0, np.int64), own)
        head = json.dumps(
            [
                clients[begin:end],
                [words[number] for number in used.tolist()],
                labels,
            ]
        ).encode()
        arrays = (per_side[2 * begin : 2 * end], sizes[part], numbers.astype(np.int32), classes_of[part])
        yield _COUNTS.pack(len(head), *map(len, arrays)) + head + b"".join(array.tobytes() for array in arrays)
        begin = end


class _Counts:
    """How often every token occurs; of many tokens most are on disk."""

    def __init__(self, place: Place) -> None:
        self._held: dict[str, int] = {}
        self._sorted = Sorted(place)

    def add(self, counts: Iterable[tuple[str, int]]) -> None:
        """Take the counts of a chunk in."""
        held = self._held
        for token, count in counts:
            held[token] = held.get(token, 0) + count
        if len(held) > DISTINCT:
            self._put_aside()

    def _put_aside(self) -> None:
        for token, count in self._held.items():
            self._sorted.add(token.encode(), count.to_bytes(8, "little"))
        self._held = {}

    def most_frequent(self, size: int) -> list[str]:
        """The tokens that occur most often, equally frequent ones in the order of their text."""
        everything: Iterable[tuple[str, int]] = self._held.items()
        if self._sorted.nbytes:
            self._put_aside()
            everything = (
                (token.decode(), sum(int.from_bytes(count, "little") for _, count in counts))
                for token, counts in groupby(self._sorted, key=itemgetter(0))
            )
        return [token for token, _ in heapq.nsmallest(size, everything, key=lambda item: (-item[1], item[0]))]

    def close(self) -> None:
        """Give memory and disk back."""
        self._held = {}
        self._sorted.close()


# --- 3: the vocabulary, ids and windows -------------------------------------------------------------------------------


def _names(
    stream: Stream, cutting: _Cutting, counts: _Counts, options: DataOptions, of_texts: tuple[str, ...]
) -> _Names:  # fmt: skip
    numbers = {label: number for number, label in enumerate(of_texts)}
    if cutting.from_file is not None:
        return _Names(None, cutting.from_file.vocabulary, numbers)
    extra = tuple(f"<oov-{n}>" for n in range(2, options.oov_buckets + 1))
    reserved = {*SPECIALS, *extra}
    if cutting.counted:
        candidates = counts.most_frequent(min(options.vocabulary_size + len(reserved), 2**62))
    else:
        candidates = list(dict.fromkeys(stream.vocabulary or ()))
    chosen = [token for token in candidates if token not in reserved][: options.vocabulary_size]
    vocabulary = Vocabulary((*SPECIALS, *chosen, *extra), UNITS[cutting.tokenizer], options.oov_buckets)
    return _Names({token: number for number, token in enumerate(chosen, len(SPECIALS))}, vocabulary, numbers)


def _clients(blobs: Blobs, cutting: _Cutting, names: _Names, processes: int) -> Iterator[Client]:
    for heads, ends, tokens, lengths in mapped(_cut, iter(blobs), (cutting, names), processes):
        for n, (client_id, group, held_out, texts) in enumerate(heads):
            a, b, c = ends[2 * n : 2 * n + 3].tolist()
            train, test = (
                Sequences(tokens[rows].astype(np.int32), lengths[rows], cutting.labelled) for rows in (slice(a, b), slice(b, c))
            )
            yield Client(client_id, group, held_out, texts, train, test)


def _cut(blob: bytes, shared: tuple[_Cutting, _Names]) -> tuple[list[Any], Array, Array, Array]:
    """(id, group, held_out, texts) of every client; int64 [2 N + 1], where its sides end; tokens; lengths."""
    cutting, names = shared
    of_head, sides, pieces, count, labelled = _COUNTS.unpack_from(blob)
    at = _COUNTS.size + of_head
    clients, words, labels = json.loads(blob[_COUNTS.size : at])
    per_side = np.frombuffer(blob, np.int64, sides, at)
    sizes = np.frombuffer(blob, np.int64, pieces, at + 8 * sides)
    numbers = np.frombuffer(blob, np.int32, count, at + 8 * (sides + pieces))
    if names.ids is not None:
        known, oov = names.ids, names.vocabulary.oov
        ids = np.array([known.get(word, OOV) for word in words], dtype=np.int32)
        if len(oov) > 1:
            unknown = np.flatnonzero(ids == OOV).tolist()
            ids[unknown] = [oov[bucket(words[n], len(oov))] for n in unknown]
        numbers = ids[numbers] if words else numbers
    small = np.dtype("uint16" if max(len(names.vocabulary), len(names.classes)) <= 1 << 16 else "int32")
    if cutting.labelled:
        in_chunk = np.frombuffer(blob, np.int32, labelled, at + 8 * (sides + pieces) + 4 * count)
        of_texts = np.array([names.classes[label] for label in labels], dtype=np.int32)
        rows = label_rows(numbers, sizes, of_texts[in_chunk], cutting.sequence_length)
        return clients, np.concatenate([[0], np.cumsum(per_side)]), rows.tokens.astype(small), rows.lengths
    edges = 1 if cutting.continuous else 2
    ends = np.cumsum(sizes + edges)
    flat = np.full(int(ends[-1]) if pieces else 0, EOS, dtype=np.int32)
    begins = ends - sizes - edges
    flat[begins] = BOS
    inner = np.ones(len(flat), dtype=np.bool_)
    inner[begins] = False
    if not cutting.continuous:
        inner[ends - 1] = False
    flat[inner] = numbers
    sequences = cut_flat(flat, sizes + edges, cutting.sequence_length, cutting.first_only)
    of_pieces = np.concatenate([[0], np.cumsum(_windows(sizes, cutting))])
    side_ends = of_pieces[np.concatenate([[0], np.cumsum(per_side)])]
    return clients, side_ends, sequences.tokens.astype(small), sequences.lengths
