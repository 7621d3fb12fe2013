"""Measure the preparation of a generated file: ``measure_preparation.py FORMAT GIGABYTES FOLDER [--clients N]``.

FORMAT is jsonl, csv (rows in random order) or sqlite, the form of TensorFlow Federated's StackOverflow (rows by client). The
file is generated in the folder where it is not there yet, and stays. Its sentences have the sizes of StackOverflow's: a client
has 397 on average, lognormal; words follow Zipf's law. Then ``flow prepare`` runs in a process of its own with a new cache in
the folder. Printed are clients and sentences a second, the largest RssAnon (memory of its own, without mapped files) of that
process and of all of its processes together, and the most that lay on disk.

For sqlite with ``--against plain`` the same file is prepared again, by what users write themselves: one process that reads the
rows client by client, parses every message with the package protobuf, counts words, and cuts sequences of 20 words. With
``--against tensorflow`` the same is done by tf.data, in the interpreter ``--python`` that has TensorFlow: its SQL reader, its
parser of Examples in batches, and a lookup table.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

WORDS = 200_000
MEAN = 397
KINDS = ("jsonl", "csv", "sqlite")


def main(given: Sequence[str] | None = None) -> None:
    """Generate, prepare, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=KINDS)
    parser.add_argument("gigabytes", type=float)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clients", type=int, default=0, help="exactly so many, of any size; default: as StackOverflow's")
    parser.add_argument("--repeat", type=int, default=1, help="csv and sqlite: all rows so many times; it is quick to make")
    parser.add_argument("--against", choices=["plain", "tensorflow"], help="with sqlite: also by that, after flow")
    parser.add_argument("--python", default=sys.executable, help="the interpreter for --against")
    options = parser.parse_args(given)
    if options.against and options.format != "sqlite":
        parser.error("--against is for sqlite")
    if options.repeat > 1 and options.format == "jsonl":
        parser.error("--repeat is for csv and sqlite, whose clients may have many rows")
    options.folder.mkdir(parents=True, exist_ok=True)
    suffix = f"-{options.clients}" if options.clients else ""
    path = options.folder / f"made-{options.gigabytes:g}{suffix}.{options.format}"
    if not path.exists():
        made = path.with_suffix(".partial")
        made.unlink(missing_ok=True)
        {"jsonl": _jsonl, "csv": _csv, "sqlite": _sqlite}[options.format](made, options.gigabytes * 1e9, options.clients)
        made.rename(path)
    if options.repeat > 1:
        path = _repeated(path, options.repeat)
    seconds = _measure(path, options.folder)
    if options.against:
        _measure_other(path, options.folder, seconds, options.against, options.python)


def _repeated(path: Path, times: int) -> Path:
    """A file whose clients have all of their rows so many times."""
    repeated = path.with_name(f"{path.stem}-times-{times}{path.suffix}")
    if repeated.exists():
        return repeated
    made = repeated.with_suffix(".partial")
    shutil.copyfile(path, made)
    if path.suffix == ".csv":
        with path.open("rb") as file, made.open("ab") as more:
            names = len(file.readline())
            for _ in range(times - 1):
                file.seek(names)
                shutil.copyfileobj(file, more, 1 << 24)
    else:
        with closing(sqlite3.connect(made, isolation_level=None)) as base:
            base.execute("PRAGMA journal_mode = OFF")
            base.execute("PRAGMA synchronous = OFF")
            base.execute("DROP INDEX idx_examples_client_id_split")
            last = base.execute("SELECT max(rowid) FROM examples").fetchone()
            for _ in range(times - 1):
                base.execute("INSERT INTO examples SELECT * FROM examples WHERE rowid <= ? ORDER BY rowid", last)
            base.execute(f"UPDATE client_metadata SET num_examples = num_examples * {times}")
    made.rename(repeated)
    return repeated


def _clients(nbytes: float, clients: int) -> Iterator[tuple[str, list[str], list[int]]]:
    """Clients with sentences and times, until there are so many bytes of text, or so many clients."""
    draw = np.random.default_rng(0)
    words = np.array(
        [f"w{rank}" if rank > 50 else "etaoinshrdlcumwfgypbvk"[rank % 22] * (1 + rank // 22) for rank in range(WORDS)]
    )
    mean = MEAN if not clients else max(1.0, nbytes / 55 / clients)
    number, written = 0, 0
    while number < clients if clients else written < nbytes:
        count = max(1, int(np.exp(np.log(mean) - 0.5 + draw.standard_normal())))
        lengths = draw.integers(4, 24, count)
        ranks = np.minimum(np.power(WORDS + 1.0, draw.random(int(lengths.sum()))).astype(np.int64) - 1, WORDS - 1)
        ends = np.cumsum(lengths)
        drawn = words[ranks].tolist()
        texts = [" ".join(drawn[end - length : end]) for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]
        yield f"{number * 7919 % 10**8:08d}", texts, sorted(draw.integers(1_220_000_000, 1_514_000_000, count).tolist())
        written += sum(map(len, texts))
        number += 1


def _jsonl(path: Path, nbytes: float, clients: int) -> None:
    with path.open("w") as file:
        for name, texts, times in _clients(nbytes, clients):
            file.write(json.dumps({"id": name, "texts": texts, "ts": times}) + "\n")


def _csv(path: Path, nbytes: float, clients: int) -> None:
    """Rows of many clients in random order, as in a table that was ordered by something else."""
    draw, held = random.Random(0), []
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "created_utc", "body"])
        for name, texts, times in _clients(nbytes, clients):
            held += [(name, moment, text) for text, moment in zip(texts, times, strict=True)]
            if len(held) > 1_000_000:
                draw.shuffle(held)
                writer.writerows(held)
                held = []
        draw.shuffle(held)
        writer.writerows(held)


def _sqlite(path: Path, nbytes: float, clients: int) -> None:
    with sqlite3.connect(path) as base:
        base.execute("PRAGMA journal_mode = OFF")
        base.execute("PRAGMA synchronous = OFF")
        base.execute("CREATE TABLE examples (split_name TEXT, client_id TEXT, serialized_example_proto BLOB)")
        base.execute("CREATE TABLE client_metadata (client_id TEXT, split_name TEXT, num_examples INTEGER)")
        for name, texts, times in _clients(nbytes, clients):
            split = "heldout" if int(name) % 10 == 0 else "train"
            base.execute("INSERT INTO client_metadata VALUES (?, ?, ?)", (name, split, len(texts)))
            rows = ((split, name, _example(text, moment)) for text, moment in zip(texts, times, strict=True))
            base.executemany("INSERT INTO examples VALUES (?, ?, ?)", rows)
        base.execute("CREATE INDEX idx_examples_client_id_split ON examples (client_id, split_name)")


def _example(text: str, moment: int) -> bytes:
    """A tf.train.Example with the six features of StackOverflow."""
    date = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))
    features = {"creation_date": date, "tags": "python|sql", "title": "how to", "tokens": text, "type": "answer"}
    fields = [
        _field(1, _field(1, name.encode()) + _field(2, _field(1, _field(1, value.encode()))))
        for name, value in features.items()
    ]
    fields.append(_field(1, _field(1, b"score") + _field(2, _field(3, _field(1, b"\x01")))))
    return _field(1, b"".join(fields))


def _field(number: int, content: bytes) -> bytes:
    size, length = b"", len(content)
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def _measure(path: Path, folder: Path) -> float:
    """Prepare with flow, print what it took, and return the seconds."""
    cache = folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    environment = os.environ | {"FLOW_CACHE": str(cache)}
    command = [sys.executable, "-m", "flow", "prepare", "--data", str(path)]
    begin = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    own = everybody = disk = 0
    while process.poll() is None:
        own = max(own, _anonymous(process.pid))
        everybody = max(everybody, _anonymous(process.pid) + sum(map(_anonymous, _children(process.pid))))
        disk = max(disk, _on_disk(cache))
        time.sleep(0.2)
    seconds = time.monotonic() - begin
    if process.returncode:
        raise SystemExit(process.returncode)
    print(process.communicate()[0].strip())
    (index,) = cache.glob("*/index.json")
    texts = int(np.fromfile(index.parent / "texts", np.int32).sum())
    clients = json.loads(index.read_text())["clients"]
    print(f"{path.name}: {path.stat().st_size / 1e9:.2f} GB, {clients:,} clients, {texts:,} sentences in {seconds:.0f} s")
    print(f"{clients / seconds:,.0f} clients/s, {texts / seconds:,.0f} sentences/s")
    print(f"largest RssAnon {own / 1e6:,.0f} MB, with all processes {everybody / 1e6:,.0f} MB; on disk {disk / 1e9:.2f} GB")
    shutil.rmtree(cache)
    return seconds


def _measure_other(path: Path, folder: Path, flow_seconds: float, name: str, python: str) -> None:
    begin = time.monotonic()
    process = subprocess.Popen([python, __file__, f"--{name}", str(path), str(folder)], stdout=subprocess.PIPE, text=True)
    own = 0
    while process.poll() is None:
        own = max(own, _anonymous(process.pid))
        time.sleep(0.2)
    seconds = time.monotonic() - begin
    if process.returncode:
        raise SystemExit(process.returncode)
    clients, texts = map(int, process.communicate()[0].split())
    print(f"{name}: {clients:,} clients, {texts:,} sentences in {seconds:.0f} s, largest RssAnon {own / 1e6:,.0f} MB")
    print(f"flow takes {flow_seconds / seconds:.2f} of that time")


def plain(path: Path, folder: Path) -> tuple[int, int]:
    """(clients, sentences) of the splits train and heldout, written as int32 arrays of 21 tokens, one file for each split."""
    from flow.data.readers import example

    message = example.message("measure_preparation", "a plain loop")
    query = "SELECT client_id, serialized_example_proto FROM examples WHERE split_name = ? ORDER BY client_id"

    def sentences(split: str) -> Iterator[tuple[str, list[str]]]:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as base:
            for client, content in base.execute(query, (split,)):
                feature = message.FromString(content).features.feature
                yield client, feature["tokens"].bytes_list.value[0].decode().split(" ")

    counts: Counter[str] = Counter()
    for _, words in sentences("train"):
        counts.update(words)
    ids = {word: number for number, (word, _) in enumerate(counts.most_common(10_000), 4)}
    clients, texts = set(), 0
    for split in ("train", "heldout"):
        out = folder / f"plain-{split}"
        with out.open("wb") as file:
            for client, words in sentences(split):
                tokens = [2, *(ids.get(word, 1) for word in words[:20]), 3][:21]
                file.write(np.array(tokens + [0] * (21 - len(tokens)), dtype=np.int32).tobytes())
                clients.add(client)
                texts += 1
        out.unlink()
    return len(clients), texts


def with_tensorflow(path: Path, folder: Path) -> tuple[int, int]:
    """(clients, sentences) of the splits train and heldout, written as int32 arrays of 21 tokens, by tf.data."""
    tf: Any = importlib.import_module("tensorflow")

    features = {"tokens": tf.io.FixedLenFeature([], tf.string)}

    def sentences(split: str, columns: str) -> Any:
        query = f"SELECT {columns} FROM examples WHERE split_name = '{split}' ORDER BY client_id"
        rows = tf.data.experimental.SqlDataset("sqlite", str(path), query, (tf.string,) * len(columns.split(", ")))
        return rows.batch(4096)

    def words_of(blobs: Any) -> Any:
        return tf.strings.split(tf.io.parse_example(blobs, features)["tokens"], sep=" ")

    counts: Counter[bytes] = Counter()
    counting = sentences("train", "serialized_example_proto").map(words_of, num_parallel_calls=tf.data.AUTOTUNE)
    for words in counting.prefetch(tf.data.AUTOTUNE):
        counts.update(words.flat_values.numpy().tolist())
    most = [word for word, _ in counts.most_common(10_000)]
    ids = tf.range(4, 4 + len(most), dtype=tf.int64)
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(tf.constant(most), ids), 1)

    def cut(client: Any, blobs: Any) -> Any:
        words = table.lookup(words_of(blobs)[:, :20])
        edges = [tf.fill([words.nrows(), 1], tf.constant(edge, tf.int64)) for edge in (2, 3)]
        rows = tf.concat([edges[0], words, edges[1]], axis=1).to_tensor(0, shape=[None, 22])[:, :21]
        return client, tf.cast(rows, tf.int32)

    clients, texts = set(), 0
    for split in ("train", "heldout"):
        out = folder / f"tensorflow-{split}"
        cutting = sentences(split, "client_id, serialized_example_proto").map(cut, num_parallel_calls=tf.data.AUTOTUNE)
        with out.open("wb") as file:
            for names, tokens in cutting.prefetch(tf.data.AUTOTUNE):
                file.write(tokens.numpy().tobytes())
                clients.update(names.numpy().tolist())
                texts += len(tokens)
        out.unlink()
    return len(clients), texts


def _anonymous(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def _children(process: int) -> list[int]:
    try:
        return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def _on_disk(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


if __name__ == "__main__":
    if sys.argv[1:2] in (["--plain"], ["--tensorflow"]):
        print(*(plain if sys.argv[1] == "--plain" else with_tensorflow)(*map(Path, sys.argv[2:])))
    else:
        main()
