"""A folder of text files: a client is a file, or a sub-folder whose files are its texts.

Text files are those whose names end in .txt, .text or .md, or have no ending. Of a file that is a client by itself, paragraphs,
with blank lines between them, are the texts; where it has no blank line, its lines are. Files are in the order of their names,
numbers in names by their value.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from flow.data import formats, paths
from flow.data.options import DataOptions
from flow.data.source import Content, Source
from flow.data.streams import Part, Stream
from flow.errors import UserError, plural, say

WANTED = "a folder of text files"
SUFFIXES = (".txt", ".text", ".md")
LONGEST = 1 << 28  # bytes of a text
HELD = 1 << 18  # characters that are passed on together
LOOKED_AT = 200  # entries of a folder, until it is none of text files
_NUMBER = re.compile(r"(\d+)")


class Client(NamedTuple):
    """A client and where its texts lie."""

    name: str
    path: Path
    is_file: bool


def _order(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Numbers by their value: chapter 2 before chapter 10."""
    pieces = [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in _NUMBER.split(name)]
    return pieces, name


def _is_text(path: Path) -> bool:
    return path.suffix.lower() in (*SUFFIXES, "") and not path.name.startswith(".") and path.is_file()


def _begins_as_text(path: Path) -> bool:
    first = formats.head(path)
    return b"\0" not in first and formats.of_bytes(first) is None


def recognises(data: str) -> bool:
    """Whether it is a folder with a text file, or with a sub-folder that has one."""
    with suppress(OSError, ValueError):
        folder = Path(data)
        if not data or not folder.is_dir():
            return False
        for entry in islice(folder.iterdir(), LOOKED_AT):
            below = islice(entry.iterdir(), LOOKED_AT) if entry.is_dir() and not entry.name.startswith(".") else [entry]
            for path in below:
                with suppress(OSError):
                    if _is_text(path) and _begins_as_text(path):
                        return True
    return False


def clients_of(folder: Path) -> Iterator[Client]:
    """The clients of a folder, by name.

    Raises:
        UserError: the folder or a name in it cannot be read.
    """
    with paths.readable(folder, "data", WANTED):
        names = sorted((entry.name for entry in os.scandir(folder)), key=_order)
    for name in names:
        path = folder / name
        with paths.readable(path, "data", WANTED):
            is_folder, is_file = path.is_dir() and not name.startswith("."), _is_text(path)
        if is_file or is_folder:
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise UserError(f"data={str(folder)!r}: the name {name!r} is not UTF-8; rename the file or folder") from error
            yield Client(name, path, is_file)


def files_of(client: Client) -> Iterator[Path]:
    """The text files of a client, those of folders below it too, by name."""
    if client.is_file:
        yield client.path
        return

    def refuse(error: OSError) -> None:
        raise error

    with paths.readable(client.path, "data", WANTED):
        below = []
        for folder, folders, names in os.walk(client.path, onerror=refuse):
            folders[:] = [name for name in folders if not name.startswith(".")]  # such as copies that an editor keeps
            below += [Path(folder) / name for name in names]
        yield from sorted(
            filter(_is_text, below), key=lambda path: [_order(part) for part in path.relative_to(client.path).parts]
        )


def _lines(path: Path, where: str) -> Iterator[str]:
    """The lines of a file, without their ends."""
    number = 0
    with paths.readable(path, "data", WANTED), path.open("rb") as file:
        while raw := file.readline(LONGEST + 1):
            number += 1
            if len(raw) > LONGEST:
                raise UserError(
                    f"{where}, line {number}: longer than {LONGEST} bytes; break it, or take the file out of the folder"
                )
            line = _decoded(raw, f"{where}, line {number}")
            yield (line.removeprefix("\ufeff") if number == 1 else line).rstrip("\r\n")


def _decoded(content: bytes, where: str) -> str:
    if b"\0" in content:
        raise UserError(f"{where}: a NUL character, as no text has; save the file as plain text, or leave it out")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 ({error.reason} at byte {error.start + 1}); save the file in UTF-8, such as with "
            "`iconv -f LATIN1 -t UTF-8`, or take it out of the folder"
        ) from error


def _paragraphs(path: Path, where: str) -> Iterator[str]:
    held: list[str] = []
    for line in _lines(path, where):
        if line.strip():
            held.append(line)
        elif held:
            yield "\n".join(held)
            held = []
    if held:
        yield "\n".join(held)


def _has_paragraphs(path: Path, where: str) -> bool:
    """Whether a blank line stands between two that are not."""
    blank = text = False
    for line in _lines(path, where):
        if not line.strip():
            blank = text
        elif blank:
            return True
        else:
            text = True
    return False


def texts_of_file(path: Path, where: str) -> Iterator[str]:
    """The texts of a file that is a client by itself: paragraphs, or lines where it has no blank line.

    Raises:
        UserError: it is missing, or no text in UTF-8; the message begins with `where`.
    """
    texts = _paragraphs(path, where) if _has_paragraphs(path, where) else _lines(path, where)
    return (text for text in texts if text.strip())


def _texts(client: Client, where: str) -> Iterator[tuple[str, str]]:
    """(text, where it stands) of a client."""
    if client.is_file:
        at = f"{where}, file {client.name!r}"
        yield from ((text, f"file {client.name!r}") for text in texts_of_file(client.path, at))
        return
    for path in files_of(client):
        name = f"{client.name}/{path.relative_to(client.path)}"
        at = f"{where}, file {name!r}"
        with paths.readable(path, "data", WANTED):
            size = path.stat().st_size
            if size > LONGEST:
                raise UserError(
                    f"{at}: {size} bytes are more than a text may have, {LONGEST}; break it, or take it out of the folder"
                )
            content = path.read_bytes()
        text = _decoded(content, at).removeprefix("\ufeff").replace("\r\n", "\n").strip("\n")
        if text.strip():
            yield text, f"file {name!r}"


def parts(folder: Path) -> Iterator[Part]:
    """The texts of all clients, some of one client at a time.

    Raises:
        UserError: a file cannot be read, or is no text.
    """
    where = f"data={str(folder)!r}"
    for position, client in enumerate(clients_of(folder), 1):
        held: list[str] = []
        place, size = f"file {client.name!r}", 0
        for text, place in _texts(client, where):
            held.append(text)
            size += len(text)
            if size > HELD:
                yield Part(client.name, held, place=place, position=position)
                held, size = [], 0
        if held:
            yield Part(client.name, held, place=place, position=position)


def _digest(folder: Path) -> str:
    """Of the names and contents of all text files; computed once as long as no file changes."""
    digest = hashlib.sha256()
    for client in clients_of(folder):
        for path in files_of(client):
            with paths.readable(path, "data", WANTED):
                state = path.stat()
            digest.update(
                f"{path.relative_to(folder)}\0{state.st_size}\0{state.st_mtime_ns}\0".encode(errors="surrogateescape")
            )
    return _of_contents(folder.absolute(), digest.hexdigest())


@cache
def _of_contents(folder: Path, state: str) -> str:
    digest = hashlib.sha256()
    for client in clients_of(folder):
        for path in files_of(client):
            with paths.readable(path, "data", WANTED), path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.relative_to(folder)}\0{content}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _name(folder: Path) -> str:
    return re.sub(r"[^\w.-]+", "-", folder.absolute().name).strip("-.") or "texts"


def _content(data: str) -> Content:
    folder = Path(data)
    return Content(_name(folder), _digest(folder))


def _stream(options: DataOptions) -> Stream:
    folder = Path(options.data)
    clients = others = broken = special = 0
    with paths.readable(folder, "data", WANTED):
        for entry in os.scandir(folder):
            if entry.name.startswith("."):
                continue
            if _is_text(Path(entry.path)) or entry.is_dir():
                clients += 1
            elif not Path(entry.path).exists():
                broken += 1
            elif entry.is_file():
                others += 1
            else:
                special += 1
    left = [
        f"{number} {plural(number, what)}{more}"
        for number, what, more in (
            (others, "file", f" without the ending {', '.join(SUFFIXES)}"),
            (broken, "symbolic link", " to nothing"),
            (special, "pipe, socket or device", ""),
        )
        if number
    ]
    if left:
        say(f"data={options.data!r}: left out are {' and '.join(left)}")
    about = f"text files of the folder {folder.absolute().name} (sha256 {_digest(folder)[:16]}; it states no licence)"
    return Stream(_name(folder), about, lambda: parts(folder), total=clients, path=options.data)


SOURCE = Source("textfiles", _content, stream=_stream, matches=recognises, tokenizer="words")
