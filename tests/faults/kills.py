"""Kind 1: a process that is killed at every call that changes its folder, and goes on to the numbers of an unbroken one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import small
from apart import Ended, judged_refusal
from calls import Calls
from counts import Counts


class Work(NamedTuple):
    """What is killed, how it goes on, and what must come of it."""

    name: str
    start: Callable[..., Ended]
    go_on: Callable[..., Ended]
    numbers: Callable[[Path], Any]


RUN = Work("run", small.start, small.go_on, small.numbers)
COMPARISON = Work("comparison", small.compare, small.compare, small.compared_numbers)


def watched(folder: Path, stop: int | None, act: str) -> Callable[[], None]:
    """What a child does before its command, so that it comes to an end at a call."""

    def watch() -> None:
        Calls(str(folder), stop, act)

    return watch


def calls_of(work: Callable[..., Ended], folder: Path) -> list[str]:
    """The calls that change a folder, one after the other, in a command that runs to its end."""
    log = folder.with_name(f"{folder.name}.calls")
    ended = work(folder, prepare=lambda: Calls(str(folder), log=str(log)) and None)
    if ended.code:
        raise AssertionError(f"the work that is to be killed fails by itself: {ended.err}")
    return log.read_text(encoding="utf-8").splitlines()


def campaign(every: int = 1, twice: Iterable[float] = (0.3, 0.7), again: int = 3) -> Counts:
    """Kill a run and a comparison at their calls, then runs that go on.

    Args:
        every: from one call at which they are killed to the next.
        twice: shares of all calls of a run, at which it is killed before it goes on and is killed again.
        again: from one call at which a run that goes on is killed to the next.
    """
    counts = Counts("kill -9 at every write")
    with small.workplace() as place:
        small.warm()
        for work in (RUN, COMPARISON):
            whole = place / f"whole {work.name}"
            names = calls_of(work.start, whole)
            expected = work.numbers(whole)
            for act in ("kill", "power"):
                for number in range(1, len(names) + 1, every if act == "kill" else 2 * every):
                    folder = place / "broken"
                    _broken(work.start, folder, number, act, counts, names)
                    _finish(work, folder, expected, counts, f"{work.name}: {act} at call {number} ({names[number - 1]})")
                    shutil.rmtree(folder, ignore_errors=True)
        for share in twice:
            _twice(place, int(share * len(calls_of(RUN.start, place / "counted"))), again, counts)
            shutil.rmtree(place / "counted")
    return counts


def _twice(place: Path, first: int, step: int, counts: Counts) -> None:
    """Kill a run at a call, and what goes on of it at each of its calls."""
    expected = RUN.numbers(place / "whole run")
    _broken(RUN.start, place / "once", first, "kill", counts, None)
    shutil.copytree(place / "once", place / "counting")
    names = calls_of(RUN.go_on, place / "counting")
    for number in range(1, len(names) + 1, step):
        folder = Path(shutil.copytree(place / "once", place / "broken"))
        _broken(RUN.go_on, folder, number, "kill", counts, names)
        trial = f"run: kill at call {first}, and when it goes on at call {number} ({names[number - 1]})"
        _finish(RUN, folder, expected, counts, trial)
        shutil.rmtree(folder)
    for name in ("once", "counting"):
        shutil.rmtree(place / name)


def _broken(work: Callable[..., Ended], folder: Path, number: int, act: str, counts: Counts, names: list[str] | None) -> None:
    ended = work(folder, prepare=watched(folder, number, act))
    if ended.code != -9:
        counts.add(
            f"it was not killed, but ended with {ended.code}: {ended.last_line}",
            f"{act} at call {number} of {len(names or [])}",
        )


def _finish(work: Work, folder: Path, expected: Any, counts: Counts, trial: str) -> None:
    """Let what was killed go on, and hold what comes of it against the unbroken one."""
    before = small.contents(folder) if folder.exists() else {}
    ended = work.go_on(folder)
    if ended.code == 0:
        numbers, left = work.numbers(folder), [path.name for path in folder.rglob(".*")]
        wrong = [key for key in expected if numbers[key] != expected[key]]
        verdict = "accepted" if not wrong and not left else f"other {wrong}, left behind {left}"
    else:
        verdict = judged_refusal(ended)
        if verdict == "refused" and before:
            verdict = f"it cannot go on: {ended.last_line}"
    counts.add(verdict, trial)
