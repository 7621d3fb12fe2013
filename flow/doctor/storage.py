"""Where prepared data and runs lie, and whether they can be written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flow.doctor.findings import Finding, Verdict

AREA = "folders"
LEAST_DISK = 1 << 30
MOST_FILES = 20_000
"""Files whose sizes are added up, so that the examination ends soon."""


def check() -> Iterator[Finding]:
    """The cache of prepared data, and the folder of runs."""
    from flow.data.cache import cache_folder
    from flow.errors import UserError

    try:
        cache = cache_folder()
    except UserError as error:
        yield Finding(AREA, "prepared data", str(error), "broken", "set FLOW_CACHE to a folder that you may write to")
        return
    if cache is None:
        text = "FLOW_CACHE is empty: data are prepared anew by every run"
        yield Finding(AREA, "prepared data", text, "warning", "unset FLOW_CACHE, or name a folder in it", {"folder": None})
    else:
        yield folder("prepared data", cache, "broken", "name a folder that you may write to in FLOW_CACHE")
    yield folder("runs", Path("runs"), "warning", "change to a folder that you may write to, or give --folder")


def folder(name: str, path: Path, unwritable: Verdict, remedy: str) -> Finding:
    """A folder that may not be there yet.

    Args:
        name: of what lies in it.
        unwritable: the verdict where nothing can be written there.
        remedy: for that.
    """
    from flow.resources import free_disk, size

    free, (nbytes, entries, whole) = free_disk(path), size_of(path)
    refusal = refused(path)
    held = f"{entries} entries, {'' if whole else 'more than '}{size(nbytes)}" if path.is_dir() else "not there yet"
    text = f"{path.absolute()}: {held}" + ("" if free is None else f"; {size(free)} of its disk are free")
    facts = {"folder": path.absolute(), "entries": entries, "used_bytes": nbytes, "free_bytes": free, "writable": not refusal}
    if refusal:
        return Finding(AREA, name, f"{text}; cannot be written ({refusal})", unwritable, remedy, facts)
    if free is not None and free < LEAST_DISK:
        return Finding(AREA, name, text, "warning", "make room on that disk, or take a folder on another", facts)
    return Finding(AREA, name, text, facts=facts)


def refused(path: Path) -> str:
    """Why no file can be made in a folder, or in the nearest one above that exists; empty where it can."""
    above = next(parent for parent in (path.absolute(), *path.absolute().parents) if os.path.lexists(parent))
    try:
        with tempfile.TemporaryFile(dir=above):
            return ""
    except OSError as error:
        return str(error.strerror or error)


def size_of(path: Path) -> tuple[int, int, bool]:
    """Bytes of the files below a folder, entries right in it that are not hidden, and whether all files were counted."""
    if not path.is_dir():
        return 0, 0, True
    nbytes = number = 0
    for place, _, names in os.walk(path):
        for name in names:
            number += 1
            if number > MOST_FILES:
                return nbytes, _entries(path), False
            try:
                nbytes += (Path(place) / name).lstat().st_size
            except OSError:  # it is gone
                continue
    return nbytes, _entries(path), True


def _entries(path: Path) -> int:
    return sum(not name.startswith(".") for name in os.listdir(path))
