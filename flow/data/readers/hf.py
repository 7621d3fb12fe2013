"""Data sets of the library datasets (Hugging Face): hf:OWNER/NAME[:SPLIT], or a folder that ``save_to_disk`` wrote; next word.

A row is a text; the columns are those of a table (:mod:`flow.data.columns`), given as options or guessed. The library maps the
files into memory. A name is taken from the library's cache where it is there; otherwise the library downloads it.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

from flow.data import columns, digests, paths
from flow.data.columns import Columns, columns_of, label_in, labels_of, named, time_in
from flow.data.options import DataOptions
from flow.data.readers import needs
from flow.data.source import Content, Source
from flow.data.streams import Part, Stream
from flow.errors import UserError

PREFIX = "hf:"
FORM = "hf:OWNER/NAME or hf:OWNER/NAME:SPLIT, such as hf:ann/posts:train"
WANTED = "a folder that save_to_disk of the library datasets wrote"
WHY = "a data set of Hugging Face"
SAVED = {"dataset_dict.json": "splits", "state.json": "_data_files"}
"""Files of a saved folder, by a field that they have: of several splits, and of one."""
BATCH = 4096  # rows that are read at a time
WINDOWS = {"character_id", "x", "y"}
_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # without an owner it may be one of the library's own, which read what lies here
_SPLIT = re.compile(r"\w+(?:\.\w+)*(?:\+\w+(?:\.\w+)*)*")
_TEXT = ("string", "large_string", "string_view")
_NUMBER = re.compile(r"u?int\d+|bool|float\d+")


class _Asked(NamedTuple):
    name: str
    """Of the data set, or the path of a folder."""
    split: str
    """One, or several with + between them; empty: the only one."""
    is_folder: bool


class _Rows(NamedTuple):
    split: str
    """Empty where there is only one."""
    data: Any
    """A datasets.Dataset."""


class _Row(NamedTuple):
    client: str
    text: str
    time: float | None
    group: str
    label: str | None


def is_saved(path: Path) -> bool:
    """Whether a folder is one that ``save_to_disk`` wrote, by the files that describe it."""
    for name, field in SAVED.items():
        with suppress(OSError, ValueError, RecursionError):
            content = json.loads((path / name).read_bytes())
            if isinstance(content, dict) and field in content:
                return True
    return False


def recognises(data: str) -> bool:
    """Whether a value of `data` has the prefix, or is a saved folder."""
    return data.startswith(PREFIX) or is_saved(Path(data))


def _leads_to_folder(path: str) -> bool:
    with suppress(OSError, ValueError):
        return bool(path) and Path(path).expanduser().is_dir()
    return False


def asked(data: str) -> _Asked:
    """The parts of a value of `data`.

    Raises:
        UserError: it has not the form, or is a folder of another kind.
    """
    if not data.startswith(PREFIX):
        return _Asked(data, "", True)
    rest = data.removeprefix(PREFIX)
    before, colon, after = rest.rpartition(":")
    name, split = (before, after) if colon and not _leads_to_folder(rest) else (rest, "")
    where = f"data={data!r}"
    if "://" not in rest and colon and name == before and not _SPLIT.fullmatch(split):
        raise UserError(
            f"{where}: SPLIT={split!r} must be the name of a split, or several with + between them; give it in the form {FORM}"
        )
    if _leads_to_folder(name):
        folder = str(Path(name).expanduser())
        if not is_saved(Path(folder)):
            raise UserError(
                f"{where}: {folder!r} is a folder here, but none that save_to_disk of the library datasets wrote; give such a "
                "folder, or run where no folder has the name of the data set"
            )
        return _Asked(folder, split, True)
    if not _NAME.fullmatch(name):
        raise UserError(f"{where} must have the form {FORM}, or be the path of {WANTED}, which exists; correct it")
    return _Asked(name, split, False)


def _located(data: str) -> str:
    if not data.startswith(PREFIX):
        return str(Path(data).absolute())
    rest = data.removeprefix(PREFIX)
    before, colon, after = rest.rpartition(":")
    for name, split in ((rest, ""), (before, colon + after)):
        if _leads_to_folder(name):
            return f"{PREFIX}{Path(name).expanduser().absolute()}{split}"
    return data


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _opened(data: str) -> tuple[_Asked, list[_Rows]]:
    """The splits of a value of `data` that are asked for.

    Raises:
        UserError: the library is missing or cannot read the data set, or a split has to be named.
    """
    where = f"data={data!r}"
    given = asked(data)
    library = needs.package("datasets", "hf", where, WHY)
    if given.is_folder:
        with paths.readable(Path(given.name), "data", WANTED):
            os.listdir(given.name)
        try:
            library_data = library.load_from_disk(given.name)
        except Exception as error:  # of every kind, as the library raises them
            raise UserError(
                f"{where} is a folder of the library datasets that it cannot read ({_line(error)}); copy or save it again"
            ) from error
    else:
        library_data = _by_name(library, given.name, where)
    splits = dict(library_data) if isinstance(library_data, library.DatasetDict) else {"": library_data}
    known = ", ".join(map(repr, splits))
    if not given.split and len(splits) > 1:
        start = f"{PREFIX}{given.name}"
        raise UserError(
            f"{where} has the splits {known}; say which, such as {start}:{next(iter(splits))}, or {start}:{'+'.join(splits)} "
            "for the texts of all"
        )
    names = given.split.split("+") if given.split else list(splits)
    if "" in splits and given.split:
        raise UserError(f"{where}: this folder has no splits; leave {':' + given.split!r} out")
    for name in names:
        if name not in splits:
            raise UserError(f"{where}: {name!r} is no split of {known}; give {PREFIX}{given.name}:SPLIT with one of these")
        if names.count(name) > 1:
            raise UserError(f"{where}: the split {name!r} stands there twice; name it once")
    return given, [_Rows(name if len(names) > 1 else "", splits[name]) for name in names]


def _by_name(library: Any, name: str, where: str) -> Any:
    try:
        with _cache_alone(library):
            return library.load_dataset(name)
    except Exception as error:
        complaint = f"{where} cannot be read from the cache of the library datasets ({_line(error)})"
    elsewhere = "save the data set elsewhere with save_to_disk and give the path of that folder"
    if library.config.HF_HUB_OFFLINE:
        raise UserError(f"{complaint}, and HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set; unset it, or {elsewhere}")
    try:
        _reach(library.config.HF_ENDPOINT)
        return library.load_dataset(name)
    except Exception as error:
        raise UserError(
            f"{complaint}, and was not to be had from {library.config.HF_ENDPOINT} ({_line(error)}); correct the name, connect "
            f"this machine and try again, or {elsewhere}"
        ) from error


def _reach(endpoint: str) -> None:
    """Raise OSError where there is no network, which the library would try for half a minute; a proxy may know a way."""
    address = urlsplit(endpoint)
    if address.hostname and not getproxies():
        socket.create_connection((address.hostname, address.port or 443), timeout=10).close()


@contextmanager
def _cache_alone(library: Any) -> Iterator[None]:
    """Let the library look into its cache and nowhere else, and say nothing of it."""
    config, logging = library.config, library.utils.logging
    offline, verbosity = config.HF_HUB_OFFLINE, logging.get_verbosity()
    config.HF_HUB_OFFLINE = True
    logging.set_verbosity_error()
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = offline
        logging.set_verbosity(verbosity)


# --- rows -------------------------------------------------------------------------------------------------------------


def _columns(rows: _Rows, options: DataOptions, where: str) -> Columns:
    """Which columns hold what.

    Raises:
        UserError: one is missing, is to be named, or has values of another type.
    """
    features = rows.data.features
    if set(features) >= WINDOWS and options.text_column in (None, "x"):
        raise UserError(
            f"{where}: the rows of 'x' are windows that overlap by all but one character, so that a test on some would be one "
            "on text of the others; take Shakespeare with --data shakespeare, or from files of LEAF or TensorFlow Federated"
        )
    chosen = columns_of(list(features), options, where)
    for role, name in chosen._asdict().items():
        if name is None:
            continue
        kind = getattr(features[name], "dtype", None)
        fits = kind in _TEXT or (role != "text" and isinstance(kind, str) and _NUMBER.fullmatch(kind) is not None)
        is_label = hasattr(features[name], "int2str")
        if is_label:
            fits = role in ("client", "group", "label")
        if not (fits or (role == "time" and isinstance(kind, str) and kind.startswith("timestamp"))):
            what = "a class label" if is_label else kind if isinstance(kind, str) else type(features[name]).__name__
            wanted = "string" if role == "text" else "string or a number"
            raise UserError(
                f"{where}: the column {name!r} holds {what}, where a {role} is a {wanted}; give --{role}-column NAME"
            )
    return chosen


def _batches(rows: _Rows, chosen: Columns, where: str) -> Iterator[list[_Row]]:
    used = chosen.used
    features = rows.data.features
    labels = {name: features[name].names for name in used if hasattr(features[name], "int2str")}
    split = f"split {rows.split}, " if rows.split else ""
    number = 0
    for table in rows.data.select_columns(used).with_format("arrow").iter(BATCH):
        try:
            table.validate(full=True)  # or bytes of a damaged file would be taken for places in memory
            lists = {name: table.column(name).to_pylist() for name in used}
        except (ValueError, OverflowError) as error:  # pyarrow's own are some
            raise UserError(
                f"{where}, {split}rows from {number + 1} on: damaged, or no values of Python ({_line(error)}); copy or save "
                "the data set again"
            ) from error
        for name, names in labels.items():
            lists[name] = [names[label] if label is not None and 0 <= label < len(names) else None for label in lists[name]]
        nothing = [None] * table.num_rows
        batch = []
        sides = (lists[name] if name is not None else nothing for name in chosen)
        for client, text, time, group, label in zip(*sides, strict=True):
            number += 1
            at = f"{where}, {split}row {number}"
            if client is None or client == "":
                raise columns.no_client(at, chosen)
            if text is None:
                raise columns.no_text(at, chosen)
            batch.append(_Row(named(client), text, time_in(time, at, chosen), named(group), label_in(label, at, chosen)))
        yield batch


def parts(splits: list[_Rows], options: DataOptions) -> Iterator[Part]:
    """The rows of all splits, those of a client that follow one another together.

    Raises:
        UserError: a row breaks a rule; the message names split and row.
    """
    where, done = f"data={options.data!r}", 0
    for rows in splits:
        chosen = _columns(rows, options, where)
        number = 0
        for batch in _batches(rows, chosen, where):
            for (client, group), together in groupby(batch, key=lambda row: (row.client, row.group)):
                own = list(together)
                place = f"{f'split {rows.split}, ' if rows.split else ''}row {number + 1}"
                number += len(own)
                times = [row.time for row in own if row.time is not None]
                yield Part(
                    client, [row.text for row in own], times if chosen.time is not None else None, group, place=place,
                    position=done + number, labels=labels_of([row.label for row in own]),
                )  # fmt: skip
        done += number


# --- the source -------------------------------------------------------------------------------------------------------


def _files(splits: list[_Rows]) -> list[Path]:
    return [Path(file["filename"]) for rows in splits for file in rows.data.cache_files]


def _digest(given: _Asked, splits: list[_Rows]) -> str:
    """Of the files, the names of columns, and those of labels."""
    features = [
        [[name, getattr(feature, "names", None)] for name, feature in rows.data.features.items()] for rows in splits
    ]  # fmt: skip
    return f"{PREFIX}{given.split} {digests.of_files(_files(splits), WANTED)} {json.dumps(features)}"


def _name_of(given: _Asked) -> str:
    name = Path(given.name).absolute().name if given.is_folder else given.name.rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "hf"


def _content(data: str) -> Content:
    given, splits = _opened(data)
    return Content(_name_of(given), _digest(given, splits))


def _stream(options: DataOptions) -> Stream:
    given, splits = _opened(options.data)
    where = f"data={options.data!r}"
    for rows in splits:
        _columns(rows, options, where)
    total = sum(len(rows.data) for rows in splits)
    if not total:
        raise UserError(f"{where}: there is no row; give a data set with one text a row")
    files = _files(splits)
    nbytes = sum(path.stat().st_size for path in files)
    licences = ", ".join(dict.fromkeys(rows.data.info.license for rows in splits if rows.data.info.license))
    what = _name_of(given) if given.is_folder else f"{given.name} of Hugging Face"
    split = f", {given.split}" if given.split else ""
    about = f"{what}{split} (sha256 {digests.of_files(files, WANTED)[:16]}; licence {licences or 'not stated in it'})"
    return Stream(
        _name_of(given), about, lambda: parts(splits, options), total=total, nbytes=nbytes // 2, path=options.data
    )  # fmt: skip


SOURCE = Source(
    "hf", _content, stream=_stream, matches=recognises, located=_located, tokenizer="words", form="hf:OWNER/NAME[:SPLIT]",
    options=columns.OPTIONS,
)  # fmt: skip
