"""Profiles of devices in a CSV file: one row for a client, or for a class of devices with its share of the clients."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flow.clock.devices import DAY, Devices, windows
from flow.clock.spread import MEGABIT, drawn
from flow.data import paths
from flow.draws import Draw
from flow.errors import UserError, say

BUILT_IN = {"spread": False, "nights": True}
"""By the name of a built-in spread, whether its devices can be reached at night alone."""
NUMBERS = ("speed", "download", "upload")
COLUMNS = ("client", "class", "share", *NUMBERS, "hours")
WANTED = "a CSV file of device profiles, or 'spread' or 'nights'"


class Profile(NamedTuple):
    """One row of the file."""

    line: int
    client: str
    """Id of the client; empty in a row of a class."""
    share: float
    """Of the clients without a row of their own."""
    speed: float
    """Sequences a second."""
    download: float
    """Mbit/s."""
    upload: float
    """Mbit/s."""
    windows: list[tuple[int, int]]
    """Seconds of the day, see :func:`flow.clock.devices.windows`."""


def placed(clock: str) -> str:
    """The same value of `clock`, with an absolute path where it names a file, so that it holds in every working directory."""
    return clock if not clock or clock in BUILT_IN else str(Path(clock).absolute())


def devices(clock: str, count: int, ids: Callable[[], Sequence[str]], seed: int) -> Devices:
    """The devices of all clients that may train.

    Args:
        clock: the option of this name.
        count: how many clients there are.
        ids: gives the clients' ids, in the order of their numbers.
        seed: of the run, from which the spread and the classes of clients are drawn.

    Raises:
        UserError: the file cannot be read, or is no table of profiles of these clients.
    """
    if clock in BUILT_IN:
        return drawn(count, seed, BUILT_IN[clock])
    profiles = read(clock)
    by_id = {profile.client: profile for profile in profiles if profile.client}
    classes = [profile for profile in profiles if not profile.client]
    own: list[Profile | None] = [None] * count
    if by_id:
        names = ids()
        own = [by_id.get(name) for name in names]
        unknown = len(by_id) - sum(profile is not None for profile in own)
        if unknown:
            say(f"clock={clock!r}: {unknown} of {len(by_id)} clients in it may not train here; their rows are not used")
        missing = next((name for name, profile in zip(names, own, strict=True) if profile is None), None)
        if missing is not None and not classes:
            raise UserError(
                f"clock={clock!r} has no row for client {missing!r}; add one, or rows of classes with shares for the clients "
                "without a row of their own"
            )
    if classes:
        ends = np.cumsum([profile.share for profile in classes])
        of_class = np.searchsorted(ends[:-1], Draw(seed, 0, "clock").stream("class").random(count), side="right")
        own = [classes[of_class[n]] if profile is None else profile for n, profile in enumerate(own)]
    rows = [profile for profile in own if profile is not None]
    speed, download, upload = (np.array([getattr(row, name) for row in rows], dtype=np.float64) for name in NUMBERS)
    return Devices(speed, MEGABIT * download, MEGABIT * upload, *windows([row.windows for row in rows]))


def read(clock: str) -> list[Profile]:
    """The rows of the file.

    Raises:
        UserError: it cannot be read, or a row is wrong; the message names line and column.
    """
    path = Path(clock)
    paths.check_file(path, "clock", WANTED)
    with paths.readable(path, "clock", WANTED):
        content = path.read_bytes()
    try:
        reader = csv.DictReader(content.decode("utf-8-sig").splitlines(), strict=True)
        known = [name.strip() for name in reader.fieldnames or ()]
        _check_columns(clock, known)
        reader.fieldnames = known
        profiles = [_profile(clock, reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"clock={clock!r} is no CSV file in UTF-8 ({error}); give {WANTED}") from error
    if not profiles:
        raise UserError(f"clock={clock!r} has no row below its header; give every client or class of devices a row")
    seen: dict[str, int] = {}
    for profile in profiles:
        if profile.client and seen.setdefault(profile.client, profile.line) != profile.line:
            raise UserError(
                f"clock={clock!r}: line {profile.line} is of client {profile.client!r}, as line {seen[profile.client]} is; "
                "give every client one row"
            )
    shares = [profile.share for profile in profiles if not profile.client]
    if shares and abs(math.fsum(shares) - 1) > 1e-6:
        raise UserError(
            f"clock={clock!r}: the shares of its classes add up to {math.fsum(shares):g} and must add up to 1; correct them"
        )
    return profiles


def _check_columns(clock: str, known: Sequence[str]) -> None:
    """Raise UserError for a header that lacks a column or has an unknown one."""
    for name in known:
        if name not in COLUMNS or list(known).count(name) > 1:
            raise UserError(f"clock={clock!r}: column {name!r} is unknown or there twice; the columns are {', '.join(COLUMNS)}")
    missing = [name for name in NUMBERS if name not in known]
    if "client" not in known and "class" not in known:
        missing.append("client or class")
    if "class" in known and "share" not in known:
        missing.append("share")
    if missing:
        raise UserError(f"clock={clock!r} has no column {', '.join(missing)} in its first line; add it")


def _profile(clock: str, line: int, row: dict[str, str | None]) -> Profile:
    """A row checked."""
    where = f"clock={clock!r}: line {line}"
    if None in row or None in row.values():
        raise UserError(f"{where} has not as many cells as the first line; put what holds a comma between quotes")
    cells = {name: (value or "").strip() for name, value in row.items()}
    client, kind = cells.get("client", ""), cells.get("class", "")
    if bool(client) == bool(kind):
        raise UserError(f"{where} must name a client or a class, got client={client!r}, class={kind!r}; fill in one of them")
    speed, download, upload = (_number(where, name, cells[name]) for name in NUMBERS)
    share = _number(where, "share", cells.get("share", "")) if kind else 0.0
    if client and cells.get("share", ""):
        raise UserError(f"{where}: share={cells['share']!r} belongs to a class, and the row is of a client; leave it empty")
    return Profile(line, client, share, speed, download, upload, _windows(where, cells.get("hours", "")))


def _number(where: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1e-9 <= value <= 1e12:
        raise UserError(f"{where}: {name} must be a number above 0 and at most 1e12, got {text!r}; correct it")
    return value


def _windows(where: str, text: str) -> list[tuple[int, int]]:
    """Windows such as "22-6 12-13.5", hours of the day; one that ends before it begins goes on past midnight."""
    spans: list[tuple[int, int]] = []
    for part in text.split():
        begin, _, end = part.partition("-")
        try:
            first, last = (round(3600 * float(hour)) for hour in (begin, end))
        except (ValueError, OverflowError):
            first = last = -1
        if not (0 <= first < DAY and 0 < last <= DAY and first != last):
            raise UserError(
                f"{where}: hours must be windows such as '22-6' or '1-5 12-13.5', of hours from 0 to 24, got {text!r}; correct "
                "them, or leave them empty for the whole day"
            )
        spans += [(first, last)] if first < last else [(first, DAY), (0, last)]
    spans.sort()
    if any(end > begin for (_, end), (begin, _) in pairwise(spans)):
        raise UserError(f"{where}: the windows of hours={text!r} overlap; join them into one")
    return spans or [(0, DAY)]
