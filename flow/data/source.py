"""What loading knows of a data source, and the cut that all sources of texts share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from flow.data.corpus import Corpus, build_population, client_hash
from flow.data.options import DataOptions
from flow.data.population import Population
from flow.data.streams import Stream
from flow.data.tokenizer import LENGTHS, UNITS, is_file, read
from flow.data.tokens import SPECIALS


class Content(NamedTuple):
    """What tells the content of a data set apart from any other."""

    name: str
    """The data set's name; the folder of its prepared form begins with it."""
    digest: str
    """Text that changes whenever the content does, such as a SHA-256."""


class Size(NamedTuple):
    """How large a prepared data set is at least, from its options alone."""

    tokens: int
    """Ids of the vocabulary."""
    prepared: int = 0
    """Bytes of the prepared form on disk."""
    decide_tokens: tuple[str, ...] = ("oov_buckets",)
    """The options that decide the number of tokens."""
    decide_prepared: tuple[str, ...] = ()
    """The options that decide the size on disk."""


def shared_ids(options: DataOptions) -> Size:
    """The ids that there are whatever the texts are."""
    return Size(len(SPECIALS) + options.oov_buckets - 1)


def accept(options: DataOptions) -> None:
    """The check of a source that has no options of its own."""


def as_given(data: str) -> str:
    """A value of `data` that names no file."""
    return data


def absolute(data: str) -> str:
    """The absolute path of a value of `data` that is a path."""
    return str(Path(data).absolute())


class Source(NamedTuple):
    """A data source. Its functions raise UserError for every mistake of the user.

    It has either ``stream``, for texts, or ``read``, for a population that it makes itself.
    """

    name: str
    """The value of `data` that selects this source, unless ``suffixes`` or ``matches`` is given."""
    content: Callable[[str], Content]
    """What tells the content apart, from the value of `data`. It must be far quicker than reading all of it."""
    read: Callable[[DataOptions], Population] | None = None
    """Make the population. The clients are sorted by id and may be made when they are asked for."""
    stream: Callable[[DataOptions], Stream] | None = None
    """Open the texts."""
    suffixes: tuple[str, ...] = ()
    """The endings of the files that this source reads; `data` is then a file's path."""
    matches: Callable[[str], bool] | None = None
    """Whether a value of `data` is for this source, by the content of the file or folder, in place of ``suffixes``. It reads a
    few bytes, needs no package, raises nothing, and is False for a path that leads nowhere."""
    located: Callable[[str], str] | None = None
    """The same value of `data` with an absolute path in it; None: it is a path where ``suffixes`` or ``matches`` is given, and
    a name otherwise. A source like git:PATH has a function of its own."""
    options: tuple[str, ...] = ()
    """The fields of DataOptions that belong to this source and few others; None is their default."""
    check: Callable[[DataOptions], None] = accept
    """Refuse options that this source cannot have."""
    least: Callable[[DataOptions], Size] = shared_ids
    """What the data set will take at least."""
    tokenizer: str = ""
    """How its texts are cut where the options do not say: "words", "characters" or "spaces" (see
    :class:`flow.data.streams.Stream`); empty for a source without text."""

    def recognises(self, data: str) -> bool:
        """Whether this value of `data` selects the source."""
        if self.matches is not None:
            return self.matches(data)
        return data.endswith(self.suffixes) if self.suffixes else data == self.name

    @property
    def is_path(self) -> bool:
        """Whether `data` is the path of a file or folder."""
        return self.located is None and (bool(self.suffixes) or self.matches is not None)

    def placed(self, data: str) -> str:
        """The same value of `data`, which holds in every working directory."""
        return (self.located or (absolute if self.is_path else as_given))(data)


def cut(corpus: Corpus, options: DataOptions) -> Population:
    """The population of a corpus of texts, with as many clients and tokens as the options say.

    Raises:
        UserError: no client has anything to train on, or the tokenizer's file is faulty.
    """
    if options.max_clients:
        chosen = sorted(corpus.clients, key=lambda client: (client_hash(client.id), client.id))[: options.max_clients]
        corpus = replace(corpus, clients=tuple(chosen))
    unit, from_file = corpus.unit, None
    if is_file(options.tokenizer):
        from_file = read(Path(str(options.tokenizer)))
        unit = from_file.vocabulary.unit
        corpus = replace(corpus, about=f"{corpus.about}; tokens by {from_file.about}")
    elif options.tokenizer is not None:
        unit = UNITS[options.tokenizer]
    own = corpus.sequence_length if unit == corpus.unit else LENGTHS[unit]
    length = options.sequence_length or own
    return build_population(replace(corpus, unit=unit), length, options.vocabulary_size, options.oov_buckets, from_file)
