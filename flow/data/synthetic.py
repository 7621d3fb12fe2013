"""Clients of any number with text that nobody wrote, to measure with: sizes and word frequencies as in real text.

A client's number of sequences is lognormal, its words are log-uniform in their rank (Zipf's law with exponent 1), and
half of them follow from the word before by a rule that one of eight topics sets. StackOverflow, the largest data set of the
field, has 342,477 training clients with 397 sentences on average (TensorFlow Federated, tff.simulation.datasets).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, overload

import numpy as np

from flow.data.corpus import is_held_out
from flow.data.options import DataOptions
from flow.data.population import Client, Population, Sequences, Vocabulary, check_at_least_one, check_fits
from flow.data.source import Content, Size, Source
from flow.data.tokens import BOS, EOS, PAD, SPECIALS
from flow.errors import UserError

NAME = "synthetic"
SEQUENCE_LENGTH = 20
SPREAD = 1.0  # standard deviation of the logarithm of a client's number of sequences
MOST = 16  # times the mean: the largest client
TOPICS = 8


class Shape(NamedTuple):
    """What decides a synthetic population."""

    clients: int = 1000
    sequences: int = 64
    """Training sequences of a client, on average; it is tested on a quarter as many."""
    data_seed: int = 0


class SyntheticClients(Sequence[Client]):
    """Clients made when they are asked for, each from (data_seed, its number) alone."""

    def __init__(self, shape: Shape, sequence_length: int, words: int) -> None:
        self._shape, self._length, self._words = shape, sequence_length, words
        self._digits = max(7, len(str(shape.clients - 1)))

    def __len__(self) -> int:
        return self._shape.clients

    @overload
    def __getitem__(self, item: int) -> Client: ...
    @overload
    def __getitem__(self, item: slice) -> Sequence[Client]: ...
    def __getitem__(self, item: int | slice) -> Client | Sequence[Client]:
        if isinstance(item, slice):
            return tuple(self[n] for n in range(*item.indices(len(self))))
        n = int(item)
        if not -len(self) <= n < len(self):
            raise IndexError(f"client {n} of {len(self)}")
        return self._make(n % len(self))

    def _make(self, n: int) -> Client:
        stream = np.random.Generator(np.random.Philox(np.random.SeedSequence([self._shape.data_seed, n])))
        mean = float(self._shape.sequences)
        size = np.exp(np.log(mean) - SPREAD**2 / 2 + SPREAD * stream.standard_normal())
        train = int(np.clip(np.rint(size), 1, MOST * mean))
        topic, count = int(stream.integers(TOPICS)), train + max(1, train // 4)
        sequences = self._sequences(stream, count, topic)
        sides = [Sequences(sequences.tokens[part], sequences.lengths[part]) for part in (slice(train), slice(train, None))]
        name = f"client-{n:0{self._digits}d}"
        return Client(name, "", is_held_out(name), count, *sides)

    def _sequences(self, stream: np.random.Generator, count: int, topic: int) -> Sequences:
        """[count, T + 1]: <bos>, words up to one before the last target, <eos>, padding."""
        steps, words = self._length, self._words
        check_fits(count, steps)
        drawn = np.minimum(np.power(words + 1.0, stream.random((count, steps + 1))).astype(np.int64) - 1, words - 1)
        follows = stream.random((count, steps)) < 0.5
        following = (drawn[:, :-1] * 7919 + topic * 104729 + 1) % words
        lengths = stream.integers(-(-steps // 4), steps + 1, count)
        tokens = np.full((count, steps + 1), BOS, dtype=np.int64)
        tokens[:, 1:] = len(SPECIALS) + np.where(follows, following, drawn[:, 1:])
        position = np.arange(steps + 1)
        tokens[position == lengths[:, None]] = EOS
        tokens[position > lengths[:, None]] = PAD
        return Sequences(tokens.astype(np.int32), lengths.astype(np.int32))


def population(shape: Shape, sequence_length: int, vocabulary_size: int, oov_buckets: int) -> Population:
    """A synthetic population whose clients are made when they are asked for; equal arguments give equal clients."""
    names = (f"w{rank}" for rank in range(1, vocabulary_size + 1))
    oov = (f"<oov-{n}>" for n in range(2, oov_buckets + 1))
    vocabulary = Vocabulary((*SPECIALS, *names, *oov), "word", oov_buckets)
    clients = SyntheticClients(shape, sequence_length, vocabulary_size)
    about = f"synthetic clients of no meaning (flow/data/synthetic.py, data_seed {shape.data_seed})"
    return Population(NAME, clients, vocabulary, sequence_length, about)


def _content(data: str) -> Content:
    return Content(NAME, NAME)


def _shape(options: DataOptions) -> Shape:
    given = {name: getattr(options, name) for name in Shape._fields}
    return Shape(**{name: value for name, value in given.items() if value is not None})


def _least(options: DataOptions) -> Size:
    """A client has a sequence on both sides, on average 1.2 times as many as asked for, but few clients may have far fewer."""
    shape, width = _shape(options), (options.sequence_length or SEQUENCE_LENGTH) + 1
    tokens = len(SPECIALS) + options.vocabulary_size + options.oov_buckets - 1
    item = 2 if tokens <= 1 << 16 else 4
    sequences = shape.clients * max(2, shape.sequences * 3 // 4 if shape.clients >= 100 else shape.sequences // 8)
    decide = ("vocabulary_size", "oov_buckets"), ("clients", "sequences", "sequence_length")
    return Size(tokens, sequences * (width * item + 4), *decide)


def _population(options: DataOptions) -> Population:
    return population(_shape(options), options.sequence_length or SEQUENCE_LENGTH, options.vocabulary_size, options.oov_buckets)


def _check(options: DataOptions) -> None:
    for name in ("clients", "sequences"):
        value = getattr(options, name)
        if value is not None:
            check_at_least_one(name, value)
    if options.data_seed is not None and options.data_seed < 0:
        raise UserError(f"data_seed={options.data_seed!r} must be at least 0; leave it out for the default, 0")
    if options.max_clients:
        raise UserError(f"max_clients={options.max_clients!r} takes clients of a file; for data={NAME!r} give clients")


SOURCE = Source(NAME, _content, _population, options=Shape._fields, check=_check, least=_least)
