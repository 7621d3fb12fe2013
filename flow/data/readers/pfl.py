"""pfl-research's stackoverflow.hdf5 and reddit.hdf5, in which words are numbers already.

/PART/USER/inputs and /targets are int32 [n, T], PART one of train, val and test; /metadata/vocabulary/"WORD" is the number of a
word, in quotes because of the word "."; a word with a slash lies in a group within the group. Source:
benchmarks/dataset/stackoverflow/download_preprocess.py of apple/pfl-research.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flow.data import digests
from flow.data.options import DataOptions
from flow.data.readers import published
from flow.data.streams import Part, Stream
from flow.data.tokens import OOV, SPECIALS
from flow.errors import UserError

METADATA = "metadata"
PARTS = ("train", "val", "test")
LENGTH = 10  # of Reddit, whose file does not say
MOST_TOKENS = 1 << 26  # of a client
LONGEST = 1 << 16  # tokens of a row
AGAIN = "make the file again with pfl-research's script"

Opened = Callable[..., AbstractContextManager[Any]]


class Words(NamedTuple):
    """The file's vocabulary."""

    names: list[str]
    """By number; "<oov>" for the number of unknown words, and empty for numbers that are no word."""
    pad: int
    bos: int
    """-1 where there is none."""
    eos: int


def words_of(file: Any, where: str) -> Words:
    """Read the vocabulary.

    Raises:
        UserError: a word is not in quotes or has no number of its own, or the symbols are missing.
    """
    metadata = file[METADATA]
    if not hasattr(metadata, "keys"):
        raise UserError(f"{where}: /{METADATA} must be a group; {AGAIN}")
    missing = [name for name in ("vocabulary", "pad_symbol", "unk_symbol") if name not in metadata]
    if missing:
        raise UserError(f"{where}, /{METADATA}: {', '.join(missing)} is missing; {AGAIN}")
    numbers: dict[str, int] = {}

    def visit(name: str | bytes, member: Any) -> None:
        if not hasattr(member, "shape"):
            return  # a group: of words with a slash
        if isinstance(name, bytes):  # as h5py gives what it cannot decode
            raise UserError(f"{where}, /{METADATA}/vocabulary: the word {name!r} must be UTF-8; {AGAIN}")
        at = f"{where}, /{METADATA}/vocabulary/{name}"
        if len(name) < 2 or not (name[0] == name[-1] == '"'):
            raise UserError(f"{at}: the name of a word must be in double quotes; {AGAIN}")
        number = _whole_number(member, at)
        if " " in name:
            raise UserError(f"{at}: a word must have no space in it; {AGAIN}")
        numbers[name[1:-1]] = number

    if not hasattr(metadata["vocabulary"], "visititems"):
        raise UserError(f"{where}: /{METADATA}/vocabulary must be a group; {AGAIN}")
    metadata["vocabulary"].visititems(visit)
    by_number = {number: name for name, number in numbers.items()}
    if len(by_number) < len(numbers) or set(by_number) != set(range(len(numbers))):
        raise UserError(
            f"{where}, /{METADATA}/vocabulary: the {len(numbers)} words must have the numbers from 0 to {len(numbers) - 1}, "
            f"each once; {AGAIN}"
        )
    names = [by_number[number] for number in range(len(numbers))]
    pad, unk = (_whole_number(metadata[name], f"{where}, /{METADATA}/{name}") for name in ("pad_symbol", "unk_symbol"))
    if not (0 <= pad < len(names) and 0 <= unk < len(names)):
        raise UserError(f"{where}, /{METADATA}: pad_symbol={pad} and unk_symbol={unk} must be numbers of words; {AGAIN}")
    bos, eos = (next((numbers[name] for name in (mark, f"<{mark}>") if name in numbers), -1) for mark in ("BOS", "EOS"))
    for number in (pad, bos, eos):
        if number >= 0:
            names[number] = ""
    names[unk] = SPECIALS[OOV]
    return Words(names, pad, bos, eos)


def _whole_number(member: Any, where: str) -> int:
    """The value of a data set of one whole number."""
    shape, kind = getattr(member, "shape", None), getattr(member, "dtype", None)
    if shape != () or kind is None or kind.kind not in "iu":
        what = f"{kind} {list(shape)}" if shape is not None else f"a {type(member).__name__}"
        raise UserError(f"{where}: there must be one whole number, and there is {what}; {AGAIN}")
    return int(member[()])


def joined(inputs: npt.NDArray[np.int32], targets: npt.NDArray[np.int32], words: Words) -> list[str]:
    """The texts of the rows of one user: from BOS, or the end of the row before, to EOS or padding.

    inputs, targets: int32 [n, T]. A row that begins without BOS goes on where the row before ended, as in Reddit.
    """
    texts: list[list[str]] = []
    open_ended = False
    for first, row in zip(inputs[:, 0].tolist(), targets.tolist(), strict=True):
        if first == words.bos or not open_ended:
            texts.append([] if first in (words.bos, words.eos, words.pad) else [words.names[first]])
        open_ended = True
        for number in row:
            if number in (words.eos, words.pad):
                open_ended = False
                break
            texts[-1].append(words.names[number])
    return [" ".join(text) for text in texts]


def _parts(path: Path, words: Words, parts: list[str], opened: Opened) -> Iterator[Part]:
    user = part = ""
    position = 0
    splits = {published.NAMES[name] for name in parts}
    with opened(path, lambda: f", after /{part}/{user}" if user else "") as file:
        for part in parts:
            place = published.place(published.NAMES[part], splits)
            for user in file[part]:
                position += 1
                if not isinstance(user, str):  # h5py gives the bytes of what it cannot decode
                    raise UserError(f"data={str(path)!r}, /{part}: the name of the user {user!r} must be UTF-8; {AGAIN}")
                where = f"data={str(path)!r}, /{part}/{user}"
                inputs, targets = (_rows(file[part][user], name, words, where) for name in ("inputs", "targets"))
                if inputs.shape != targets.shape or not np.array_equal(inputs[:, 1:], targets[:, :-1]):
                    raise UserError(f"{where}: targets must be the inputs moved by one place; {AGAIN}")
                yield Part(user, joined(inputs, targets, words), None, "", *place, f"/{part}/{user}", position)


def _rows(group: Any, name: str, words: Words, where: str) -> npt.NDArray[np.int32]:
    data = group[name] if hasattr(group, "keys") and name in group else None
    shape = getattr(data, "shape", None)
    if data is None or shape is None or len(shape) != 2 or data.dtype.kind not in "iu" or not shape[1]:
        raise UserError(f"{where}: {name} must be whole numbers [sentences, length]; {AGAIN}")
    if shape[0] * shape[1] > MOST_TOKENS:  # which HDF5 can state in a few bytes
        raise UserError(f"{where}: {name} has {shape[0]} x {shape[1]} numbers, and a client may have {MOST_TOKENS}; {AGAIN}")
    rows = np.asarray(data[()])
    if rows.size and not (rows.min() >= 0 and rows.max() < len(words.names)):
        raise UserError(f"{where}: {name} must be numbers of words, from 0 to {len(words.names) - 1}; {AGAIN}")
    return rows.astype(np.int32)


def stream(options: DataOptions, files: list[Path], opened: Opened) -> Stream:
    """The texts of a file; ``opened``: see :func:`flow.data.readers.hdf5.opened`.

    Raises:
        UserError: it is one file of several, or not as described above.
    """
    path = files[0]
    where = f"data={str(path)!r}"
    if len(files) > 1:
        raise UserError(f"data={options.data!r} has several HDF5 files, and {path.name} is one of pfl-research; give one file")
    if options.protocol is not None:
        raise UserError(
            f"protocol={options.protocol!r} takes text, and {where} of pfl-research was prepared before; leave it out, or give "
            "the data set of TensorFlow Federated"
        )
    with opened(path) as file:
        words = words_of(file, where)
        parts = [name for name in PARTS if name in file]
        if not parts:
            raise UserError(f"{where}: there is no group {', '.join(PARTS)}; {AGAIN}")
        whole = "max_sequence_length" in file[METADATA]
        at = f"{where}, /{METADATA}/max_sequence_length"
        length = _whole_number(file[METADATA]["max_sequence_length"], at) if whole else LENGTH
        if not 0 < length <= LONGEST:
            raise UserError(f"{at}={length} must be from 1 to {LONGEST}; {AGAIN}")
        for name in parts:
            if not hasattr(file[name], "keys"):
                raise UserError(f"{where}: /{name} must be a group; {AGAIN}")
        users = sum(len(file[name]) for name in parts)
    splits = {published.NAMES[name] for name in parts}
    about = (
        f"{path.name} of pfl-research (the file states no licence; {published.in_words(splits)}, the file's vocabulary; sha256 "
        f"{digests.of_file(path)[:16]})"
    )
    vocabulary = tuple(name for name in words.names if name and name not in SPECIALS)
    return Stream(
        path.stem, about, lambda: _parts(path, words, parts, opened), "spaces", length, vocabulary, first_only=whole,
        total=users, path=str(path),
    )  # fmt: skip
