"""Texts of one client: read from a file, and cut as the run cut its own, by its tokenizer and vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flow.data import DataOptions, Population, Sequences, Vocabulary, opened, paths
from flow.data import tokenizer as tokenizers
from flow.data.by_client import ClientTexts, joined
from flow.data.columns import ROLES, SHORT
from flow.data.corpus import cut_flat, first_tokens, label_rows
from flow.data.population import bucket
from flow.data.readers.textfiles import texts_of_file
from flow.data.registry import source_of
from flow.data.streams import Part
from flow.data.tabular import SUFFIXES as TABLES
from flow.data.tabular import names_of
from flow.data.tokenizer import FileTokenizer
from flow.data.tokens import BOS, EOS, SPECIALS, SPLITTERS
from flow.errors import UserError

PLAIN = (".txt", ".text", ".md")
LINES = (".jsonl", ".jsonl.gz")
Tokens = npt.NDArray[np.int32]
FILE = "file"
"""The tokenizer of a vocabulary that a file of the library tokenizers brings."""


class NoTexts(UserError):
    """The run's data are no texts."""


class Columns(NamedTuple):
    """Where a file has what, see :class:`flow.data.DataOptions`; None: by their usual names."""

    client_column: str | None = None
    text_column: str | None = None
    time_column: str | None = None
    label_column: str | None = None


@dataclass(frozen=True, eq=False)
class Cutting:
    """How texts become tokens and windows. Everything is that of the run."""

    vocabulary: Vocabulary
    tokenizer: str
    """A name in flow.data.tokens.SPLITTERS, or FILE."""
    sequence_length: int
    classes: tuple[str, ...] = ()
    continuous: bool = False
    """Whether the texts of a side are joined into one, without an end."""
    separator: str = "\n"
    first_only: bool = False
    """Whether a text is cut off after its first window."""
    from_file: FileTokenizer | None = None

    def described(self) -> dict[str, Any]:
        """What settings.json has of it, beside the vocabulary and the classes."""
        names = ("tokenizer", "sequence_length", "continuous", "separator", "first_only")
        return {name: getattr(self, name) for name in names}

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """int32 [n] for every text: the ids of its tokens, without <bos> and <eos>.

        Raises:
            UserError: a text has a character that UTF-8 cannot hold.
        """
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise UserError(
                    f"text={SHORT.repr(text)} has a character that UTF-8 cannot hold, at {error.start + 1}; "
                    "give a text in UTF-8"
                ) from error
        if self.from_file is not None:
            return self.from_file.encode(texts)
        split, known, oov = SPLITTERS[self.tokenizer], self._known, self.vocabulary.oov
        return [
            np.array([known[t] if t in known else oov[bucket(t, len(oov))] for t in split(text)], dtype=np.int32)
            for text in texts
        ]

    def windows(self, texts: Sequence[str]) -> Sequences:
        """The windows of texts in the order of time, as the next token is predicted in them."""
        pieces = [self.separator.join(texts)] if self.continuous and texts else texts
        end = [] if self.continuous else [EOS]
        streams = [np.array([BOS, *tokens, *end], dtype=np.int32) for tokens in self.tokens(pieces)]
        flat = np.concatenate([np.zeros(0, np.int32), *streams])
        sizes = np.array([len(stream) for stream in streams], dtype=np.int64)
        return cut_flat(flat, sizes, self.sequence_length, self.first_only)

    def rows(self, texts: Sequence[str], labels: Sequence[str]) -> Sequences:
        """A row for every text that has a token, with its class.

        Raises:
            UserError: a label is no class of the run.
        """
        numbers = {name: number for number, name in enumerate(self.classes)}
        for label in labels:
            if label not in numbers:
                known = ", ".join(map(repr, self.classes[:10]))
                raise UserError(
                    f"label={label!r} is no class of the run, whose classes are {known}; correct it, or remove the text"
                )
        pairs = [(own, numbers[label]) for own, label in zip(self.tokens(texts), labels, strict=True) if len(own)]
        flat = np.concatenate([np.zeros(0, np.int32), *(own for own, _ in pairs)])
        sizes = np.array([len(own) for own, _ in pairs], dtype=np.int64)
        flat, sizes = first_tokens(flat, sizes, self.sequence_length)
        return label_rows(flat, sizes, np.array([number for _, number in pairs], dtype=np.int32), self.sequence_length)

    def joined(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        if self.from_file is not None:
            return self.from_file.decode(tokens)
        between = "" if self.tokenizer == "characters" else " "
        return between.join(self.vocabulary.tokens[token] for token in tokens)

    @cached_property
    def _known(self) -> dict[str, int]:
        """The tokens that have an id of their own; a special token's name in a text is an unknown word."""
        shared = {*range(len(SPECIALS)), *self.vocabulary.oov}
        return {token: number for number, token in enumerate(self.vocabulary.tokens) if number not in shared}


def cutting_of(population: Population, options: DataOptions, given: bool) -> Cutting:
    """How a run cut its texts.

    Args:
        options: of the run's data.
        given: whether the population was given to the run in place of these.

    Raises:
        UserError: the run's data are no texts, or its tokenizer is missing.
    """
    vocabulary, length, classes = population.vocabulary, population.sequence_length, population.classes
    if given:
        tokenizer = {"word": "words", "character": "characters"}.get(vocabulary.unit)
        if tokenizer is None:
            raise _no_texts(population.name)
        return Cutting(vocabulary, tokenizer, length, classes)
    stream = opened(options)
    if stream is None:
        raise _no_texts(population.name)
    name = options.tokenizer or stream.tokenizer
    from_file = tokenizers.read(Path(name)) if tokenizers.is_file(name) else None
    if from_file is not None and from_file.vocabulary != vocabulary:
        raise UserError(f"tokenizer={name!r} has other tokens than the run was started with; put the run's own file back")
    return Cutting(
        vocabulary,
        name if from_file is None else FILE,
        length,
        classes,
        stream.continuous and not classes,
        stream.separator,
        stream.first_only,
        from_file,
    )


def _no_texts(name: str) -> NoTexts:
    return NoTexts(
        f"data={name!r} of the run are numbers and no texts, so nobody knows how a text becomes tokens; adapt a client of the "
        "run with client=ID, or take a run of texts"
    )


def read_file(path: Path, client: str | None, columns: Columns, option: str = "texts") -> ClientTexts:
    """The texts of one client of a file, in the order of time, the first four fifths to train on.

    Args:
        path: .txt, .jsonl or a table such as .csv. Of a .txt paragraphs are the texts, or its lines where it has no blank line.
        client: whose texts; None where the file has one client.
        columns: where the file has what.
        option: by which the file was given, for messages.

    Raises:
        UserError: the file is missing or faulty, or it has several clients, or none of this id.
    """
    with paths.given_by(option):
        return _read_file(path, client, columns, f"{option}={str(path)!r}")


def _read_file(path: Path, client: str | None, columns: Columns, where: str) -> ClientTexts:
    wanted = "a .txt, .jsonl or .csv file with the texts of a client"
    paths.check_file(path, "data", wanted)
    name = path.name.lower()
    if name.endswith(PLAIN):
        if given := [f"{column}={value!r}" for column, value in columns._asdict().items() if value is not None]:
            raise UserError(f"{', '.join(given)}: {where} has no columns; leave it out, or give a table")
        return joined(client or path.stem, [Part(client or path.stem, list(texts_of_file(path, where)))], where)
    if not name.endswith((*TABLES, *LINES)):
        raise UserError(f"{where} must be {wanted}; give one whose name ends so")
    own_columns = {column: value for column, value in columns._asdict().items() if value is not None}
    everyone = name.endswith(TABLES) and columns.client_column is None and not _names_clients(path)
    if everyone:
        own_columns["client_column"] = ""
    options = DataOptions(str(path), **own_columns)
    source = source_of(str(path))
    for column in own_columns:
        if column not in source.options:
            raise UserError(f"{column}={own_columns[column]!r}: {where} has no columns; leave it out, or give a table")
    source.check(options)
    parts: dict[str, list[Part]] = {}
    for part in source.opened(options).parts():
        parts.setdefault(part.client, []).append(part)
    if everyone:
        return joined(client or path.stem, [part for own in parts.values() for part in own], where)
    if client is None and len(parts) == 1:
        client = next(iter(parts))
    if client not in parts:
        some = ", ".join(map(repr, sorted(parts)[:5])) + (", ..." if len(parts) > 5 else "")
        which = "has several clients" if client is None else f"has no client {client!r}"
        raise UserError(f"{where} {which}, of {some}; say whose texts with client=ID (--client ID)")
    return joined(client, parts[client], where)


def _names_clients(path: Path) -> bool:
    """Whether a table has a column that usually names the client."""
    return any(name.strip().lower() in ROLES["client"] for name in names_of(path))
