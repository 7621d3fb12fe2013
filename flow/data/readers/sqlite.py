"""SQLite databases, opened to be read alone; a damaged one is a mistake of the user.

A table may be WITHOUT ROWID, or a view; a value may have another type than its column, as SQLite allows.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from flow.errors import UserError

MAGIC = b"SQLite format 3\0"
_WRITING = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_GETTEMPPATH,
    sqlite3.SQLITE_CANTOPEN,
}
"""Codes of errors of temporary files, as a database that is open to be read has no others."""


def _connect(path: Path) -> sqlite3.Connection:
    # immutable: no lock is taken, so that the file may lie in a folder that cannot be written; with a journal beside, it is not
    journal = any(path.with_name(f"{path.name}{end}").exists() for end in ("-wal", "-journal"))
    mode = "mode=ro" if journal else "mode=ro&immutable=1"
    base = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)
    base.execute("PRAGMA trusted_schema=OFF")  # a view of a foreign file calls nothing but SQLite's plain functions
    return base


def tables(path: Path) -> set[str] | None:
    """The names of the tables and views, in lower case; None for a file that is damaged."""
    try:
        with closing(_connect(path)) as base:
            return names(base)
    except (sqlite3.Error, UnicodeDecodeError):
        return None


def names(base: sqlite3.Connection) -> set[str]:
    """The names of the tables and views, in lower case, for SQLite takes either case."""
    rows = base.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
    return {name.lower() for (name,) in rows if isinstance(name, str)}


def columns(base: sqlite3.Connection, table: str) -> set[str]:
    """The names of the columns of a table or view, in lower case."""
    return {name.lower() for (name,) in base.execute("SELECT name FROM pragma_table_info(?)", (table,))}


def has_row_numbers(base: sqlite3.Connection, table: str) -> bool:
    """Whether SQLite numbers the rows: not those of a view, nor of a table WITHOUT ROWID."""
    kind = base.execute(
        "SELECT type FROM sqlite_master WHERE lower(name) = ? AND type IN ('table', 'view')", (table,)
    ).fetchone()
    if kind != ("table",) or "rowid" in columns(base, table):
        return False
    try:
        base.execute(f"SELECT rowid FROM {table} LIMIT 0")
    except sqlite3.OperationalError:
        return False
    return True


@contextmanager
def opened(path: Path, where: str, at: Callable[[], str] = str) -> Iterator[sqlite3.Connection]:
    """A connection, closed at the end.

    Args:
        path: of the file.
        where: the start of error messages.
        at: where reading is, when it is asked.

    Raises:
        UserError: SQLite refuses the file, or cannot write its temporary files, at whatever place of the block.
    """
    connected = False
    try:
        with closing(_connect(path)) as base:
            base.execute("SELECT count(*) FROM sqlite_master").fetchone()
            connected = True
            yield base
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
        raise  # of a call that is wrong, whatever the file
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if connected and is_of_temporary_file(error):
            raise temporary(f"{where}{at()}", error) from error
        raise UserError(
            f"{where}{at()}: the SQLite database is damaged or incomplete ({_line(error)}); copy or download it again"
        ) from error


def _line(error: BaseException) -> str:
    """What SQLite says, which may quote any bytes of the file, in one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(error).split()))[:300]


def is_of_temporary_file(error: BaseException) -> bool:
    """Whether the disk does not take what SQLite sorts or sets aside."""
    return getattr(error, "sqlite_errorcode", None) in _WRITING


def temporary(where: str, error: BaseException) -> UserError:
    """The error for a disk that does not take SQLite's temporary files."""
    name = "SQLITE_TMPDIR" if os.environ.get("SQLITE_TMPDIR") else "TMPDIR"
    folder = os.environ.get(name) or tempfile.gettempdir()
    return UserError(
        f"{where}: SQLite cannot write its temporary files ({_line(error)}); free some disk, or set {name}, which is "
        f"{folder!r}, to a folder on a disk with more room"
    )


def check(base: sqlite3.Connection, table: str, wanted: set[str], where: str) -> None:
    """Refuse a database without a table or view that has these columns.

    Raises:
        UserError: it has not.
    """
    known = names(base)
    if table not in known:
        raise UserError(
            f"{where}: the database has the tables {', '.join(sorted(known)) or '(none)'}, and must have {table!r}; give a "
            "file of the data set as it is published"
        )
    present = columns(base, table)
    if wanted - present:
        raise UserError(
            f"{where}, table {table}: the columns {', '.join(sorted(wanted - present))} are missing (there are "
            f"{', '.join(sorted(present))}); give a file of the data set as it is published"
        )


def text_of(value: Any) -> str | None:
    """A value that is meant as text, whatever type SQLite gave it: text, its bytes in UTF-8, or a whole number; else None."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return None
    return str(value) if isinstance(value, str | int) else None
