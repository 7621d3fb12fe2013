"""HDF5 files, one or a folder of them: those of TensorFlow Federated, and those of pfl-research (:mod:`flow.data.readers.pfl`).

TensorFlow Federated published StackOverflow and Shakespeare in this form until February 2021: one file for each split, with
a data set examples/CLIENT/FIELD, one value for each example
(tensorflow_federated/python/simulation/datasets/hdf5_client_data.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from flow.data import digests, formats, paths
from flow.data.options import DataOptions
from flow.data.readers import needs, pfl, published, stackoverflow
from flow.data.readers.stackoverflow import Form, Texts
from flow.data.source import BY_FILE, Content, Source
from flow.data.streams import Part, Stream
from flow.errors import UserError

WANTED = "an .h5 or .hdf5 file, or of a folder of them"
WHY = "an HDF5 file"
MAGIC = b"\x89HDF\r\n\x1a\n"
SUFFIXES = (".h5", ".hdf5")
EXAMPLES = "examples"
MOST_TEXTS = 1 << 22  # of a client


def recognises(data: str) -> bool:
    """Whether it is an HDF5 file, or a folder with one."""
    try:
        path = Path(data)
        return any(map(_is_hdf5, _inside(path) if data and path.is_dir() else [path]))
    except (OSError, ValueError):
        return False


def _is_hdf5(path: Path) -> bool:
    return path.is_file() and formats.head(path).startswith(MAGIC)


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES))


def files_of(data: str) -> list[Path]:
    """The files of a value of `data`.

    Raises:
        UserError: a file of the folder is no HDF5 file, or cannot be read.
    """
    path = Path(data)
    with paths.readable(path, "data", WANTED):
        if not path.is_dir():
            paths.check_file(path, "data", WANTED)
            return [path]
        files = _inside(path)
        for file in files:
            paths.check_file(file, "data", WANTED)
            if not _is_hdf5(file):
                raise UserError(f"data={str(file)!r} is no HDF5 file, as its name says; download it again, or put it elsewhere")
    return files


@contextmanager
def opened(path: Path, at: Callable[[], str] = str) -> Iterator[Any]:
    """An HDF5 file, closed at the end.

    Args:
        path: of the file.
        at: where reading is, when it is asked.

    Raises:
        UserError: h5py is not installed, or refuses the file at whatever place of the block. An error of the block itself is
            none of the file, and stays as it is.
    """
    where = f"data={str(path)!r}"
    h5py = needs.package("h5py", "data", where, WHY)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except Exception as error:  # h5py makes one of ten kinds out of what HDF5 reports
        if isinstance(error, UserError | MemoryError) or not _is_of_library(error):
            raise
        raise UserError(
            f"{where}{at()}: the HDF5 file is damaged or incomplete ({' '.join(str(error).split())[:200]}); copy or download "
            "it again"
        ) from error


def _is_of_library(error: BaseException) -> bool:
    """Whether h5py itself raised an error, and nothing that called it or that it called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] == "h5py"


def splits_of(files: list[Path]) -> dict[str, Path]:
    """The files by the splits that their names tell; of one file alone the split may be unknown, "".

    Raises:
        UserError: of several files, one tells no split, or two tell the same.
    """
    if len(files) == 1:
        return {published.of_name(files[0].stem): files[0]}
    by_split: dict[str, Path] = {}
    for path in files:
        split = published.of_name(path.stem)
        if not split or split in by_split:
            wrong = f"is of the split {split!r}, as {by_split[split].name} is" if split else "names no split"
            raise UserError(
                f"data={str(path)!r} {wrong}: every file of the folder must end in _train, _held_out or _test, and there may "
                "be one of each; rename it, or put it elsewhere"
            )
        by_split[split] = path
    return by_split


def form_of(files: list[Path]) -> Form:
    """Which data set the files hold; all of them must hold the same.

    Raises:
        UserError: a file has no client, or they differ.
    """
    forms: list[Form] = []
    for path in files:
        where = f"data={str(path)!r}"
        with opened(path) as file:
            if EXAMPLES not in file:
                raise UserError(
                    f"{where}: the groups of the file are {', '.join(sorted(map(str, file))) or '(none)'}, and there must be "
                    "'examples' (TensorFlow Federated) or 'metadata' and 'train' (pfl-research); give a file of one of these"
                )
            group = _group(file[EXAMPLES], f"{where}, {EXAMPLES}")
            client = next(iter(group), None)
            if client is None:
                raise UserError(f"{where}, group examples: there is no client; download the file again")
            at = f"{where}, client {client!r}"
            forms.append(stackoverflow.form_of([str(field) for field in _group(group[client], at)], at))
        if forms[0] != forms[-1]:
            raise UserError(
                f"{where} holds {forms[-1].licence}, and {files[0].name} {forms[0].licence}; put them into folders of their own"
            )
    return forms[0]


def texts(path: Path, split: str, form: Form, begin: int = 0) -> Iterator[Texts]:
    """All texts of every client of a file, one client at a time.

    Args:
        path: of the file.
        split: of its clients.
        form: which data set it is.
        begin: the position of the first client.

    Raises:
        UserError: the file is damaged, or a client has not the fields of the data set.
    """
    client = ""
    with opened(path, lambda: f", after client {client!r}" if client else "") as file:
        group = file[EXAMPLES]
        for position, client in enumerate(group, begin + 1):
            where = f"data={str(path)!r}, client {client!r}"
            if not isinstance(client, str):  # h5py gives the bytes of what it cannot decode
                raise UserError(f"{where}: the name of a client must be UTF-8; download the file again")
            fields = _group(group[client], where)
            own_texts = _strings(fields, form.field, where)
            times = None
            if form.date:
                dates = _strings(fields, form.date, where)
                if len(dates) != len(own_texts):
                    raise UserError(
                        f"{where}: there are {len(own_texts)} {form.field} and {len(dates)} {form.date}, and there must be as "
                        "many; download the file again"
                    )
                try:
                    times = [stackoverflow.seconds(date) for date in dates]
                except ValueError as error:
                    raise UserError(f"{where}, {form.date}: {error}; download the file again") from error
            yield Texts(split, client, own_texts, times, f"file {path.name}", position)


def _group(group: Any, where: str) -> Any:
    """The same group, if it is one."""
    if not hasattr(group, "keys"):
        raise UserError(f"{where}: there must be a group, and there is a {type(group).__name__}; download the file again")
    return group


def _strings(group: Any, field: str, where: str) -> list[str]:
    data = group.get(field)
    shape = getattr(data, "shape", None)
    if data is None or shape is None or len(shape) != 1:
        raise UserError(f"{where}: there must be a data set {field!r} of one dimension; download the file again")
    if shape[0] > MOST_TEXTS:  # which HDF5 can state in a few bytes
        raise UserError(
            f"{where}: {field!r} has {shape[0]} examples, and a client may have {MOST_TEXTS}; download the file again"
        )
    values: list[Any] = np.asarray(data[()]).tolist()
    for number, value in enumerate(values, 1):
        if not isinstance(value, bytes):
            raise UserError(f"{where}: example {number} of {field!r} must be text, got {value!r}; download the file again")
    decoded: list[str] = []
    try:
        decoded.extend(value.decode("utf-8") for value in values)
    except UnicodeDecodeError as error:
        at = f"{where}, example {len(decoded) + 1}"
        raise UserError(f"{at}: {stackoverflow.not_utf8(field, error)}; download the file again") from error
    return decoded


def _content(data: str) -> Content:
    files = files_of(data)
    return Content(_name(data, files), stackoverflow.digest(files, WANTED))


def _name(data: str, files: list[Path]) -> str:
    return files[0].stem if len(files) == 1 else Path(data).absolute().name


def _stream(options: DataOptions) -> Stream:
    files = files_of(options.data)
    where = f"data={options.data!r}"
    with opened(files[0]) as file:
        if pfl.METADATA in file:
            return pfl.stream(options, files, opened)
    by_split = splits_of(files)
    form = form_of(files)
    stackoverflow.check_protocol(options, form, by_split, where)
    counts = {}
    for path in files:
        with opened(path) as file:
            counts[path] = len(file[EXAMPLES])

    def parts() -> Iterator[Part]:
        begin = 0
        for split, path in by_split.items():
            examples = texts(path, split, form, begin)
            is_motley = options.protocol == "motley"
            yield from stackoverflow.motley(examples) if is_motley else stackoverflow.parts(examples, by_split)
            begin += counts[path]

    name = _name(options.data, files)
    words = stackoverflow.vocabulary(form, files[0].parent, options, where)
    about = stackoverflow.about(form, name, by_split, options, words is None)
    return Stream(
        name, f"{about}; sha256 {digests.of_files(files, WANTED)[:16]})", parts, form.tokenizer, form.sequence_length, words,
        first_only=options.protocol is not None, total=sum(counts.values()), path=options.data,
    )  # fmt: skip


SOURCE = Source(
    "hdf5", _content, stream=_stream, matches=recognises, options=("protocol",), check=stackoverflow.check, tokenizer=BY_FILE
)
