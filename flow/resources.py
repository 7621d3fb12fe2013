"""What a run needs of the machine, as memory or on disk, held against what is free before anything is allocated."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from flow.errors import UserError

UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")
CGROUPS = Path("/sys/fs/cgroup")


class Need(NamedTuple):
    """One thing that takes memory, or room on a disk."""

    what: str
    """As the subject of a sentence: "the model and its copies"."""
    nbytes: int
    """At least so many."""
    options: tuple[tuple[str, object], ...]
    """The options that decide the size, at least one, with their values; those that are 0 or None are at their defaults."""


def require_memory(needs: Sequence[Need], device: str = "cpu") -> None:
    """Make sure that all of these fit together into the free memory of the machine, or of a GPU.

    Raises:
        UserError: they do not.
    """
    free = free_memory() if torch.device(device).type == "cpu" else free_on(torch.device(device))
    where = "memory" if torch.device(device).type == "cpu" else f"memory of {device}"
    _require(needs, free, where, "")


def require_disk(needs: Sequence[Need], folder: Path, remedy: str = "") -> None:
    """Make sure that all of these fit together onto the disk of this folder, which need not exist yet.

    remedy: what helps beside other options, as the end of a sentence.

    Raises:
        UserError: they do not.
    """
    _require(needs, free_disk(folder), f"disk in {folder}", remedy)


def _require(needs: Sequence[Need], free: int | None, where: str, remedy: str) -> None:
    total = sum(need.nbytes for need in needs)
    if free is None or total <= free:
        return
    largest = max(needs, key=lambda need: need.nbytes)
    given = ", ".join(f"{name}={value!r}" for name, value in largest.options if value)
    *before, last = (name for name, _ in largest.options)
    names = f"{', '.join(before)} or {last}" if before else last
    part = "" if total == largest.nbytes else f", of {size(total)} for everything"
    raise UserError(
        f"{given}: {largest.what} would take at least {size(largest.nbytes)} of {where}{part}, and {size(free)} are free; "
        f"lower {names}{remedy}"
    )


def size(nbytes: int) -> str:
    """A number of bytes with its decimal unit, three digits: "21.5 GB"."""
    value, power = float(nbytes), 0
    while value >= 999.5 and power < len(UNITS) - 1:
        value, power = value / 1000, power + 1
    digits = 0 if value >= 99.95 or power == 0 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {UNITS[power]}" if value < 1e6 else f"{value:.1e} {UNITS[power]}"


def short_of_memory(error: BaseException) -> str | None:
    """What NumPy or torch says where an allocation failed, in a line; None for any other error."""
    text = (str(error).splitlines() or [""])[0]
    failed = "can't allocate memory" in text  # a RuntimeError of torch's, on the CPU
    return text or "an allocation failed" if isinstance(error, MemoryError | torch.OutOfMemoryError) or failed else None


def free_disk(folder: Path) -> int | None:
    """Bytes that are free on the disk of a folder, or of the nearest one above that exists; None where it is not known."""
    for place in (folder.absolute(), *folder.absolute().parents):
        try:
            return shutil.disk_usage(place).free
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            return None
    return None


def free_memory() -> int | None:
    """Bytes of memory that this process may still take; None where the system does not say.

    On Linux: what is available with swap, within the limits of control groups and of the process. Elsewhere: all there is.
    """
    if not Path("/proc/meminfo").is_file():
        return _all_memory()
    limits = [_available()]
    limits += [room for path in _groups() if (room := _room(path)) is not None]
    limits.append(_within_limit())
    known = [value for value in limits if value is not None]
    return max(0, min(known)) if known else None


def _all_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _available() -> int | None:
    """MemAvailable and SwapFree of /proc/meminfo, in bytes."""
    lines = _memory_lines()
    return lines["MemAvailable"] + lines["SwapFree"] if {"MemAvailable", "SwapFree"} <= lines.keys() else None


def _memory_lines() -> dict[str, int]:
    """The lines of /proc/meminfo by name, in bytes."""
    matches = re.finditer(r"^(\w+):\s+(\d+) kB$", _text(Path("/proc/meminfo")), re.MULTILINE)
    return {match[1]: int(match[2]) * 1024 for match in matches}


def _groups() -> list[Path]:
    """The control groups (version 2) of this process, the innermost first."""
    own = next((line[3:] for line in _text(Path("/proc/self/cgroup")).splitlines() if line.startswith("0::")), None)
    if own is None:
        return []
    inner = CGROUPS / own.strip().lstrip("/")
    return [inner, *(path for path in inner.parents if path.is_relative_to(CGROUPS))]


def _room(group: Path) -> int | None:
    """What a control group may still take: its limit, less what it holds but for cached files, and the swap that it may use;
    None without a limit.

    Files read twice are "active", and given up for memory like the others. Files in memory (tmpfs) count as neither.
    """
    limit, current = _text(group / "memory.max").strip(), _text(group / "memory.current").strip()
    if not (limit.isdigit() and current.isdigit()):
        return None
    held = dict(line.split(" ", 1) for line in _text(group / "memory.stat").splitlines() if " " in line)
    cached = sum(int(held.get(name, "0")) for name in ("inactive_file", "active_file"))
    return int(limit) - int(current) + cached + _swap_room(group)


def _swap_room(group: Path) -> int:
    """The swap that a control group may still take; 0 where it may take none, or the system does not say."""
    limit, current = _text(group / "memory.swap.max").strip(), _text(group / "memory.swap.current").strip()
    if not current.isdigit():
        return 0
    room = int(limit) - int(current) if limit.isdigit() else sys.maxsize
    return max(0, min(room, _memory_lines().get("SwapFree", 0)))


def _within_limit() -> int | None:
    """What the limit on the process's addresses leaves (`ulimit -v`); None without one."""
    import resource  # not on Windows

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = _text(Path("/proc/self/statm")).split()
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return limit - int(pages[0]) * resource.getpagesize()


def free_on(device: torch.device) -> int | None:
    """Bytes that are free on a GPU; None where torch cannot say."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def _text(path: Path) -> str:
    """A file's text; empty where it cannot be read."""
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
