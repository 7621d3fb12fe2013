"""The classes of labelled texts: what a label may be, how classes are ordered, and how many there may be."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection

from flow.errors import UserError

MOST = 10_000
"""Classes that a data set may have. Where there are more, a column of texts or ids was most likely named by mistake."""
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_SHORT = reprlib.Repr()
_SHORT.maxstring = 80


def label_of(value: object, place: str, holder: str) -> str:
    """The label of a text, as text: a string as it is, a whole number without a point, or ``True`` or ``False``.

    Args:
        value: as the file has it.
        place: the file and the place in it; an error message begins with it.
        holder: what holds the value, such as ``the column 'mood'``.

    Raises:
        UserError: there is none, or it is neither of these.
    """
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int):
        return str(value)
    if value is None or isinstance(value, str) or (isinstance(value, float) and value != value):
        raise UserError(
            f"{place}: nothing in {holder}, where every text must have its class; fill it in, or leave the text out of the file"
        )
    raise UserError(
        f"{place}: {_SHORT.repr(value)} in {holder} is no class; write every class as a string, a whole number or a boolean"
    )


def check_most(labels: Collection[str], where: str, label_column: str | None) -> None:
    """Raise UserError where there are more than :data:`MOST` of these distinct labels."""
    if len(labels) > MOST:
        raise UserError(
            f"{where}: label_column={label_column!r} has more than {MOST} classes, as texts or ids would, and there may be at "
            f"most {MOST}; name the column whose values are classes"
        )


def in_order(labels: Collection[str], where: str, label_column: str | None) -> tuple[str, ...]:
    """The classes, by number where all are integers, else as text.

    Args:
        labels: distinct.
        where: the data set; an error message begins with it.
        label_column: what holds them.

    Raises:
        UserError: there are fewer than two or more than :data:`MOST` of them.
    """
    check_most(labels, where, label_column)
    if len(labels) < 2:
        only = f"the one class {_SHORT.repr(next(iter(labels)))}" if labels else "no class"
        raise UserError(
            f"{where}: label_column={label_column!r} has {only}, and classification needs at least two; name another column, "
            "or leave label_column out to predict the next token"
        )
    if all(map(_INTEGER.fullmatch, labels)):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))
