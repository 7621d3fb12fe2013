"""fedjax's SQLite files, one for each split: stackoverflow_{train,held_out,test}.sqlite and shakespeare_{train,test}.sqlite.

The table federated_data(client_id BLOB PRIMARY KEY, data BLOB, num_examples INTEGER) has a client in every row; data is the
zlib form of a msgpack of {field: array}. An array is an ExtType: 1 for numbers, msgpack(shape, dtype, bytes), and 4 for text,
msgpack(shape, [bytes, ...]). Source: fedjax/core/{sqlite_federated_data,serialization}.py.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from flow.data import digests, formats, paths
from flow.data.options import DataOptions
from flow.data.readers import hdf5, needs, sqlite, stackoverflow
from flow.data.readers.stackoverflow import FORMS, Form, Texts
from flow.data.source import BY_FILE, Content, Source
from flow.data.streams import Part, Stream
from flow.errors import UserError

WANTED = "a .sqlite file of fedjax, or of a folder of them"
WHY = "a data set of fedjax"
TABLE = "federated_data"
COLUMNS = {"client_id", "data", "num_examples"}
SUFFIXES = (".sqlite", ".sqlite3", ".db")
LARGEST = 1 << 30  # bytes of a client
NUMBERS, TEXT = 1, 4
AGAIN = "correct the row, or download the file again"


def recognises(data: str) -> bool:
    """Whether it is an SQLite database with the table, or a folder with one."""
    try:
        path = Path(data)
        return any(map(_is_fedjax, _inside(path) if data and path.is_dir() else [path]))
    except (OSError, ValueError):
        return False


def _is_fedjax(path: Path) -> bool:
    if not path.is_file() or not formats.head(path).startswith(sqlite.MAGIC):
        return False
    tables = sqlite.tables(path)
    return tables is not None and TABLE in tables


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES))


def files_of(data: str) -> list[Path]:
    """The files of a value of `data`.

    Raises:
        UserError: a file of the folder is of another kind, or cannot be read.
    """
    path = Path(data)
    with paths.readable(path, "data", WANTED):
        if not path.is_dir():
            paths.check_file(path, "data", WANTED)
            return [path]
        files = _inside(path)
        for file in files:
            paths.check_file(file, "data", WANTED)
            if not _is_fedjax(file):
                raise UserError(
                    f"data={str(file)!r} is no SQLite database of fedjax, and {data!r} has others that are; download it "
                    "again, or put it elsewhere"
                )
    return files


def _packed(blob: Any, where: str) -> dict[str, Any]:
    """The fields of a client, every array as an ExtType still."""
    msgpack = needs.package("msgpack", "data", where, WHY)
    try:
        if not isinstance(blob, bytes):
            raise ValueError(f"a {type(blob).__name__} and not bytes")
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(blob, LARGEST)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise ValueError(f"the client is incomplete, or has more than {LARGEST} bytes")
        fields = msgpack.unpackb(content)
    except (zlib.error, ValueError, msgpack.UnpackException) as error:
        raise UserError(f"{where}: data must be the zlib form of a msgpack ({error}); {AGAIN}") from error
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
        raise UserError(f"{where}: data must be fields by their names; {AGAIN}")
    return fields


def _texts(value: Any, field: str, where: str) -> list[str]:
    """The texts of a field."""
    msgpack = needs.package("msgpack", "data", where, WHY)
    code = value.code if isinstance(value, msgpack.ExtType) else None
    if code != TEXT:
        what = "numbers" if code == NUMBERS else f"ExtType {code}" if code is not None else f"a {type(value).__name__}"
        raise UserError(f"{where}: {field} must be an array of text (ExtType {TEXT}), and is {what}; {AGAIN}")
    try:
        array = msgpack.unpackb(value.data)
        if not (isinstance(array, list) and len(array) == 2 and all(isinstance(own, list) for own in array)):
            raise ValueError("it is not a list of its shape and its values")
        shape, content = array
        if shape != [len(content)]:
            raise ValueError(f"its shape is {shape!s:.80}, and there are {len(content)} values")
        for number, text in enumerate(content, 1):
            if not isinstance(text, bytes | str):
                raise ValueError(f"value {number} is a {type(text).__name__}")
        decoded: list[str] = []
        try:
            decoded.extend(text.decode("utf-8") if isinstance(text, bytes) else text for text in content)
        except UnicodeDecodeError as error:
            at = f"{where}, value {len(decoded) + 1}"
            raise UserError(f"{at}: {stackoverflow.not_utf8(field, error)}; {AGAIN}") from error
        return decoded
    except UserError:
        raise
    except (ValueError, msgpack.UnpackException) as error:
        raise UserError(f"{where}: {field} is no array of text ({error}); {AGAIN}") from error


def _client(row: int, client_id: Any, path: Path) -> tuple[str, str]:
    """The id, and where it stands."""
    at = f"data={str(path)!r}, table {TABLE}, row {row}"
    client = sqlite.text_of(client_id)
    if not client:
        raise UserError(f"{at}: client_id={client_id!r:.80} must be text in UTF-8 that is not empty; {AGAIN}")
    return client, f"{at}, client {client!r:.80}"


def _rows(base: sqlite3.Connection) -> Generator[tuple[int, Any, Any], None, None]:
    """(number, client, data) of every row, in their order."""
    fields = f"client_id, CAST(data AS BLOB) FROM {TABLE}"  # whatever type the column has
    if sqlite.has_row_numbers(base, TABLE):
        yield from base.execute(f"SELECT rowid, {fields} ORDER BY rowid")
    else:
        yield from ((number, *row) for number, row in enumerate(base.execute(f"SELECT {fields}"), 1))


def form_of(path: Path) -> Form:
    """Which data set a file holds, by the fields of its first client."""
    where = f"data={str(path)!r}"
    with sqlite.opened(path, where) as base:
        sqlite.check(base, TABLE, COLUMNS, where)
        with closing(_rows(base)) as rows:
            row = next(rows, None)
    if row is None:
        raise UserError(f"{where}, table {TABLE}: there is no row, and so no client; download the file again")
    _, at = _client(row[0], row[1], path)
    return stackoverflow.form_of(list(_packed(row[2], at)), at)


def texts(path: Path, split: str, form: Form, begin: int = 0) -> Iterator[Texts]:
    """All texts of every client of a file, one client at a time.

    Args:
        path: of the file.
        split: of its clients.
        form: which data set it is.
        begin: the position of the first client.

    Raises:
        UserError: the file is damaged, or a client has not the fields of the data set.
    """
    where, last = f"data={str(path)!r}", 0
    with (
        sqlite.opened(path, where, lambda: f", table {TABLE}, after row {last}") as base,
        closing(_rows(base)) as rows,
    ):
        for position, (last, client_id, data) in enumerate(rows, begin + 1):
            client, at = _client(last, client_id, path)
            fields = _packed(data, at)
            for name in filter(None, (form.field, form.date)):
                if name not in fields:
                    raise UserError(f"{at}: the field {name!r} is missing; {AGAIN}")
            own_texts = _texts(fields[form.field], form.field, at)
            times = None
            if form.date:
                dates = _texts(fields[form.date], form.date, at)
                if len(dates) != len(own_texts):
                    raise UserError(f"{at}: there are {len(own_texts)} {form.field} and {len(dates)} {form.date}; {AGAIN}")
                try:
                    times = [stackoverflow.seconds(date) for date in dates]
                except ValueError as error:
                    raise UserError(f"{at}, {form.date}: {error}; {AGAIN}") from error
            yield Texts(split, client, own_texts, times, f"{path.name}, row {last}", position)


def _name(data: str, files: list[Path]) -> str:
    return files[0].stem if len(files) == 1 else Path(data).absolute().name


def _content(data: str) -> Content:
    files = files_of(data)
    return Content(_name(data, files), stackoverflow.digest(files, WANTED))


def _stream(options: DataOptions) -> Stream:
    files = files_of(options.data)
    where = f"data={options.data!r}"
    by_split = hdf5.splits_of(files)
    forms = {form_of(path) for path in files}
    if len(forms) > 1:
        raise UserError(
            f"{where} holds both {' and '.join(form.licence for form in FORMS)}; put them into folders of their own"
        )
    (form,) = forms
    stackoverflow.check_protocol(options, form, by_split, where)
    counts = {}
    for path in files:
        with sqlite.opened(path, f"data={str(path)!r}") as base:
            counts[path] = base.execute(f"SELECT count(*) FROM {TABLE}").fetchone()[0]

    def parts() -> Iterator[Part]:
        begin = 0
        for split, path in by_split.items():
            examples = texts(path, split, form, begin)
            is_motley = options.protocol == "motley"
            yield from stackoverflow.motley(examples) if is_motley else stackoverflow.parts(examples, by_split)
            begin += counts[path]

    name = _name(options.data, files)
    words = stackoverflow.vocabulary(form, files[0].parent, options, where)
    about = stackoverflow.about(form, f"{name} of fedjax", by_split, options, words is None)
    return Stream(
        name, f"{about}; sha256 {digests.of_files(files, WANTED)[:16]})", parts, form.tokenizer, form.sequence_length, words,
        first_only=options.protocol is not None, total=sum(counts.values()), path=options.data,
    )  # fmt: skip


SOURCE = Source(
    "fedjax", _content, stream=_stream, matches=recognises, options=("protocol",), check=stackoverflow.check, tokenizer=BY_FILE
)
