"""One process at a time in a folder, by a lock that dies with the process that holds it.

The lock is ``fcntl.flock`` on the file ``.lock``. The operating system gives it up when the process ends, however that
happens, so a file that a killed process left behind keeps nobody out. The file says who holds the lock, for the message.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from flow.errors import UserError
from flow.storage import files

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
HELD = (BlockingIOError, PermissionError)  # what flock raises where another process has the lock
TRIES, PAUSE = 5, 0.02  # another process may only be asking whether the lock is free
PATIENCE = 1.0  # seconds for a process that has just made a folder to put its lock there


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder; what is yielded says whether it keeps other processes out.

    Raises:
        UserError: another process has it.
        OSError: the folder cannot be written to.
    """
    path = folder / NAME
    descriptor = _acquired(path)
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)  # while it is locked: a process that opened it before sees that, and opens another
        os.close(descriptor)


@contextmanager
def made(folder: Path) -> Iterator[bool]:
    """Make a folder with its parents and hold its lock, as :func:`held`.

    A folder in which a killed process left nothing but its lock is taken over. Folders in which nothing was written are
    removed in the end.

    Raises:
        UserError: another process has the lock.
        FileExistsError: the folder holds something else.
        OSError: the folder cannot be made.
    """
    new: list[Path] = []
    try:
        for path in (*reversed(folder.parents), folder):
            if path == folder or not path.exists():
                with suppress(FileExistsError):  # another run that starts now was faster
                    path.mkdir()
                    new.append(path)
        if folder not in new and not abandoned(folder):
            raise FileExistsError(f"{folder} holds something else")
        with held(folder) as alone:
            if not empty(folder):
                raise FileExistsError(f"{folder} holds something else")
            if folder not in new:
                new.append(folder)
            if alone:
                files.remove_unfinished(folder)
            yield alone
    finally:
        for path in reversed(new):
            with suppress(OSError):  # it is not empty
                path.rmdir()


def clean_up(folder: Path) -> None:
    """Remove the lock of a process that was killed when its work was done, and files whose writing it did not finish.

    Raises:
        UserError: another process holds the lock.
        OSError: the folder has such a file and cannot be written to.
    """
    if (folder / NAME).exists() or any(files.unfinished(folder)):
        with held(folder) as alone:
            if alone:
                files.remove_unfinished(folder)


def abandoned(folder: Path) -> bool:
    """Whether a folder holds nothing but the lock of a process that ended before it wrote anything.

    Raises:
        UserError: a process holds the lock.
    """
    until = time.monotonic() + PATIENCE
    while empty(folder) and not (folder / NAME).exists() and time.monotonic() < until:
        time.sleep(PAUSE)
    check_free(folder)
    return empty(folder) and (folder / NAME).exists()


def empty(folder: Path) -> bool:
    """Whether a folder holds at most a lock and files whose writing was not finished."""
    unfinished = set(files.unfinished(folder))
    return folder.is_dir() and all(path.name == NAME or path in unfinished for path in folder.iterdir())


def check_free(folder: Path) -> None:
    """Raise UserError where a process holds the lock of a folder; nothing is written."""
    if fcntl is None:
        return
    try:
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # no lock, or a folder that nobody may write to
        return
    try:
        if _locked(descriptor) is False:
            raise _in_use(folder, descriptor)
    finally:
        os.close(descriptor)


def _acquired(path: Path) -> int | None:
    """The open file that holds the lock; None where the system or the file system has no locks."""
    if fcntl is None:
        _say_unlocked(path.parent, "this system")
        return None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            _check_own(path, descriptor)
            locked = _locked(descriptor)
            if locked is False:
                raise _in_use(path.parent, descriptor)
            if locked is None:
                path.unlink(missing_ok=True)
                _say_unlocked(path.parent, "its file system")
            elif _is_file(path, descriptor):
                _sign(descriptor)
                kept, descriptor = descriptor, -1
                return kept
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        if locked is None:
            return None


def _locked(descriptor: int) -> bool | None:
    """Lock an open file: False where another process has the lock, None where the file system has no locks."""
    for _ in range(TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except HELD:
            time.sleep(PAUSE)
        except OSError:
            return None
    return False


def _check_own(path: Path, descriptor: int) -> None:
    """Raise OSError for what no lock is, before anything is written into it: a pipe, or a file that has other names."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise OSError(errno.EEXIST, "something else has the name of the lock; move it away", str(path))


def _is_file(path: Path, descriptor: int) -> bool:
    """Whether the path still is that of the open file; its last holder may have removed it a moment ago."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Write down which process holds the lock."""
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": since}).encode(), 0)


def _in_use(folder: Path, descriptor: int) -> UserError:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        who = f"process {holder['process']} on host {holder['host']} since {holder['since']}"
    except (ValueError, TypeError, KeyError):  # the process is only now writing this down
        who = "another process"
    return UserError(
        f"folder={str(folder)!r} is in use by {who}; wait until that process has ended, or stop it, or give another folder"
    )


def _say_unlocked(folder: Path, what: str) -> None:
    files.say(f"{folder}: {what} has no file locks; let only one process at a time use the folder")
