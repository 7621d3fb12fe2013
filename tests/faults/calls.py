"""Every call that changes a folder: counted, and at a chosen one the process is killed, stopped, or told that the disk is full.

The calls are those that open a file for writing, write, cut, sync, rename and remove, and make or remove a folder. A write
counts twice: before anything of it is written, and after half of it. Import this in a child process alone: an audit hook
cannot be taken off again.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
NAMES = {
    "os.rename": "rename", "os.remove": "unlink", "os.mkdir": "mkdir", "os.rmdir": "rmdir", "os.truncate": "truncate",
    "os.link": "link", "os.symlink": "symlink",
}  # fmt: skip
SIGNALS = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM}


class Calls:
    """What happens to the files of a folder from now on.

    Args:
        folder: all that lies in it, and itself.
        stop: the number, from 1, of the call at which `act` is done; None: never.
        act: "kill", "power" (killed, and what was not synced is lost), "full" (the disk is full from there on),
            "interrupt" (Ctrl-C), or "terminate" (SIGTERM).
        log: a file outside of the folder that gets a line for every call.
    """

    def __init__(self, folder: str, stop: int | None = None, act: str = "kill", log: str | None = None) -> None:
        self.folder, self.stop, self.act = os.path.abspath(folder), stop, act
        self._log = None if log is None else open(log, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
        self.count = 0
        self.synced: dict[str, int] = {}  # by path, what a loss of power leaves of a file that was written
        self._fsync, self._pwrite, self._open, self._busy = os.fsync, os.pwrite, io.open, False
        counted: list[tuple[ModuleType, str, Callable[..., Any]]] = [
            (os, "fsync", self._syncing), (os, "pwrite", self._pwriting),
            (io, "open", self._opening), (builtins, "open", self._opening),
        ]  # fmt: skip
        for module, name, function in counted:
            setattr(module, name, function)
        sys.addaudithook(self._heard)

    def _inside(self, path: Any) -> str | None:
        """The absolute path of something in the folder; None for what lies elsewhere."""
        if isinstance(path, int):
            try:
                path = os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return None
        path = os.path.abspath(os.fsdecode(path))
        return path if path == self.folder or path.startswith(self.folder + os.sep) else None

    def _heard(self, event: str, given: tuple[Any, ...]) -> None:
        if self._busy or (event != "open" and event not in NAMES):
            return
        if event == "open":
            if not isinstance(given[2], int) or not given[2] & WRITING or isinstance(given[0], int):
                return
            path, name = self._inside(given[0]), "open"
        else:
            path, name = self._inside(given[0]), NAMES[event]
        if path is None:
            return
        self._step(name, path)
        if event == "open" and given[2] & os.O_TRUNC:
            self.synced[path] = 0
        elif event == "open" and os.path.exists(path):
            self.synced.setdefault(path, os.path.getsize(path))
        elif event == "os.rename":
            target = self._inside(given[1])
            if target is not None and path in self.synced:
                self.synced[target] = self.synced.pop(path)
        elif event == "os.remove":
            self.synced.pop(path, None)

    def _step(self, name: str, path: str, half: Callable[[], None] | None = None) -> None:
        """A call is about to be made; half: does half of it."""
        self.count += 1
        number = self.count
        if self._log is not None:
            self._log.write(f"{name} {os.path.relpath(path, self.folder)}\n")
        if self.stop is None or number < self.stop or (number > self.stop and self.act != "full"):
            return
        if half is not None:
            half()
        self._busy = True
        if self.act == "full":
            self._busy = False
            if name in ("open", "write", "half of a write", "sync", "mkdir"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        elif self.act in SIGNALS:
            self._busy = False
            os.kill(os.getpid(), SIGNALS[self.act])
        else:
            if self.act == "power":
                for path, size in self.synced.items():
                    if os.path.isfile(path) and os.path.getsize(path) > size:
                        os.truncate(path, size)
            os.kill(os.getpid(), signal.SIGKILL)

    def _syncing(self, file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        path = self._inside(number)
        if path is not None:
            self._step("sync", path)
            self.synced[path] = os.fstat(number).st_size
        self._fsync(number)

    def _pwriting(self, number: int, content: bytes, place: int) -> int:
        path = self._inside(number)

        def half() -> None:
            self._pwrite(number, content[: len(content) // 2], place)

        if path is not None:
            self._step("write", path)
            self._step("half of a write", path, half)
        return self._pwrite(number, content, place)

    def _opening(self, file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        opened = self._open(file, mode, *rest, **named)
        path = self._inside(file) if set(mode) & set("wax+") else None
        return opened if path is None else _Written(opened, path, self)


class _Written:
    """An open file whose writes are counted."""

    def __init__(self, file: Any, path: str, calls: Calls) -> None:
        self._file, self._path, self._calls = file, path, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Written:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._file.__exit__(*error)

    def __iter__(self) -> Any:
        return iter(self._file)

    def write(self, content: Any) -> int:
        """As that of the file."""

        written: int = 0

        def half() -> None:
            nonlocal written
            written = self._file.write(content[: len(content) // 2])
            self._file.flush()

        self._calls._step("write", self._path)
        self._calls._step("half of a write", self._path, half)
        written += self._file.write(content[written:])  # a signal interrupts the main thread, and this may be another one
        return written
