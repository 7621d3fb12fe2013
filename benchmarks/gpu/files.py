"""Files of a run. Only the standard library."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Whole or not at all; without torch, which takes seconds to import."""
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(data)
    os.replace(beside, path)


def aside(path: Path) -> Path | None:
    """Give a file a name of its own beside it, such as gpu-1.json; None where there is no file."""
    if not path.exists():
        return None
    number = 1
    while (other := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    path.rename(other)
    return other
