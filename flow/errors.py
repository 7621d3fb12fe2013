"""What a user can put right: the command line prints the message alone and exits with code 2. And what a user should know."""

from __future__ import annotations

import sys
from functools import cache


class UserError(ValueError):
    """A wrong option, file or folder; the message names it, its value, the rule and the remedy."""


class Diverged(UserError):
    """Training left the finite numbers."""


def plural(number: int, noun: str) -> str:
    """The word for so many: "file" for 1, otherwise "files"."""
    return noun if number == 1 else f"{noun}s"


def one_line(text: str) -> str:
    """The text with what breaks its line or steers a terminal, such as in the name of a file, written as an escape."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


@cache
def say(text: str) -> None:
    """Print one line on stderr, once in a process."""
    print(f"flow: {text}", file=sys.stderr, flush=True)
