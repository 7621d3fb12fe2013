"""Data sets of the library datasets (Hugging Face): ``hf:NAME``, ``hf:NAME:SPLIT``, or a folder that save_to_disk wrote.

By name the library takes a data set from its cache, or downloads it. Columns are chosen as those of tables are.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from flow.data import digests, paths
from flow.data.options import DataOptions
from flow.data.readers import needs
from flow.data.source import Content, Source
from flow.data.streams import Part, Stream
from flow.data.tabular import Columns, columns, seconds
from flow.errors import UserError, say

PREFIX = "hf:"
WHY = "a data set of Hugging Face"
WANTED = "a folder that save_to_disk of the library datasets wrote"
STATE, INFO, DICT = "state.json", "dataset_info.json", "dataset_dict.json"
BATCH = 1024  # rows at a time
MARK = 1 << 20  # bytes that state.json and dataset_dict.json may have
_SHORT = reprlib.Repr()
_SHORT.maxstring = 80


class Asked(NamedTuple):
    """A value of `data`, taken apart."""

    name: str
    """Of the data set, or the path of a folder."""
    split: str
    """Empty: the only one, or train."""


def asked(data: str) -> Asked:
    """Take a value of `data` apart."""
    if not data.startswith(PREFIX):
        return Asked(data, "")
    found = re.fullmatch(r"(.*?)(?::(\w[\w.-]*))?", data.removeprefix(PREFIX), re.DOTALL)
    return Asked(found[1], found[2] or "") if found else Asked(data.removeprefix(PREFIX), "")


def _content_of(path: Path) -> Any:
    """What a small JSON file holds; None where it is missing or none."""
    try:
        with path.open("rb") as file:
            return json.loads(file.read(MARK))
    except (OSError, ValueError, RecursionError):
        return None


def _is_saved(folder: Path) -> bool:
    """Whether save_to_disk wrote the folder: one data set, or its splits."""
    state, splits = _content_of(folder / STATE), _content_of(folder / DICT)
    is_one = isinstance(state, dict) and "_data_files" in state and (folder / INFO).is_file()
    return is_one or (isinstance(splits, dict) and isinstance(splits.get("splits"), list))


def recognises(data: str) -> bool:
    """Whether it is hf:NAME, or such a folder."""
    with suppress(OSError, ValueError):
        return data.startswith(PREFIX) or (bool(data) and _is_saved(Path(data)))
    return False


def located(data: str) -> str:
    """The same with an absolute path, where it is the path of a folder."""
    name, split = asked(data)
    if not _is_folder(name):
        return data
    path = str(Path(name).absolute())
    return f"{PREFIX}{path}{f':{split}' if split else ''}" if data.startswith(PREFIX) else path


def _is_folder(name: str) -> bool:
    with suppress(OSError, ValueError):
        return Path(name).is_dir()
    return False


def opened(data: str) -> Any:
    """The rows that a value of `data` names: a datasets.Dataset.

    Raises:
        UserError: the library is not installed, the data set is not there, or it has not this split.
    """
    name, split = asked(data)
    where = f"data={data!r}"
    if not name:
        raise UserError(f"{where} names no data set; give hf:NAME, hf:NAME:SPLIT or {WANTED}")
    datasets = needs.package("datasets", "hf", where, WHY)
    if _is_folder(name):
        return _saved(datasets, Path(name), split, where)
    if paths.leads_somewhere(name):
        raise UserError(f"{where} is a file; give {WANTED}, or hf:NAME")
    try:
        found = datasets.load_dataset(name)
    except MemoryError:
        raise
    except Exception as error:  # of the library, the network and the cache: there are many kinds
        raise UserError(
            f"{where} cannot be had by name ({_line(error)}): it must be in the cache of the library datasets, or on the Hub "
            "with a network that reaches it; download it where there is one, save it with save_to_disk, and give the folder"
        ) from error
    return _chosen(found, split, where)


def _saved(datasets: Any, folder: Path, split: str, where: str) -> Any:
    if not _is_saved(folder):
        raise UserError(
            f"{where}: the folder has neither {DICT} nor {STATE} with {INFO}; give {WANTED}, or the folder without hf: for "
            "tables and texts"
        )
    try:
        return _chosen(datasets.load_from_disk(str(folder)), split, where)
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise UserError(f"{where}: the folder is damaged or incomplete ({_line(error)}); save it again") from error


def _chosen(found: Any, split: str, where: str) -> Any:
    """One split of what the library gave."""
    if not isinstance(found, dict):
        if split:
            raise UserError(f"{where}: there are no splits, and so no {split!r}; leave it out")
        return found
    known = ", ".join(sorted(found)) or "none"
    if not split:
        split = next(iter(found)) if len(found) == 1 else "train"
        if len(found) > 1 and split in found:
            say(f"{where}: the split train is taken, of {known}; {PREFIX}...:SPLIT sets another")
    if split not in found:
        raise UserError(f"{where}: there is no split {split!r}, only {known}; give one of these, as in hf:NAME:SPLIT")
    return found[split]


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def parts(rows: Any, chosen: Columns, where: str) -> Iterator[Part]:
    """The rows, those of a client and group that follow one another together.

    Raises:
        UserError: the files are damaged, or a row breaks a rule.
    """
    used = list(dict.fromkeys(name for name in chosen if name is not None))
    names = {name: getattr(rows.features[name], "names", None) for name in used}
    number = 0
    try:
        for batch in rows.with_format(None).select_columns(used).iter(BATCH):
            size = len(batch[chosen.client])
            sides = (batch[name] if name is not None else [None] * size for name in chosen)
            labels = names.get(chosen.group) if chosen.group is not None else None
            found = []
            for client, text, time, group in zip(*sides, strict=True):
                number += 1
                at = f"{where}, row {number}"
                found.append((_label(client, names[chosen.client], at), _label(group, labels, at), text, time, number))
            for (client, group), own in groupby(found, key=lambda row: row[:2]):
                same = list(own)
                if not client:
                    raise UserError(
                        f"{where}, row {same[0][4]}: nothing in the column {chosen.client!r}, which names the client; "
                        "fill it in or remove the row"
                    )
                times = None
                if chosen.time is not None:
                    times = [_time(row[3], chosen, f"{where}, row {row[4]}") for row in same]
                texts = [_text(row[2], chosen, f"{where}, row {row[4]}") for row in same]
                yield Part(client, texts, times, group, place=f"row {same[0][4]}", position=same[-1][4])
    except (UserError, MemoryError):
        raise
    except Exception as error:  # pyarrow's own, and those of decoding
        raise UserError(f"{where}, after row {number}: the rows cannot be read ({_line(error)}); save them again") from error


def _label(value: Any, names: list[str] | None, at: str) -> str:
    """A client or group as text; a class label by its name."""
    if value is None:
        return ""
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not isinstance(value, str | int | float):
        raise UserError(f"{at}: {_SHORT.repr(value)} is no client or group, which is text or a number; give another column")
    return str(value)


def _text(value: Any, chosen: Columns, at: str) -> str:
    if not isinstance(value, str):
        raise UserError(
            f"{at}: {_SHORT.repr(value)} in the column {chosen.text!r} must be text; give --text-column NAME, or remove the row"
        )
    return value


def _time(value: Any, chosen: Columns, at: str) -> float:
    try:
        return seconds(value)
    except (ValueError, OverflowError) as error:
        raise UserError(
            f"{at}: {_SHORT.repr(value)} in the column {chosen.time!r} is no time ({error}); write Unix seconds or ISO 8601, "
            "or leave times out with --time-column ''"
        ) from error


def _name(data: str) -> str:
    name = asked(data).name
    if paths.leads_somewhere(name):
        name = Path(name).absolute().name
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "rows"


def _digest(data: str, rows: Any) -> str:
    """Of the content of a folder's files; of a data set by name what the library tells its versions apart by."""
    folder = Path(asked(data).name)
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return digests.of_files(files, WANTED)
    return str(rows._fingerprint)


def _content(data: str) -> Content:
    rows = opened(data)
    return Content(_name(data), f"{asked(data).split} {_digest(data, rows)}")


def _stream(options: DataOptions) -> Stream:
    where = f"data={options.data!r}"
    rows = opened(options.data)
    if not len(rows):
        raise UserError(f"{where}: there is no row; give a data set with one text a row")
    chosen = columns(rows.column_names, options, where)
    licence = " ".join(str(rows.info.license or "").split()) or "it states no licence"
    about = f"{_name(options.data)} of Hugging Face ({licence}; {_digest(options.data, rows)[:16]})"
    return Stream(_name(options.data), about, lambda: parts(rows, chosen, where), total=len(rows), path=options.data)


SOURCE = Source(
    "huggingface", _content, stream=_stream, matches=recognises, located=located, tokenizer="words",
    options=("client_column", "text_column", "time_column", "group_column"),
)  # fmt: skip
