"""One's own texts, next word: a .jsonl or .jsonl.gz file with one client per line (docs/data.md shows the form)."""

import gzip
import json
import math
import reprlib
import sys
import unicodedata
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from flow.data import digests, formats, paths
from flow.data.classes import label_of
from flow.data.options import DataOptions
from flow.data.source import Content, Source
from flow.data.streams import Part, Stream
from flow.errors import UserError, say

SUFFIXES = (".jsonl", ".jsonl.gz")
SEQUENCE_LENGTH = 20
SPLITS = ("train", "heldout")
WANTED = "a .jsonl or .jsonl.gz file"
LONGEST = 1 << 28  # bytes of a line
MOST_BLANK = 1 << 20  # bytes of blank lines at the end
MOST_FIELDS = 12  # named in a message
BYTE_ORDER_MARK = "\ufeff"
_SHORT = reprlib.Repr()  # of values that may be of any size, for messages
_SHORT.maxstring = 80


FIELDS = ("id", "texts", "group", "split", "ts")
"""What a field means that has one of these names."""


def parts(path: Path, label_field: str | None = None) -> Iterator[Part]:
    """All clients of the file, with labels where a field is named that holds them.

    Raises UserError for a missing file and one that is recognised as something else, and, naming file and line, for a truncated
    or damaged file, a line that is not such a client, and an id that occurs twice.
    """
    check_file(path)
    first_line: dict[str, int] = {}
    for number, line, position in _lines(path):
        where = f"{paths.where(path)}, line {number}"
        try:
            client = parse_client(line, where, label_field)
        except UserError as error:
            raise _recognised(path, number) or error from error.__cause__
        if client.client in first_line:
            raise UserError(
                f"{where}: the client id {_SHORT.repr(client.client)} already stands in line {first_line[client.client]}; "
                "ids must be distinct: put all texts of a client into one line"
            )
        first_line[client.client] = number
        yield client._replace(place=f"line {number}", position=position)
    if not first_line:
        raise UserError(
            f"{paths.where(path)}: there is no client, the file is empty or blank; write one JSON object per client"
        )
    _say_alike(path, first_line)


def check_file(path: Path) -> None:
    """Raise UserError unless there is such a file, and its first bytes are what its name promises."""
    paths.check_file(path, "data", WANTED)
    with _readable(path):
        formats.check_name(path, paths.where(path))


def name_of(path: Path) -> str:
    """The data set's name: the file's, without its endings."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def parse_client(line: str, where: str, label_field: str | None = None) -> Part:
    """One line of the file; ``where`` (file and line) starts every error message."""
    try:
        record = json.loads(line.rstrip("\r\n"), object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: {_not_json(line, error)}; correct or remove the line") from error
    except RecursionError as error:
        raise UserError(
            f"{where}: JSON that cannot be read (values lie too deep in one another); correct or remove the line"
        ) from error
    except ValueError as error:
        most = sys.get_int_max_str_digits()
        raise UserError(
            f"{where}: JSON that cannot be read (a number of more than {most} digits); correct or remove the line"
        ) from error
    if not isinstance(record, dict):
        raise UserError(
            f"{where}: a JSON {type(record).__name__} where an object with the fields id and texts must stand; "
            "write one object per client"
        )
    if isinstance(record, _Doubled):
        raise UserError(
            f"{where}: the field {_SHORT.repr(record.name)} stands twice in the object; "
            "keep one of the two, or join what they hold"
        )
    client_id = _field(record, "id", where)
    if not isinstance(client_id, str) or not client_id:
        raise UserError(
            f"{where}: id={_SHORT.repr(client_id)} must be a string that is not empty; put the number or name in quotes"
        )
    texts = _field(record, "texts", where)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: texts must be a list of strings in time order; give each text as one string")
    group = record.get("group", "")
    if not isinstance(group, str):
        raise UserError(f"{where}: group={_SHORT.repr(group)} must be a string; put it in quotes or leave the field out")
    split = record.get("split")
    if split is not None and split not in SPLITS:
        raise UserError(
            f"{where}: split={_SHORT.repr(split)} must be 'train' or 'heldout'; "
            "correct it, or leave the field out to split by the id"
        )
    times = _times(record.get("ts"), len(texts), where)
    labels = None if label_field is None else _labels(record, label_field, len(texts), where)
    try:
        "".join((client_id, group, *texts, *(labels or ()))).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: client {_SHORT.repr(client_id)} holds half of a surrogate pair, which is no character; "
            "remove the escape (\\ud800 to \\udfff)"
        ) from error
    held_out = None if split is None else split == "heldout"
    return Part(client_id, texts, times, group, held_out, labels=labels)


def _field(record: dict[str, Any], name: str, where: str) -> Any:
    if name not in record:
        more = len(record) - MOST_FIELDS
        present = ", ".join([*map(_SHORT.repr, list(record)[:MOST_FIELDS]), *([f"{more} more"] if more > 0 else [])]) or "none"
        raise UserError(f"{where}: the field {name!r} is missing (fields present: {present}); add it to the object")
    return record[name]


def _labels(record: dict[str, Any], name: str, texts: int, where: str) -> list[str]:
    labels = _field(record, name, where)
    if not isinstance(labels, list) or len(labels) != texts:
        what = f"a list of {len(labels)}" if isinstance(labels, list) else _SHORT.repr(labels)
        raise UserError(
            f"{where}: {name}={what} must be a list of {texts} classes, one per text; correct it, or name another field with "
            "--label-column"
        )
    return [label_of(label, where, f"{name}[{place}]") for place, label in enumerate(labels)]


def _times(times: Any, texts: int, where: str) -> list[float] | None:
    """The split inside a client is by time, so times that are given must agree with the order of the texts."""
    if times is None:
        return None
    if not isinstance(times, list) or not all(type(time) in (int, float) for time in times) or len(times) != texts:
        raise UserError(f"{where}: ts must be a list of {texts} numbers, one per text; correct it or leave the field out")
    for place, time in enumerate(times):
        if isinstance(time, float) and not math.isfinite(time):
            raise UserError(f"{where}: ts[{place}]={time!r} must be a finite number; correct it or leave the field out")
    for place, (earlier, later) in enumerate(pairwise(times)):
        if not earlier <= later:
            raise UserError(
                f"{where}: ts[{place + 1}]={_SHORT.repr(later)} is not at or after ts[{place}]={_SHORT.repr(earlier)}: "
                "texts must be in time order; sort texts and ts together"
            )
    try:
        return [float(time) for time in times]
    except OverflowError as error:
        raise UserError(
            f"{where}: ts has a number above {sys.float_info.max:.0e}; correct it or leave the field out"
        ) from error


class _Doubled(dict[str, Any]):
    """A JSON object in which a name stands twice."""

    name: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) == len(pairs):
        return fields
    doubled, seen = _Doubled(fields), set[str]()
    for name, _ in pairs:
        if name in seen:
            doubled.name = name
            break
        seen.add(name)
    return doubled


def _not_json(line: str, error: json.JSONDecodeError) -> str:
    """What is wrong with a line that is not JSON."""
    if "\0" in line:
        return f"a NUL character at column {line.index(chr(0)) + 1}, as in a file that was not written whole"
    if "\r" in line.rstrip("\r\n") and error.msg == "Extra data":
        return "several clients with a carriage return (CR) between them, which ends no line: write LF or CR LF for it"
    return (
        f"not JSON ({error.msg.removesuffix(' at')} at column {error.colno}): every line must be one JSON object, "
        'such as {"id": "ann", "texts": ["first text", "second text"]}'
    )


def _recognised(path: Path, number: int) -> UserError | None:
    """The error for a file of another kind, where the first line is no client and tells what the file is."""
    if number > 1:
        return None
    with _readable(path):
        first = formats.head(path)
    kind = formats.of_text(formats.unpacked(first) if path.suffix == ".gz" else first)
    return formats.refusal(f"{paths.where(path)}, line 1", kind) if kind else None


def _say_alike(path: Path, first_line: dict[str, int]) -> None:
    """Name two ids that look the same, as of one person whose name was written in two ways."""
    seen: dict[str, str] = {}
    for client_id in first_line:
        # Most ids stand for themselves, and need no second place in memory.
        plain = " ".join(unicodedata.normalize("NFKC", client_id).split())
        if plain != client_id:
            other = plain if plain in first_line else seen.setdefault(plain, client_id)
            if other != client_id:
                earlier, later = (f"{_SHORT.repr(name)} in line {first_line[name]}" for name in (other, client_id))
                say(
                    f"{paths.where(path)}: the ids {earlier} and {later} differ in white space or the form of characters "
                    "alone; they are taken as two clients"
                )
                return


def _lines(path: Path) -> Iterator[tuple[int, str, int]]:
    """(line number from 1, line, bytes of the file read so far) of every client; blank lines at the end are passed over.

    Memory is bounded: a line longer than LONGEST bytes, and more than MOST_BLANK bytes of blank lines, raise UserError. So does
    a file that cannot be read to its end, with the line's number.
    """
    number, blank, blank_bytes = 0, 0, 0
    try:
        with _readable(path), path.open("rb") as packed, _open(packed, path) as file:
            while raw := file.readline(LONGEST + 1):
                number += 1
                where = f"{paths.where(path)}, line {number}"
                if len(raw) > LONGEST:
                    raise _recognised(path, number) or UserError(
                        f"{where}: longer than {LONGEST} bytes, more than a client may have; split the client, "
                        "or take a file with one client per line"
                    )
                line = raw.decode("utf-8").removeprefix(BYTE_ORDER_MARK)
                if not line.strip():
                    blank, blank_bytes = blank or number, blank_bytes + len(raw)
                    if blank_bytes > MOST_BLANK:
                        raise UserError(
                            f"{where}: more than {MOST_BLANK} bytes of blank lines from line {blank} on; remove them"
                        )
                    continue
                if blank:
                    raise UserError(
                        f"{paths.where(path)}, line {blank}: a blank line above the client of line {number}; "
                        "put back the client that is missing there, or remove the line"
                    )
                yield number, line, packed.tell()
    except EOFError as error:
        raise UserError(
            f"{paths.where(path)}: truncated gzip file, unreadable after line {number}; copy or compress it again"
        ) from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{paths.where(path)}: damaged gzip file, or one with other bytes behind it, unreadable after line {number} "
            f"({error}); copy or compress it again"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{paths.where(path)}, line {number}: not UTF-8 ({error.reason} at byte {error.start + 1}); save the file in UTF-8"
        ) from error


@contextmanager
def _open(file: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    if path.suffix != ".gz":
        yield file
        return
    with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
        yield unpacked  # type: ignore[misc]


def _readable(path: Path) -> AbstractContextManager[None]:
    return paths.readable(path, "data", WANTED)


def _content(data: str) -> Content:
    path = Path(data)
    check_file(path)
    return Content(name_of(path), f"{path.name} {digests.of_file(path, WANTED)}")


def _stream(options: DataOptions) -> Stream:
    path = Path(options.data)
    check_file(path)
    about = f"{path.name} (sha256 {digests.of_file(path, WANTED)[:16]}; the file states no licence)"
    nbytes = path.stat().st_size
    return Stream(
        name_of(path), about, lambda: parts(path, options.label_column), "words", SEQUENCE_LENGTH, total=nbytes, nbytes=nbytes,
        path=str(path),
    )  # fmt: skip


def _check(options: DataOptions) -> None:
    if options.label_column in FIELDS:
        raise UserError(
            f"label_column={options.label_column!r} is a field with a meaning of its own, as are {', '.join(FIELDS)}; put the "
            "classes into a field with another name"
        )


SOURCE = Source(
    "jsonl", _content, stream=_stream, suffixes=SUFFIXES, tokenizer="words", options=("label_column",), check=_check
)
