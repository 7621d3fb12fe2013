"""What a data set is like, before anything is trained on it: sizes, unknown words, near-duplicates, and some of its texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flow.data.corpus import client_hash
from flow.data.duplicates import kept
from flow.data.population import Population
from flow.data.processes import bar
from flow.data.streams import Stream
from flow.data.tokens import OOV, SPECIALS
from flow.terminal.progress import Progress

QUANTILES = (0.1, 0.5, 0.9, 1.0)
CLIENTS = 1000
"""Clients whose texts are looked at for near-duplicates: the first in the order of the crc32 of their ids."""
TEXTS = 1000
"""Texts of each of them that are looked at, the first ones that are read."""
CHARACTERS = 1 << 16
"""Of each of them that are looked at, whole texts up to the first that passes this number, which is cut off there: a few long
texts take no more memory than many short ones."""


class Sizes(NamedTuple):
    """How much all clients have."""

    clients: int
    held_out: int
    texts: int
    tokens: int
    """Words, characters or tokens, known or not; neither beginnings nor ends, and of texts with labels not what is cut
    off."""
    unknown: float
    """The share of them that the vocabulary does not have."""
    texts_of_client: tuple[float, ...]
    """At each of QUANTILES."""
    tokens_of_client: tuple[float, ...]
    texts_of_class: tuple[int, ...] = ()
    """In the order of the population's classes; empty where texts have no labels."""


class Sample(NamedTuple):
    """A text as it is read, its first CHARACTERS characters at most."""

    client: str
    group: str
    text: str
    label: str = ""
    """Its class, where texts have labels."""


class Texts(NamedTuple):
    """What the texts of some clients are like."""

    near: int
    """Texts that are near-duplicates of one of the same client before them, see :func:`flow.data.duplicates.kept`."""
    looked_at: int
    clients: int
    samples: tuple[Sample, ...]


def sizes(population: Population, progress: bool = False) -> Sizes:
    """Count; every client is read once, and none is kept."""
    oov = np.zeros(len(population.vocabulary), dtype=np.bool_)
    oov[list(population.vocabulary.oov)] = True
    tokens = np.zeros(len(population.clients), dtype=np.int64)
    unknown = 0
    of_class = np.zeros(len(population.classes), dtype=np.int64)
    clients: Iterable[int] = range(len(tokens))
    for place in Progress(clients, what="counting", unit="client", total=len(tokens), delay=1, visible=progress):
        client = population.clients[place]
        for side in (client.train, client.test):
            inside = (
                side.tokens[:, :-1] if side.labelled else side.tokens[:, 1:]
            )  # without labels, or without what begins a window
            words = ((inside == OOV) | (inside >= len(SPECIALS))) & (np.arange(inside.shape[1]) < side.lengths[:, None])
            tokens[place] += words.sum()
            unknown += int((oov[inside] & words).sum())
            if side.labelled:
                of_class += np.bincount(side.tokens[:, -1], minlength=len(of_class))
    total, table = int(tokens.sum()), population.table
    return Sizes(
        len(tokens), int(table.held_out.sum()), int(table.texts.sum()), total, unknown / max(total, 1),
        _quantiles(table.texts), _quantiles(tokens), tuple(of_class.tolist()),
    )  # fmt: skip


def _quantiles(values: npt.NDArray[np.integer]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.quantile(values, QUANTILES))


def texts(stream: Stream, ids: Sequence[str], wanted: int, progress: bool = False) -> Texts:
    """Read the texts of some clients once more.

    Args:
        ids: of the clients of the population.
        wanted: how many texts to show, each of another client where there are so many.
    """
    chosen = sorted(ids, key=lambda name: (client_hash(name), name))[:CLIENTS]
    held: dict[str, list[str]] = {name: [] for name in chosen}
    labels: dict[str, list[str]] = {name: [] for name in chosen}
    size = dict.fromkeys(chosen, 0)
    first: dict[str, Sample] = {}
    position = 0
    with bar("reading", stream.total, progress, "") as reading:
        for part in stream.parts():
            own = held.get(part.client)
            if own is not None:
                for text, label in zip(part.texts, part.labels or [""] * len(part.texts), strict=True):
                    if len(own) >= TEXTS or size[part.client] >= CHARACTERS:
                        break
                    own.append(text[: CHARACTERS - size[part.client]])
                    labels[part.client].append(label)
                    size[part.client] += len(text)
                if part.texts and part.client not in first:
                    label = part.labels[0] if part.labels else ""
                    first[part.client] = Sample(part.client, part.group, part.texts[0][:CHARACTERS], label)
            reading.update(max(part.position - position, 0))
            position = max(part.position, position)
    looked_at = sum(map(len, held.values()))
    samples = [first[name] for name in chosen if name in first][:wanted]
    seconds = (
        Sample(name, first[name].group, text, label)
        for name in first
        for text, label in zip(held[name][1:], labels[name][1:], strict=True)
    )
    samples += [sample for sample, _ in zip(seconds, range(wanted - len(samples)), strict=False)]
    return Texts(looked_at - sum(len(kept(own)) for own in held.values()), looked_at, len(first), tuple(samples))
