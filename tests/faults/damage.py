"""Kind 2: random damage to every file of a run, of a comparison and of prepared data: named in one sentence, or without effect.

After a refusal nothing else has changed, so that putting the file back is enough.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import small
from apart import Ended, command, judged_refusal
from counts import Counts
from mutations import MUTATIONS


class Victim(NamedTuple):
    """A folder whose files are damaged."""

    name: str
    folder: Path
    """Whole; only copies of it are damaged."""
    read: Callable[[Path], Ended]
    """The command that reads it."""
    numbers: Callable[[Path], Any]
    """What must be the same where the command ends well."""


def campaign(each: int = 3, seed: int = 0, share: float = 1.0) -> Counts:
    """Damage files at random, and read them.

    Args:
        each: how often every file is damaged in each way.
        seed: of places and values.
        share: of these trials that are made, drawn at random.
    """
    counts, draw = Counts("damaged files"), random.Random(seed)
    with small.workplace() as place:
        small.warm()
        for victim in _victims(place):
            expected = victim.numbers(victim.folder)
            for path in sorted(path for path in victim.folder.rglob("*") if path.is_file()):
                for change, damaged in _damages(path.read_bytes(), each, draw):
                    if draw.random() < share:
                        _trial(place, victim, expected, path.relative_to(victim.folder), change, damaged, counts)
    return counts


def _victims(place: Path) -> Iterator[Victim]:
    for folder, work in (("run", small.start), ("comparison", small.compare)):
        if (ended := work(place / folder)).code:
            raise AssertionError(f"what is to be damaged is not made: {ended.err}")
    resumed = Victim("run, resumed", place / "run", lambda folder: command("run", "--resume", str(folder)), small.numbers)
    yield resumed
    yield resumed._replace(name="run, reported", read=lambda folder: command("report", str(folder)))
    yield Victim(
        "comparison", place / "comparison", lambda folder: command("compare", "--resume", str(folder)), small.compared_numbers
    )
    yield Victim("prepared data", place / "cache", lambda _: _trained(place / "trained"), lambda _: _numbers(place))


def _trained(folder: Path) -> Ended:
    """A run that reads all of the prepared data, in the place of the last one."""
    shutil.rmtree(folder, ignore_errors=True)
    return small.start(folder)


def _numbers(place: Path) -> Any:
    return small.numbers(place / ("trained" if (place / "trained").exists() else "run"))


def _damages(content: bytes, each: int, draw: random.Random) -> Iterator[tuple[str, bytes | None]]:
    """What was done, and what is in the file then; None where it is gone."""
    yield "delete", None
    for name, mutation in MUTATIONS.items():
        for _ in range(each):
            yield name, mutation(content, draw)


def _trial(place: Path, victim: Victim, expected: Any, path: Path, change: str, damaged: bytes | None, counts: Counts) -> None:
    """Damage one file of a copy, and judge what the command makes of it."""
    folder = victim.folder if victim.name == "prepared data" else place / "damaged"
    copy = place / "copy"
    shutil.copytree(victim.folder, copy if folder == victim.folder else folder)
    if damaged is None:
        (folder / path).unlink()
    else:
        (folder / path).write_bytes(damaged)
    before = small.contents(folder)
    ended = victim.read(folder)
    verdict = _verdict(victim, folder, path, ended, before, expected)
    counts.add(verdict, f"{victim.name}: {change} in {path} (content now {_excerpt(damaged)})")
    shutil.rmtree(folder)
    if copy.exists():
        copy.rename(folder)


def _verdict(victim: Victim, folder: Path, path: Path, ended: Ended, before: dict[str, str], expected: Any) -> str:
    if ended.code == 0 and "Traceback" not in ended.err:
        if victim.name == "run, reported":  # it only reads; what it says nothing of must not decide what it draws
            return "accepted" if small.contents(folder) | _REPORT == before | _REPORT else "a report changed other files"
        numbers = victim.numbers(folder)
        wrong = [key for key in expected if numbers[key] != expected[key]]
        return f"other {wrong}" if wrong else "accepted"
    verdict = judged_refusal(ended)
    if verdict != "refused":
        return verdict
    named = str(path) in ended.last_line or path.name in ended.last_line or str(folder / path.parts[0]) in ended.last_line
    if not named:
        return f"the file is not named: {ended.last_line}"
    after = small.contents(folder)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return f"refused, but changed are {changed}" if changed else "refused"


_REPORT = {"report.html": ""}


def _excerpt(content: bytes | None) -> str:
    return "none" if content is None else repr(content if len(content) < 80 else content[:30] + b" ... " + content[-30:])
