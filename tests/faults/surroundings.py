"""Kind 5: trouble around a command: nobody reads what it prints, disks are full, folders may not be written, signals come.

A command ends as it does anywhere, or with one sentence; what it was doing can go on to the numbers of an unbroken run.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import kills
import small
from apart import Ended, command, judged_refusal
from counts import Counts

ROOT = Path(__file__).parents[2]
HELP = [
    ["--help"],
    ["run", "--help"],
    ["run", "ditto", "--help"],
    ["compare", "--help"],
    ["compare", "--list"],
    ["prepare", "--help"],
    ["report", "--help"],
    ["nothing"],
    ["run", "--lr", "x"],
]


def campaign(every: int = 4, interpreters: bool = True) -> Counts:
    """Commands in bad surroundings.

    Args:
        every: from one call of a run at which its disk is full, or a signal comes, to the next.
        interpreters: whether also to start interpreters of their own, which take seconds each.
    """
    counts = Counts("bad surroundings")
    with small.workplace() as place:
        small.warm()
        if (ended := small.start(place / "whole")).code:
            raise AssertionError(ended.err)
        _helped(counts, interpreters)
        _refused(place, counts)
        _stopped(place, counts, every)
    return counts


# ---- streams and the environment -------------------------------------------------------------------------------------


def _helped(counts: Counts, interpreters: bool) -> None:
    """Whatever the streams and the environment are, a page of help is shown or nobody misses it."""
    for arguments in HELP[:: 1 if interpreters else 4]:
        expected = command(*arguments).code
        for name, prepare in _streams():
            ended = command(*arguments, prepare=prepare, seconds=10)
            good = "Traceback" not in ended.err and ended.code in ((141, expected) if name == "a broken pipe" else (expected,))
            counts.add(
                "accepted" if good else f"exit {ended.code}: {ended.last_line}", f"flow {' '.join(arguments)}, with {name}"
            )
        for name, environment in ENVIRONMENTS.items() if interpreters else ():
            ended = _interpreted(arguments, environment)
            good = "Traceback" not in ended.err and "Exception ignored" not in ended.err and ended.code == expected
            counts.add(
                "accepted" if good else f"exit {ended.code}: {ended.last_line}", f"flow {' '.join(arguments)}, with {name}"
            )
        for name, shell in SHELLS.items() if interpreters else ():
            ended = _shelled(arguments, shell)
            good = not any(word in ended.err for word in ("Traceback", "Exception ignored"))
            if name == "> /dev/full":  # what a parser refuses is printed elsewhere
                good &= ended.code == 2 and (expected == 2 or "the standard output cannot be written" in ended.err)
            else:
                good &= ended.code in (0, 141, expected)
            counts.add(
                "accepted" if good else f"exit {ended.code}: {ended.err[-400:]}", f"flow {' '.join(arguments)}, with {name}"
            )


def _streams() -> Iterator[tuple[str, Callable[[], None]]]:
    def broken() -> None:
        end, other = os.pipe()
        os.close(end)
        os.dup2(other, 1)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def narrow() -> None:
        os.environ.update(TERM="dumb", COLUMNS="1", LINES="1", NO_COLOR="1")

    def encoded() -> None:
        sys.stdout = open(1, "w", encoding="ascii", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="ascii", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115

    yield "a broken pipe", broken
    yield "COLUMNS=1 TERM=dumb", narrow
    yield "streams in ASCII", encoded


ENVIRONMENTS = {
    "LC_ALL=C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "PYTHONIOENCODING=ascii": {"PYTHONIOENCODING": "ascii"},
    "COLUMNS=1 TERM=dumb": {"COLUMNS": "1", "TERM": "dumb"},
    "no environment": {"": ""},
}
SHELLS = {"| head -1": "{} | head -1", ">&-": "{} >&-", "2>&-": "{} 2>&-", "> /dev/full": "{} > /dev/full"}


def _interpreted(arguments: list[str], environment: dict[str, str]) -> Ended:
    given = {
        **({} if "" in environment else os.environ),
        **{k: v for k, v in environment.items() if k},
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", "flow", *arguments],
        env=given,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    return Ended(None, done.returncode, done.stdout, done.stderr)


def _shelled(arguments: list[str], shell: str) -> Ended:
    line = shell.format(f"{sys.executable} -m flow {' '.join(arguments)}")
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    return Ended(None, done.returncode, done.stdout, done.stderr)


# ---- places that cannot be written -----------------------------------------------------------------------------------


def _nobody() -> None:
    """Give up what root may."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def _refused(place: Path, counts: Counts) -> None:
    """Commands that cannot write, in a child that is not root."""
    locked = place / "locked"
    for path in [place, *place.parents[: len(place.parents) - 1]]:
        if os.geteuid() == 0:
            os.chmod(path, os.stat(path).st_mode | 0o055)
    shutil.copytree(place / "whole", locked)
    locked.chmod(0o555)
    before = small.contents(locked)
    data = ["--data", str(place / "mine.jsonl")]

    def homeless() -> None:
        _nobody()
        for name in ("HOME", "FLOW_CACHE", "XDG_CACHE_HOME"):
            os.environ.pop(name, None)

    def locked_out() -> None:
        _nobody()
        os.environ["FLOW_CACHE"] = str(locked / "cache")

    trials: dict[str, tuple[list[str], Callable[[], None], set[str]]] = {
        "a run that may not be written": (["run", "--resume", str(locked)], _nobody, {"refused"}),
        "a report that may not be written": (["report", str(locked)], _nobody, {"refused"}),
        "a parent that may not be written": (
            ["run", "fedavg", *data, *small.RUN, "--folder", str(locked / "new")],
            _nobody,
            {"refused"},
        ),
        "a comparison there": (
            ["compare", "fedavg", *data, *small.COMPARISON, "--folder", str(locked / "new")],
            _nobody,
            {"refused"},
        ),
        "a cache that may not be written": (
            ["prepare", *data],
            locked_out,
            {"refused"},
        ),
        "no home": (["prepare", *data], homeless, {"refused", "accepted"}),
    }
    for name, (arguments, prepare, allowed) in trials.items():
        ended = command(*arguments, prepare=prepare, seconds=10)
        verdict = "accepted" if ended.code == 0 and "Traceback" not in ended.err else judged_refusal(ended)
        if verdict == "refused" and small.contents(locked) != before:
            verdict = "refused, but files were touched"
        good = verdict in allowed or verdict not in ("refused", "accepted")
        counts.add(verdict if good else f"{verdict}, which must not be", f"{name}: flow {' '.join(arguments)}")
    locked.chmod(0o755)


# ---- what stops a run ------------------------------------------------------------------------------------------------


def _stopped(place: Path, counts: Counts, every: int) -> None:
    """Full disks and signals at many calls of a run: one sentence, and it goes on to the same numbers."""
    expected = small.numbers(place / "whole")
    calls = kills.calls_of(small.start, place / "counted")
    codes = {"full": 2, "interrupt": 130, "terminate": 143}
    for act, code in codes.items():
        for number in range(1, len(calls) + 1, every):
            folder = place / "broken"
            trial = f"run: {act} at call {number} ({calls[number - 1]})"
            ended = small.start(folder, prepare=kills.watched(folder, number, act))
            verdict = _ended_well(ended, code, folder)
            if verdict == "accepted":
                kills._finish(kills.RUN, folder, expected, counts, trial)
            else:
                counts.add(verdict, trial)
            shutil.rmtree(folder, ignore_errors=True)
    for size in (3000, 5000, 20_000):
        folder = place / "broken"
        ended = small.start(folder, prepare=_limited(size))
        verdict = "accepted" if ended.code == 0 else _ended_well(ended, 2, folder)
        if verdict == "accepted" and ended.code == 2 and str(folder) not in ended.last_line:
            verdict = f"the file is not named: {ended.last_line}"
        counts.add(verdict, f"run: no file may be larger than {size} bytes")
        shutil.rmtree(folder, ignore_errors=True)


def _limited(size: int) -> Callable[[], None]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def _ended_well(ended: Ended, code: int, folder: Path) -> str:
    """Whether a stopped run says one sentence and has the right exit code: "accepted", or what is wrong."""
    if ended.code == 0:  # the call was the last one
        return "accepted"
    if "Traceback" in ended.err or ended.code != code:
        return f"exit {ended.code}: {ended.last_line[:300]}"
    begun = (folder / "config.json").is_file()
    if (code == 2 or begun) and not ended.last_line.startswith("flow: "):
        return f"it says {ended.last_line[:200]!r}"
    return "accepted"
