"""What loading knows of a data source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from flow.data.options import DataOptions
from flow.data.population import Population
from flow.data.streams import Stream
from flow.data.tokens import SPECIALS

BY_FILE = "by file"
"""The tokenizer of a source whose files are of several forms: each has its own."""


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
    """Bytes of the prepared form on disk, and of what is put aside while it is made."""
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
    inner: Callable[[str], tuple[str, str]] | None = None
    """For a source that makes something of another: what stands in `data` before the value of that source, and that value."""
    wrapped: Callable[[str, Source], Source] | None = None
    """Where ``inner`` is given: the source to use for a value of `data`, from the source that it names inside."""
    options: tuple[str, ...] = ()
    """The fields of DataOptions that belong to this source and few others; None is their default."""
    check: Callable[[DataOptions], None] = accept
    """Refuse options that this source cannot have."""
    least: Callable[[DataOptions], Size] = shared_ids
    """What the data set will take at least."""
    form: str = ""
    """How a value of `data` for this source is written, where it is neither the name nor a path: ``"git:PATH"``."""
    tokenizer: str = ""
    """How its texts are cut where the options do not say: "words", "characters" or "spaces" (see
    :class:`flow.data.streams.Stream`); ``BY_FILE`` where the files decide; empty for a source without text."""

    def recognises(self, data: str) -> bool:
        """Whether this value of `data` selects the source."""
        if self.matches is not None:
            return self.matches(data)
        return data.endswith(self.suffixes) if self.suffixes else data == self.name

    def opened(self, options: DataOptions) -> Stream:
        """The texts of a source that has any."""
        assert self.stream is not None, f"the source {self.name!r} has neither read nor stream"
        return self.stream(options)

    @property
    def is_path(self) -> bool:
        """Whether `data` is the path of a file or folder."""
        return self.located is None and self.inner is None and (bool(self.suffixes) or self.matches is not None)

    def placed(self, data: str) -> str:
        """The same value of `data`, which holds in every working directory."""
        return (self.located or (absolute if self.is_path else as_given))(data)
