"""TensorFlow Federated's SQLite files, made with sqlite3 and protobuf."""

import lzma
import random
import re
import resource
import sqlite3
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from foreign import Example, Row, example, other_form, sentence, tff_sqlite

from flow.data import DataOptions, load, registry
from flow.data.population import Client, Sequences, Vocabulary
from flow.data.preparing import in_memory
from flow.data.readers import example as reader
from flow.data.readers import sqlite, stackoverflow
from flow.data.readers import tff_sqlite as tff_reader
from flow.data.streams import Stream
from flow.errors import UserError

WORDS = ["the", "a", "of", ".", ",", "<URL>", "c++", "zoë", "c/c++"]


def date(second: int, year: int = 2016) -> str:
    return f"{year}-02-28 23:{second // 60:02}:{second % 60:02} UTC"


def unix(text: str) -> float:
    return datetime.fromisoformat(text[:19] + "+00:00").timestamp()


@pytest.fixture
def rows() -> list[Row]:
    draw = random.Random(1)
    made: list[Row] = []
    for client, count in (("10", 5), ("2", 7), ("007", 1)):
        seconds = list(range(count))
        draw.shuffle(seconds)
        for second in seconds:
            made.append(("train", client, sentence(" ".join(draw.choices(WORDS, k=3 + second)), date(second))))
    made += [("test", "10", sentence("the test .", date(0, 2018))), ("test", "only", sentence("later", date(1, 2019)))]
    made += [("heldout", "30", sentence(f"held out {n} .", date(n))) for n in range(5)]
    return made


@pytest.fixture
def file(tmp_path: Path, rows: list[Row]) -> Path:
    return tff_sqlite(tmp_path / "stackoverflow.sqlite", rows)


def stream_of(path: Path, **options: Any) -> Stream:
    given = DataOptions(data=str(path), **options)
    source = registry.source_of(given.data)
    assert source.name == "tff_sqlite"
    source.check(given)
    return source.opened(given)


def test_an_example_is_read_as_protobuf_writes_it_and_the_other_way_round() -> None:
    draw = random.Random(0)
    parse = reader.reader("data='x'", "a set", "tokens", "creation_date")
    own = reader.message("data='x'", "a set")
    for _ in range(200):
        text = "".join(chr(draw.choice([32, 97, 0xE9, 0x65E5, 0x1F600])) for _ in range(draw.choice([0, 1, 127, 128, 20_000])))
        features = sentence(text, date(draw.randrange(3600)))
        assert parse(example(**features)) == [text.encode(), features["creation_date"].encode()]
        made = own()
        made.features.feature["tokens"].bytes_list.value.append(text.encode())
        made.features.feature["score"].int64_list.value.append(-(2**63))
        again = Example.FromString(made.SerializeToString())
        assert again.features.feature["tokens"].bytes_list.value[0] == text.encode()
        assert again.features.feature["score"].int64_list.value[0] == -(2**63)
    assert parse(example(title="no tokens")) == [None, None]
    for wrong in (b"\xff", b"\x0a\x05ab", example(tokens="a")[:-1], example(tokens=3)):
        with pytest.raises(ValueError, match=r"no tf\.train\.Example|not one value"):
            parse(wrong)


def test_splits_are_as_published(file: Path, rows: list[Row]) -> None:
    read: dict[tuple[str, bool | None, str], list[tuple[str, float]]] = {}
    for part in stream_of(file).parts():
        times = part.times or ()
        assert len(part.texts) == len(times)
        read.setdefault((part.client, part.held_out, part.side), []).extend(zip(part.texts, times, strict=True))
    wanted: dict[tuple[str, bool | None, str], list[tuple[str, float]]] = {}
    for split, client, features in rows:
        assert isinstance(features, dict)
        key = client, {"train": False, "heldout": True, "test": None}[split], "" if split == "heldout" else split
        wanted.setdefault(key, []).append((features["tokens"], unix(features["creation_date"])))
    assert read == wanted


def test_dates() -> None:
    draw = random.Random(2)
    for _ in range(300):
        moment = datetime.fromtimestamp(draw.randrange(0, 2_000_000_000), UTC)
        text = moment.strftime("%Y-%m-%d %H:%M:%S UTC")
        assert stackoverflow.seconds(text) == moment.timestamp()
        assert stackoverflow.seconds(text.replace(" UTC", ".937 UTC")) == moment.timestamp()
    for wrong in ("", "2010-01-08", "2010-02-30 09:34:05 UTC", "2010-01-08 09:34:05 CET", "x2010-01-08 09:34:05 UTC",
                  "2010-01-08 24:00:00 UTC", "2010-01-08 09:60:00 UTC", "2010-01-08 09:34:61 UTC"):  # fmt: skip
        with pytest.raises(ValueError, match=r"no date|day|month"):
            stackoverflow.seconds(wrong)


def test_one_split_alone_is_split_anew(tmp_path: Path, rows: list[Row]) -> None:
    file = tff_sqlite(tmp_path / "x.sqlite", [row for row in rows if row[0] == "train"])
    stream = stream_of(file)
    assert {(part.held_out, part.side) for part in stream.parts()} == {(None, "")}
    assert "one split alone" in stream.about


def words_of(sequences: Sequences, vocabulary: Vocabulary) -> list[list[str]]:
    return [
        [vocabulary.tokens[token] for token in row[: length + 1]]
        for row, length in zip(sequences.tokens, sequences.lengths, strict=True)
    ]


def test_the_protocol_tff_cuts_as_tensorflow_federated_does(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x and y of every example, from a plain transcript of what is described in its baselines."""
    monkeypatch.setenv("FLOW_CACHE", "")
    (tmp_path / "stackoverflow.word_count").write_text("the 900\n. 800\na 700\n<URL> 600\nunseen 500\nc++ 400\nzoë 1\n")
    size, steps = 6, 4
    known = ["the", ".", "a", "<URL>", "unseen", "c++"]
    population = load(DataOptions(data=str(file), protocol="tff", sequence_length=steps, vocabulary_size=size))
    assert population.vocabulary.tokens[4:] == tuple(known)
    assert "published vocabulary" in population.about and "protocol tff" in population.about
    clients = {client.id: client for client in population.clients}
    assert list(clients) == ["007", "10", "2", "30", "only"]
    for client in clients.values():
        mine = sorted((row for row in rows_of(file) if row[1] == client.id), key=lambda row: row[2]["creation_date"])
        train = [row[2]["tokens"] for row in mine if row[0] == "train"]
        test = [row[2]["tokens"] for row in mine if row[0] == "test"]
        if client.id == "30":
            own = [row[2]["tokens"] for row in mine]
            train, test = own[:4], own[4:]
        assert client.held_out == (client.id in ("30", "only"))  # what test alone has is unseen, too
        for sequences, texts in ((client.train, train), (client.test, test)):
            expected = []
            for text in texts:
                tokens = [word if word in known else "<oov>" for word in text.split(" ")][:steps]
                expected.append(["<bos>", *tokens, *(["<eos>"] if len(tokens) < steps else [])])
            assert words_of(sequences, population.vocabulary) == expected
    scored = population.vocabulary.scored
    assert not scored[[population.vocabulary.tokens.index(name) for name in ("<pad>", "<oov>", "<bos>", "<eos>")]].any()
    assert scored.sum() == size


def rows_of(file: Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    base = sqlite3.connect(file)
    for split, client, blob in base.execute("SELECT split_name, client_id, serialized_example_proto FROM examples"):
        features = Example.FromString(blob).features.feature
        yield split, client, {name: features[name].bytes_list.value[0].decode() for name in ("tokens", "creation_date")}
    base.close()


@pytest.mark.parametrize("index", [False, True])
def test_the_protocol_motley(tmp_path: Path, index: bool) -> None:
    """The rows of clients lie between those of others; a client over the cap; equal dates stay in the order of the rows."""
    draw = random.Random(3)
    rows: list[tuple[str, str, dict[str, Any]]] = [("train", "big", sentence(f"w{n}", date(n % 60))) for n in range(1030)]
    for client, count in (("h1", 1), ("h2", 7), ("h3", 1029)):
        rows += [("heldout", client, sentence(f"{client} {n}", date(draw.randrange(9)))) for n in range(count)]
    rows += [("test", "big", sentence("not part of it", date(1, 2018)))]
    draw.shuffle(rows)
    file = tff_sqlite(tmp_path / "so.sqlite", rows, index=index)
    read: dict[tuple[str, bool | None, str], list[str]] = {}
    for part in stream_of(file, protocol="motley").parts():
        read.setdefault((part.client, part.held_out, part.side), []).extend(part.texts)
    wanted: dict[tuple[str, bool | None, str], list[str]] = {}
    for client in ("big", "h1", "h2", "h3"):
        own = [row[2] for row in rows if row[1] == client and row[0] != "test"][:1024]
        if client == "big":
            wanted[client, False, "train"] = [features["tokens"] for features in own]
            continue
        own.sort(key=lambda features: int("".join(filter(str.isdigit, features["creation_date"]))))
        texts = [features["tokens"] for features in own]
        wanted[client, True, "train"], wanted[client, True, "test"] = texts[: len(own) // 2], texts[len(own) // 2 :]
    assert read == wanted


def test_shakespeare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_CACHE", "")
    lines = ["To be, or not to be,\nthat is the question—", "Words, words, words."]
    rows = [(split, "PLAY_HAMLET", {"snippets": line}) for split in ("train", "test") for line in lines]
    file = tff_sqlite(tmp_path / "shakespeare.sqlite", rows)
    population = load(DataOptions(data=str(file)))
    (client,) = population.clients
    assert population.sequence_length == 80 and population.vocabulary.unit == "character"
    assert len(population.vocabulary) == 4 + 86 and len(set(stackoverflow.CHARACTERS)) == 86
    for sequences in (client.train, client.test):
        for own, line in zip(words_of(sequences, population.vocabulary), lines, strict=True):
            assert own == ["<bos>", *("<oov>" if letter == "—" else letter for letter in line), "<eos>"]
    with pytest.raises(UserError, match=r"protocol='tff' is one of StackOverflow, and .* is Shakespeare.*; leave it out"):
        load(DataOptions(data=str(file), protocol="tff"))


# --- packed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [lzma.FORMAT_ALONE, lzma.FORMAT_XZ])
def test_a_packed_file_is_unpacked_once_beside_the_prepared_data(
    tmp_path: Path, file: Path, kind: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLOW_CACHE", str(tmp_path / "cache"))
    packed = tmp_path / "stackoverflow.sqlite.lzma"
    packed.write_bytes(lzma.compress(file.read_bytes(), kind))
    plain = [part._replace(place="") for part in stream_of(file).parts()]
    assert [part._replace(place="") for part in stream_of(packed).parts()] == plain
    (unpacked,) = (tmp_path / "cache").iterdir()
    assert unpacked.read_bytes() == file.read_bytes() and str(unpacked) in capsys.readouterr().err
    before = unpacked.stat().st_mtime_ns
    assert list(stream_of(packed).parts()) and unpacked.stat().st_mtime_ns == before
    assert load(DataOptions(data=str(packed))).name == "stackoverflow"


def test_damaged_packed_files(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_CACHE", str(tmp_path / "cache"))
    packed = tmp_path / "stackoverflow.sqlite.lzma"
    whole = lzma.compress(file.read_bytes(), lzma.FORMAT_ALONE)
    for content, rule in (
        (whole[:-20], "ends in the middle"),
        (whole[:60] + bytes(60) + whole[120:], "damaged before byte|ends in the middle"),
        (whole + b"more", "bytes follow the packed file"),
    ):
        packed.write_bytes(content)
        with pytest.raises(UserError, match=rf"data='.*\.lzma'.*({rule})"):
            stream_of(packed)
        assert not list((tmp_path / "cache").glob("*"))
    packed.write_bytes(whole)
    monkeypatch.setenv("FLOW_CACHE", "")
    with pytest.raises(UserError, match=r"FLOW_CACHE='' keeps nothing; set it to a folder, or unpack the file with `xz"):
        stream_of(packed)
    monkeypatch.setenv("FLOW_CACHE", str(file))
    with pytest.raises(UserError, match=r"FLOW_CACHE=.*cannot be unpacked there .*; free some disk"):
        stream_of(packed)


@contextmanager
def file_size(most: int) -> Iterator[None]:
    """The disk takes no more bytes of a file, as where it is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_while_a_file_is_unpacked(tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_CACHE", str(tmp_path / "cache"))
    packed = tmp_path / "stackoverflow.sqlite.lzma"
    packed.write_bytes(lzma.compress(tff_sqlite(tmp_path / "so.sqlite", rows * 100).read_bytes(), lzma.FORMAT_ALONE))
    with (
        file_size(8192),
        pytest.raises(UserError, match=r"FLOW_CACHE=.*cannot be unpacked there \(.*\); free some disk, or set"),
    ):
        stream_of(packed)
    assert not list((tmp_path / "cache").glob("*"))
    assert list(stream_of(packed).parts())


def test_a_disk_that_is_full_while_sqlite_sorts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sort of ids that memory does not hold, in a folder for temporary files that takes no more."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("SQLITE_TMPDIR", raising=False)
    blob = example(**sentence("a", date(0)))
    rows = [(("train", "heldout")[n % 2], f"{n * 7919 % 40_000:0500}", blob) for n in range(40_000)]
    file = tff_sqlite(tmp_path / "so.sqlite", rows)
    stream = stream_of(file, protocol="motley")
    with file_size(1 << 16), pytest.raises(UserError) as refused:
        list(stream.parts())
    assert re.search(
        r"SQLite cannot write its temporary files \(.*\); free some disk, or set TMPDIR, which is", str(refused.value)
    )
    assert "damaged" not in str(refused.value) and repr(str(tmp_path)) in str(refused.value)
    assert sum(1 for _ in stream.parts()) == 60_000


def test_a_full_temporary_database_is_a_full_disk(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own code for a disk without room, which a test cannot fill."""
    monkeypatch.setenv("SQLITE_TMPDIR", "/elsewhere")
    message = (
        r"^here, now: SQLite cannot write its temporary files \(database or disk is full\); .* set SQLITE_TMPDIR, which is"
    )
    with pytest.raises(UserError, match=message), sqlite.opened(file, "here", lambda: ", now") as base:
        base.executescript("PRAGMA temp.max_page_count = 4; CREATE TEMP TABLE t AS SELECT zeroblob(100000)")


def test_a_wrong_call_is_no_damaged_file(file: Path) -> None:
    with pytest.raises(sqlite3.ProgrammingError), sqlite.opened(file, "here") as base:
        base.execute("SELECT ?", ())


# --- other forms of the table -----------------------------------------------------------------------------------------

TYPES = "split_name TEXT, client_id TEXT, serialized_example_proto BLOB"


@pytest.mark.parametrize("protocol", [None, "motley"])
@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE VIEW examples AS SELECT * FROM old"],
        ["CREATE VIEW examples AS SELECT upper(split_name) AS other, * FROM old", "DROP TABLE client_metadata"],
        [f"CREATE TABLE examples (n INTEGER PRIMARY KEY, {TYPES}) WITHOUT ROWID",
         "INSERT INTO examples SELECT rowid, * FROM old"],
        [f"CREATE TABLE examples (rowid TEXT, {TYPES})", "INSERT INTO examples SELECT 'x', * FROM old"],
        ["CREATE TABLE Examples (Split_Name TEXT, CLIENT_ID TEXT, serialized_example_proto)",
         "INSERT INTO examples SELECT * FROM old"],
        ["CREATE TABLE examples (split_name, client_id, serialized_example_proto TEXT)",
         "INSERT INTO examples SELECT split_name, client_id, CAST(serialized_example_proto AS TEXT) FROM old"],
        ["CREATE TABLE examples (split_name BLOB, client_id BLOB, serialized_example_proto BLOB)",
         "INSERT INTO examples SELECT CAST(split_name AS BLOB), CAST(client_id AS BLOB), serialized_example_proto FROM old"],
        ["CREATE TABLE examples AS SELECT * FROM old", "CREATE VIEW broken AS SELECT * FROM nowhere"],
        ["CREATE TABLE examples AS SELECT * FROM old", "ALTER TABLE client_metadata RENAME TO meta",
         "CREATE VIEW client_metadata AS SELECT * FROM meta"],
    ],
)  # fmt: skip
def test_other_forms_of_the_table_give_the_same(tmp_path: Path, rows: list[Row], statements: list[str], protocol: str) -> None:
    plain, other = (tff_sqlite(tmp_path / f"{name}.sqlite", rows) for name in ("plain", "other"))
    other_form(other, "examples", *statements)
    wanted = [part._replace(place="") for part in stream_of(plain, protocol=protocol).parts()]
    assert [part._replace(place="") for part in stream_of(other, protocol=protocol).parts()] == wanted


def test_ids_that_are_stored_as_numbers(tmp_path: Path) -> None:
    file = tff_sqlite(tmp_path / "so.sqlite", [("train", str(n), sentence("a", date(n))) for n in (10, 2)])
    other_form(file, "examples", "CREATE TABLE examples (split_name TEXT, client_id INTEGER, serialized_example_proto BLOB)",
               "INSERT INTO examples SELECT * FROM old")  # fmt: skip
    assert [part.client for part in stream_of(file).parts()] == ["10", "2"]


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (["CREATE VIEW examples AS SELECT * FROM nowhere"], r"damaged or incomplete \(no such table: main\.nowhere\)"),
        (["CREATE TABLE examples (split_name TEXT)"], r"table examples: the columns client_id, serialized_example_proto are"),
        (["CREATE TABLE examples AS SELECT * FROM old", "ALTER TABLE client_metadata RENAME COLUMN split_name TO s"],
         r"table client_metadata: the columns split_name are missing"),
        (["CREATE TABLE examples AS SELECT split_name, 1.5 AS client_id, serialized_example_proto FROM old"],
         r"row 1: client_id=1\.5 must be text"),
        (["CREATE TABLE examples AS SELECT split_name, NULL AS client_id, serialized_example_proto FROM old"],
         r"row 1: client_id=None must be text"),
        (["CREATE TABLE examples AS SELECT split_name, client_id, 7 AS serialized_example_proto FROM old"],
         r"table examples, row 1: this is no tf\.train\.Example"),
    ],
)  # fmt: skip
def test_other_forms_that_are_refused(file: Path, statements: list[str], message: str) -> None:
    other_form(file, "examples", *statements)
    with pytest.raises(UserError, match=rf"stackoverflow\.sqlite'.*{message}.*; ") as refused:
        list(stream_of(file).parts())
    assert "\n" not in str(refused.value)


def test_a_folder_stands_for_the_one_file_in_it(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_CACHE", "")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "notes.txt").write_text("x")
    (folder / "stackoverflow.word_count").write_text("word 9\n")
    file.rename(folder / file.name)
    whole, alone = stream_of(folder), stream_of(folder / file.name)
    assert (whole.name, whole.about, list(whole.parts())) == (alone.name, alone.about, list(alone.parts()))
    assert whole.vocabulary == ("word",)
    (folder / "copy.sqlite").write_bytes((folder / file.name).read_bytes())
    with pytest.raises(UserError, match=r"folder' holds the SQLite files copy.sqlite, stackoverflow.sqlite, .*; give the path"):
        load(DataOptions(data=str(folder)))


def test_a_database_of_something_else_is_none_of_these(tmp_path: Path) -> None:
    base = sqlite3.connect(tmp_path / "x.sqlite")
    base.execute("CREATE TABLE notes (text TEXT)")
    base.close()
    with pytest.raises(UserError, match="this is an SQLite database; one of TensorFlow Federated or fedjax is read"):
        load(DataOptions(data=str(tmp_path / "x.sqlite")))


# --- faulty -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE examples SET serialized_example_proto = X'FF' WHERE rowid = 3", r"row 3, client '10': no tf\.train\.Example"),
        ("UPDATE examples SET serialized_example_proto = NULL WHERE rowid = 3", r"row 3, client '10': no tf\.train\.Example"),
        ("UPDATE examples SET client_id = '' WHERE rowid = 4", r"row 4: client_id='' must be text"),
        ("UPDATE examples SET client_id = X'80' WHERE rowid = 4", r"row 4: client_id=b'.x80' must be text"),
        ("UPDATE examples SET split_name = 'dev' WHERE rowid = 2", r"row 2: client '10' has split_name='dev'"),
        ("UPDATE client_metadata SET split_name = 'dev' WHERE rowid = 2", r"client_metadata: split_name='dev' must be"),
        ("DELETE FROM client_metadata", r"table client_metadata: there is no row"),
        ("DELETE FROM examples", r"table examples: there is no row"),
        ("DROP TABLE client_metadata", ""),
        ("UPDATE examples SET client_id = CAST(X'0a1bff' AS TEXT) WHERE rowid = 4", r"row 3: the SQLite database is damaged"),
        ("ALTER TABLE examples RENAME COLUMN client_id TO user", r"the columns client_id are missing \(there are .*user\)"),
    ],
)  # fmt: skip
def test_faulty_rows_are_named(file: Path, change: str, message: str) -> None:
    base = sqlite3.connect(file)
    base.execute(change)
    base.commit()
    base.close()
    if not message:
        assert len(list(stream_of(file).parts())) == 6
        return
    with pytest.raises(UserError, match=message) as refused:
        list(stream_of(file).parts())
    assert str(file) in str(refused.value) and "; " in str(refused.value) and str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"title": "x"}, "the feature 'tokens' is missing"),
        (
            {"tokens": b"a\xff", "creation_date": date(0)},
            r"the feature 'tokens' must be UTF-8 \(invalid start byte at byte 2\)",
        ),
        (
            {"tokens": "a", "creation_date": b"\xff"},
            r"the feature 'creation_date' must be UTF-8 \(invalid start byte at byte 1\)",
        ),
        ({"tokens": "a"}, "the feature 'creation_date' is missing"),
        ({"tokens": "a", "creation_date": "yesterday"}, "'yesterday' is no date such as '2010-01-08 09:34:05 UTC'"),
    ],
)
def test_faulty_features_are_named(tmp_path: Path, features: dict[str, Any], message: str) -> None:
    file = tff_sqlite(tmp_path / "so.sqlite", [("train", "ann", sentence("a", date(0))), ("train", "ann", features)])
    with pytest.raises(UserError, match=r"table examples, row 2, client 'ann': " + message + "; correct the row, or download"):
        list(stream_of(file).parts())


def test_damaged_databases_give_a_sentence(tmp_path: Path, file: Path) -> None:
    whole, draw = file.read_bytes(), random.Random(4)
    damaged = tmp_path / "damaged.sqlite"
    refused = 0
    for _ in range(150):
        content = bytearray(whole[: draw.choice([len(whole), draw.randrange(100, len(whole))])])
        for _ in range(draw.choice([1, 20, 300])):
            content[draw.randrange(16, len(content))] = draw.randrange(256)
        damaged.write_bytes(content)
        for protocol in (None, "tff"):
            given, message = DataOptions(data=str(damaged), protocol=protocol), "damaged.sqlite"
            try:
                list(registry.source_of(given.data).opened(given).parts())
            except UserError as error:
                refused, message = refused + 1, str(error)
            assert "damaged.sqlite" in message
    assert refused > 100


@pytest.mark.parametrize(
    ("text", "message"),
    [("the 3\nword\n", "line 2: a word, a space and a number"), ("the x\n", "line 1"), ("", "is empty"),
     (b"the 3\n\xff 2\n", "line 2")],
)  # fmt: skip
def test_a_faulty_file_of_counts(tmp_path: Path, file: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "stackoverflow.word_count").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=rf"stackoverflow\.word_count'.*{message}.*; download the file again"):
        stream_of(file)


def test_protocols_that_the_data_cannot_follow(
    tmp_path: Path, rows: list[Row], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"protocol='leaf' must be 'tff' or 'motley'; give one of these, or leave it out"):
        stream_of(file, protocol="leaf")
    alone = tff_sqlite(tmp_path / "alone.sqlite", [row for row in rows if row[0] == "train"])
    with pytest.raises(UserError, match=r"protocol='motley' needs the splits heldout and train, and .* has train; give all"):
        stream_of(alone, protocol="motley")
    assert stream_of(file, protocol="tff").vocabulary is None
    assert "there is no stackoverflow.word_count beside" in capsys.readouterr().err


def test_without_protobuf_the_message_says_what_to_install(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader.message.cache_clear()
    monkeypatch.setitem(sys.modules, "google.protobuf.descriptor_pb2", None)
    with pytest.raises(UserError, match=r"needs the package protobuf .*; run: pip install 'flow-fl\[data\]'"):
        stream_of(file)


@pytest.mark.parametrize("change", ["", "DELETE FROM examples WHERE rowid % 3 = 0", "UPDATE examples SET rowid = rowid - 7"])
def test_pieces_hold_the_rows_once_and_any_number_of_processes_gives_the_same(
    tmp_path: Path, rows: list[Row], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where numbers of rows are missing, or below zero; clients are cut at the edges of pieces."""
    file = tff_sqlite(tmp_path / "so.sqlite", rows * 5)
    if change:
        with closing(sqlite3.connect(file)) as base, base:
            base.execute(change)
    options = DataOptions(data=str(file), vocabulary_size=7)
    whole = in_memory(stream_of(file), options, processes=1)
    monkeypatch.setattr(tff_reader, "MOST_ROWS", 11)
    stream = stream_of(file)
    assert stream.pieces is not None
    pieces = [list(piece()) for piece in stream.pieces()]
    assert len(pieces) > len(rows) * 5 // 20
    for name in ("texts", "times"):
        in_pieces = [(part.client, value) for piece in pieces for part in piece for value in getattr(part, name)]
        assert in_pieces == [(part.client, value) for part in stream.parts() for value in getattr(part, name)]
    for processes in (1, 3):
        again = in_memory(stream, options, processes=processes)
        assert again.vocabulary == whole.vocabulary
        assert [plain_client(client) for client in again.clients] == [plain_client(client) for client in whole.clients]
    few = DataOptions(data=str(file), vocabulary_size=7, max_clients=2)
    alone, together = (in_memory(stream, few, processes=processes) for processes in (1, 3))
    assert [client.id for client in alone.clients] == [client.id for client in together.clients] and len(alone.clients) == 2


def plain_client(client: Client) -> tuple[Any, ...]:
    sides = [(side.tokens.tolist(), side.lengths.tolist()) for side in (client.train, client.test)]
    return client.id, client.group, client.held_out, client.texts, sides


def test_a_faulty_row_in_another_process_is_the_same_sentence(
    tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tff_sqlite(tmp_path / "so.sqlite", rows * 5)
    with closing(sqlite3.connect(file)) as base, base:
        base.execute("UPDATE examples SET client_id = '' WHERE rowid = 40")
    monkeypatch.setattr(tff_reader, "MOST_ROWS", 11)
    for processes in (1, 3):
        with pytest.raises(UserError, match=r"table examples, row 40: client_id='' must be text"):
            in_memory(stream_of(file), DataOptions(data=str(file)), processes=processes)


@pytest.mark.parametrize("highest", [1 << 20, 1 << 40])
def test_rows_whose_numbers_lie_far_apart_are_read_from_the_start(tmp_path: Path, rows: list[Row], highest: int) -> None:
    """Pieces between such numbers would be many and almost empty, and each of them opens the file."""
    file = tff_sqlite(tmp_path / "so.sqlite", rows)
    with closing(sqlite3.connect(file)) as base, base:
        base.execute("UPDATE examples SET rowid = ? WHERE rowid = (SELECT max(rowid) FROM examples)", (highest,))
    stream = stream_of(file)
    assert stream.pieces is None and sum(len(part.texts) for part in stream.parts()) == len(rows)


def test_a_bar_has_no_length_below_zero(tmp_path: Path, rows: list[Row]) -> None:
    file = tff_sqlite(tmp_path / "so.sqlite", rows)
    with closing(sqlite3.connect(file)) as base, base:
        base.execute("UPDATE examples SET rowid = rowid - 1000")
    assert stream_of(file).total == 0


def test_few_rows_are_in_memory(tmp_path: Path) -> None:
    file = tff_sqlite(tmp_path / "so.sqlite", (("train", "one", sentence("w " * 500, date(0))) for _ in range(20_000)))
    stream = stream_of(file)
    tracemalloc.start()
    texts = sum(len(part.texts) for part in stream.parts())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts == 20_000 and peak < 6_000_000 < file.stat().st_size
