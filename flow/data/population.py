"""What every data source becomes: clients whose texts are cut into fixed windows, and one vocabulary."""

import hashlib
import reprlib
import sys
import zlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from flow.checks import check_text
from flow.data import arrays
from flow.data.tokens import BOS, OOV, SPECIALS, UNIT_SPLITTERS, UNITS, is_unspaced
from flow.errors import UserError
from flow.resources import free_memory, size

NOTEWORTHY = 1 << 28  # tokens; fewer are not held against the free memory, which would have to be asked for
Split = Literal["time", "random"]
"""How a client's sequences are split in two: older and newer texts, or sequences at random."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Windows of consecutive tokens.

    tokens: int32 [n, T + 1]; ``tokens[:, :-1]``: inputs, ``tokens[:, 1:]``: targets, padded with 0 at the end.
    lengths: int32 [n]; the number of valid targets of each window, 1..T.
    labelled: whether every row is a text with a label. Then ``tokens[:, :-1]`` are its tokens, padded with 0 at the end, and
        the last column is the label, a class's number. A length is the number of tokens. The one target is the label, after
        the last of them.
    """

    tokens: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]
    labelled: bool = False

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def texts(self) -> npt.NDArray[np.int64]:
        """int64 [n]: from which text each window comes, counted from 0 in the order of time.

        The first window begins a text, and so does every window that starts with ``<bos>``. A continuous source joins a
        client's texts into one stream, which counts as one text. Of labelled rows each is a text.
        """
        if self.labelled:
            return np.arange(len(self.tokens), dtype=np.int64)
        begins = self.tokens[:, 0] == BOS
        begins[:1] = True
        texts: npt.NDArray[np.int64] = np.cumsum(begins, dtype=np.int64)
        return texts - 1

    @property
    def targets(self) -> npt.NDArray[np.int32]:
        """int32 [n, T]: what is to be predicted after every token; of labelled rows 0 but after the last token."""
        if not self.labelled:
            return self.tokens[:, 1:]
        return np.where(self.valid, self.tokens[:, -1:], 0)

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """bool [n, T]: where there is something to predict."""
        position = np.arange(self.tokens.shape[1] - 1)
        return position == self.lengths[:, None] - 1 if self.labelled else position < self.lengths[:, None]

    def part(self, rows: slice) -> "Sequences":
        """Some of the rows."""
        return Sequences(self.tokens[rows], self.lengths[rows], self.labelled)


@dataclass(frozen=True, eq=False)
class Client:
    """One client. ``held_out`` clients are never trained on; ``texts`` counts the texts of both sides together."""

    id: str
    group: str
    held_out: bool
    texts: int
    train: Sequences
    test: Sequences

    def read(self) -> None:
        """Have the sequences in memory, where they are still on disk."""
        for side in (self.train, self.test):
            _ = side.tokens, side.lengths


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id; ids 0..3 are ``<pad>``, ``<oov>``, ``<bos>``, ``<eos>``. ``unit`` is "character", "word", or "token" of a
    tokenizer that is not of this package, such as one from a file.

    Unknown tokens share ``oov_buckets`` ids by their hash: 1 (``<oov>``), and the last ones (``<oov-2>``, ...).
    """

    tokens: tuple[str, ...]
    unit: str
    oov_buckets: int = 1

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise UserError(f"unit={self.unit!r}: a vocabulary's unit must be one of {', '.join(map(repr, UNITS))}")
        if not isinstance(self.tokens, tuple) or not all(isinstance(token, str) for token in self.tokens):
            raise UserError(f"tokens={reprlib.repr(self.tokens)} must be a tuple of strings; write tuple(tokens)")
        if self.tokens[: len(SPECIALS)] != SPECIALS:
            raise UserError(
                f"tokens={self.tokens[: len(SPECIALS)]!r}...: the first ids are reserved; start tokens with {SPECIALS!r}"
            )
        if len(set(self.tokens)) != len(self.tokens):
            raise UserError("tokens: a token occurs twice; every id needs a token of its own")
        for number, token in enumerate(self.tokens):
            if not token.isascii():
                check_text(f"tokens[{number}]", token)
        most = len(self.tokens) - len(SPECIALS) + 1
        if type(self.oov_buckets) is not int or not 1 <= self.oov_buckets <= most:
            raise UserError(
                f"oov_buckets={self.oov_buckets!r} must be an integer from 1 to {most}, as {len(self.tokens)} tokens leave no "
                "more ids beside the reserved ones; end tokens with a name for every bucket after the first"
            )

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    def encode(self, text: str) -> list[int]:
        """Ids of the text's tokens, those of :attr:`oov` for the unknown ones; neither BOS nor EOS is added.

        Raises:
            UserError: the unit is "token", so that only the tokenizer can cut a text.
        """
        if self.unit not in UNIT_SPLITTERS:
            raise UserError(
                f"unit={self.unit!r}: this vocabulary does not know how its tokens are cut; encode with their tokenizer, for a "
                "file that is flow.data.tokenizer.read(path).encode(texts)"
            )
        ids, oov = self._ids, self.oov
        return [ids[token] if token in ids else oov[bucket(token, len(oov))] for token in UNIT_SPLITTERS[self.unit](text)]

    @property
    def oov(self) -> tuple[int, ...]:
        """The ids that unknown tokens share."""
        return (OOV, *range(len(self.tokens) - self.oov_buckets + 1, len(self.tokens)))

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
        """bool [V]: the targets that count for accuracy, which are all but the four special ones and the unknown."""
        scored = np.ones(len(self.tokens), dtype=np.bool_)
        scored[: len(SPECIALS)] = False
        scored[list(self.oov)] = False
        return scored

    @property
    def unspaced(self) -> bool:
        """Whether these are words, most of them in a script that writes no spaces between words."""
        words = self.tokens[len(SPECIALS) : len(self.tokens) - self.oov_buckets + 1]
        return self.unit == "word" and 2 * sum(map(is_unspaced, words)) > len(words)


class Table(NamedTuple):
    """What is asked of all N clients, every round or before the first."""

    held_out: npt.NDArray[np.bool_]
    texts: npt.NDArray[np.integer]
    train: npt.NDArray[np.integer]
    """Number of training sequences."""
    scored: npt.NDArray[np.integer]
    """Number of test targets that count for accuracy."""


class Indexed(Sequence[Client]):
    """Clients that are not in memory; what is asked of all of them is known without reading any."""

    table: Table
    fingerprint: str
    """See :attr:`Population.fingerprint`."""

    @abstractmethod
    def position(self, client_id: str) -> int:
        """The place of the client with this id; KeyError where there is none."""

    def ids(self) -> Sequence[str]:
        """The ids of all clients, in their order; no sequence is read."""
        return [client.id for client in self]


@dataclass(frozen=True, eq=False)
class Population:
    """All clients of a data set, sorted by id: a tuple, or clients on disk. ``about`` is its source and licence in one line.

    ``validation_share`` is the share of the clients that are not held out which validate: they neither train nor are tested.
    A run sets it to that of its configuration, see :meth:`setting_aside`.

    ``classes`` are the names of the classes where the task is to classify texts; all sequences are then labelled. Without
    classes the task is to predict the next token.
    """

    name: str
    clients: Sequence[Client]
    vocabulary: Vocabulary
    sequence_length: int
    about: str
    validation_share: float = 0.0
    classes: tuple[str, ...] = ()

    @staticmethod
    def from_arrays(
        clients: Mapping[str, Mapping[str, Any]],
        *,
        vocabulary: "int | Sequence[str] | Vocabulary",
        classes: int | Sequence[str] = (),
        name: str = "arrays",
        about: str = "made of arrays",
    ) -> "Population":
        """A population of clients whose texts are numbers already, for :func:`flow.simulate`.

        A client is a dictionary:

        - ``train`` and ``test``: integers [S, T], a sequence of tokens in every row, padded with 0 at the end. T may differ.
        - ``train_lengths`` and ``test_lengths``: integers [S], the tokens of every row that are no padding. Without them, all
          up to the zeros at the end. To predict the next token a row needs 2 tokens, to be classified 1.
        - ``train_labels`` and ``test_labels``: integers [S], the class of every row from 0, with ``classes`` and only then.
        - ``group``: a string that pages show. Left out: none.
        - ``held_out``: True for a client that never trains. Left out: False.
        - ``texts``: how many texts both sides have, which is held against ``min_texts``. Left out: the number of rows.

        Rows are in the order of time. Where no classes are given, a row that begins a text begins with ``<bos>``, token 2;
        others go on with the text of the row before.

        Args:
            clients: by their ids.
            vocabulary: the number V of tokens, or the names of all of them. Tokens 0 to 3 are ``<pad>``, ``<oov>``, ``<bos>``
                and ``<eos>``; as targets they do not count for accuracy.
            classes: where texts are to be classified, the number of classes or the names of all of them.
            name: of the data set, on pages.
            about: its source and licence in one line.

        Raises:
            UserError: an array has another type or shape, or a number in it is out of range; the message names client and
                place.
        """
        for argument, value in (("name", name), ("about", about)):
            if not isinstance(value, str):
                raise UserError(f"{argument}={value!r} must be a string; write str(...)")
            check_text(argument, value)
        if not isinstance(vocabulary, Vocabulary):
            vocabulary = Vocabulary(arrays.names_of_tokens(vocabulary), "token")
        names = arrays.names_of_classes(classes)
        built = []
        for own in arrays.checked(clients, len(vocabulary), names):
            train, test = (  # without labels the last token of a row is a target and no input
                Sequences(side.tokens, side.lengths if names else side.lengths - 1, bool(names))
                for side in (own.train, own.test)
            )
            built.append(Client(own.id, own.group, own.held_out, own.texts, train, test))
        return Population(name, tuple(built), vocabulary, built[0].train.tokens.shape[1] - 1, about, classes=names)

    @property
    def outputs(self) -> int:
        """How many scores a model gives: one for every class, or for every token of the vocabulary."""
        return len(self.classes or self.vocabulary)

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
        """bool [outputs]: the targets that count for accuracy: all classes, or the tokens of :attr:`Vocabulary.scored`."""
        return np.ones(len(self.classes), dtype=np.bool_) if self.classes else self.vocabulary.scored

    def setting_aside(self, share: float) -> "Population":
        """The same clients, of which this share of those that are not held out validates; from 0, and below 1."""
        if share == self.validation_share:
            return self
        population = replace(self, validation_share=share)
        if "survey" in self.__dict__:  # the clients are the same, so nobody has to read them again
            population.__dict__["survey"] = self.survey
        return population

    @cached_property
    def survey(self) -> "Survey":
        """Ids, table and fingerprint, by one reading of every client."""
        survey = Survey(self.scored)
        for client in self.clients:
            survey.add(client)
        return survey

    @cached_property
    def table(self) -> Table:
        """What is asked of all clients, in their order."""
        return self.clients.table if isinstance(self.clients, Indexed) else self.survey.table()

    @cached_property
    def validation(self) -> npt.NDArray[np.bool_]:
        """bool [N]: the validation clients, by their ids alone."""
        if not self.validation_share:
            return np.zeros(len(self.clients), dtype=np.bool_)
        chosen = (is_validation(client_id, self.validation_share) for client_id in self._ids)
        return np.fromiter(chosen, np.bool_, len(self.clients)) & ~self.table.held_out

    @cached_property
    def training(self) -> npt.NDArray[np.int64]:
        """int64: the places of the clients that may train: neither held out nor validation clients."""
        return np.flatnonzero(~(self.table.held_out | self.validation))

    def trainable(self) -> Sequence[Client]:
        """Those clients, in their order."""
        return _Part(self.clients, self.training)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all clients: ids, which are held out, numbers of texts, and tokens."""
        return self.clients.fingerprint if isinstance(self.clients, Indexed) else self.survey.fingerprint()

    def numbers(self, clients: Sequence[Client]) -> npt.NDArray[np.int64]:
        """int64 [n]: the clients' numbers among those that may train, in the order of their ids; -1 for one that may not."""
        find = self.clients.position if isinstance(self.clients, Indexed) else self._places.__getitem__
        places = np.array([find(client.id) for client in clients], dtype=np.int64)
        numbers = np.searchsorted(self.training, places)
        return np.where(self.table.held_out[places] | self.validation[places], -1, numbers)

    @cached_property
    def _ids(self) -> Sequence[str]:
        return self.clients.ids() if isinstance(self.clients, Indexed) else self.survey.ids

    @cached_property
    def _places(self) -> dict[str, int]:
        return {client_id: place for place, client_id in enumerate(self._ids)}


class Survey:
    """Collects what must be known of all clients of a population, while they are read one by one in their order.

    scored: bool [outputs], see :attr:`Population.scored`.
    """

    def __init__(self, scored: npt.NDArray[np.bool_]) -> None:
        self.ids: list[str] = []
        """Of all clients, in their order."""
        self._scored = scored
        self._rows: list[tuple[bool, int, int, int]] = []
        self._sha = hashlib.sha256()

    def add(self, client: Client) -> None:
        """Take the next client in."""
        scored = scored_targets(client.test, self._scored)
        self.ids.append(client.id)
        self._rows.append((client.held_out, client.texts, len(client.train.lengths), scored))
        add_to_fingerprint(self._sha, client)

    def table(self) -> Table:
        """See :attr:`Population.table`."""
        held_out, *counts = np.array(self._rows, dtype=np.int64).reshape(len(self._rows), 4).T
        return Table(held_out.astype(np.bool_), *counts)

    def fingerprint(self) -> str:
        """See :attr:`Population.fingerprint`."""
        return self._sha.hexdigest()


class _Part(Sequence[Client]):
    """The clients at these places."""

    def __init__(self, clients: Sequence[Client], places: npt.NDArray[np.int64]) -> None:
        self._clients, self._places = clients, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, item: int) -> Client: ...
    @overload
    def __getitem__(self, item: slice) -> Sequence[Client]: ...
    def __getitem__(self, item: int | slice) -> Client | Sequence[Client]:
        return _Part(self._clients, self._places[item]) if isinstance(item, slice) else self._clients[int(self._places[item])]


def add_to_fingerprint(sha: "hashlib._Hash", client: Client) -> None:
    """Take the next client in."""
    labelled = " labelled" if client.train.labelled else ""
    sha.update(f"\n{client.id} {client.held_out} {client.texts}{labelled}\n".encode())
    for side in (client.train, client.test):
        sha.update(np.ascontiguousarray(side.tokens, dtype=np.int32).data)


def scored_targets(test: Sequences, scored: npt.NDArray[np.bool_]) -> int:
    """How many targets count for accuracy."""
    return int((scored[test.targets] & test.valid).sum())


def is_validation(client_id: str, share: float) -> bool:
    """Whether a client that is not held out validates: where the SHA-256 of its id, as a fraction of 1, is below the share.

    It depends on the id alone, so a client that validates by a small share does by every larger one. crc32 decides who is held
    out, and its remainders say little about SHA-256, so the two choices do not depend on each other.
    """
    digest = hashlib.sha256(f"validation client\n{client_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48 < share


def boundary(texts: npt.NDArray[np.int64], share: float) -> int:
    """How many of the first sequences make up the older part, see :func:`flow.training.batches.split`.

    Of two places equally near the earlier one is taken.

    texts: int64 [n], the text of every sequence, ascending.
    """
    places = np.flatnonzero(np.diff(texts)) + 1
    if not len(places):
        places = np.arange(1, len(texts))
    return int(places[np.abs(places - share * len(texts)).argmin()]) if len(places) else 0


def bucket(token: str, buckets: int) -> int:
    """Which of the ids for unknown tokens this one gets: crc32 modulo their number."""
    return zlib.crc32(token.encode()) % buckets


def check_at_least_one(name: str, value: int, alternative: str = "") -> None:
    """Raise UserError unless value >= 1; ``alternative`` names another value that the caller allows."""
    if value < 1:
        raise UserError(f"{name}={value!r} must be at least 1; give a positive integer {alternative}".rstrip())


def check_fits(sequences: int, sequence_length: int) -> None:
    """Raise MemoryError for more tokens than an array can address, where NumPy raises ValueError or wraps around, and for more
    than fit into the free memory."""
    count = sequences * (sequence_length + 1)
    if count > sys.maxsize // np.dtype(np.int64).itemsize:
        raise MemoryError(f"no array can hold {sequences} sequences of {sequence_length + 1} tokens")
    nbytes, free = count * np.dtype(np.int32).itemsize, free_memory() if count > NOTEWORTHY else None
    if free is not None and nbytes > free:
        raise MemoryError(
            f"{sequences} sequences of {sequence_length + 1} tokens take {size(nbytes)}, and {size(free)} are free"
        )
