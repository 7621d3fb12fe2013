"""What a test knows to be there, and a type does not."""

from typing import TypeVar

Value = TypeVar("Value")


def present(value: Value | None) -> Value:
    """The value, which must not be None."""
    assert value is not None
    return value
