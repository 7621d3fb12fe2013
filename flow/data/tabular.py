"""Tables of one text a row: CSV, TSV and Parquet; a file, a folder of them, or a pattern such as ``posts-*.csv``.

CSV and TSV are read with the standard library, RFC 4180 with any of the usual delimiters, packed with gzip or not. Parquet
needs pyarrow. The columns are given as options, or guessed where the name of one is usual.
"""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import importlib
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from flow.data import columns, digests, formats, paths
from flow.data.columns import SHORT, label_in, labels_of, named, time_in
from flow.data.options import DataOptions
from flow.data.source import Content, Source
from flow.data.streams import Part, Stream
from flow.errors import UserError, plural

TEXT_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
PARQUET_SUFFIXES = (".parquet",)
SUFFIXES = (*TEXT_SUFFIXES, *PARQUET_SUFFIXES)
WANTED = "a CSV, TSV or Parquet file, a folder of them, or a pattern"
DELIMITERS = (",", "\t", ";", "|")
LONGEST = 1 << 28  # bytes of a line
MOST_TEXTS = 1024  # rows of one client that are passed on together
ONLY = "all rows"
"""The client of every row where no column names one."""
BATCH = 4096  # rows of a Parquet file that are read at a time


class _Row(NamedTuple):
    client: str
    text: str
    time: float | None
    group: str
    label: str | None
    place: str
    position: int
    """Bytes of the file that were read, about."""


def files_of(data: str) -> list[Path]:
    """The files of a value of `data` that are tables by their names, or the one file that it names; sorted by path."""
    path = Path(data)
    with suppress(OSError, ValueError):
        if path.is_dir():
            return sorted(entry for entry in path.iterdir() if _is_named_table(entry) and not entry.name.startswith("."))
        if paths.PATTERN.search(data) and not path.exists():
            return sorted(entry for entry in map(Path, glob.glob(data, recursive=True)) if _is_named_table(entry))
    return [path]


def _is_named_table(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def matches(data: str) -> bool:
    """Whether a value of `data` leads to tables."""
    with suppress(OSError, ValueError):
        path = Path(data)
        if path.is_file():
            return _kind(path) is not None
        return bool(files_of(data)) and files_of(data) != [path]
    return False


def _kind(path: Path) -> str | None:
    """What a file is: "parquet", "text", or None for neither."""
    try:
        first = formats.head(path)
    except OSError:
        return "text" if path.name.lower().endswith(TEXT_SUFFIXES) else None
    kind = formats.of_bytes(first)
    if kind is formats.PARQUET:
        return "parquet"
    if path.name.lower().endswith(TEXT_SUFFIXES):
        return "text"
    if path.name.lower().endswith(PARQUET_SUFFIXES):
        return "parquet"
    if kind is formats.GZIP:
        first = formats.unpacked(first)
        kind = formats.of_bytes(first)
    is_table = kind is None and b"\0" not in first and formats.of_text(first) in (formats.CSV, formats.TSV)
    return "text" if is_table and not formats.is_named(path) else None


def parts(files: Sequence[Path], options: DataOptions) -> Iterator[Part]:
    """The rows of all files, those of a client that follow one another together.

    Raises:
        UserError: a file is damaged, or a row of it breaks a rule; the message names file and row.
    """
    done = 0
    for path in files:
        rows = _parquet(path, options) if _kind(path) == "parquet" else _text(path, options)
        where = f"{path.name}, " if len(files) > 1 else ""
        held: list[_Row] = []
        for row in rows:
            if held and (len(held) >= MOST_TEXTS or row.client != held[0].client or row.group != held[0].group):
                yield _part(held, where, done)
                held = []
            held.append(row)
        if held:
            yield _part(held, where, done)
        done += path.stat().st_size


def _part(rows: list[_Row], where: str, done: int) -> Part:
    times = [row.time for row in rows if row.time is not None]
    first = rows[0]
    return Part(
        first.client, [row.text for row in rows], times if len(times) == len(rows) else None, first.group,
        place=where + first.place, position=done + rows[-1].position, labels=labels_of([row.label for row in rows]),
    )  # fmt: skip


# --- CSV and TSV ------------------------------------------------------------------------------------------------------


def _text(path: Path, options: DataOptions) -> Iterator[_Row]:
    where = paths.where(path)
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
    line = 0
    try:
        with paths.readable(path, "data", WANTED), path.open("rb") as packed, _unpacked(packed, path) as file:
            lines = _lines(file, where)
            first = next(lines, "")
            names, delimiter = _header(first, path, where, 1 if options.client_column == "" else 2)
            chosen = columns.columns_of(names, options, where, True)
            client, text, time, group, label = (-1 if name is None else names.index(name) for name in chosen)
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            line = 2
            for row in reader:
                if row:
                    place = f"line {line}"
                    if len(row) != len(names):
                        raise UserError(
                            f"{where}, {place}: {len(row)} {plural(len(row), 'value')} where the first line names "
                            f"{len(names)} columns; put a text that holds {delimiter!r}, a quotation mark or a line break into "
                            "quotation marks"
                        )
                    if client >= 0 and not row[client]:
                        raise columns.no_client(f"{where}, {place}", chosen)
                    yield _Row(
                        row[client] if client >= 0 else ONLY, row[text], time_in(row[time], f"{where}, {place}", chosen),
                        "" if group < 0 else row[group], label_in(row[label], f"{where}, {place}", chosen), place,
                        packed.tell(),
                    )  # fmt: skip
                line = reader.line_num + 2
    except csv.Error as error:
        if "new-line character" in str(error):
            raise UserError(
                f"{where}, line {max(line, 1)}: a carriage return inside a line; end every line with a line feed, such as with "
                "`tr '\\r' '\\n'`, and put a text that holds a carriage return into quotation marks"
            ) from error
        raise UserError(
            f"{where}, line {max(line, 1)}: quotation marks that do not pair up ({error}); write a text with quotation marks "
            'in it as "say ""yes""", or make a Parquet file'
        ) from error
    except EOFError as error:
        raise UserError(f"{where}: truncated gzip file, unreadable after line {line}; copy or compress it again") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{where}: damaged gzip file, unreadable after line {line} ({error}); copy or compress it again"
        ) from error
    if line <= 2:
        raise UserError(f"{where}: there is no row below the names of the columns; give a table with one text a row")


@contextmanager
def _unpacked(file: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if not packed:
        yield file
        return
    with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
        yield unpacked  # type: ignore[misc]


def _lines(file: BinaryIO, where: str) -> Iterator[str]:
    number = 0
    encoding = "LATIN1"
    while raw := file.readline(LONGEST + 1):
        number += 1
        if number == 1 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            encoding = "UTF-16"
        if len(raw) > LONGEST:
            raise UserError(f"{where}, line {number}: longer than {LONGEST} bytes; break the text, or give another file")
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{where}, line {number}: not UTF-8 ({error.reason} at byte {error.start + 1}); save the file in UTF-8, such "
                f"as with `iconv -f {encoding} -t UTF-8`"
            ) from error
        if "\0" in line:
            raise UserError(f"{where}, line {number}: a NUL character, as no text has; remove it, or write the table again")
        yield line.removeprefix("\ufeff") if number == 1 else line


def _header(first: str, path: Path, where: str, fewest: int) -> tuple[list[str], str]:
    """The names of the columns, and what separates them: the mark that stands there most often outside of quotation marks.

    Args:
        fewest: columns that must stand there: 1 where all rows are of one client, else 2.
    """
    kind = formats.of_bytes(first.encode()[: formats.HEAD])
    if kind is not None:
        raise formats.refusal(where, kind)
    if not first.strip():
        raise UserError(f"{where}, line 1: empty, where the names of the columns must stand; give a table with a first line")
    bare = re.sub(r'"[^"]*"', "", first)
    delimiter = max(DELIMITERS, key=bare.count)
    names = next(csv.reader([first], delimiter=delimiter, strict=True))
    if len(names) < fewest:
        raise UserError(
            f"{where}, line 1: one column, {SHORT.repr(names[0])}, where one for the client and one for the text must stand; "
            "separate them by commas or tabs, and name them in the first line"
        )
    return [name.strip() for name in names], delimiter


def names_of(path: Path) -> list[str]:
    """The names of a table's columns.

    Raises:
        UserError: it is no table that can be read.
    """
    where = paths.where(path)
    with paths.readable(path, "data", WANTED):
        if _kind(path) == "parquet":
            names: list[str] = _arrow(where)[1].read_schema(path).names
            return names
        with path.open("rb") as packed, _unpacked(packed, path) as file:
            return _header(next(_lines(file, where), ""), path, where, 1)[0]


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _parquet(path: Path, options: DataOptions) -> Iterator[_Row]:
    where = paths.where(path)
    arrow, parquet = _arrow(where)
    try:
        with paths.readable(path, "data", WANTED), parquet.ParquetFile(path, buffer_size=1 << 20) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            chosen = columns.columns_of(schema.names, options, where, True)
            for role, name in chosen._asdict().items():
                kind = schema.field(name).type if name is not None else None
                if kind is not None and role != "time" and not _fits(arrow, kind, role):
                    raise UserError(
                        f"{where}: the column {name!r} holds {kind}, where a {role} is a string{_or_number(role)}; give "
                        f"--{role}-column NAME, or convert the column"
                    )
            size, number = path.stat().st_size, 0
            for batch in file.iter_batches(BATCH, columns=chosen.used):
                lists = {name: batch.column(name).to_pylist() for name in chosen.used}
                nothing = [None] * len(batch)
                sides = (lists[name] if name is not None else nothing for name in chosen)
                for client, text, time, group, label in zip(*sides, strict=True):
                    number += 1
                    place = f"{where}, row {number}"
                    if chosen.client is None:
                        client = ONLY
                    elif client is None or client == "":
                        raise columns.no_client(place, chosen)
                    if text is None:
                        raise columns.no_text(place, chosen)
                    yield _Row(
                        named(client), text, time_in(time, place, chosen), named(group), label_in(label, place, chosen),
                        f"row {number}", size * number // max(rows, 1),
                    )  # fmt: skip
    except arrow.ArrowException as error:
        raise UserError(f"{where}: a Parquet file that cannot be read ({_line(error)}); copy or write it again") from error
    if not rows:
        raise UserError(f"{where}: there is no row; give a table with one text a row")


def _arrow(where: str) -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(
            f"{where}: Parquet needs the package pyarrow ({error}); run: pip install 'flow-fl[data]', or save the table as CSV"
        ) from error


def _fits(arrow: Any, kind: Any, role: str) -> bool:
    if arrow.types.is_dictionary(kind):
        kind = kind.value_type
    known = arrow.types
    if known.is_string(kind) or known.is_large_string(kind) or kind == arrow.string_view():
        return True
    return role != "text" and bool(known.is_integer(kind) or known.is_boolean(kind) or known.is_floating(kind))


def _or_number(role: str) -> str:
    return "" if role == "text" else " or a number"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


# --- the source -------------------------------------------------------------------------------------------------------


def _name_of(data: str) -> str:
    name = Path(data).name
    for suffix in SUFFIXES[::-1]:
        name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    return re.sub(r"[^\w.-]+", "-", name).strip("-") or "tables"


def _content(data: str) -> Content:
    files = _checked(data)
    names = " ".join(path.name for path in files)
    return Content(_name_of(data), f"{names} {digests.of_files(files, WANTED)}")


def _checked(data: str) -> list[Path]:
    files = files_of(data)
    for path in files:
        paths.check_file(path, "data", WANTED)
    return files


def _stream(options: DataOptions) -> Stream:
    files = _checked(options.data)
    nbytes = sum(path.stat().st_size for path in files)
    what = files[0].name if len(files) == 1 else f"{len(files)} tables of {Path(options.data).name}"
    about = f"{what} (sha256 {digests.of_files(files, WANTED)[:16]}; the file states no licence)"
    return Stream(
        _name_of(options.data), about, lambda: parts(files, options), total=nbytes, nbytes=nbytes // 2, path=options.data
    )


SOURCE = Source(
    "tabular", _content, stream=_stream, suffixes=SUFFIXES, matches=matches, tokenizer="words",
    options=columns.OPTIONS,
)  # fmt: skip
