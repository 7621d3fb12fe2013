"""The SHA-256 of files, which a process computes once: a run, its comparison and their reports ask several times."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from flow.data import paths


def of_file(path: Path, wanted: str = "a file") -> str:
    """The SHA-256 of a file's content, in hexadecimal.

    Args:
        wanted: what `data` must be the path of, for the message.

    Raises:
        UserError: the file cannot be read.
    """
    with paths.readable(path, "data", wanted):
        status = os.stat(path)
        return _sha256(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


def of_files(files: Sequence[Path], wanted: str = "a file") -> str:
    """A SHA-256 over the names and the contents of several files, in their order; of one file its own."""
    if len(files) == 1:
        return of_file(files[0], wanted)
    lines = "".join(f"{of_file(path, wanted)} {path.name}\n" for path in files)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


@cache
def _sha256(path: Path, state: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
