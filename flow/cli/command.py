"""What the command line knows of a command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from flow.checks import check_text
from flow.errors import UserError
from flow.parallel.processes import Ranks


class Command(NamedTuple):
    """A command of `flow`."""

    name: str
    usage: str
    """Its lines in the output of `flow --help`."""
    call: Callable[[list[str], Ranks], None]
    """Runs it with the arguments after its name. Raises UserError for a mistake of the user."""
    distributed: bool = False
    """Whether it may run in several processes at once, under torchrun."""


def named_folder(option: str, folder: str) -> Path:
    """A folder as given on the command line.

    Raises:
        UserError: the name is empty, or not text.
    """
    if not folder.strip():
        raise UserError(f"{option}={folder!r} is empty; give the name of a folder")
    check_text(option, folder)
    return Path(folder)
