"""Checks of options, one error text for each kind of mistake."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from flow.errors import UserError

LARGEST = (2 - 2**-23) * 2.0**127  # of float32, in which most parameters are
LARGEST_INTEGER = 2**63 - 1  # what NumPy and torch take as a seed or a size


def check_number(name: str, value: float, low: float, high: float = math.inf, remedy: str = "") -> None:
    """Raise UserError unless a number is finite and within these limits, both included."""
    if not (low <= value <= high and math.isfinite(value)):
        rule = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise UserError(f"{name} must be a finite number {rule}, got {value!r}; {remedy or 'leave it out for the default'}")


def typed(part: Any) -> Any:
    """Options whose fields have the types that their dataclass declares, whole numbers made floats where floats belong.

    Raises:
        UserError: one does not; it is named.
    """
    hints = get_type_hints(type(part))
    values = {field.name: _typed(field, getattr(part, field.name), hints[field.name]) for field in fields(part)}
    return replace(part, **values)


def _typed(field: Field[Any], value: Any, hint: Any) -> Any:
    """A field's value, converted at most from int to float; UserError where its type is another than the hint's."""
    if get_origin(hint) in (Union, types.UnionType):
        if value is None and type(None) in get_args(hint):
            return None
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        hint = next((kind for kind in kinds if isinstance(kind, type) and isinstance(value, kind)), kinds[0])
    if isinstance(hint, TypeVar):  # the algorithm's options, which checked() looks at by themselves
        return value
    if isinstance(hint, type) and is_dataclass(hint):
        if not isinstance(value, hint):
            raise UserError(f"{field.name} must be a {hint.__name__}, got {value!r}; leave it out for the default")
        return typed(value)
    if get_origin(hint) is Callable:
        if not callable(value):
            raise UserError(f"{field.name} must be a function or a class, got {value!r}; give one that can be called")
        return value
    if get_origin(hint) is Literal:
        if not (isinstance(value, str) and value in get_args(hint)):
            known = " or ".join(map(repr, get_args(hint)))
            raise UserError(f"{field.name} must be {known}, got {value!r}{_default(field)}")
        return value
    number = isinstance(value, int) and not isinstance(value, bool)
    if hint is float and (number or isinstance(value, float)):
        if abs(value) > LARGEST and value not in (math.inf, -math.inf):  # infinity has rules of its own
            raise UserError(
                f"{field.name} must be a number that float32 can hold, at most {LARGEST:.3g}, got {value}{_default(field)}"
            )
        return float(value)
    if not (number if hint is int else isinstance(value, hint)):
        kind = {int: "an integer", float: "a number", str: "a string", bool: "True or False"}[hint]
        raise UserError(f"{field.name} must be {kind}, got {value!r}{_default(field)}")
    if hint is int and value > LARGEST_INTEGER:  # how small it may be, the check of the option says
        raise UserError(f"{field.name} must be at most {LARGEST_INTEGER}, got {value}{_default(field)}")
    if hint is str:
        check_text(field.name, value)
    return value


def check_text(name: str, value: str) -> None:
    """Raise UserError for a string that cannot be written in UTF-8, such as a file's name in another encoding. A string with a
    NUL character, which no file's name can have, is refused too."""
    if "\0" in value:
        raise UserError(f"{name}={value!r} has a NUL character; leave it out")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{name}={value!r} is not text that UTF-8 can hold; rename what it names") from error


def _default(field: Field[Any]) -> str:
    assert field.default is not MISSING
    return f"; leave it out for the default, {field.default!r}"
