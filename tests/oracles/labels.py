"""Labelled texts once more: lists and loops, one text at a time, made a population by ``Population.from_arrays``."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from flow.data import Population, Vocabulary
from oracles.preparation import SPLIT

UNITS = {"words": "word", "characters": "character", "spaces": "token"}


class Row(NamedTuple):
    """A labelled text."""

    client: str
    text: str
    label: str
    time: float = 0.0
    group: str = ""
    side: str = ""
    held_out: bool | None = None


def population(
    rows: Iterable[Row],
    tokenizer: str = "words",
    length: int = 0,
    size: int = 10_000,
    buckets: int = 1,
    most: int = 0,
    encode: Callable[[str], list[int]] | None = None,
    vocabulary: Vocabulary | None = None,
) -> Population:
    """The clients of these rows.

    Args:
        length: tokens of a text that are kept; 0 for the default of the tokenizer.
        size: most frequent tokens that have an id.
        buckets: ids of unknown tokens.
        most: clients that are taken, 0 for all.
        encode: cuts and numbers a text, with ``vocabulary``; None: the tokenizer does.
    """
    by_client: dict[str, list[Row]] = {}
    for row in rows:
        by_client.setdefault(row.client, []).append(row)
    ranked = sorted(by_client, key=lambda name: (zlib.crc32(name.encode()), name))
    names = ranked[:most] if most else ranked
    length = length or (256 if tokenizer == "characters" else 64)
    split: dict[str, tuple[bool, list[Row], list[Row]]] = {}
    for name in names:
        own = sorted(by_client[name], key=lambda row: row.time)
        free = [row for row in own if not row.side]
        early = {id(row) for row in free[: max(len(free) * 4 // 5, 1)]}
        train = [row for row in own if row.side == "train" or id(row) in early]
        test = [row for row in own if row.side == "test" or (not row.side and id(row) not in early)]
        given = {row.held_out for row in own} - {None}
        held_out = given.pop() if given else zlib.crc32(name.encode()) % 10 == 0 or (bool(test) and not train)
        split[name] = bool(held_out), train, test
    if encode is None:
        counts = Counter(
            token
            for held_out, train, _ in split.values()
            if not held_out
            for row in train
            for token in SPLIT[tokenizer](row.text)
        )
        extra = [f"<oov-{n}>" for n in range(2, buckets + 1)]
        specials = ["<pad>", "<oov>", "<bos>", "<eos>"]
        frequent = sorted(
            (token for token in counts if token not in [*specials, *extra]), key=lambda token: (-counts[token], token)
        )[:size]
        tokens = [*specials, *frequent, *extra]
        vocabulary = Vocabulary(tuple(tokens), UNITS[tokenizer], buckets)
        numbers = {token: 4 + n for n, token in enumerate(frequent)}

        def encode(text: str) -> list[int]:
            unknown = [1, *range(len(tokens) - buckets + 1, len(tokens))]
            return [
                numbers[token] if token in numbers else unknown[zlib.crc32(token.encode()) % buckets]
                for token in SPLIT[tokenizer](text)
            ]

    kept = {name: [[row for row in side if encode(row.text)] for side in sides[1:]] for name, sides in split.items()}
    labels = {row.label for sides in kept.values() for side in sides for row in side}
    whole = all(re.fullmatch(r"[+-]?\d+", label, re.ASCII) for label in labels)
    classes = sorted(labels, key=lambda label: (int(label), label)) if whole else sorted(labels)
    clients: dict[str, dict[str, Any]] = {}
    for name, sides in kept.items():
        groups = [row.group for row in by_client[name] if row.group]
        clients[name] = {"held_out": split[name][0], "group": max(groups, key=groups.count) if groups else ""}
        for side, own in zip(("train", "test"), sides, strict=True):
            padded = np.zeros((len(own), length), np.int64)
            lengths = np.zeros(len(own), np.int64)
            for place, row in enumerate(own):
                ids = encode(row.text)[:length]
                padded[place, : len(ids)], lengths[place] = ids, len(ids)
            clients[name] |= {
                side: padded,
                f"{side}_lengths": lengths,
                f"{side}_labels": np.array([classes.index(row.label) for row in own], dtype=np.int64),
            }
    assert vocabulary is not None
    return Population.from_arrays(clients, vocabulary=vocabulary, classes=classes)


def same(made: Population, expected: Population) -> None:
    """Assert that two populations are the same, array for array."""
    assert made.vocabulary == expected.vocabulary
    assert (made.classes, made.outputs, made.sequence_length) == (expected.classes, expected.outputs, expected.sequence_length)
    assert [client.id for client in made.clients] == [client.id for client in expected.clients]
    for own, wanted in zip(made.clients, expected.clients, strict=True):
        assert (own.group, own.held_out, own.texts) == (wanted.group, wanted.held_out, wanted.texts), own.id
        for side in ("train", "test"):
            got, want = getattr(own, side), getattr(wanted, side)
            assert got.labelled and len(got) == len(want), own.id
            for name in ("tokens", "lengths", "targets", "valid", "texts"):
                assert np.array_equal(getattr(got, name), getattr(want, name)), (own.id, side, name)
    assert made.fingerprint == expected.fingerprint
    assert np.array_equal(made.scored, expected.scored)
    for got, want in zip(made.table, expected.table, strict=True):
        assert np.array_equal(got, want)
