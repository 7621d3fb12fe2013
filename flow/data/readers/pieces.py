"""A JSON object read piece by piece, at the memory of one piece: LEAF's files are one object of any size."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from flow.data import paths
from flow.errors import UserError

BLOCK = 1 << 16
LONGEST = 1 << 28
"""Characters of a piece, such as a client."""
UNFINISHED = 16
"""A fault so close to the end of what was read may be that a word, a number or an escape goes on."""
_decoder = json.JSONDecoder()


class Piece(NamedTuple):
    """A value of the object, or of the object under one of its names."""

    name: str
    key: str | None
    """Of an object that is taken apart: the name of one of its values; otherwise None."""
    value: Any
    position: int
    """Bytes of the file that were read."""


class _Text:
    """The text of a file, of which a part is held."""

    def __init__(self, path: Path, wanted: str) -> None:
        self.path, self._wanted = path, wanted
        self.where = f"data={str(path)!r}"
        self.held, self.at, self.before = "", 0, 0  # before: characters that were let go
        with paths.readable(path, "data", wanted):
            self._packed = path.open("rb")
            self._file: Any = (
                gzip.GzipFile(fileobj=self._packed, mode="rb") if self._packed.peek(2)[:2] == b"\x1f\x8b" else None
            )
            self._file = self._file or self._packed
        self._bytes = b""
        self.ended = False

    def close(self) -> None:
        self._file.close()
        self._packed.close()

    @property
    def position(self) -> int:
        """Bytes of the file that were read."""
        return self._packed.tell()

    def more(self, size: int = BLOCK) -> None:
        """Hold more of the file, and let go what lies behind."""
        try:
            with paths.readable(self.path, "data", self._wanted):
                block = self._file.read(size)
        except EOFError as error:
            raise UserError(f"{self.where}: truncated gzip file; copy or compress it again") from error
        except (zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{self.where}: damaged gzip file ({error}); copy or compress it again") from error
        self.ended = not block
        content = self._bytes + block
        try:
            text, self._bytes = content.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            if self.ended or len(content) - error.start > 3:
                raise UserError(f"{self.where}: not UTF-8 ({error.reason}); save the file in UTF-8") from error
            text, self._bytes = content[: error.start].decode("utf-8"), content[error.start :]
        if not self.before and not self.held:
            text = text.removeprefix("\ufeff")
        self.before += self.at
        self.held, self.at = self.held[self.at :] + text, 0

    def skip(self) -> str:
        """The next character that is no white space, not taken; empty at the end of the file."""
        while True:
            while self.at < len(self.held) and self.held[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.held) or self.ended:
                return self.held[self.at : self.at + 1]
            self.more()

    def take(self, wanted: str, within: str) -> str:
        """Take one of some characters."""
        character = self.skip()
        if not character or character not in wanted:
            raise self.fault(
                f"{' or '.join(map(repr, wanted))} must stand there, not {character or 'the end of the file'!r}", within
            )
        self.at += 1
        return character

    def value(self, within: str) -> Any:
        """Take a whole value."""
        size = BLOCK
        self.skip()
        while True:
            try:
                value, end = _decoder.raw_decode(self.held, self.at)
                if self.ended or len(self.held) - end >= UNFINISHED or not isinstance(value, int | float):
                    self.at = end
                    return value
            except RecursionError as error:
                raise self.fault("values lie too deep in one another", within) from error
            except json.JSONDecodeError as error:
                goes_on = error.msg.startswith("Unterminated string") or error.pos >= len(self.held) - UNFINISHED
                if self.ended or not goes_on:
                    raise self.fault(error.msg, within, error.pos) from error
            except ValueError as error:
                raise self.fault(str(error), within) from error
            if len(self.held) - self.at > LONGEST:
                raise self.fault(f"more than {LONGEST} characters", within)
            self.more(size)
            size *= 2

    def fault(self, what: str, within: str, at: int | None = None) -> UserError:
        place = self.before + (self.at if at is None else at)
        return UserError(f"{self.where}{within}, character {place + 1}: {what}; copy or download the file again")


def pieces(path: Path, apart: str, wanted: str) -> Generator[Piece, None, None]:
    """The values of the object that a file is, packed with gzip or not; the object under one name is taken apart.

    Args:
        path: of the file.
        apart: the name of the object that is given value by value.
        wanted: what `data` must be the path of, for messages.

    Raises:
        UserError: the file is damaged, or no such object.
    """
    text = _Text(path, wanted)
    try:
        for name in _names(text, ""):
            within = f", {name[:80]!r}"
            if name == apart and text.skip() == "{":
                for key in _names(text, within):
                    yield Piece(name, key, text.value(f"{within}, {key[:80]!r}"), text.position)
            else:
                yield Piece(name, None, text.value(within), text.position)
        if text.skip():
            raise text.fault("more stands behind the object", "")
    finally:
        text.close()


def _names(text: _Text, within: str) -> Iterator[str]:
    """The names of an object, each time with its value to be taken next."""
    text.take("{", within)
    if text.skip() == "}":
        text.take("}", within)
        return
    while True:
        if text.skip() != '"':
            raise text.fault("a name in double quotes must stand there", within)
        name = text.value(within)
        text.take(":", within)
        yield name
        if text.take(",}", within) == "}":
            return
