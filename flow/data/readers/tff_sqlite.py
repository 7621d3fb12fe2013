"""TensorFlow Federated's SQLite files: StackOverflow and Shakespeare, as they are or packed with lzma.

The table examples(split_name TEXT, client_id TEXT, serialized_example_proto BLOB) holds one tf.train.Example a row, and
client_metadata(client_id TEXT, split_name TEXT, num_examples INTEGER) names the clients of every split
(tensorflow_federated/python/simulation/datasets/sql_client_data.py).
"""

from __future__ import annotations

import lzma
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from flow.data import digests, formats, paths
from flow.data.options import DataOptions
from flow.data.readers import example, published, sqlite, stackoverflow, unpacking
from flow.data.readers.stackoverflow import Form, Texts
from flow.data.source import BY_FILE, Content, Source
from flow.data.streams import Part, Piece, Stream
from flow.errors import UserError

WANTED = "a .sqlite or .sqlite.lzma file of TensorFlow Federated"
WHY = "a data set of TensorFlow Federated"
TABLE, METADATA = "examples", "client_metadata"
COLUMNS = {"split_name", "client_id", "serialized_example_proto"}
EXAMPLE = "CAST(serialized_example_proto AS BLOB)"  # whatever type the column has
MOST_TEXTS = 1024  # of a client that are passed on together
PIECE = 1 << 22  # bytes of the file that are read in one process, on average
MOST_ROWS = 1 << 14  # of which that many are read together at most
LEAST_BYTES = 16  # of the file for each number; where numbers lie farther apart, most pieces would be almost empty
SUFFIXES = (".sqlite.lzma", ".sqlite.xz", ".lzma", ".xz", ".sqlite", ".sqlite3", ".db")


def _where(path: Path) -> str:
    return f"data={str(path)!r}"


def recognises(data: str) -> bool:
    """Whether it is an SQLite database with the table, a damaged one, or one packed with lzma; or a folder of such files."""
    try:
        path = Path(data)
        if not data or not path.is_dir():
            return _is_one(path)
        inside = _inside(path)
        return bool(inside) and all(map(_is_one, inside))
    except (OSError, ValueError):
        return False


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES) and not path.name.startswith("."))


def _is_one(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        first = formats.head(path)
    except (OSError, ValueError):
        return False
    if first.startswith(unpacking.MAGIC):
        try:
            return unpacking.head(first, len(sqlite.MAGIC)) == sqlite.MAGIC
        except lzma.LZMAError:
            return False
    if not first.startswith(sqlite.MAGIC):
        return False
    tables = sqlite.tables(path)
    return tables is None or TABLE in tables


def name_of(path: Path) -> str:
    """The file's name without its endings."""
    return next((path.name.removesuffix(suffix) for suffix in SUFFIXES if path.name.endswith(suffix)), path.stem)


def splits(path: Path, where: str) -> tuple[str, ...]:
    """The splits that a file has, by the names of :data:`flow.data.readers.published.NAMES`.

    Raises:
        UserError: a split has another name, or there is none.
    """
    with sqlite.opened(path, where) as base:
        table = METADATA if METADATA in sqlite.names(base) else TABLE
        sqlite.check(base, table, {"split_name"}, where)
        names = [sqlite.text_of(row[0]) for row in base.execute(f"SELECT DISTINCT split_name FROM {table}")]
    for name in names:
        if name not in published.NAMES:
            raise UserError(
                f"{where}, table {table}: split_name={name!r} must be 'train', 'heldout' or 'test'; correct the rows, or "
                "download the file again"
            )
    if not names:
        raise UserError(f"{where}, table {table}: there is no row, and so no client; download the file again")
    return tuple(sorted({published.NAMES[name] for name in names if name}))


def form_of(path: Path, where: str) -> Form:
    """Which data set a file holds, by the features of its first row."""
    features = example.features(where, WHY)
    with sqlite.opened(path, where) as base, closing(_rows(base, by_client=False)) as rows:
        first = next(rows, None)
    if first is None:
        raise UserError(f"{where}, table {TABLE}: there is no row, and so no text; download the file again")
    row, _, _, blob = first
    at = f"{where}, table {TABLE}, row {row}"
    try:
        fields = list(features(blob))
    except ValueError as error:
        raise UserError(f"{at}: this is {error}; download the file again") from error
    return stackoverflow.form_of(fields, at)


def texts(
    path: Path, form: Form, where: str, known: tuple[str, ...], by_client: bool = False, between: tuple[int, int] | None = None
) -> Iterator[Texts]:
    """The texts of a file, at most 1,024 of a client at a time; with ``by_client`` the first 1,024 of every client.

    Args:
        path: of the SQLite file.
        form: which data set it is.
        where: the start of error messages.
        known: the splits that there are.
        by_client: whether the rows come client by client. SQLite takes an index for that or sorts the rows' numbers, on disk.
        between: the first and the last of the rows' numbers that are read; None: all are.

    Raises:
        UserError: the file is damaged, or a row is not as described above.
    """
    read = _parser(form, where)
    row = between[0] - 1 if between else 0
    with (
        sqlite.opened(path, where, lambda: f", table {TABLE}, after row {row}") as base,
        closing(_rows(base, by_client, between)) as rows,
    ):
        for (split, client_id), own in groupby(rows, key=itemgetter(1, 2)):
            name, client = published.NAMES.get(sqlite.text_of(split) or "", ""), sqlite.text_of(client_id)
            own_texts: list[str] = []
            times: list[float] = []
            first, count = row, 0
            for row, _, _, blob in own:
                if not client or name not in known:
                    raise _faulty(where, row, split, client_id)
                first = row if not own_texts else first
                count += 1
                if by_client and count > MOST_TEXTS:
                    continue
                text, time = read(blob, row, client)
                own_texts.append(text)
                times.append(time)
                if len(own_texts) == MOST_TEXTS and not by_client:
                    yield Texts(name, client, own_texts, times if form.date else None, _place(first), row)
                    own_texts, times = [], []
            if client and own_texts:
                yield Texts(name, client, own_texts, times if form.date else None, _place(first), row)


def _rows(
    base: sqlite3.Connection, by_client: bool, between: tuple[int, int] | None = None
) -> Generator[tuple[int, Any, Any, Any], None, None]:
    """(number, split, client, Example) of every row, in their order or client by client."""
    if between is not None:
        columns = f"rowid, split_name, client_id, {EXAMPLE}"
        yield from base.execute(f"SELECT {columns} FROM {TABLE} WHERE rowid BETWEEN ? AND ? ORDER BY rowid", between)
        return
    numbered = sqlite.has_row_numbers(base, TABLE)
    if not by_client:
        number, order = ("rowid", "ORDER BY rowid") if numbered else ("0", "")
        rows = base.execute(f"SELECT {number}, split_name, client_id, {EXAMPLE} FROM {TABLE} {order}")
        yield from rows if numbered else ((place, *row[1:]) for place, row in enumerate(rows, 1))
    elif numbered:
        blob = f"SELECT {EXAMPLE} FROM {TABLE} WHERE rowid = ?"
        # The rows are sorted without their Examples, which would fill the disk a second time.
        sort = f"SELECT rowid, split_name, client_id FROM {TABLE} ORDER BY split_name, client_id, rowid"
        for row, split, client in base.execute(sort):
            yield row, split, client, (base.execute(blob, (row,)).fetchone() or [None])[0]
    else:
        yield from base.execute(
            f"SELECT row_number() OVER () AS number, split_name, client_id, {EXAMPLE} FROM {TABLE} "
            "ORDER BY split_name, client_id, number"
        )


def _place(row: int) -> str:
    return f"table {TABLE}, row {row}"


def _faulty(where: str, row: int, split: Any, client: Any) -> UserError:
    at = f"{where}, {_place(row)}"
    if not sqlite.text_of(client):
        return UserError(
            f"{at}: client_id={client!r:.80} must be text that is not empty; correct the row, or download the file again"
        )
    return UserError(
        f"{at}: client {client!r:.80} has split_name={split!r:.80}, and must have a split that the table {METADATA} lists, "
        "'train', 'heldout' or 'test'; correct the row, or download the file again"
    )


def _parser(form: Form, where: str) -> Callable[[Any, int, str], tuple[str, float]]:
    parse = example.reader(where, WHY, form.field, *([form.date] if form.date else []))

    def read(blob: Any, row: int, client: str) -> tuple[str, float]:
        text: bytes | None = None
        try:
            text, *time = parse(blob)
            if text is None:
                raise ValueError(f"the feature {form.field!r} is missing")
            if time and time[0] is None:
                raise ValueError(f"the feature {form.date!r} is missing")
            return text.decode("utf-8"), stackoverflow.seconds(time[0].decode("utf-8")) if time and time[0] else 0.0
        except ValueError as error:
            reason = str(error)
            if isinstance(error, UnicodeDecodeError):
                reason = f"the feature {stackoverflow.not_utf8(form.field if error.object == text else form.date, error)}"
            raise UserError(
                f"{where}, {_place(row)}, client {client!r}: {reason}; correct the row, or download the file again"
            ) from error

    return read


def _parts(
    path: Path, form: Form, where: str, known: tuple[str, ...], between: tuple[int, int] | None = None
) -> Iterator[Part]:
    return stackoverflow.parts(texts(path, form, where, known, between=between), known)


def _checked(data: str) -> Path:
    """The file of a value of `data`: itself, or the one that a folder holds.

    Raises:
        UserError: it cannot be read, or the folder holds several.
    """
    path = Path(data)
    if path.is_dir():
        with paths.readable(path, "data", WANTED):
            inside = _inside(path)
        if len(inside) != 1:
            names = ", ".join(own.name for own in inside[:4])
            raise UserError(f"data={data!r} holds the SQLite files {names}, and one is read at a time; give the path of one")
        path = inside[0]
    paths.check_file(path, "data", WANTED)
    return path


def _content(data: str) -> Content:
    path = _checked(data)
    return Content(name_of(path), stackoverflow.digest([path], WANTED))


def _stream(options: DataOptions) -> Stream:
    given = _checked(options.data)
    where = _where(given)
    path = unpacking.unpacked(given, WANTED)
    with sqlite.opened(path, where) as base:
        sqlite.check(base, TABLE, COLUMNS, where)
        numbered = sqlite.has_row_numbers(base, TABLE)
        last = base.execute(f"SELECT {'max(rowid)' if numbered else 'count(*)'} FROM {TABLE}").fetchone()[0] or 0
        first = (base.execute(f"SELECT min(rowid) FROM {TABLE}").fetchone()[0] or 0) if numbered else 0
    known = splits(path, where)
    form = form_of(path, where)
    stackoverflow.check_protocol(options, form, known, where)
    by_client = options.protocol == "motley"

    reading = partial(_parts, path, form, where, known)

    def parts() -> Iterator[Part]:
        return stackoverflow.motley(texts(path, form, where, known, by_client=True)) if by_client else reading()

    def pieces() -> Iterator[Piece]:
        step = max(1, min(MOST_ROWS, PIECE * (last - first + 1) // size))
        return (partial(reading, (begin, min(last, begin + step - 1))) for begin in range(first, last + 1, step))

    size = path.stat().st_size
    in_pieces = numbered and not by_client and last - first < size // LEAST_BYTES

    words = stackoverflow.vocabulary(form, given.parent, options, where)
    about = stackoverflow.about(form, given.name, known, options, words is None)
    return Stream(
        name_of(given), f"{about}; sha256 {digests.of_file(given, WANTED)[:16]})", parts, form.tokenizer, form.sequence_length,
        words, first_only=options.protocol is not None, total=0 if by_client else max(0, last), path=str(given),
        pieces=pieces if in_pieces else None,
    )  # fmt: skip


SOURCE = Source(
    "tff_sqlite", _content, stream=_stream, matches=recognises, options=("protocol",), check=stackoverflow.check,
    tokenizer=BY_FILE,
)  # fmt: skip
