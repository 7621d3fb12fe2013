"""Prepared data: the same population from disk, whole or not at all, read client by client, and synthetic clients."""

import dataclasses
import itertools
import json
import mmap
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import oracles
import pytest

from flow import Config, ModelOptions, UserError, simulate
from flow.algorithms.fedavg import FedAvgOptions
from flow.data import Client, DataOptions, jsonl, load, prepared, prepared_folder, synthetic
from flow.data.population import Indexed
from flow.data.spool import Sorted
from flow.data.streams import Part

SYNTHETIC = DataOptions(data="synthetic", clients=60, sequences=5, sequence_length=6, vocabulary_size=40)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    prepared.write(tmp_path / "tiny", oracles.population())
    return tmp_path / "tiny"


def same(clients: Iterable[Client], expected: Iterable[Client]) -> None:
    for actual, wanted in zip(clients, expected, strict=True):
        assert (actual.id, actual.group, actual.held_out, actual.texts) == (
            wanted.id,
            wanted.group,
            wanted.held_out,
            wanted.texts,
        )
        for side, own in ((actual.train, wanted.train), (actual.test, wanted.test)):
            assert len(side) == len(own)
            for name in ("tokens", "lengths"):
                array = getattr(side, name)
                assert array.dtype == np.int32 and np.array_equal(array, getattr(own, name))


def test_a_population_comes_back_as_it_was(folder: Path) -> None:
    expected, population = oracles.population(), prepared.read(folder)
    assert isinstance(population.clients, Indexed)
    same(population.clients, expected.clients)
    same(population.clients[2:-1], expected.clients[2:-1])
    same([population.clients[-1]], [expected.clients[-1]])
    assert (population.name, population.about, population.sequence_length) == (
        expected.name,
        expected.about,
        expected.sequence_length,
    )
    assert population.vocabulary == expected.vocabulary
    assert population.fingerprint == expected.fingerprint
    for array, other in zip(population.table, expected.table, strict=True):
        assert np.array_equal(array, other)
    assert population.table.train.tolist() == [len(client.train) for client in expected.clients]
    everybody = list(expected.clients)
    assert population.numbers(everybody).tolist() == expected.numbers(everybody).tolist() == [0, 1, 2, 3, 4, 5, 6, -1, -1]
    with pytest.raises(KeyError, match="client 77"):
        population.clients.position("client 77")
    with pytest.raises(IndexError, match="client 9 of 9"):
        population.clients[9]


def test_ids_are_found_whatever_their_letters(tmp_path: Path) -> None:
    ids = sorted(["a", "aa", "b", "z", "ä", "€", "日本", "\U0001f600", "Ω 1"])
    population = oracles.population(sizes=(1,) * len(ids), held_out=())
    clients = tuple(dataclasses.replace(c, id=id, group=id[::-1]) for c, id in zip(population.clients, ids, strict=True))
    prepared.write(tmp_path / "letters", dataclasses.replace(population, clients=clients))
    population = prepared.read(tmp_path / "letters")
    assert isinstance(population.clients, Indexed)
    assert [(client.id, client.group) for client in population.clients] == [(id, id[::-1]) for id in ids]
    assert [population.clients.position(id) for id in ids] == list(range(len(ids)))


def test_clients_in_another_order_are_refused(tmp_path: Path) -> None:
    population = oracles.population()
    clients = (*population.clients[1:], population.clients[0])
    with pytest.raises(ValueError, match="client 'client 0' follows 'client 8': clients must be sorted by id"):
        prepared.write(tmp_path / "disorder", dataclasses.replace(population, clients=clients))
    assert not list(tmp_path.iterdir())


def test_a_run_on_prepared_data_gives_the_same_numbers_to_the_bit(folder: Path) -> None:
    config = Config(
        algorithm=FedAvgOptions(batch_size=4), model=ModelOptions(embedding_dim=3, hidden_size=4), rounds=3, cohort=4,
        evaluate_every=2, evaluate_clients=2,
    )  # fmt: skip
    in_memory, on_disk = (simulate(config, population=p, progress=False) for p in (oracles.population(), prepared.read(folder)))
    assert in_memory.evaluation == on_disk.evaluation
    assert all((tensor == on_disk.state[name]).all() for name, tensor in in_memory.state.items())


def test_nothing_is_read_before_it_is_asked_for_and_pages_are_given_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    population = prepared.read(folder)
    assert isinstance(population.clients, prepared.StoredClients)
    loaded: list[int] = []
    load_one = population.clients.load

    def counted(n: int) -> Any:
        loaded.append(n)
        return load_one(n)

    monkeypatch.setattr(population.clients, "load", counted)
    client = population.clients[4]
    assert (len(client.train), len(client.test), population.table.train[4], loaded) == (8, 3, 8, [])
    client.read()
    assert client.train.tokens.shape == (8, oracles.STEPS + 1) and client.test.lengths.shape == (3,)
    assert loaded == [4]
    assert population.clients[4] is not client, "what a client holds must go with it"
    given_back: list[int] = []

    class Map:
        def madvise(self, advice: int) -> None:
            given_back.append(advice)

    monkeypatch.setattr(population.clients, "_maps", [Map()])
    monkeypatch.setattr(prepared, "RELEASE", 3)
    for n in range(6):
        population.clients[n].read()
    assert given_back == [mmap.MADV_DONTNEED] * 2


@pytest.mark.parametrize("name", ["tokens", "lengths", "edges", "ids", "held_out", "index.json"])
@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_damaged_files_are_named(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content if damage == "changed" else content[: len(content) // 2])

    def everything() -> None:
        for client in prepared.read(folder).clients:
            client.read()

    where = "tokens" if (name, damage) == ("lengths", "changed") else name
    with pytest.raises(ValueError, match=rf"{where}: .*; delete the folder .*tiny, and the data are prepared again"):
        everything()


def test_another_version_is_refused(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | {"version": 0}))
    with pytest.raises(ValueError, match="version 0, this is 1"):
        prepared.read(folder)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> NoReturn:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            prepared.write(tmp_path / "tiny", oracles.population())
    assert not list(tmp_path.iterdir())
    prepared.write(tmp_path / "tiny", oracles.population())
    prepared.write(tmp_path / "tiny", oracles.population(seed=9))  # by another process, a moment later
    assert prepared.read(tmp_path / "tiny").fingerprint == oracles.population().fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process that is killed is forked")
def test_what_a_killed_process_was_writing_is_removed_by_the_next(tmp_path: Path) -> None:
    child = os.fork()
    if not child:

        def killed() -> Iterator[Client]:
            yield oracles.population().clients[0]
            os.kill(os.getpid(), signal.SIGKILL)

        try:
            prepared.write(tmp_path / "tiny", oracles.population(), clients=(killed(), 2))
        finally:
            os._exit(1)  # not reached, unless writing fails
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] != []
    prepared.write(tmp_path / "other", oracles.population())
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def _growing(file: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Have a line added to a file while it is being read."""
    add, reads = Sorted.add, itertools.count()

    def grow(texts: Sorted, key: bytes, content: bytes) -> None:
        if next(reads) == 0:
            with file.open("a") as more:
                more.write(line)
        add(texts, key, content)

    monkeypatch.setattr(Sorted, "add", grow)


@pytest.mark.parametrize("cached", [True, False])
def test_data_that_change_while_they_are_read_are_refused(
    cached: bool, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise they would be kept under the digest of a content that they do not have."""
    if not cached:
        monkeypatch.setenv("FLOW_CACHE", "")
    file = tmp_path / "mine.jsonl"
    file.write_text('{"id": "a", "texts": ["one two", "two three"], "split": "train"}\n')
    with monkeypatch.context() as patched:
        _growing(file, patched, '{"id": "b", "texts": ["one two"]}\n')
        with pytest.raises(UserError, match=r"data='.*mine\.jsonl' changed while it was being prepared, and must .*; run the"):
            load(DataOptions(data=str(file)))
    assert not cache.exists() or not list(cache.iterdir())
    assert len(load(DataOptions(data=str(file))).clients) == 2


def test_data_are_prepared_once_and_again_when_anything_changes(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.jsonl"
    reads: list[Path] = []
    parts = jsonl.parts

    def counted(path: Path, label_field: str | None) -> Iterator[Part]:
        reads.append(path)
        return parts(path, label_field)

    monkeypatch.setattr(jsonl, "parts", counted)
    file.write_text('{"id": "a", "texts": ["one two", "two three"], "split": "train"}\n')
    options = DataOptions(data=str(file))
    first = load(options)
    assert load(options).fingerprint == first.fingerprint and len(reads) == 1
    load(dataclasses.replace(options, sequence_length=1))
    assert len(reads) == 2
    file.write_text('{"id": "a", "texts": ["one two two", "two three"], "split": "train"}\n')
    assert load(options).fingerprint != first.fingerprint and len(reads) == 3
    assert len(list(cache.iterdir())) == 3
    monkeypatch.setenv("FLOW_CACHE", "")
    assert prepared_folder(options) is None
    assert isinstance(load(options).clients, tuple) and len(reads) == 4


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLOW_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"FLOW_CACHE='.*file': prepared data cannot be kept there .*set it empty"):
        simulate(Config(data=SYNTHETIC), progress=False)


def test_synthetic_clients_follow_from_their_number_alone(cache: Path) -> None:
    few, many = load(SYNTHETIC), load(dataclasses.replace(SYNTHETIC, clients=200))
    same(few.clients, many.clients[:60])
    other = load(dataclasses.replace(SYNTHETIC, data_seed=1))
    assert not np.array_equal(few.clients[0].train.tokens, other.clients[0].train.tokens)
    made = synthetic.population(synthetic.Shape(60, 5), 6, 40, 1)
    same(few.clients, made.clients)
    assert few.fingerprint == made.fingerprint


def test_synthetic_clients_look_like_text(cache: Path) -> None:
    population = load(dataclasses.replace(SYNTHETIC, clients=400, sequences=40, vocabulary_size=1000))
    sizes, table = population.table.train, population.table
    assert abs(sizes.mean() / 40 - 1) < 0.15
    assert sizes.min() >= 1 and 4 < sizes.max() / np.median(sizes) < 40
    assert 0.05 < table.held_out.mean() < 0.15 and len(population.training) == (~table.held_out).sum()
    assert [client.id for client in population.clients] == sorted(client.id for client in population.clients)
    tokens = np.concatenate([client.train.tokens for client in population.clients])
    lengths = np.concatenate([client.train.lengths for client in population.clients])
    position = np.arange(7)
    assert (tokens[:, 0] == 2).all() and (tokens[position == lengths[:, None]] == 3).all()
    assert ((tokens == 0) == (position > lengths[:, None])).all() and tokens.max() < len(population.vocabulary)
    words = tokens[(position > 0) & (position < lengths[:, None])]
    counts = np.bincount(words, minlength=1004)
    assert counts[4] > 10 * np.median(counts[4:]), "few words are frequent"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clients": 0}, "clients=0 must be at least 1"),
        ({"sequences": -1}, "sequences=-1 must be at least 1"),
        ({"data_seed": -1}, "data_seed=-1 must be at least 0"),
        ({"max_clients": 5}, "max_clients=5 takes clients of a file; for data='synthetic' give clients"),
        ({"data": "shakespeare"}, "clients=60 is an option of data='synthetic', not of data='shakespeare'; leave it out"),
    ],
)
def test_options_of_synthetic_clients_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(dataclasses.replace(SYNTHETIC, **options))
