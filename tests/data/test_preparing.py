"""From a stream of texts to a population: compared with a plain preparation in memory, whatever is put aside on disk."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from data_cases import fingerprint, plain, write_jsonl
from oracles import preparation

from flow.data import DataOptions, by_client, load, loading, preparing, spool, streams
from flow.data.preparing import in_memory
from flow.data.streams import Part, Stream
from flow.errors import UserError

WORDS = [
    "red",
    "blue",
    "Red",
    "zoë",
    "日本",
    "don't",
    "1,000",
    "<url>",
    "<pad>",
    "<oov-2>",
    "a",
    "b",
    "c++",
    "\U0001f600",
    "ﬁ",
    "\x1f",
]
IDS = ["b", "a", "ab", "a\u00a0", "é", "e\u0301", "日", "\U0001f600", "\uffee", "a" * 300, "Z", "z\n", "\x00"]


def made_up(seed: int, parts: int = 60, times: bool = True, sides: bool = False) -> list[Part]:
    draw = random.Random(seed)
    splits = {name: draw.choice([None, True, False, False]) for name in IDS}
    splits["b"] = False
    made = [Part("b", ["red blue red"], [5.0] if times else None, "g", False)]
    for _ in range(parts):
        name = draw.choice(IDS)
        texts = [" ".join(draw.choices(WORDS, k=draw.choice([0, 1, 2, 9]))) for _ in range(draw.choice([0, 1, 1, 1, 5]))]
        when = [float(draw.randrange(8)) for _ in texts] if times else None
        side = draw.choice(["", "train", "test"]) if sides else ""
        made.append(Part(name, texts, when, draw.choice(["", "g", "h"]), splits[name], side, f"row {len(made)}"))
    return made


def stream(parts: Sequence[Part], **more: Any) -> Stream:
    return Stream("made", "made up", lambda: iter(parts), **more)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is put aside on disk, in many runs and chunks."""
    monkeypatch.setattr(spool, "BUFFER", 700)
    monkeypatch.setattr(spool, "READ", 1)
    monkeypatch.setattr(spool, "LEAST_READ", 7)
    monkeypatch.setattr(by_client, "CHUNK", 300)
    monkeypatch.setattr(preparing, "ROWS", 200)
    monkeypatch.setattr(preparing, "DISTINCT", 3)


@pytest.mark.parametrize("tokenizer", ["words", "characters", "spaces"])
@pytest.mark.parametrize("seed", range(4))
def test_a_population_is_that_of_a_plain_preparation(tiny: None, tokenizer: str, seed: int) -> None:
    parts = made_up(seed, times=seed % 2 == 0, sides=seed > 1)
    for length, size, buckets, most in ((3, 5, 1, 0), (1, 100, 3, 4), (20, 2, 2, 1)):
        for continuous, separator, first_only in (
            (False, "\n", False),
            (True, "\n", False),
            (True, "", False),
            (False, "\n", True),
        ):
            options = DataOptions(
                tokenizer=tokenizer, sequence_length=length, vocabulary_size=size, oov_buckets=buckets, max_clients=most
            )
            expected = preparation.prepared(
                parts, tokenizer, length, size, buckets, continuous, first_only, None, most, separator
            )
            if not any(not held_out and train for _, held_out, _, train, _ in expected[1].values()):
                continue
            given = stream(parts, continuous=continuous, separator=separator, first_only=first_only)
            assert plain(in_memory(given, options)) == expected


def test_ids_come_in_the_order_of_utf_8_and_awkward_clients_stay(tiny: None) -> None:
    parts = [Part(name, texts, held_out=False) for name, texts in zip(IDS, [["x"], [], [""], ["x", "y"]] * 4, strict=False)]
    population = in_memory(stream(parts), DataOptions())
    assert [client.id for client in population.clients] == sorted(IDS, key=str.encode)
    assert plain(population) == preparation.prepared(parts, "words", 20, 10_000, 1)


def test_a_client_without_texts_to_train_on_is_held_out() -> None:
    """One that only the test split has, as in the files of TensorFlow Federated."""
    parts = [
        Part("in both", ["a b", "c"], side="train"),
        Part("in both", ["d"], side="test"),
        Part("new", ["e f"], side="test"),
    ]
    by_id = {client.id: client for client in in_memory(stream(parts), DataOptions()).clients}
    assert not by_id["in both"].held_out and by_id["new"].held_out
    assert len(by_id["new"].train.tokens) == 0 and len(by_id["new"].test.tokens) == 1
    stated = in_memory(stream([*parts, Part("mine", ["g"], side="test", held_out=False)]), DataOptions()).clients
    assert [client.held_out for client in stated] == [False, False, True]


def test_the_same_bytes_for_any_number_of_processes_and_size_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = made_up(7, 400)
    options = DataOptions(sequence_length=4, vocabulary_size=9, oov_buckets=2)
    whole = fingerprint(in_memory(stream(parts), options))
    monkeypatch.setattr(by_client, "CHUNK", 100)
    for processes in (1, 3):
        assert fingerprint(in_memory(stream(parts), options, processes=processes)) == whole
    monkeypatch.setattr(spool, "BUFFER", 500)
    monkeypatch.setattr(preparing, "DISTINCT", 2)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    for processes in (1, 3):
        assert fingerprint(in_memory(stream(parts), options, processes=processes)) == whole
    assert not list(tmp_path.iterdir())


def test_a_published_vocabulary_keeps_its_order(tiny: None) -> None:
    parts = made_up(3)
    published = ("blue", "yellow", "<pad>", "Red", "blue", "red")
    given = stream(parts, tokenizer="spaces", vocabulary=published)
    names, clients = preparation.prepared(parts, "spaces", 20, 3, 2, vocabulary=("blue", "yellow", "Red", "red"))
    population = in_memory(given, DataOptions(vocabulary_size=3, oov_buckets=2))
    assert population.vocabulary.tokens == names == ("<pad>", "<oov>", "<bos>", "<eos>", "blue", "yellow", "Red", "<oov-2>")
    assert plain(population)[1] == clients
    # Words of another tokenizer are counted.
    assert plain(in_memory(given, DataOptions(tokenizer="words"))) == preparation.prepared(parts, "words", 20, 10_000, 1)


def test_a_sort_on_disk_is_stable_and_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "READ", 1)
    draw = random.Random(0)
    records = [(draw.choice([b"", b"a", b"ab", b"b"]), str(n).encode() * draw.choice([0, 1, 40])) for n in range(999)]
    for buffer in (1, 300, 20_000, 1 << 20):
        with spool.Place(tmp_path / "beside") as place:
            kept = spool.Sorted(place, buffer)
            for record in records:
                kept.add(*record)
            assert kept.on_disk == (buffer < 1 << 20)
            for _ in range(2):
                assert list(kept) == sorted(records, key=lambda record: record[0])
            blobs = spool.Blobs(place, buffer)
            for _, content in records:
                blobs.add(content)
            assert list(blobs) == [content for _, content in records]
            kept.close()
            blobs.close()
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([Part("a", ["x"], held_out=True, place="row 1"), Part("a", ["y"], held_out=False, place="row 2")],
         r"^data='made', row 2: client 'a' is held out here and trains elsewhere, or the other way round; give all of its"),
        ([Part("a", ["\ud800"], place="row 1")], r"^data='made', row 1: client 'a' holds half of a surrogate pair"),
        ([Part("a\ud800", ["x"], place="row 1")], r"^data='made', row 1: client 'a.+' holds half of a surrogate pair"),
        ([Part("a", ["x"], [float("nan")], place="row 9")], r"^data='made', row 9: client 'a' has a time that is no finite"),
        ([Part("a", ["", " "], held_out=False)], r"^data='made': no training clients: of 1 clients 0 are held out"),
    ],
)  # fmt: skip
def test_faulty_parts_are_named(parts: Sequence[Part], message: str) -> None:
    for most in (0, 1):
        with pytest.raises(UserError, match=message):
            in_memory(stream(parts), DataOptions(max_clients=most))


def test_an_error_in_another_process_is_the_same_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_client, "CHUNK", 1)
    parts = [Part(f"c{n}", ["x y"], held_out=False) for n in range(20)]
    parts += [Part("c7", ["y"], held_out=True, place="row 21")]
    with pytest.raises(UserError, match=r"^data='made', row 21: client 'c7' is held out here"):
        in_memory(stream(parts), DataOptions(), processes=2)


def killed(job: object, cutting: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_client, "CHUNK", 1)
    monkeypatch.setattr(preparing, "_count", killed)
    with pytest.raises(MemoryError, match="a process that prepares data was killed"):
        in_memory(stream(made_up(1)), DataOptions(), processes=2)


def test_a_failure_leaves_nothing_beside_the_prepared_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: None) -> None:
    monkeypatch.setenv("FLOW_CACHE", str(tmp_path / "cache"))
    lines = [{"id": f"c{n}", "texts": ["red blue", "blue"] * 9, "split": "train"} for n in range(30)]
    path = Path(write_jsonl(tmp_path / "mine.jsonl", lines))
    with path.open("a") as file:
        file.write("{}\n")
    with pytest.raises(UserError, match="line 31"):
        load(DataOptions(data=str(path)))
    assert not list((tmp_path / "cache").iterdir())
    write_jsonl(path, lines)
    with monkeypatch.context() as patched:
        patched.setattr(spool.Sorted, "_write", lambda self: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(UserError, match=r"FLOW_CACHE='.*cache': prepared data cannot be kept there \(.*No space left"):
            load(DataOptions(data=str(path)))
        patched.setenv("FLOW_CACHE", "")
        with pytest.raises(UserError, match=r"TMPDIR='.*': data .* cannot be put aside there \(.*No space left on device\)"):
            load(DataOptions(data=str(path)))
    assert not list((tmp_path / "cache").iterdir())
    assert len(load(DataOptions(data=str(path))).clients) == 30
    assert [folder.name.partition("-")[0] for folder in (tmp_path / "cache").iterdir()] == ["mine"]


@pytest.mark.parametrize(("buffer", "message"), [(0, "text put aside"), (1 << 26, "prepared data")])
def test_data_that_do_not_fit_on_the_disk_are_refused_before_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer: int, message: str
) -> None:
    monkeypatch.setenv("FLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(loading, "free_disk", lambda folder: 50)
    monkeypatch.setattr(spool, "BUFFER", buffer)
    path = write_jsonl(tmp_path / "mine.jsonl", [{"id": "a", "texts": ["red blue", "blue"], "split": "train"}])
    with pytest.raises(
        UserError, match=rf"^data='.*': {message} would take at least \d+ bytes of disk .*, and 50 bytes are free; "
    ):
        load(DataOptions(data=path))
    assert not list((tmp_path / "cache").glob("*"))


def test_what_a_killed_process_left_is_removed_and_what_lives_stays(tmp_path: Path) -> None:
    with spool.Place(tmp_path / "one") as living:
        living.new_file().write_text("in use")
        left = tmp_path / f".flow-1-0{spool.ENDING}"
        left.mkdir()
        (left / "lock").write_text("")
        with spool.Place(tmp_path / "other") as other:
            other.new_file()
            folders = list(tmp_path.iterdir())
            assert left not in folders and len(folders) == 2
    assert not list(tmp_path.iterdir())


PROGRAM = """
import sys, time
from flow.data import by_client, jsonl, preparing, spool
from flow.cli.main import main
spool.BUFFER, by_client.CHUNK, preparing.ALONE = 500, 300, 0
before = preparing._count
def slow(job, cutting):
    time.sleep(0.2)
    return before(job, cutting)
preparing._count = slow
sys.exit(main(["prepare", "--data", sys.argv[1]]))
"""


def test_a_process_that_is_asked_to_end_leaves_nothing(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl", [{"id": f"c{n}", "texts": ["red blue"] * 9} for n in range(200)])
    cache = tmp_path / "cache"
    environment = os.environ | {"FLOW_CACHE": str(cache), "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, path], env=environment, stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + 60
        while not list(cache.glob(f".flow-*{spool.ENDING}")) and time.monotonic() < until:
            time.sleep(0.05)
        assert list(cache.glob(f".flow-*{spool.ENDING}"))
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    finally:
        process.kill()
        process.communicate()
    assert not list(cache.iterdir())


def test_a_process_that_is_asked_to_end_does_not_wait_for_long_jobs(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl", [{"id": f"c{n}", "texts": ["red blue"] * 9} for n in range(200)])
    cache = tmp_path / "cache"
    environment = os.environ | {"FLOW_CACHE": str(cache), "PYTHONPATH": str(Path(__file__).parents[2])}
    program = PROGRAM.replace("time.sleep(0.2)", "open(sys.argv[2], 'w').close(); time.sleep(600)")
    started = tmp_path / "started"
    process = subprocess.Popen([sys.executable, "-c", program, path, str(started)], env=environment, stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + 100
        while not started.exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert started.exists()
        process.send_signal(signal.SIGTERM)
        assert process.wait(100) == 143
    finally:
        process.kill()
        process.communicate()
    assert not list(cache.iterdir())


def test_positions_lead_to_the_total(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl", [{"id": f"c{n}", "texts": ["red blue"]} for n in range(9)])
    for data in (
        path,
        write_jsonl(tmp_path / "mine.jsonl.gz", [json.loads(line) for line in Path(path).read_text().splitlines()]),
    ):
        from flow.data import jsonl

        opened = jsonl.SOURCE.opened(DataOptions(data=data))
        places = [part.position for part in opened.parts()]
        assert places == sorted(places) and places[-1] == opened.total == Path(data).stat().st_size
        assert isinstance(opened, streams.Stream)


def test_a_folder_whose_process_was_killed_before_it_locked_it_is_removed(tmp_path: Path) -> None:
    """Not one that another process has just made."""
    left, made = tmp_path / ".flow-1-00.new", tmp_path / ".flow-2-00.new"
    for folder in (left, made):
        folder.mkdir()
    long_ago = time.time() - 2 * spool.UNLOCKED
    os.utime(left, (long_ago, long_ago))
    with spool.Place(tmp_path / "data") as place:
        place.new_file()
        assert not left.exists() and made.exists()
    assert list(tmp_path.iterdir()) == [made]
