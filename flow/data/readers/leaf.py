"""LEAF's JSON files: Shakespeare, Reddit and the texts of Sent140; a file, or a folder of those of train, val and test.

A file is one object {"users": [..], "num_samples": [..], "user_data": {USER: {"x": [..], "y": [..]}}}, of Shakespeare also with
"hierarchies": [..], the plays (data/utils of TalwalkarLab/leaf). What counts is what x holds: num_samples is wrong where texts
were left out after it was counted.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from flow.data import digests, formats, paths
from flow.data.classes import label_of
from flow.data.columns import seconds
from flow.data.options import DataOptions
from flow.data.readers import pieces
from flow.data.readers.windows import joined, pieces_of
from flow.data.source import BY_FILE, Content, Source
from flow.data.streams import TEST, TRAIN, Part, Stream
from flow.errors import UserError, say

WANTED = "a .json or .json.gz file of LEAF, or of a folder of them"
SUFFIXES = (".json", ".json.gz")
SIDES = {"train": TRAIN, "val": TRAIN, "test": TEST}
"""The sides of the published parts: what LEAF validates by is older than what it tests on, and is to train on here."""
USER_DATA = "user_data"
LABELS = "y"
BOS, EOS, PAD = "<BOS>", "<EOS>", "<PAD>"
ALPHABET = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
"""The characters that LEAF's model of Shakespeare knows, in their order."""
PICKLED, WORDS = "reddit_vocab.pck", "reddit_vocab.json"
AGAIN = "copy or download the file again"
LOOKED_AT = 100  # examples that may be names of pictures' files
_PICTURE = re.compile(r"\S+\.(?:jpe?g|png|gif|bmp|webp|tiff?|ppm|pgm|npy)", re.IGNORECASE)
_SPLIT = re.compile(r"(?:^|[_.-])(train|val|test)(?=[_.-]|$)")
_SHORT = reprlib.Repr()
_SHORT.maxstring = 60
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TWEETED = re.compile(r"\w{3} (\w{3}) (\d\d) (\d\d):(\d\d):(\d\d) \w+ (\d{4})")


class Task(NamedTuple):
    """One of LEAF's data sets of texts."""

    what: str
    tokenizer: str
    sequence_length: int
    continuous: bool = False
    vocabulary: tuple[str, ...] | None = None


WINDOWS = Task("Shakespeare, text in the public domain", "characters", 80, True, tuple(ALPHABET))
REDDIT = Task("Reddit, under Reddit's terms", "spaces", 10)
SENT140 = Task("Sent140, under Twitter's terms", "words", 20)
TEXTS = Task("texts; the file states no licence", "words", 20)


class File(NamedTuple):
    """A file and the part of the data set that it holds: "train", "val", "test", or "" where its name tells none."""

    path: Path
    split: str


def recognises(data: str) -> bool:
    """Whether it is a JSON object in LEAF's form, or a folder with one."""
    with suppress(OSError, ValueError):
        path = Path(data)
        return bool(_inside(path)) if data and path.is_dir() else _is_leaf(path)
    return False


def _is_leaf(path: Path) -> bool:
    if not path.is_file():
        return False
    first = formats.head(path)
    if formats.of_bytes(first) is formats.GZIP:
        first = formats.unpacked(first)
    return formats.of_bytes(first) is None and formats.of_text(first) is formats.LEAF


def _inside(folder: Path) -> list[Path]:
    """LEAF's files in train, val and test below a folder, or in the folder itself."""
    below = [folder / name for name in SIDES if (folder / name).is_dir()]
    return [
        path
        for parent in below or [folder]
        for path in sorted(parent.iterdir())
        if path.name.lower().endswith(SUFFIXES) and _is_leaf(path)
    ]


def files_of(data: str) -> list[File]:
    """The files of a value of `data`, those to train on first.

    Raises:
        UserError: they cannot be read, or some tell of which part they are and some do not.
    """
    path = Path(data)
    with paths.readable(path, "data", WANTED):
        if not path.is_dir():
            paths.check_file(path, "data", WANTED)
            return [File(path, _split(path))]
        files = [File(inside, _split(inside)) for inside in _inside(path)]
    if any(file.split for file in files):
        for file in files:
            if not file.split:
                raise UserError(
                    f"data={str(file.path)!r} names no part of the data set, and others do: a file must lie in a folder train, "
                    "val or test, or have that in its name; rename it, or put it elsewhere"
                )
    return sorted(files, key=lambda file: (list(SIDES).index(file.split) if file.split else 0, file.path))


def _split(path: Path) -> str:
    named = _SPLIT.findall(path.name)
    return named[-1] if named else path.parent.name if path.parent.name in SIDES else ""


def task_of(x: Any, y: Any, where: str) -> Task:
    """Which data set an example is of.

    Raises:
        UserError: it is no text.
    """
    if isinstance(x, str):
        return WINDOWS if isinstance(y, str) and len(y) == 1 and x else TEXTS
    if isinstance(x, list) and isinstance(y, dict):
        return REDDIT
    if isinstance(x, list) and len(x) > 4 and isinstance(x[4], str) and isinstance(y, int | float | str):
        return SENT140
    is_numbers = isinstance(x, int | float | list)
    raise _no_text("numbers, as in FEMNIST or LEAF's synthetic data" if is_numbers else f"a {type(x).__name__}", where)


def _no_text(what: str, where: str) -> UserError:
    return UserError(f"{where}: x is {what}, and flow trains on text; give LEAF's Shakespeare, Reddit or Sent140")


def _examples(value: Any, where: str) -> tuple[list[Any], list[Any]]:
    """x and y of a user."""
    x, y = (value.get(name) if isinstance(value, dict) else None for name in "xy")
    if not isinstance(x, list) or not isinstance(y, list) or len(x) != len(y):
        raise UserError(f"{where}: there must be two lists x and y of the same length; {AGAIN}")
    return x, y


def _user(
    task: Task, value: Any, where: str, labelled: bool
) -> Iterator[tuple[list[str], list[float] | None, str, list[str] | None]]:
    """(texts, times, group, labels) of the examples of a user that follow one another and have one group."""
    x, y = _examples(value, where)
    at = [f"{where}, example {place + 1}" for place in range(len(x))]
    labels = [label_of(label, place, LABELS) for label, place in zip(y, at, strict=True)] if labelled else None
    for place, (example, label) in enumerate(zip(x, y, strict=True)):
        fits = isinstance(example, str) if task is TEXTS else task_of(example, label, f"{where}, example {place + 1}") is task
        if not fits or (task is WINDOWS and len(example) != len(x[0])):
            raise UserError(
                f"{where}, example {place + 1}: x={_SHORT.repr(example)} is of another kind or length than the first, "
                f"or its y={_SHORT.repr(label)} is; {AGAIN}"
            )
    if task is WINDOWS:
        if x:
            yield pieces_of(joined(x, y), len(x[0])), None, "", None
        return
    if task is TEXTS:
        if x:
            yield x, None, "", labels
        return
    if task is SENT140:
        texts, groups = [row[4] for row in x], [str(label) for label in y] if labels is None else [""] * len(y)
        times = [_tweeted(row[1]) for row in x]
    else:
        texts = [_comment(comment, place) for comment, place in zip(x, at, strict=True)]
        groups = [_text_of(label.get("subreddit", ""), place) for label, place in zip(y, at, strict=True)]
        times = [_created(label.get("created_utc"), place) for label, place in zip(y, at, strict=True)]
    known = [time for time in times if time is not None]
    ordered = len(known) == len(times)
    for group, places in groupby(range(len(texts)), key=groups.__getitem__):
        own = list(places)
        own_labels = None if labels is None else [labels[n] for n in own]
        yield [texts[n] for n in own], [known[n] for n in own] if ordered else None, group, own_labels


def _text_of(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: subreddit={_SHORT.repr(value)} must be text; {AGAIN}")
    return value


def _comment(x: list[Any], where: str) -> str:
    """The words of a comment, which is cut into lists of as many tokens as a sequence has."""
    tokens = [token for row in x for token in (row if isinstance(row, list) else [row])]
    if not all(isinstance(token, str) for token in tokens):
        raise UserError(f"{where}: x must be lists of words; {AGAIN}")
    return " ".join(token for token in tokens if token not in (BOS, EOS, PAD))


def _created(value: Any, where: str) -> float | None:
    if value is None:
        return None
    try:
        return seconds(value)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{where}: created_utc={_SHORT.repr(value)} is no time ({error}); {AGAIN}") from error


def _tweeted(value: Any) -> float | None:
    """Seconds of a date such as "Mon Apr 06 22:19:45 PDT 2009", which order the tweets; the zone is the same in all of them."""
    match = _TWEETED.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[1] not in _MONTHS:
        return None
    month, day, hours, minutes, own, year = match.groups()
    try:
        days = date(int(year), _MONTHS.index(month) + 1, int(day)).toordinal() - date(1970, 1, 1).toordinal()
    except ValueError:
        return None
    return days * 86400.0 + int(hours) * 3600 + int(minutes) * 60 + int(own)


def _clients(file: File) -> Iterator[tuple[str, list[Any], list[Any], str]]:
    """(name, x, y, place for messages) of every client of a file."""
    with closing(pieces.pieces(file.path, USER_DATA, WANTED)) as values:
        for piece in values:
            if piece.key is not None:
                where = f"data={str(file.path)!r}, client {piece.key!r}"
                yield piece.key, *_examples(piece.value, where), where


def _first(files: Sequence[File]) -> Task:
    """The task of the first example of all.

    Raises:
        UserError: there is none; or it is no text, as where the first examples are the names of pictures' files.
    """
    task: Task | None = None
    at, names = "", 0
    for file in files:
        for _, x, y, where in _clients(file):
            if x and task is None:
                at = f"{where}, example 1"
                task = task_of(x[0], "" if y[0] is None else y[0], at)  # without a label, which is refused where one is needed
            for text in x:
                if not isinstance(text, str) or not _PICTURE.fullmatch(text.strip()):
                    assert task is not None
                    return task
                names += 1
            if names >= LOOKED_AT:
                break
    if names:
        raise _no_text("the name of a picture's file, as in CelebA", at)
    raise UserError(f"data={str(files[0].path)!r}: there is no text of any client in {USER_DATA}; give a file that has some")


def _users(file: File) -> Iterator[str]:
    """The names of a file's clients: by its list of users, or where that comes late or not at all, by their texts."""
    with closing(pieces.pieces(file.path, USER_DATA, WANTED)) as values:
        for piece in values:
            if piece.name == "users" and isinstance(piece.value, list):
                yield from (user for user in piece.value if isinstance(user, str))
                return
            if piece.key is not None:
                yield piece.key


def _listed(value: Any, where: str) -> list[str]:
    """The list of users.

    Raises:
        UserError: it is none.
    """
    if not isinstance(value, list):
        raise UserError(f"{where}: users={_SHORT.repr(value)} must be a list of names; {AGAIN}")
    for user in value:
        if not isinstance(user, str):
            raise UserError(f"{where}: users holds {_SHORT.repr(user)}, and must be a list of names; {AGAIN}")
    return value


def is_by_user(files: Sequence[File]) -> bool:
    """Whether no client of test is one of train or val, as in LEAF's split by user.

    Raises:
        UserError: a file is damaged.
    """
    sides = [(SIDES.get(file.split), file) for file in files]
    trained = {user for side, file in sides if side == TRAIN for user in _users(file)}
    tested = False
    for user in (user for side, file in sides if side == TEST for user in _users(file)):
        if user in trained:
            return False
        tested = True
    return bool(trained) and tested


def parts(files: Sequence[File], task: Task, by_user: bool, labelled: bool = False) -> Iterator[Part]:
    """The clients of all files; one without an example has no part.

    Args:
        files: those to train on first.
        task: which data set it is.
        by_user: see :func:`is_by_user`. The clients of test are never trained on, then, and their texts are split by time.
        labelled: whether y holds labels.

    Raises:
        UserError: a file is damaged, or a client of it is not as described above.
    """
    splits = {file.split for file in files}
    sides: set[tuple[str, str]] = set()
    done = 0
    for file in files:
        users: list[str] = []
        plays: dict[str, str] = {}
        in_file: set[str] = set()
        for piece in pieces.pieces(file.path, USER_DATA, WANTED):
            if piece.name == "users":
                users = _listed(piece.value, f"data={str(file.path)!r}")
            elif piece.name == "hierarchies" and isinstance(piece.value, list) and len(piece.value) == len(users):
                pairs = zip(users, piece.value, strict=True)
                plays = {user: play for user, play in pairs if isinstance(play, str)}
            if piece.key is None:
                continue
            where = f"data={str(file.path)!r}, client {piece.key!r}"
            if not piece.key:
                raise UserError(f"{where}: the name of a client must not be empty; {AGAIN}")
            if piece.key in in_file:
                raise UserError(f"{where}: this client stands there twice; {AGAIN}")
            in_file.add(piece.key)
            side = SIDES.get(file.split, "") if len(splits) > 1 else ""
            held_out = side == TEST if by_user else None
            side = "" if held_out else side
            place, position = f"{file.path.name}, client {piece.key!r}", done + piece.position
            for texts, times, group, labels in _user(task, piece.value, where, labelled):
                own = group or plays.get(piece.key, "")
                if task is WINDOWS and (piece.key, side) in sides:  # what another file has of this side goes before
                    texts = ["\n", *texts]
                yield Part(piece.key, texts, times, own, held_out, side, place, position, labels)
            if task is WINDOWS:
                sides.add((piece.key, side))
        missing = next((user for user in users if user not in in_file), None)
        if missing is not None:
            raise UserError(f"data={str(file.path)!r}: users lists {missing[:80]!r}, whom {USER_DATA} has not; {AGAIN}")
        done += file.path.stat().st_size


def _vocabulary(task: Task, files: Sequence[File], where: str) -> tuple[str, ...] | None:
    """The published vocabulary of the task; of Reddit only where it is no pickle."""
    if task is not REDDIT:
        return task.vocabulary
    words = _beside(files, WORDS)
    if words is None:
        pickled = _beside(files, PICKLED)
        if pickled is not None:
            say(
                f"{where}: {str(pickled)!r} is a Python pickle and is not loaded, for it can run any code; the words of the "
                f"training texts are counted instead. To have it taken, let who made it write it as {WORDS}: "
                '{"vocab": {"word": 2}}'
            )
        return None
    numbers = {piece.key: piece.value for piece in pieces.pieces(words, "vocab", WORDS) if piece.key is not None}
    if not numbers or not all(type(number) is int for number in numbers.values()):
        raise UserError(f'{str(words)!r} must be {{"vocab": {{"word": number, ..}}}}; write it again, or put it elsewhere')
    return tuple(word for word in sorted(numbers, key=lambda word: (numbers[word], word)) if word not in (BOS, EOS, PAD))


def _beside(files: Sequence[File], name: str) -> Path | None:
    folders = [files[0].path.parent, files[0].path.parent.parent]
    paths_of = (folder / below / name for folder in folders for below in (".", "vocab"))
    return next((path for path in paths_of if path.is_file()), None)


def _name(data: str) -> str:
    path = Path(data).absolute()
    return path.name.removesuffix(".gz").removesuffix(".json")


def _digest(files: Sequence[File]) -> str:
    words = _beside(files, WORDS)
    return digests.of_files([*(file.path for file in files), *([words] if words else [])], WANTED)


def _content(data: str) -> Content:
    files = files_of(data)
    splits = " ".join(file.split for file in files)
    return Content(_name(data), f"{splits} {_digest(files)}")


def _stream(options: DataOptions) -> Stream:
    files = files_of(options.data)
    where = f"data={options.data!r}"
    task = _first(files)
    labelled = options.label_column is not None
    if labelled and task not in (SENT140, TEXTS):
        raise UserError(
            f"{where}: label_column={options.label_column!r} is for texts with labels, as in Sent140, and this is LEAF's "
            f"{task.what}; leave it out, or write every label of the file as a number or as a name of several characters"
        )
    splits = sorted({file.split for file in files if file.split})
    by_user = is_by_user(files)
    in_words = f"{', '.join(splits)} as published" if len(splits) > 1 else "one part alone, split anew"
    about = f"LEAF's {task.what} ({in_words}{', split by user' if by_user else ''}; sha256 {_digest(files)[:16]})"
    return Stream(
        _name(options.data), about, lambda: parts(files, task, by_user, labelled), task.tokenizer, task.sequence_length,
        _vocabulary(task, files, where), task.continuous, total=sum(file.path.stat().st_size for file in files),
        path=options.data, separator="",
    )  # fmt: skip


def _check(options: DataOptions) -> None:
    if options.label_column not in (None, LABELS):
        raise UserError(
            f"label_column={options.label_column!r}: the labels of LEAF's files are in y; give --label-column {LABELS}, or "
            "leave it out"
        )


SOURCE = Source(
    "leaf", _content, stream=_stream, matches=recognises, tokenizer=BY_FILE, options=("label_column",), check=_check
)  # fmt: skip
