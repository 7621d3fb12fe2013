"""Kind 4: values of every option of every command that no documentation allows, and many that are merely odd.

Options and their types are read off the dataclasses of which the command line is made. A value is refused with its option's
name, or the command does its work; what takes long is cut once it has written its configuration, and counts as accepted.
"""

from __future__ import annotations

import random
import re
import shutil
import types
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import small
from apart import Ended, command
from counts import Counts

SECONDS = 5.0  # of processor time
MEMORY = 3 * 2**30  # bytes beyond what was mapped
NUMBERS = [
    "nan", "inf", "-inf", "-1", "0", "-0.0", "0.5", "1e308", "-1e308", "1e-320", "2", str(2**31), str(2**63 - 1), str(2**63),
    str(2**70), "1" + "0" * 400, "1e400", "", " ", "x", " 1 ", "1\n", "1_000", "0x10", "١", "１", "½", "1\0", "True", "None",
    "[]", "9" * 5000, "--", "1,2",
]  # fmt: skip
TEXTS = [
    "",
    " ",
    "x",
    "\0",
    "a\0b",
    "x" * 5000,
    "x/" * 3000,
    "\n",
    "a\nb",
    "../..",
    "/",
    ".",
    "~",
    "٣",
    "\udcff",
    "nan",
    "-1",
    "--",
    "None",
]
FILES = ["/dev/null", "/dev/zero", "/proc/self/mem", "loop", "pipe", "mine.jsonl", "mine.jsonl/x", "cache"]
"""Values for options that name a file or a folder."""


class Option(NamedTuple):
    """An option of a command."""

    name: str
    kinds: tuple[Any, ...]
    """int, float, str, bool, or the strings that it may be."""

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"


class Command(NamedTuple):
    """A command with all that it needs to be short."""

    words: tuple[str, ...]
    options: tuple[Option, ...]
    rest: tuple[str, ...]
    made: str
    """The file that says that it has begun, in the folder; empty where the command writes no folder."""


def campaign(count: int | None = None, seed: int = 0, algorithms: bool = True) -> Counts:
    """Give options values.

    Args:
        count: trials, drawn at random; None: every value of every option.
        seed: of that choice.
        algorithms: whether to take the options of every algorithm, or those of one alone.
    """
    counts, draw = Counts("values of options"), random.Random(seed)
    with small.workplace() as place:
        small.warm()
        if (ended := small.start(place / "run")).code:
            raise AssertionError(ended.err)
        commands = list(_commands(algorithms))
        for run in commands if count is None else ():
            _check_base(place / "base", run)
        pairs = [(run, option, value) for run in commands for option in run.options for value in _values(option)]
        for number, (run, option, value) in enumerate(pairs if count is None else draw.sample(pairs, count)):
            counts.add(_trial(place / f"trial{number}", run, option, value), _label(run, option, value))
    return counts


def _check_base(place: Path, run: Command) -> None:
    """A command whose own options were wrong would be refused whatever the value that is tried."""
    if not run.rest:
        return
    place.mkdir()
    ended = _ended(place, (*run.words, *run.rest))
    if ended.code:
        raise AssertionError(f"flow {' '.join(run.words)} fails before an option is changed: {ended.last_line}")
    shutil.rmtree(place)


def _label(run: Command, option: Option, value: str) -> str:
    text = value if len(value) < 60 else f"{value[:20]}... ({len(value)} characters)"
    return f"flow {' '.join(run.words)} {option.flag}={text!r}"


def _commands(algorithms: bool) -> Iterator[Command]:
    from flow.algorithms import NAMES
    from flow.cli.compare import Compare
    from flow.cli.prepare import Prepare
    from flow.cli.run import Run

    rest = (*small.RUN, "--rounds", "1", "--data", "mine.jsonl", "--folder", "new")
    shared = {option.name for option in _options(Run) if option.name not in ("algorithm",)}
    yield Command(("run", "fedavg"), tuple(_options(Run)), rest, "config.json")
    for name, known in NAMES.items() if algorithms else [("ditto", NAMES["ditto"])]:
        own = tuple(option for option in _options(known.algorithm.options) if option.name not in shared)
        takes = {"epochs", "batch_size"} & {option.name for option in own}
        without = [name for name in ("epochs", "batch_size") if name not in takes]
        yield Command(("run", name), own, tuple(_without(rest, without)), "config.json")
    compared = ("--data", "mine.jsonl", "--folder", "new", *small.COMPARISON)
    own = tuple(option for option in _options(Compare) if option.name not in shared or option.name in ("folder", "resume"))
    yield Command(("compare", "fedavg"), own, compared, "comparison.json")
    tuning = tuple(option for option in own if option.name in ("trials", "tune_rounds", "tune_by"))
    few = _without(compared, ["cohort", "validation_share"])  # of six clients five are set aside
    tuned = (*few, "--tune", "--validation-share", "0.5", "--cohort", "1")
    yield Command(("compare", "fedavg"), tuning, tuned, "comparison.json")
    yield Command(("prepare",), tuple(_options(Prepare)), ("--data", "mine.jsonl"), "")
    yield Command(("prepare",), tuple(_options(Prepare)), ("--data", "synthetic", "--clients", "20"), "")
    yield Command(("report",), (Option("", (str,)),), (), "")


def _without(arguments: Iterable[str], names: Iterable[str]) -> list[str]:
    """Arguments without these options and their values."""
    left, flags = list(arguments), [f"--{name.replace('_', '-')}" for name in names]
    for flag in flags:
        while flag in left:
            del left[left.index(flag) : left.index(flag) + 2]
    return left


def _options(part: Any) -> Iterator[Option]:
    """The fields of a dataclass and of those in it."""
    hints = get_type_hints(part)
    for attribute in fields(part):
        hint = hints[attribute.name]
        kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        if any(is_dataclass(kind) for kind in kinds):
            yield from _options(kinds[0])
        elif not isinstance(hint, TypeVar) and not any(isinstance(kind, TypeVar) for kind in kinds):
            yield Option(attribute.name, tuple(kind for kind in kinds if kind is not type(None)))


def _values(option: Option) -> list[str]:
    if option.kinds == (str,):
        return [*TEXTS, *FILES]
    if option.kinds == (bool,):
        return ["", "x", "maybe", "2"]
    if get_origin(option.kinds[0]) is Literal:
        choices = [choice for choice in get_args(option.kinds[0]) if isinstance(choice, str)]
        return [
            *choices,
            *(f"{choice} " for choice in choices[:1]),
            *(choice.upper() for choice in choices[:1]),
            "",
            "x",
            "1",
            "\0",
        ]
    return NUMBERS


def _trial(place: Path, run: Command, option: Option, value: str) -> str:
    """One value of one option in a new working directory: "refused", "accepted", or what is wrong."""
    place.mkdir()
    arguments = [] if option.name == "resume" else _without(run.rest, [option.name])  # that one stands alone
    given = [f"{option.flag}={value}"] if option.name else [value]
    verdict = _verdict(place, run, option, value, _ended(place, (*run.words, *arguments, *given)))
    shutil.rmtree(place)
    return verdict


def _ended(place: Path, arguments: Iterable[str]) -> Ended:
    """A command in a working directory with a file of data, a link to itself and a pipe."""
    shutil.copy(place.parent / "mine.jsonl", place)

    def prepare() -> None:
        import os

        os.chdir(place)
        os.environ["FLOW_CACHE"] = str(place / "cache")
        os.symlink("loop", "loop")
        os.mkfifo("pipe")

    return command(*arguments, seconds=SECONDS, memory=MEMORY, prepare=prepare)


def _verdict(place: Path, run: Command, option: Option, value: str, ended: Ended) -> str:
    begun = [path for path in place.rglob(run.made)] if run.made else []
    if ended.late:
        return "accepted" if begun else f"no word in {SECONDS:.0f} s: {ended.last_line[:200]}"
    if "Traceback" in ended.err or ended.code not in (0, 2):
        return f"exit {ended.code}: {ended.last_line[:300]}"
    if ended.code == 0:
        return "accepted"
    left = sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.relative_to(place).parts[0] != "cache")
    unfinished = [path.name for path in (place / "cache").glob(".*")] if (place / "cache").is_dir() else []
    if set(left) != {"mine.jsonl", "loop", "pipe"} and not begun:
        return f"refused, but left behind {left}"
    if unfinished:
        return f"refused, but left behind {unfinished} in the cache"
    return _judged_sentence(option, value, ended, bool(begun))


def _judged_sentence(option: Option, value: str, ended: Ended, begun: bool) -> str:
    """Whether a refusal is a sentence, or a box of the parser, that names the option and its value."""
    box = "╭" in ended.err
    text = re.sub(r"[│╭╮╰╯─\s]+", " ", ended.err) if box else ended.last_line
    if not box and not ended.last_line.startswith("flow: "):
        return f"the last line is not what flow says: {ended.last_line[:300]!r}"
    if (
        not box
        and len([line for line in ended.err.replace("\r", "\n").split("\n") if line.startswith("flow: ")]) > 1
        and not begun
    ):
        return f"more than one sentence: {ended.err[:500]!r}"
    if option.kinds == (bool,) and not value.strip() and "Unrecognized options" in text:
        return "refused"  # a value after a flag belongs to no option
    names = {option.name, option.name.replace("_", "-"), option.flag} if option.name else {"folder"}
    if option.kinds in ((str,), (bool,)) and value.strip() and (value in text or repr(value)[1:-1] in text):
        return "refused"  # a folder or a word that is named by itself
    if not any(name and re.search(rf"(?<![\w-]){re.escape(name)}(?![\w])", text) for name in names) and not begun:
        return f"the option is not named: {text[:300]!r}"
    if len(value) > 40 or begun or not value.strip() or not value.isprintable():
        return "refused"
    known = {value, value.strip(), repr(value)}
    for kind in (int, float):
        try:
            number = kind(value)
        except (ValueError, OverflowError):
            continue
        known |= {
            str(number),
            repr(float(number)) if abs(number) < 1e300 else "inf",
            f"{float(number) if abs(number) < 1e300 else 0:g}",
        }
    unbroken = re.sub(r"\s", "", text)  # the parser's box breaks lines within a value, after a comma
    named = any(form in text or (form.strip() and re.sub(r"\s", "", form) in unbroken) for form in known)
    return "refused" if named else f"the value is not named: {text[:300]!r}"
