"""Data files as they come out of broken exports, editors, downloads and disks, each with what must become of it.

`cases` makes them from a seed, `verdict` loads one, `campaign` does both. A file is accepted with the clients that were written
to it, or refused in one sentence that names the file and, where there is one, the line.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest import mock

from flow.data import DataOptions, load
from flow.errors import UserError

WORDS = [
    "red",
    "blue",
    "été",
    "don't",
    "世界",
    "мир",
    "naïve",
    "x" * 50,
    "3.14",
    "<url>",
    "👩‍🚀",
    "שלום",
    "\t",
    "e\u0301",
    "\\",
    '"',
    "{}",
]
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Case(NamedTuple):
    """A file, and what must become of it."""

    kind: str
    name: str
    """The file's name, which says whether it is compressed."""
    content: bytes
    clients: list[tuple[str, str, bool, int]] | None
    """Id, group, held out or not, and number of texts of every client that it holds, by id; None: it must be refused."""
    line: int | None
    """The line that the refusal must name, counted from 1."""


class Counts(NamedTuple):
    """What a campaign came to."""

    tried: int
    refused: int
    accepted: int
    faults: list[str]
    """What went wrong and how to bring it about again, one for each fault."""


class Draft:
    """Clients of a good file, one of which, at a random place, becomes faulty."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.records = [self._record(n) for n in range(random.randint(3, 9))]
        self.place = random.randrange(len(self.records))

    def _record(self, number: int) -> dict[str, Any]:
        random = self.random
        texts = [" ".join(random.choices(WORDS, k=random.randint(1, 8))) for _ in range(random.randint(2, 6))]
        record: dict[str, Any] = {
            "id": f"client {number} {random.choice(WORDS)}",
            "texts": texts,
            "split": "train" if number < 3 else "heldout",
        }
        if random.random() < 0.3:
            record["ts"] = sorted(random.uniform(0, 2e9) for _ in texts)
        if random.random() < 0.3:
            record["group"] = random.choice(WORDS)
        return {name: record[name] for name in random.sample(list(record), len(record))}

    @property
    def record(self) -> dict[str, Any]:
        """The client that becomes faulty."""
        return self.records[self.place]

    def lines(self) -> list[bytes]:
        """One for each client."""
        written = [json.dumps(record, ensure_ascii=self.random.random() < 0.5) for record in self.records]
        return [line.encode("utf-8", "surrogatepass") for line in written]

    def file(self, end: bytes = b"\n") -> bytes:
        """The file, each line with this end."""
        return b"".join(line + end for line in self.lines())

    def given(self, **values: Any) -> bytes:
        """The file where the faulty client has these values in fields."""
        self.record.update(values)
        return self.file()

    def changed(self, change: Callable[[bytes], bytes]) -> bytes:
        """The file with the faulty client's line changed."""
        lines = self.lines()
        lines[self.place] = change(lines[self.place])
        return b"".join(line + b"\n" for line in lines)

    def added(self, fields: str) -> bytes:
        """The file with these fields, as JSON, at the end of the faulty client's object."""
        return self.changed(lambda line: line[:-1] + f", {fields}}}".encode())


def _without(draft: Draft, name: str) -> bytes:
    del draft.record[name]
    return draft.file()


def _same_id(draft: Draft, behind: tuple[str, str] = ("", "")) -> bytes:
    """Two clients, one right above the other, of one id but for what is put behind it; the lower one is the faulty one."""
    draft.place = draft.random.randrange(1, len(draft.records))
    above = draft.records[draft.place - 1]
    draft.record["id"] = above["id"] + behind[1]
    above["id"] += behind[0]
    return draft.file()


def _reversed_times(draft: Draft) -> bytes:
    return draft.given(ts=list(range(len(draft.record["texts"]), 0, -1)))


def _times(draft: Draft, first: str) -> bytes:
    """With ``ts`` as JSON: this value, then ones."""
    draft.record.pop("ts", None)
    return draft.added(f'"ts": [{", ".join([first, *["1"] * (len(draft.record["texts"]) - 1)])}]')


def _cut_at_random(draft: Draft) -> bytes:
    """A file whose end is missing, somewhere in the last line, whose client is the faulty one."""
    draft.place = len(draft.records) - 1
    lines = draft.lines()
    return b"".join(line + b"\n" for line in lines[:-1]) + lines[-1][: draft.random.randrange(1, len(lines[-1]))]


def _table(draft: Draft, mark: str) -> bytes:
    rows = [f"{n}{mark}word {n}" for n in range(len(draft.records))]
    return "\n".join([f"user_id{mark}text", *rows]).encode()


def _leaf(draft: Draft, indent: int | None) -> bytes:
    users = {record["id"]: {"x": record["texts"], "y": record["texts"]} for record in draft.records}
    sizes = [len(record["texts"]) for record in draft.records]
    return json.dumps({"users": list(users), "num_samples": sizes, "user_data": users}, indent=indent).encode()


def _noise(draft: Draft) -> bytes:
    return bytes(draft.random.choices(range(256), k=draft.random.randint(0, 200)))


def _flipped(draft: Draft) -> bytes:
    """A gzip file with a bit of its checksum the other way round."""
    content = bytearray(gzip.compress(draft.file()))
    content[-8 + draft.random.randrange(4)] ^= 1 << draft.random.randrange(8)
    return bytes(content)


def _truncated(draft: Draft) -> bytes:
    content = gzip.compress(draft.file())
    return content[: draft.random.randrange(4, len(content))]


def _after(draft: Draft, behind: bytes) -> bytes:
    return gzip.compress(draft.file()) + behind


ACCEPTED: dict[str, Callable[[Draft], bytes]] = {
    "as it should be": lambda draft: draft.file(),
    "a byte order mark": lambda draft: BYTE_ORDER_MARK + draft.file(),
    "files with byte order marks, joined": lambda draft: draft.changed(lambda line: BYTE_ORDER_MARK + line),
    "CR LF": lambda draft: draft.file(b"\r\n"),
    "no end of the last line": lambda draft: draft.file().rstrip(),
    "blank lines at the end": lambda draft: draft.file() + b"\n" * draft.random.randint(1, 9),
    "white space at the end": lambda draft: draft.file() + draft.random.choice([b" ", b"\t\r\n \n", "\u3000\n".encode()]),
    "white space around an object": lambda draft: draft.changed(lambda line: b" \t" + line + b"  \r"),
    "NaN in another field": lambda draft: draft.added('"score": NaN, "best": -Infinity'),
    "a doubled field inside another": lambda draft: draft.added('"meta": {"a": 1, "a": 2}'),
    "values a hundred deep": lambda draft: draft.added(f'"meta": {"[" * 100 + "]" * 100}'),
    "half a surrogate pair in another field": lambda draft: draft.added('"meta": "\\ud800"'),
    "a number of 4,000 digits in another field": lambda draft: draft.added(f'"meta": {"9" * 4000}'),
    "NUL as an escape": lambda draft: draft.given(texts=["a\0b", "c\0\0d"], ts=[0, 0]),
    "a client without texts": lambda draft: draft.given(texts=[], ts=[]),
    "empty texts": lambda draft: draft.given(texts=["", " ", "\u3000"], ts=[1, 1, 2]),
    "a long line": lambda draft: draft.given(texts=["long " * 100_000] * 2, ts=[0, 1]),
    "an id with a blank behind it": lambda draft: _same_id(draft, ("", " ")),
    "an id in another form of Unicode": lambda draft: _same_id(draft, ("\u00e9", "e\u0301")),
    "an id of strange characters": lambda draft: draft.given(id="\u202e\n\t../\x7f\0"),
    "an id of 10,000 characters": lambda draft: draft.given(id="long" * 2500),
    "times that are equal": lambda draft: draft.given(ts=[5] * len(draft.record["texts"])),
    "fields that are null": lambda draft: draft.given(split=None, ts=None),
}
"""Also compressed."""

FAULTY_LINE: dict[str, Callable[[Draft], bytes]] = {
    "a field twice": lambda draft: draft.added(f'"{draft.random.choice(["id", "texts", "split"])}": "x"'),
    "an id twice": _same_id,
    "no id": lambda draft: _without(draft, "id"),
    "no texts": lambda draft: _without(draft, "texts"),
    "an id that is no string": lambda draft: draft.given(id=draft.random.choice([7, None, "", [], {}, True, 1.5])),
    "texts that are no list of strings": lambda draft: draft.given(
        texts=draft.random.choice(["x", None, [1], {"a": "b"}, [["x"]]])
    ),
    "a group that is no string": lambda draft: draft.given(group=draft.random.choice([1, [], {}, None])),
    "a split that is none": lambda draft: draft.given(split=draft.random.choice(["test", 0, "", ["train"]])),
    "times that are too few": lambda draft: draft.given(ts=[1]),
    "times that go back": _reversed_times,
    "times that are strings": lambda draft: draft.given(ts=["1"] * len(draft.record["texts"])),
    "a time that is no number": lambda draft: _times(draft, "NaN"),
    "a time beyond all numbers": lambda draft: _times(draft, draft.random.choice(["Infinity", "-Infinity", "1e999"])),
    "a number of 5,000 digits": lambda draft: draft.added(f'"meta": {"9" * 5000}'),
    "values 5,000 deep": lambda draft: draft.added(f'"meta": {"[" * 5000 + "]" * 5000}'),
    "half a surrogate pair": lambda draft: draft.given(texts=["a", "\ud800"], ts=[1, 2]),
    "a line that is cut": lambda draft: draft.changed(lambda line: line[: draft.random.randrange(1, len(line))]),
    "a file that is cut": _cut_at_random,
    "single quotes": lambda draft: draft.changed(lambda line: b"{'id': 'a', 'texts': ['b']}"),
    "a comma too many": lambda draft: draft.changed(lambda line: line[:-1] + b",}"),
    "a comment": lambda draft: draft.changed(lambda line: line + b" // the best one"),
    "two clients in a line": lambda draft: draft.changed(lambda line: line + b" " + line),
    "a raw control character": lambda draft: draft.changed(lambda line: line.replace(b'"texts": ["', b'"texts": ["\x01')),
    "raw NUL": lambda draft: draft.changed(lambda line: line.replace(b'"texts": ["', b'"texts": ["\0')),
    "a block of NUL": lambda draft: draft.changed(lambda line: b"\0" * len(line)),
    "a raw line break": lambda draft: draft.changed(lambda line: line.replace(b'"texts": ["', b'"texts": ["\n')),
    "Latin-1": lambda draft: draft.changed(lambda line: b'{"id": "a", "texts": ["caf\xe9", "b"]}'),
    "half a character": lambda draft: draft.changed(lambda line: line[:-1] + b', "meta": "\xe4\xb8"}'),
    "a surrogate in UTF-8": lambda draft: draft.changed(lambda line: line[:-1] + b', "meta": "\xed\xa0\x80"}'),
    "a blank line above": lambda draft: draft.changed(lambda line: b"\n" + line),
    "white space above": lambda draft: draft.changed(lambda line: b" \t\r\n" + line),
    "a value that is no object": lambda draft: draft.changed(
        lambda line: draft.random.choice([b"7", b"null", b'"x"', b'["x"]'])
    ),
}
"""Also compressed; the line of the faulty client is named."""

FAULTY_FILE: dict[str, Callable[[Draft], bytes]] = {
    "nothing": lambda draft: b"",
    "nothing but blank lines": lambda draft: b"\n" * draft.random.randint(1, 9),
    "nothing but a byte order mark": lambda draft: BYTE_ORDER_MARK,
    "CR alone": lambda draft: draft.file(b"\r"),
    "UTF-16": lambda draft: draft.file().decode().encode(draft.random.choice(["utf-16", "utf-16-le", "utf-16-be"])),
    "UTF-32": lambda draft: draft.file().decode().encode("utf-32"),
    "a JSON array": lambda draft: json.dumps(draft.records, indent=draft.random.choice([None, 1])).encode(),
    "an object over several lines": lambda draft: json.dumps(draft.record, indent=2).encode(),
    "LEAF": lambda draft: _leaf(draft, draft.random.choice([None, 4])),
    "CSV": lambda draft: _table(draft, draft.random.choice([",", ";"])),
    "TSV": lambda draft: _table(draft, "\t"),
    "plain text": lambda draft: "\n".join(text for record in draft.records for text in record["texts"]).encode() + b"\nEnd.",
    "a web page": lambda draft: b"<!DOCTYPE html>\n<html><body>404</body></html>",
    "Parquet": lambda draft: b"PAR1" + _noise(draft),
    "SQLite": lambda draft: b"SQLite format 3\0" + _noise(draft),
    "HDF5": lambda draft: b"\x89HDF\r\n\x1a\n" + _noise(draft),
    "Arrow": lambda draft: b"ARROW1\0\0" + _noise(draft),
    "zip": lambda draft: b"PK\x03\x04" + _noise(draft),
    "zstd": lambda draft: b"\x28\xb5\x2f\xfd" + _noise(draft),
    "xz": lambda draft: lzma.compress(draft.file()),
    "bzip2": lambda draft: bz2.compress(draft.file()),
    "a pickle": lambda draft: b"\x80\x04" + _noise(draft),
    "PDF": lambda draft: b"%PDF-1.4\n" + _noise(draft),
    "a pointer of Git LFS": lambda draft: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    "bytes of no meaning": lambda draft: b"\xc3\x28" + _noise(draft),
    "gzip once more": lambda draft: gzip.compress(draft.file()),
    "nobody who may train": lambda draft: b'{"id": "a", "split": "heldout", "texts": ["x", "y"]}\n',
    "no word to train on": lambda draft: b'{"id": "a", "split": "train", "texts": ["", " "]}\n{"id": "b", "texts": []}\n',
}
"""Also compressed."""

FAULTY_GZIP: dict[str, Callable[[Draft], bytes]] = {
    "a gzip file that is cut": _truncated,
    "a gzip file with a wrong checksum": _flipped,
    "rubbish behind a gzip file": lambda draft: _after(draft, b"rubbish"),
    "a second gzip file that is cut": lambda draft: _after(draft, gzip.compress(draft.file())[:12]),
    "the name of a gzip file alone": lambda draft: draft.file(),
}
WHOLE_GZIP: dict[str, Callable[[Draft], bytes]] = {
    "a gzip file in several members": lambda draft: b"".join(gzip.compress(line + b"\n") for line in draft.lines()),
    "zeros behind a gzip file": lambda draft: _after(draft, bytes(512)),
    "an empty gzip file behind another": lambda draft: _after(draft, gzip.compress(b"")),
}


class Table(NamedTuple):
    """Kinds that come to the same."""

    kinds: dict[str, Callable[[Draft], bytes]]
    accepted: bool = False
    names_line: bool = False
    """Whether the refusal names the faulty client's line."""
    is_packed: bool = False
    """Whether what is made is a gzip file; else it is tried as it is and compressed."""


TABLES = (
    Table(ACCEPTED, accepted=True),
    Table(FAULTY_LINE, names_line=True),
    Table(FAULTY_FILE),
    Table(WHOLE_GZIP, accepted=True, is_packed=True),
    Table(FAULTY_GZIP, is_packed=True),
)
KINDS = [
    (table, kind, packed)
    for table in TABLES
    for kind in table.kinds
    for packed in ([True] if table.is_packed else [False, True])
]


def cases(count: int, seed: int) -> Iterator[Case]:
    """So many files, of all kinds by turns in a random order; equal arguments make equal files."""
    order = Random(f"order {seed}").sample(KINDS, len(KINDS))
    for number in range(count):
        table, kind, packed = order[number % len(order)]
        draft = Draft(Random(f"{seed} {number}"))
        content = table.kinds[kind](draft)
        if packed and not table.is_packed:
            content = gzip.compress(content)
        clients = sorted(map(_client, draft.records)) if table.accepted else None
        name = f"file {number}.jsonl{'.gz' if packed else ''}"
        yield Case(kind, name, content, clients, draft.place + 1 if table.names_line else None)


def _client(record: dict[str, Any]) -> tuple[str, str, bool, int]:
    """What must become of a record, by the words of docs/data.md."""
    own = zlib.crc32(record["id"].encode()) % 10 == 0
    held_out = own if record["split"] is None else record["split"] == "heldout"
    return record["id"], record.get("group", ""), held_out, len(record["texts"])


def verdict(case: Case, folder: Path) -> str:
    """Write the file into this folder and load it: "refused", "accepted", or what is wrong with what happened."""
    path = folder / case.name
    path.write_bytes(case.content)
    try:
        with contextlib.redirect_stderr(io.StringIO()) as messages:
            population = load(DataOptions(data=str(path)))
    except UserError as error:
        return _wrong_sentence(str(error), path, case) or "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    clients = [(client.id, client.group, client.held_out, client.texts) for client in population.clients]
    if case.clients is None:
        return f"accepted, with {len(clients)} clients"
    if clients != case.clients:
        return f"the clients are {clients}"
    lines = messages.getvalue().splitlines()
    return "accepted" if all(line.startswith("flow: data=") for line in lines) else f"stderr has {lines}"


def _wrong_sentence(text: str, path: Path, case: Case) -> str:
    """What is wrong with an error; empty where nothing is."""
    where = f"data={str(path)!r}" + (f", line {case.line}:" if case.line else "")
    if case.clients is not None:
        return f"refused: {text}"
    if not text.startswith(where):
        return f"the error does not begin with {where}: {text}"
    if not text.isprintable() or len(text) > 600 + len(str(path)) or "; " not in text or "Errno" in text:
        return f"the error is no sentence with a remedy: {text}"
    return ""


def campaign(count: int, seed: int = 0) -> Counts:
    """Make and load so many files, below the folder for temporary files; nothing is left there."""
    refused, accepted, faults = 0, 0, []
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, FLOW_CACHE=""):
        for number, case in enumerate(cases(count, seed)):
            judgement = verdict(case, Path(folder))
            refused += judgement == "refused"
            accepted += judgement == "accepted"
            if judgement not in ("refused", "accepted"):
                faults.append(f"file {number} of cases({count}, {seed}), {case.kind}: {judgement}")
            (Path(folder) / case.name).unlink()
    return Counts(count, refused, accepted, faults)
