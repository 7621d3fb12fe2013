"""SQLite databases, opened to be read alone; a damaged one is a mistake of the user."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from flow.errors import UserError

MAGIC = b"SQLite format 3\0"


def _connect(path: Path) -> sqlite3.Connection:
    # immutable: no lock is taken, so that the file may lie in a folder that cannot be written; with a journal beside, it is not
    journal = any(path.with_name(f"{path.name}{end}").exists() for end in ("-wal", "-journal"))
    mode = "mode=ro" if journal else "mode=ro&immutable=1"
    return sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)


def tables(path: Path) -> set[str] | None:
    """The names of the tables; None for a file that is damaged."""
    try:
        with closing(_connect(path)) as base:
            return set(columns(base))
    except (sqlite3.Error, UnicodeDecodeError):
        return None


def columns(base: sqlite3.Connection) -> dict[str, set[str]]:
    """The columns of every table, by its name."""
    names = [row[0] for row in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {
        name: {column[0] for column in base.execute("SELECT name FROM pragma_table_info(?)", (name,))}
        for name in names
        if isinstance(name, str)
    }


@contextmanager
def opened(path: Path, where: str, at: Callable[[], str] = str) -> Iterator[sqlite3.Connection]:
    """A connection, closed at the end.

    Args:
        path: of the file.
        where: the start of error messages.
        at: where reading is, when it is asked.

    Raises:
        UserError: SQLite refuses the file, at whatever place of the block.
    """
    try:
        with closing(_connect(path)) as base:
            yield base
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise UserError(
            f"{where}{at()}: the SQLite database is damaged or incomplete ({error}); copy or download it again"
        ) from error


def check(base: sqlite3.Connection, table: str, wanted: set[str], where: str) -> None:
    """Refuse a database without a table that has these columns.

    Raises:
        UserError: it has not.
    """
    found = columns(base)
    if table not in found:
        raise UserError(
            f"{where}: the database has the tables {', '.join(sorted(found)) or '(none)'}, and must have {table!r}; give a "
            "file of the data set as it is published"
        )
    if wanted - found[table]:
        raise UserError(
            f"{where}, table {table}: the columns {', '.join(sorted(wanted - found[table]))} are missing (there are "
            f"{', '.join(sorted(found[table]))}); give a file of the data set as it is published"
        )
