"""Preparation once more: everything in memory, one client, text and token at a time, no code of the package."""

from __future__ import annotations

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flow.data.streams import Part

Window = tuple[list[int], int]
Plain = tuple[tuple[str, ...], dict[str, tuple[str, bool, int, list[Window], list[Window]]]]
"""See :func:`prepared`."""

WORD = re.compile(r"<(?:email|url|sha)>|\d+(?:[.,]\d+)+(?!\w)|\w+(?:['\u2019-]\w+)*|[^\w\s]")
SPLIT: dict[str, Callable[[str], list[str]]] = {
    "words": lambda text: WORD.findall(text.lower()),
    "characters": list,
    "spaces": lambda text: [token for token in text.split(" ") if token],
}


def sides(parts: Iterable[Part]) -> tuple[list[str], list[str]]:
    """(train, test) texts of one client."""
    rows: list[tuple[float | None, str, str]] = []
    for part in parts:
        for place, text in enumerate(part.texts):
            rows.append((None if part.times is None else part.times[place], text, part.side))
    if all(time is not None for time, _, _ in rows):
        rows.sort(key=lambda row: row[0] or 0.0)
    free = sum(side == "" for _, _, side in rows)
    limit = free * 4 // 5 if free > 1 else free
    train: list[str] = []
    test: list[str] = []
    seen = 0
    for _, text, side in rows:
        if side == "":
            side = "train" if seen < limit else "test"
            seen += 1
        {"train": train, "test": test}[side].append(text)
    return train, test


def prepared(
    parts: Iterable[Part],
    tokenizer: str,
    length: int,
    size: int,
    buckets: int,
    continuous: bool = False,
    first_only: bool = False,
    vocabulary: Sequence[str] | None = None,
    most: int = 0,
    separator: str = "\n",
) -> Plain:
    """(vocabulary, {id: (group, held_out, texts, train windows, test windows)}); a window is (tokens, length)."""
    by_client: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        by_client[part.client].append(part)
    ids = sorted(by_client, key=lambda name: (zlib.crc32(name.encode()), name))
    ids = sorted(ids[:most] if most else ids)
    clients: dict[str, tuple[str, bool, list[str], list[str]]] = {}
    for name in ids:
        splits = [part.held_out for part in by_client[name] if part.held_out is not None]
        labels: Counter[str] = Counter()
        for part in by_client[name]:
            if part.group:
                labels[part.group] += len(part.texts)
        group = max(labels, key=lambda label: labels[label]) if labels else ""
        train, test = sides(by_client[name])
        held_out = splits[0] if splits else bool(zlib.crc32(name.encode()) % 10 == 0 or (test and not train))
        clients[name] = (group, held_out, train, test)

    def pieces(side: list[str]) -> list[list[str]]:
        texts = [separator.join(side)] if continuous and side else side
        return [SPLIT[tokenizer](text) for text in texts]

    counts: Counter[str] = Counter()
    for _, held_out, train, _ in clients.values():
        if not held_out:
            for piece in pieces(train):
                counts.update(piece)
    specials = ["<pad>", "<oov>", "<bos>", "<eos>"]
    extra = [f"<oov-{n}>" for n in range(2, buckets + 1)]
    order = list(vocabulary) if vocabulary else sorted(counts, key=lambda token: (-counts[token], token))
    names = [*specials, *[token for token in order if token not in specials and token not in extra][:size], *extra]
    ids_of = {token: number for number, token in enumerate(names[: len(names) - len(extra)]) if token not in specials}

    def number(token: str) -> int:
        if token in ids_of:
            return ids_of[token]
        bucket = zlib.crc32(token.encode()) % buckets
        return 1 if bucket == 0 else len(names) - buckets + bucket

    def windows(side: list[str]) -> list[Window]:
        cut: list[Window] = []
        for piece in pieces(side):
            stream = [2, *map(number, piece), *([] if continuous else [3])]
            for begin in range(0, len(stream) - 1, length):
                window = stream[begin : begin + length + 1]
                cut.append((window + [0] * (length + 1 - len(window)), len(window) - 1))
                if first_only:
                    break
        return cut

    return tuple(names), {
        name: (group, held_out, len(train) + len(test), windows(train), windows(test))
        for name, (group, held_out, train, test) in clients.items()
    }
