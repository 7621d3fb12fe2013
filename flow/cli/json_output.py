"""``--json``: one JSON document on the standard output, and everything else that a command prints on stderr."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from flow.version import __version__

FORMAT = 1
"""Of all documents. It is raised where a field is renamed or gets another meaning; new fields leave it alone."""
Content = Mapping[str, Any]


@dataclass(frozen=True)
class Json:
    """The option of a command that can answer programs."""

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON document in place of text; docs/files.md lists its fields. Everything else goes to stderr."""


@contextmanager
def answering(command: str, wanted: bool) -> Iterator[Callable[[Content], None]]:
    """A function that takes the content of a command's document. Where a document is wanted, what is printed in the block goes
    to stderr, and the document is printed when the block ends; where the block raises there is none.

    Args:
        command: of flow, which the document names.
        wanted: whether there is to be a document.
    """
    if not wanted:
        yield lambda content: None
        return
    contents: list[Content] = []
    with contextlib.redirect_stdout(sys.stderr):
        yield contents.append
    for content in contents:
        print(json.dumps(document(command, content), indent=1, allow_nan=False))  # ASCII: any terminal can write it


def document(command: str, content: Content) -> dict[str, Any]:
    """The document of a command, as JSON can hold it."""
    result: dict[str, Any] = plain({"command": command, "format": FORMAT, "flow": __version__, **content})
    return result


def plain(value: Any) -> Any:
    """A value as JSON can hold it: a number that is not finite is null, a path a string, a named tuple an object.

    Raises:
        TypeError: JSON has nothing for it.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Sequence):
        return [plain(inner) for inner in value]
    raise TypeError(f"JSON has nothing for {value!r}")
