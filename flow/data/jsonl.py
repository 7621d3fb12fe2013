"""One's own texts, next word: a .jsonl or .jsonl.gz file with one client per line (docs/data.md shows the form)."""

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from flow.data.corpus import ClientTexts, Corpus, is_held_out
from flow.data.options import DataOptions
from flow.data.population import Population
from flow.data.source import Content, Source, cut
from flow.errors import UserError

SUFFIXES = (".jsonl", ".jsonl.gz")
SEQUENCE_LENGTH = 20
SPLITS = ("train", "heldout")


def read(path: Path) -> Corpus:
    """All clients of the file.

    Raises UserError for a missing file and, naming file and line, for a truncated or damaged file, a line that is not such
    a client, and an id that occurs twice.
    """
    check_file(path)
    clients: dict[str, ClientTexts] = {}
    first_line: dict[str, int] = {}
    for number, line in _lines(path):
        where = f"data={str(path)!r}, line {number}"
        client = parse_client(line, where)
        if client.id in clients:
            raise UserError(
                f"{where}: the client id {client.id!r} already stands in line {first_line[client.id]}; "
                "ids must be distinct: put all texts of a client into one line"
            )
        clients[client.id] = client
        first_line[client.id] = number
    about = f"{path.name} (sha256 {_sha256(path)[:16]}; the file states no licence)"
    return Corpus(name_of(path), tuple(clients.values()), "word", SEQUENCE_LENGTH, continuous=False, about=about)


def check_file(path: Path) -> None:
    """Raise UserError unless there is such a file."""
    with _readable(path):
        exists = path.is_file()
    if not exists:
        raise UserError(f"data={str(path)!r}: there is no such file; give the path of a .jsonl or .jsonl.gz file")


def name_of(path: Path) -> str:
    """The data set's name: the file's, without its endings."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def parse_client(line: str, where: str) -> ClientTexts:
    """One line of the file; ``where`` (file and line) starts every error message."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not JSON ({error.msg} at column {error.colno}): every line must be one JSON object, "
            'such as {"id": "ann", "texts": ["first text", "second text"]}; correct or remove the line'
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a list in a list in a list ...
        raise UserError(f"{where}: JSON that cannot be read ({error}); correct or remove the line") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: a JSON {type(record).__name__} where an object with the fields id and texts must stand")
    client_id = _field(record, "id", where)
    if not isinstance(client_id, str) or not client_id:
        raise UserError(f"{where}: id={client_id!r} must be a string that is not empty; put the number or name in quotes")
    texts = _field(record, "texts", where)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: texts must be a list of strings in time order; give each text as one string")
    group = record.get("group", "")
    if not isinstance(group, str):
        raise UserError(f"{where}: group={group!r} must be a string; put it in quotes or leave the field out")
    split = record.get("split")
    if split is not None and split not in SPLITS:
        raise UserError(
            f"{where}: split={split!r} must be 'train' or 'heldout'; correct it, or leave the field out to split by the id"
        )
    _check_times(record.get("ts"), len(texts), where)
    try:
        "".join((client_id, group, *texts)).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: client {client_id!r} holds half of a surrogate pair, which is no character; "
            "remove the escape (\\ud800 to \\udfff)"
        ) from error
    held_out = is_held_out(client_id) if split is None else split == "heldout"
    return ClientTexts(client_id, group, held_out, tuple(texts))


def _field(record: dict[str, Any], name: str, where: str) -> Any:
    if name not in record:
        present = ", ".join(map(repr, record)) or "none"
        raise UserError(f"{where}: the field {name!r} is missing (fields present: {present}); add it to the object")
    return record[name]


def _check_times(times: Any, texts: int, where: str) -> None:
    """The split inside a client is by time, so times that are given must agree with the order of the texts."""
    if times is None:
        return
    if not isinstance(times, list) or not all(type(time) in (int, float) for time in times) or len(times) != texts:
        raise UserError(f"{where}: ts must be a list of {texts} numbers, one per text; correct it or leave the field out")
    for place, (earlier, later) in enumerate(pairwise(times)):
        if not earlier <= later:
            raise UserError(
                f"{where}: ts[{place + 1}]={later!r} is not at or after ts[{place}]={earlier!r}: "
                "texts must be in time order; sort texts and ts together"
            )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line); a file that cannot be read to its end raises UserError with the line's number."""
    number = 0
    try:
        with _readable(path), _open(path) as file:
            for number, line in enumerate(file, start=1):
                yield number, line.decode("utf-8")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"data={str(path)!r}: damaged or truncated gzip file, unreadable after line {number} ({error}); "
            "copy or compress it again (a file that is not compressed must be named .jsonl)"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"data={str(path)!r}, line {number}: not UTF-8 ({error.reason}); save the file in UTF-8 "
            "(a compressed file must be named .jsonl.gz)"
        ) from error


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _sha256(path: Path) -> str:
    with _readable(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise UserError where the system refuses to read the file. A faulty gzip file is left to the reader of its lines."""
    try:
        yield
    except gzip.BadGzipFile:
        raise
    except OSError as error:
        raise UserError(
            f"data={str(path)!r} cannot be read ({error}); give the path of a .jsonl or .jsonl.gz file that you may read"
        ) from error


def _content(data: str) -> Content:
    path = Path(data)
    check_file(path)
    return Content(name_of(path), f"{path.name} {_sha256(path)}")


def _population(options: DataOptions) -> Population:
    return cut(read(Path(options.data)), options)


SOURCE = Source("jsonl", _content, _population, suffixes=SUFFIXES)
