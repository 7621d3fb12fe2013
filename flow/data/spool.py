"""What is put aside on disk while data are prepared, so that memory does not grow with them.

:class:`Sorted` brings records of one key together (an external merge sort: Knuth, The Art of Computer Programming, volume 3,
section 5.4), :class:`Blobs` keeps byte strings in their order. Little data stay in memory and touch no disk.
"""

from __future__ import annotations

import heapq
import os
import secrets
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not on Windows: what a killed process left stays
    fcntl = None  # type: ignore[assignment]

BUFFER = 1 << 26
"""Bytes of records that are held in memory before they are sorted and written."""
READ = 1 << 26
"""Bytes that all runs of a merge read ahead together."""
LEAST_READ = 1 << 14
OVERHEAD = 160  # of a record in memory: a tuple and two objects
ENDING = ".spool"
NEW = ".new"
"""The ending of a folder that its process has not locked yet."""
UNLOCKED = 60
"""Seconds after which such a folder was left by a process that was killed."""
_LENGTHS = struct.Struct("<IQ")


class Failed(OSError):
    """The disk is full, or cannot be written or read."""


class Place:
    """A folder that is made when something is first put there, and removed at the end of the ``with`` block.

    A process that is killed leaves its folder, which the next one removes: it is locked as long as its process lives.
    """

    def __init__(self, beside: Path | None) -> None:
        """``beside``: a path that the folder stands next to; None: below the system's folder for temporary files."""
        self.parent = Path(tempfile.gettempdir()) if beside is None else beside.parent
        self._folder: Path | None = None
        self._lock: BinaryIO | None = None

    def __enter__(self) -> Place:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    def new_file(self) -> Path:
        """The path of a new file in the folder."""
        if self._folder is None:
            self.parent.mkdir(parents=True, exist_ok=True)
            _remove_left(self.parent)
            name = f".flow-{os.getpid()}-{secrets.token_hex(4)}"
            self._folder = self.parent / f"{name}{NEW}"  # until it is locked, nobody takes it for one that was left
            self._folder.mkdir()
            self._lock = (self._folder / "lock").open("wb")
            if fcntl is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._folder = self._folder.rename(self.parent / f"{name}{ENDING}")
        return self._folder / secrets.token_hex(8)

    def used(self) -> int:
        """Bytes on disk."""
        return 0 if self._folder is None else sum(path.stat().st_size for path in self._folder.iterdir())


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Failed(*error.args) from error


def _remove_left(parent: Path) -> None:
    """Remove the folders of processes that are gone."""
    if fcntl is None:
        return
    unlocked = (folder for folder in parent.glob(f".flow-*{NEW}") if _age(folder) > UNLOCKED)
    for folder in (*parent.glob(f".flow-*{ENDING}"), *unlocked):
        with suppress(OSError), (folder / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def _age(folder: Path) -> float:
    """Seconds since the folder was changed; 0 where it is gone."""
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0


class Sorted:
    """Records of a key and a content, which come back in the order of their keys, equal ones in the order they were added."""

    def __init__(self, place: Place, buffer: int = 0) -> None:
        self._place, self._buffer = place, buffer or BUFFER
        self._records: list[tuple[bytes, bytes]] = []
        self._held = 0
        self._runs: list[tuple[int, int]] = []
        self._file: BinaryIO | None = None
        self.nbytes = 0
        """Of all contents."""

    @property
    def on_disk(self) -> bool:
        """Whether there is more than memory holds."""
        return self._file is not None

    def add(self, key: bytes, content: bytes) -> None:
        """Take a record in.

        Raises:
            Failed: see there.
        """
        self._records.append((key, content))
        self.nbytes += len(content)
        self._held += len(key) + len(content) + OVERHEAD
        if self._held > self._buffer:
            with _failing():
                self._write()

    def _write(self) -> None:
        self._records.sort(key=itemgetter(0))
        if self._file is None:
            self._file = self._place.new_file().open("w+b", buffering=1 << 20)
        start = self._file.tell()
        for key, content in self._records:
            self._file.write(_LENGTHS.pack(len(key), len(content)))
            self._file.write(key)
            self._file.write(content)
        self._runs.append((start, self._file.tell()))
        self._records, self._held = [], 0

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        if self._file is None:
            self._records.sort(key=itemgetter(0))
            yield from self._records
            return
        with _failing():
            if self._records:
                self._write()
            self._file.flush()
        ahead = max(LEAST_READ, READ // len(self._runs))
        runs = [_read(self._file.fileno(), start, end, ahead) for start, end in self._runs]
        yield from heapq.merge(*runs, key=itemgetter(0))

    def close(self) -> None:
        """Give memory and disk back."""
        self._records = []
        if self._file is not None:
            with suppress(OSError):  # what a full disk did not take is not needed any more
                Path(self._file.name).unlink()
                self._file.close()
            self._file = None


def _read(descriptor: int, start: int, end: int, ahead: int) -> Iterator[tuple[bytes, bytes]]:
    """The records between two places of a file, read in pieces of ``ahead`` bytes."""
    held, at, size = b"", 0, _LENGTHS.size

    def have(count: int) -> None:
        nonlocal held, at, start
        if len(held) - at < count:
            wanted = min(max(ahead, count - len(held) + at), end - start)
            pieces = [held[at:]]
            while wanted > 0:
                piece = os.pread(descriptor, wanted, start)
                if not piece:
                    raise Failed(f"a file put aside while data are prepared ends {wanted} bytes too early")
                pieces.append(piece)
                start, wanted = start + len(piece), wanted - len(piece)
            held, at = b"".join(pieces), 0

    while at < len(held) or start < end:
        have(size)
        of_key, of_content = _LENGTHS.unpack_from(held, at)
        have(size + of_key + of_content)
        begin = at + size
        at = begin + of_key + of_content
        yield held[begin : begin + of_key], held[begin + of_key : at]


class Blobs:
    """Byte strings, which come back in the order they were added."""

    def __init__(self, place: Place, buffer: int = 0) -> None:
        self._place, self._buffer = place, buffer or BUFFER
        self._held: list[bytes] = []
        self._nbytes = 0
        self._ends: list[int] = [0]
        self._file: BinaryIO | None = None

    def add(self, blob: bytes) -> None:
        """Take one in.

        Raises:
            Failed: see there.
        """
        self._held.append(blob)
        self._nbytes += len(blob)
        if self._file is not None or self._nbytes > self._buffer:
            with _failing():
                self._write()

    def _write(self) -> None:
        if self._file is None:
            self._file = self._place.new_file().open("w+b", buffering=1 << 20)
        for blob in self._held:
            self._file.write(blob)
            self._ends.append(self._ends[-1] + len(blob))
        self._held = []

    def __len__(self) -> int:
        return len(self._held) + len(self._ends) - 1

    def __iter__(self) -> Iterator[bytes]:
        if self._file is not None:
            with _failing():
                self._file.flush()
            for start, end in zip(self._ends[:-1], self._ends[1:], strict=True):
                yield b"".join(_whole(self._file.fileno(), start, end))
        yield from self._held

    def close(self) -> None:
        """Give memory and disk back."""
        self._held = []
        if self._file is not None:
            with suppress(OSError):  # what a full disk did not take is not needed any more
                Path(self._file.name).unlink()
                self._file.close()
            self._file = None


def _whole(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        piece = os.pread(descriptor, end - start, start)
        if not piece:
            raise Failed(f"a file put aside while data are prepared ends {end - start} bytes too early")
        start += len(piece)
        yield piece
