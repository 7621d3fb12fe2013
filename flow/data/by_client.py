"""The parts of clients, brought together by client in the order of the ids: the first pass of :mod:`flow.data.preparing`."""

from __future__ import annotations

import heapq
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, compress, groupby, islice
from operator import itemgetter
from typing import Any, NamedTuple

from flow.data.corpus import boundary, client_hash, is_held_out
from flow.data.processes import bar, mapped, most_processes
from flow.data.spool import Sorted
from flow.data.streams import TEST, TRAIN, Part, Piece, Stream
from flow.errors import UserError
from flow.terminal.progress import Progress

CHUNK = 1 << 21
"""Bytes of texts that a process gets at a time, or one client."""
FEW = 8
"""Pieces that are not worth a second process."""
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


class ClientTexts(NamedTuple):
    """A client whose texts are in the order of time and split in two."""

    id: str
    group: str
    held_out: bool
    train: list[str]
    test: list[str]
    train_labels: list[str]
    """Of every text, where texts have labels."""
    test_labels: list[str]


class _Read(NamedTuple):
    """A piece of the data, read in a process."""

    parts: list[tuple[str, bytes]]
    """Client and content of every part."""
    position: int
    """Of the last one, see :class:`flow.data.streams.Part`."""


def collect(stream: Stream, texts: Sorted, max_clients: int, processes: int | None, progress: bool) -> frozenset[bytes] | None:
    """Read all parts into ``texts``, whose records have a client's id as key.

    Args:
        max_clients: how many clients are kept, 0 for all of them.
        processes: how many read the pieces of a stream that has some; None: as many as there are cores, or one for few pieces.

    Returns:
        The ids of the clients to keep, of which alone the texts are complete; None for all of them.
    """
    where = f"data={stream.path or stream.name!r}"
    first = _First(max_clients) if max_clients else None
    pieces = iter(()) if stream.pieces is None else stream.pieces()
    begin = list(islice(pieces, FEW))
    processes = most_processes(len(begin) == FEW) if processes is None else processes
    with bar("reading", stream.total, progress, "") as progress_bar:
        if processes < 2 or not begin:
            _read_here(stream, texts, first, where, progress_bar)
        else:
            for read in mapped(_read_piece, chain(begin, pieces), where, processes):
                for client, own in groupby(read.parts, key=itemgetter(0)):
                    if first is None or first.takes(client):
                        key = client.encode()
                        for _, content in own:
                            texts.add(key, content)
                progress_bar.update(read.position - progress_bar.count)
    return None if first is None else first.ids()


def _read_here(stream: Stream, texts: Sorted, first: _First | None, where: str, progress_bar: Progress[None]) -> None:
    previous, kept = None, True
    for part in stream.parts():
        if part.client != previous:
            previous = part.client
            try:
                kept = first is None or first.takes(previous)
            except UnicodeEncodeError as error:
                raise _no_character(part, where) from error
        if part.position > progress_bar.count:
            progress_bar.update(part.position - progress_bar.count)
        if kept:
            texts.add(*_encoded(part, where))


def _read_piece(piece: Piece, where: str) -> _Read:
    """Read in a process what a piece of the data holds."""
    position, parts = 0, []
    for part in piece():
        parts.append((part.client, _encoded(part, where)[1]))
        position = part.position
    return _Read(parts, position)


def _encoded(part: Part, where: str) -> tuple[bytes, bytes]:
    """Key and content of a part's record."""
    if part.times is not None and not all(map(math.isfinite, part.times)):
        raise UserError(f"{where}, {part.place}: client {part.client!r} has a time that is no finite number; correct it")
    try:
        fields: list[Any] = [list(part.texts), None if part.times is None else list(part.times), *part[3:7]]
        if part.labels is not None:
            fields += [0, list(part.labels)]  # 0: the position, which nobody asks for any more
        return part.client.encode(), _encode(fields).encode()
    except UnicodeEncodeError as error:
        raise _no_character(part, where) from error


def _no_character(part: Part, where: str) -> UserError:
    return UserError(
        f"{where}, {part.place}: client {part.client[:80]!r} holds half of a surrogate pair, which is no character; remove the "
        "escape (\\ud800 to \\udfff)"
    )


def decoded(client_id: str, contents: Iterable[bytes]) -> list[Part]:
    """The parts of a client, of the contents of its records."""
    return [Part(client_id, *json.loads(content)) for content in contents]


class _First:
    """The first N clients in the order of the crc32 of their ids; few more than N are held."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: set[tuple[int, str]] = set()
        self._last: tuple[int, str] | None = None

    def takes(self, client_id: str) -> bool:
        """Whether the client may be one of them, by what was seen so far."""
        candidate = client_hash(client_id), client_id
        if self._last is not None and candidate > self._last:
            return False
        self._held.add(candidate)
        if len(self._held) >= 2 * self._count:
            kept = heapq.nsmallest(self._count, self._held)
            self._held, self._last = set(kept), kept[-1]
        return True

    def ids(self) -> frozenset[bytes]:
        """The ids of all of them."""
        return frozenset(client_id.encode() for _, client_id in heapq.nsmallest(self._count, self._held))


Job = list[tuple[bytes, list[bytes]]]


def chunks(texts: Sorted, chosen: frozenset[bytes] | None, progress_bar: Progress[None]) -> Iterator[Job]:
    """Clients with all of their parts, as many as one process gets at a time."""
    job: Job = []
    held = 0
    for key, records in groupby(texts, key=itemgetter(0)):
        parts = [content for _, content in records]
        size = sum(map(len, parts))
        progress_bar.update(size)
        if chosen is not None and key not in chosen:
            continue
        job.append((key, parts))
        held += size
        if held >= CHUNK:
            yield job
            job, held = [], 0
    if job:
        yield job


def joined(client_id: str, parts: Sequence[Part], where: str = "data") -> ClientTexts:
    """A client of all its parts, in the order in which they were read.

    Raises:
        UserError: the parts disagree on whether the client is held out.
        ValueError: some texts have labels and others have none, which is a mistake of the reader.
    """
    splits = {part.held_out for part in parts} - {None}
    if len(splits) > 1:
        place = next(part.place for part in parts if part.held_out is not None and part.held_out != parts[0].held_out)
        raise UserError(
            f"{where}, {place}: client {client_id!r} is held out here and trains elsewhere, or the other way round; give all "
            "of its texts one split"
        )
    texts = [text for part in parts for text in part.texts]
    labels = [label for part in parts if part.labels is not None for _, label in zip(part.texts, part.labels, strict=True)]
    if labels and len(labels) != len(texts):
        raise ValueError(f"{where}: client {client_id!r} has {len(texts)} texts and {len(labels)} labels")
    sides = [part.side for part in parts for _ in part.texts] if any(part.side for part in parts) else []
    with_texts = [part for part in parts if part.texts]
    if all(part.times is not None for part in with_texts):
        times = [time for part in with_texts for time in part.times or ()]
        if times != sorted(times):
            order = sorted(range(len(texts)), key=times.__getitem__)
            texts = [texts[place] for place in order]
            sides = [sides[place] for place in order] if sides else []
            labels = [labels[place] for place in order] if labels else []
    groups: Counter[str] = Counter()
    for part in parts:
        if part.group:
            groups[part.group] += len(part.texts)
    group = max(groups, key=groups.__getitem__) if groups else ""
    if sides:
        trains = _to_train_on(sides)
        tests = [not is_train for is_train in trains]
        train, test = list(compress(texts, trains)), list(compress(texts, tests))
        train_labels, test_labels = list(compress(labels, trains)), list(compress(labels, tests))
    else:
        end = boundary(len(texts))
        train, test = texts[:end], texts[end:]
        train_labels, test_labels = labels[:end], labels[end:]
    held_out = splits.pop() if splits else is_held_out(client_id) or (bool(test) and not train)
    return ClientTexts(client_id, group, bool(held_out), train, test, train_labels, test_labels)


def _to_train_on(sides: Sequence[str]) -> list[bool]:
    """Whether each text is on the training side; texts without a side are split by their order."""
    trains: list[bool] = []
    end, without_side = boundary(sides.count("")), 0
    for side in sides:
        if not side:
            without_side += 1
        trains.append(side == TRAIN or (side != TEST and without_side <= end))
    return trains
