"""Who works in a folder, by what its lock says: nothing is locked to find out, and no file is written.

Asking the lock itself would mean to hold it for a moment, in which a run that starts would be refused.
"""

from __future__ import annotations

import json
import os
import socket
import time
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from flow.storage import lock

SIGNED = 10.0
"""Seconds in which a process that made a lock writes into it who it is."""


class Hold(Enum):
    """What is known of a folder's lock."""

    NONE = "nobody has the folder"
    HERE = "a process of this machine works in it"
    ELSEWHERE = "a process of another machine has it, or had it when that machine stopped"
    LEFT = "a process ended without giving it up, as one that was killed"


class Holder(NamedTuple):
    """Who has a folder."""

    hold: Hold
    process: int = 0
    host: str = ""
    since: str = ""


def holder(folder: Path) -> Holder:
    """Who has a folder, by the file of its lock."""
    path = folder / lock.NAME
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return Holder(Hold.NONE)
    try:
        content, age = os.read(descriptor, 4096), time.time() - os.fstat(descriptor).st_mtime
    except OSError:
        return Holder(Hold.NONE)
    finally:
        os.close(descriptor)
    try:
        about = json.loads(content)
        process, host, since = int(about["process"]), str(about["host"]), str(about["since"])
    except (
        ValueError,
        TypeError,
        KeyError,
        RecursionError,
    ):  # a process is only now writing this down, or was killed when it did
        return Holder(Hold.HERE if age < SIGNED else Hold.LEFT)
    if host != socket.gethostname():
        return Holder(Hold.ELSEWHERE, process, host, since)
    return Holder(Hold.HERE if _holds(process, path) else Hold.LEFT, process, host, since)


def _holds(process: int, path: Path) -> bool:
    """Whether a process of this machine has the file of a lock open; where that cannot be asked, whether it is alive."""
    if process <= 0 or not _alive(process):
        return False
    opened = Path(f"/proc/{process}/fd")
    try:
        names = list(opened.iterdir())
    except OSError:  # another user's process, or a system without /proc
        return True
    return any(_same(name, path) for name in names)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True


def _same(link: Path, path: Path) -> bool:
    try:
        return os.readlink(link).endswith(f"/{path.name}") and os.path.samestat(os.stat(link), os.stat(path))
    except OSError:
        return False
