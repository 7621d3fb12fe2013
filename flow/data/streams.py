"""What a source of texts gives: parts of clients, one after the other, at constant memory.

A source (:class:`flow.data.source.Source`) has a function ``stream(options)``, which looks at its files, refuses those that
it cannot read, and returns a :class:`Stream`. The stream's ``parts()`` is a generator over :class:`Part`: some texts of one
client. :mod:`flow.data.preparing` does the rest for all sources: parts are brought together by client on disk; the texts of a
client are put in the order of time, split into those to train and to test on, counted, numbered and cut into windows.

What a reader has to keep to:

* ``parts()`` may be called several times and gives the same every time. It holds no more than a part at a time, whatever the
  size of the file. It closes what it opened when the generator is closed.
* The parts of a client may come in any order, between those of other clients, and be of any size: one text, or all of them. A
  reader that has many texts of a client at hand gives them in one part, which is quicker.
* Nothing is split, lower-cased, sorted, shuffled or dropped by the reader unless the format demands it.
* Every mistake of the file is a UserError that names the file, the place in it, the rule and the remedy. Text that is not
  Unicode (half of a surrogate pair) is refused for all sources, with ``Part.place``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

TRAIN, TEST = "train", "test"
TOKENIZERS = ("words", "characters", "spaces")
"""How the texts of a stream may be cut where the options do not say."""


class Part(NamedTuple):
    """Some texts of one client."""

    client: str
    """The client's id, not empty. Clients are sorted by it."""
    texts: Sequence[str]
    """In the order of time where ``times`` is None."""
    times: Sequence[float] | None = None
    """Unix seconds of every text, finite. A client of which every part has times is sorted by them, equal times in the order in
    which they were read; one of which a part has none stays in the order read."""
    group: str = ""
    """A label of these texts, such as a play, a project or a subreddit. A client's group is the label of most of its texts."""
    held_out: bool | None = None
    """Whether the client is never trained on. Parts of one client may not disagree. None: it is where it has texts on the test
    side alone; otherwise its id decides."""
    side: str = ""
    """``"train"`` or ``"test"`` where the data set is published in two parts; empty: the client's texts without a side are
    split by time, the first 80 % to train on."""
    place: str = ""
    """Where it stands in the file, for messages: ``"line 12"``, ``"table examples, row 7"``."""
    position: int = 0
    """How much of ``Stream.total`` was read when this part was, for the bar."""
    labels: Sequence[str] | None = None
    """The class of every text where ``label_column`` is given, and only then; see :func:`flow.data.classes.label_of`."""


Piece = Callable[[], Iterable[Part]]
"""Reads a piece of the data; it may be called in another process, so it is a function of a module or a ``partial`` of one."""


class Stream(NamedTuple):
    """The texts of a data set, and how they are cut."""

    name: str
    """The data set's name."""
    about: str
    """Its source and licence in one line, with a digest of the content."""
    parts: Callable[[], Iterator[Part]]
    """Every call reads the data from the start."""
    tokenizer: str = "words"
    """"words", "characters", or "spaces" for text that was cut into tokens before, which one space each separates. The
    option --tokenizer takes precedence."""
    sequence_length: int = 20
    """Targets per sequence where the options do not say."""
    vocabulary: tuple[str, ...] | None = None
    """The published vocabulary, the most frequent token first and without special tokens: the first ``vocabulary_size`` are
    taken. None: counted on the training texts."""
    continuous: bool = False
    """Whether the texts of a side are joined into one, without an end; otherwise each stands alone and ends with EOS."""
    first_only: bool = False
    """Whether a text that is longer than a sequence is cut off after its first one, as TensorFlow Federated does: BOS, as many
    tokens as the sequence has targets, and EOS only where it fits. Otherwise a long text becomes several sequences."""
    total: int = 0
    """What ``Part.position`` comes to at the end: bytes or rows; 0 where it is not known."""
    nbytes: int = 0
    """How many bytes the texts have, at least: what is put aside on disk; 0 where it is not known."""
    path: str = ""
    """Of the file or folder, for messages."""
    pieces: Callable[[], Iterator[Piece]] | None = None
    """The same parts in consecutive pieces of about 2 MB, which processes read side by side; times are finite, texts Unicode.
    None: the data can only be read from their start."""
    separator: str = "\n"
    """What stands between the texts of a side that are joined; empty for pieces of a text that was cut before."""
