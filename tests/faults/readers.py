"""Kind 6: every reader of files, given bytes that nobody would write: it reads them, or raises the project's UserError.

Each reader has whole files to start from. What carries a checksum is also read with the checksum made right again, so that what
lies behind that check is reached. `make campaign` guides the choice of bytes by coverage, with atheris; the test suite mutates
the whole files at random.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import small
from counts import Counts
from mutations import MUTATIONS

from flow.comparison import kept
from flow.config import read_config
from flow.data import jsonl
from flow.errors import UserError
from flow.reports import files as report_files
from flow.storage import files, metrics, run_folder

MOST = 100_000  # bytes
COVERED = r"flow\.(data|storage|reports|comparison|config)"
"""Modules of which what was run guides the choice of bytes."""


class Reader(NamedTuple):
    """What reads a kind of file."""

    name: str
    read: Callable[[bytes], Any]
    """Reads the bytes, as they are or, where they are JSON, with a right checksum too."""
    whole: list[bytes]
    """Files that it takes."""


def campaign(each: int = 300, seed: int = 0) -> Counts:
    """Mutate whole files at random, one to three times, and read them.

    Args:
        each: files for each reader.
        seed: of places and values.
    """
    counts, draw = Counts("bytes for every reader"), random.Random(seed)
    with readers() as every_reader:
        for reader in every_reader:
            for content in reader.whole:
                counts.add(verdict(reader, content), f"{reader.name}: a whole file")
            for _ in range(each):
                content = draw.choice(reader.whole)
                names = [draw.choice(list(MUTATIONS)) for _ in range(draw.randrange(1, 4))]
                for name in names:
                    content = MUTATIONS[name](content, draw)[:MOST]
                counts.add(verdict(reader, content), f"{reader.name}: {content[:300]!r}, {len(content)} bytes after {names}")
    return counts


def verdict(reader: Reader, content: bytes) -> str:
    """What a reader makes of bytes."""
    try:
        reader.read(content)
    except UserError as error:
        return "refused" if "\n" not in str(error) else f"more than one line: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


@contextmanager
def readers() -> Iterator[list[Reader]]:
    """All of them, with whole files of a small run and a small comparison."""
    with small.workplace() as place:
        small.warm()
        for work in (small.start(place / "run"), small.compare(place / "compared")):
            if work.code:
                raise AssertionError(work.err)
        yield [make(place) for make in (_data, _configuration, _rows, _results, _checkpoint, _client, _record, _about, _table)]


def _signed(content: bytes) -> bytes | None:
    """A JSON object with its checksum made right; None for what is none."""
    try:
        read = json.loads(content)
        return json.dumps(files.with_checksum(read)).encode() if isinstance(read, dict) else None
    except (ValueError, RecursionError, TypeError):
        return None


def _reading(
    path: Path, read: Callable[[], Any], sign: Callable[[bytes], bytes | None] | None = _signed
) -> Callable[[bytes], Any]:
    """Writes bytes into a file and reads it; then what `sign` makes of them."""

    def both(content: bytes) -> None:
        path.write_bytes(content)
        first: UserError | None = None
        try:
            read()
        except UserError as error:
            first = error
        other = sign(content) if sign is not None and first is not None else None
        if other is not None:
            path.write_bytes(other)
            read()
        elif first is not None:
            raise first

    return both


def _copy(place: Path, name: str) -> Path:
    """A folder of its own for one reader, with the files of the run beside the one that is read."""
    import shutil

    return Path(shutil.copytree(place / "run", place / name))


def _data(place: Path) -> Reader:
    path = place / "read.jsonl"
    more = b'{"id": "\\u00e4", "texts": ["one two", "\\ud83d\\ude00"], "ts": [1, 2.5], "group": "g", "split": "heldout"}\n'
    read = _reading(path, lambda: list(jsonl.parts(path)), None)
    return Reader("jsonl data", read, [(place / "mine.jsonl").read_bytes(), more])


def _configuration(place: Path) -> Reader:
    path = _copy(place, "configured") / "config.json"
    return Reader("config.json", _reading(path, lambda: read_config(path.parent)), [path.read_bytes()])


def _rows(place: Path) -> Reader:
    path = _copy(place, "rows") / metrics.NAME
    identity = run_folder.identity(run_folder.read_config(path.parent))

    def sign(content: bytes) -> bytes | None:
        return b"\n".join(_signed(line) or line for line in content.split(b"\n"))

    def read() -> None:
        log = metrics.read(path.parent, identity)
        metrics.cut(log, len(log.rows))
        log.until(2), log.end()
        report_files.read_metrics(path.parent)

    return Reader("metrics.jsonl", _reading(path, read, sign), [path.read_bytes()])


def _results(place: Path) -> Reader:
    path = _copy(place, "results") / "evaluation.json"
    return Reader("evaluation.json", _reading(path, lambda: report_files.read_evaluation(path.parent)), [path.read_bytes()])


def _tensors(path: Path, read: Callable[[], Any]) -> Callable[[bytes], Any]:
    """Likewise of a file of tensors, whose checksum lies in its header."""

    def sign(content: bytes) -> bytes | None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                labels = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError):
            return None
        stored = [labels[name] for name in ("round", "run", "client") if name in labels]
        old, new = str(labels.get(files.CHECKSUM)).encode(), files.fingerprint(tensors, *stored).encode()
        return content.replace(old, new) if len(old) == len(new) else None

    return _reading(path, read, sign)


def _checkpoint(place: Path) -> Reader:
    folder = _copy(place, "checkpointed")
    path = run_folder.stored(folder / "checkpoints")[-1]
    digest = files.read_labels(path, "").run
    return Reader("checkpoint", _tensors(path, lambda: run_folder.load(path, digest)), [path.read_bytes()])


def _client(place: Path) -> Reader:
    path = sorted((_copy(place, "client") / "clients").glob("*/*"))[-1]
    digest = files.read_labels(path, "").run
    return Reader("client's state", _tensors(path, lambda: files.read_tensors(path, digest, str)), [path.read_bytes()])


def _record(place: Path) -> Reader:
    from flow.comparison.plan import read_plan

    whole = (place / "compared" / "comparison.json").read_bytes()
    path = place / "record" / "comparison.json"
    path.parent.mkdir()
    return Reader("comparison.json", _reading(path, lambda: read_plan(path)), [whole])


def _kept(place: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """A copy of what is kept of a run, and what a comparison expects of it."""
    import shutil

    folder = Path(shutil.copytree(place / "compared" / "kept", place / name))
    return folder / "ditto-seed0.json", run_folder.read_config(place / "compared" / "runs" / "ditto-seed0")


def _about(place: Path) -> Reader:
    path, expected = _kept(place, "about")

    def read() -> None:
        _use(kept.read(path, expected))

    return Reader("kept JSON", _reading(path, read), [path.read_bytes()])


def _table(place: Path) -> Reader:
    import hashlib

    path, expected = _kept(place, "table")
    table, about = path.with_suffix(".csv"), json.loads(path.read_text(encoding="utf-8"))

    def read(content: bytes) -> None:
        table.write_bytes(content)
        path.write_text(json.dumps(files.with_checksum(about | {"csv": hashlib.sha256(content).hexdigest()})), encoding="utf-8")
        _use(kept.read(path, expected))

    return Reader("kept CSV", read, [table.read_bytes()])


def _use(results: kept.Kept) -> None:
    """All that tables and pictures ask of what is kept."""
    from flow.comparison.table import run_of

    results.summary("seen"), results.summary("unseen"), results.curve(), results.predicted
    if results.diverged is None:
        run_of(results)


def guided(name: str, seconds: int, corpus: Path) -> None:
    """Give one reader bytes that lead to code not seen before, for some seconds; says how many were refused and accepted, and
    ends the process.

    corpus: the folder in which such bytes are kept from one time to the next, and what brings a fault to light is written.
    """
    with readers() as every_reader:
        import atheris  # after the processes that make whole files

        for module in [loaded for loaded in sys.modules.values() if re.match(COVERED, loaded.__name__)]:
            for function in [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]:
                if hasattr(function, "__code__"):
                    atheris.instrument_func(function)
        reader = next(candidate for candidate in every_reader if candidate.name == name)
        own = corpus / re.sub(r"\W+", "-", name)
        own.mkdir(parents=True, exist_ok=True)
        for number, content in enumerate(reader.whole):
            (own / f"whole{number}").write_bytes(content)

        seen = {"refused": 0, "accepted": 0}

        def read(content: bytes) -> None:
            outcome = verdict(reader, content)
            if outcome not in seen:
                raise AssertionError(outcome)
            seen[outcome] += 1
            if time.monotonic() > until:  # the library would end the process without a word
                print(f"refused {seen['refused']} accepted {seen['accepted']}", file=sys.stderr, flush=True)
                os._exit(0)

        until = time.monotonic() + seconds
        limits = [f"-max_len={MOST}", "-timeout=20", f"-artifact_prefix={own}/fault-", "-verbosity=0"]
        atheris.Setup(["readers", *limits, str(own)], read)
        atheris.Fuzz()


if __name__ == "__main__":
    guided(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
