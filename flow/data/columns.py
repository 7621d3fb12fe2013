"""The columns of a table of texts: which of them holds what, and what their values mean. Shared by all sources of rows."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from flow.data import paths
from flow.data.classes import label_of
from flow.data.options import DataOptions
from flow.errors import UserError, say

OPTIONS = ("client_column", "text_column", "time_column", "group_column", "label_column")
"""The fields of DataOptions that name columns."""
MOST_NAMES = 30  # columns that a message lists
ROLES = {
    "client": ("client_id", "client", "clientid", "user_id", "user", "userid", "user_name", "username", "author_id", "author",
               "authorid", "speaker_id", "speaker", "screen_name", "owner_user_id", "owneruserid"),
    "text": ("text", "body", "comment", "message", "content", "sentence", "tweet", "review", "tokens", "snippets"),
    "time": ("time", "timestamp", "date", "datetime", "created_utc", "created_at", "creation_date", "creationdate", "ts"),
    "group": ("group", "subreddit", "label", "topic", "category"),
}  # fmt: skip
"""Usual names of a column, by what it holds."""
SHORT = reprlib.Repr()
SHORT.maxstring = 80
"""Of values that may be of any size, for messages."""


class Columns(NamedTuple):
    """Which column holds what; None: none does."""

    client: str | None
    """None where all rows are of one client, which the option client_column="" says."""
    text: str
    time: str | None
    group: str | None
    label: str | None

    @property
    def used(self) -> list[str]:
        """All columns that hold something, each once."""
        return list(dict.fromkeys(name for name in self if name is not None))


def columns_of(names: Sequence[str], options: DataOptions, where: str, without_client: bool = False) -> Columns:
    """Which columns hold client, text, time and group, by the options or else by their names; and the label, by its option.

    The column of the label is no guess for anything else. A guess is said on stderr, once for all files of one value of `data`.

    Args:
        names: of all columns.
        where: the start of an error message.
        without_client: whether client_column="" says that all rows are of one client.

    Raises:
        UserError: a column that is given does not exist, client or text has no column of a usual name, one has several, or one
            column is the text and the client or the label.
    """
    column_of: dict[str, str | None] = {}
    guessed = []
    for role, usual in {"label": (), **ROLES}.items():
        option, given = f"{role}_column", getattr(options, f"{role}_column")
        flag = f"--{role}-column"
        if given:
            if names.count(given) != 1:
                if given in names:
                    raise _same_name(where, given, names)
                raise UserError(f"{where}: {option}={given!r} is no column of {_listed(names)}; give {flag} one of these names")
            column_of[role] = given
            continue
        candidates = [name for name in names if name.strip().lower() in usual and name != column_of["label"]]
        candidates = candidates if given is None else []
        if len(candidates) > len(set(candidates)):
            raise _same_name(where, max(candidates, key=candidates.count), names)
        if len(candidates) > 1:
            nothing = f", or {flag} '' for none" if role in ("time", "group") else ""
            raise UserError(
                f"{where}: the columns {' and '.join(map(repr, candidates[:4]))} may each hold the {role}, of "
                f"{_listed(names)}; say which with {flag} NAME{nothing}"
            )
        if role == "client" and given == "" and without_client:
            column_of[role] = None
            continue
        if not candidates and role in ("client", "text"):
            what = "client, such as a user," if role == "client" else "text"
            raise UserError(f"{where}: no column has a usual name for the {what} of {_listed(names)}; give {flag} NAME")
        column_of[role] = candidates[0] if candidates else None
        if candidates:
            guessed.append(f"{role}: {candidates[0]!r}")
    if column_of["client"] == column_of["text"]:
        raise UserError(
            f"{where}: the column {column_of['client']!r} holds both the client and the text, of {_listed(names)}; say which "
            "column is which with --client-column NAME and --text-column NAME"
        )
    if column_of["label"] == column_of["text"]:
        raise UserError(
            f"{where}: the column {column_of['text']!r} holds both the text and its label, of {_listed(names)}; say which "
            "column is which with --text-column NAME and --label-column NAME"
        )
    if guessed:
        guess = f"columns by their names, {', '.join(guessed)}; --client-column, --text-column, ... set others"
        say(f"{paths.where(options.data)}: {guess}")
    client, text, time, group, label = (column_of[role] for role in ("client", "text", "time", "group", "label"))
    return Columns(client, str(text), time, group, label)


def _same_name(where: str, name: str, names: Sequence[str]) -> UserError:
    return UserError(f"{where}: {names.count(name)} columns have the name {name!r}, of {_listed(names)}; rename all but one")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return f"the columns {', '.join(map(SHORT.repr, names[:MOST_NAMES]))}{f' and {more} more' if more > 0 else ''}"


def seconds(value: object) -> float:
    """A time as Unix seconds: a number or one in a string, or a date and time of ISO 8601, in UTC unless it says otherwise.

    Raises:
        ValueError: it is neither, or no finite number.
    """
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, str):
        text = value.strip()
        try:
            number = float(text)
        except ValueError:
            zoned = re.sub(r" ?(?:UTC|GMT|Z)$", "+00:00", text)
            try:
                return seconds(datetime.fromisoformat(zoned))
            except ValueError as error:  # whose message may quote the text with the zone in another form
                reason = "neither a number nor ISO 8601" if "isoformat" in str(error) else str(error)
                raise ValueError(reason) from error
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    else:
        raise ValueError(f"a {type(value).__name__} is no time")
    if not math.isfinite(number):
        raise ValueError("it is not finite")
    return number


def named(value: object) -> str:
    """A client or group as text; whole numbers that a table with gaps holds as floats have no point."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def label_in(value: object, place: str, chosen: Columns) -> str | None:
    """The label of a row, see :func:`flow.data.classes.label_of`; None where no column holds labels."""
    return None if chosen.label is None else label_of(value, place, f"the column {chosen.label!r}")


def time_in(value: object, place: str, chosen: Columns) -> float | None:
    """The time of a row in Unix seconds; None where no column holds times.

    Raises:
        UserError: it is no time.
    """
    if chosen.time is None:
        return None
    try:
        return seconds(value)
    except (ValueError, OverflowError) as error:
        raise UserError(
            f"{place}: {SHORT.repr(value)} in the column {chosen.time!r} is no time ({error}); write Unix seconds or "
            "ISO 8601 such as 2017-12-31 23:59:59, or leave times out with --time-column ''"
        ) from error


def no_client(place: str, chosen: Columns) -> UserError:
    """The error for a row without a client."""
    return UserError(
        f"{place}: nothing in the column {chosen.client!r}, which names the client of the row; fill it in or remove the row"
    )


def no_text(place: str, chosen: Columns) -> UserError:
    """The error for a row whose text is null."""
    return UserError(
        f"{place}: nothing (null) in the column {chosen.text!r}, which holds the text; fill it in or remove the row"
    )


def labels_of(rows: Sequence[str | None]) -> list[str] | None:
    """The labels of rows that follow one another; None where there are none."""
    return [label for label in rows if label is not None] or None
