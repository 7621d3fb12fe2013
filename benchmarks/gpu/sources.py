"""Which sources results and built modules come from. Only the standard library."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMPILED = ("CMakeLists.txt", "csrc")
MEASURED = (*COMPILED, "flow_kernels", "flow", "benchmarks/common", "benchmarks/gpu", "tests/gpu", "tests/support")
SUFFIXES = {".py", ".cpp", ".h", ".cu", ".cuh", ".txt"}


def digest(names: Iterable[str], root: Path = ROOT) -> str:
    """Sixteen hexadecimal digits of these files and folders: names and contents."""
    total = hashlib.sha256()
    for name in sorted(names):
        place = root / name
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        for file in files:
            if file.suffix in SUFFIXES and file.is_file():
                total.update(f"{file.relative_to(root).as_posix()}\0{file.stat().st_size}\0".encode())
                total.update(file.read_bytes())
    return total.hexdigest()[:16]
