"""TensorFlow Federated's SQLite files, made with sqlite3 and protobuf."""

import lzma
import random
import sqlite3
import sys
import tracemalloc
from datetime import UTC, datetime

import pytest
from foreign import Example, example, sentence, tff_sqlite

from flow.data import DataOptions, load, registry
from flow.data.readers import example as reader
from flow.data.readers import stackoverflow
from flow.errors import UserError

WORDS = ["the", "a", "of", ".", ",", "<URL>", "c++", "zoë", "c/c++"]


def date(second: int, year: int = 2016) -> str:
    return f"{year}-02-28 23:{second // 60:02}:{second % 60:02} UTC"


def unix(text: str) -> float:
    return datetime.fromisoformat(text[:19] + "+00:00").timestamp()


@pytest.fixture
def rows():
    draw = random.Random(1)
    made = []
    for client, count in (("10", 5), ("2", 7), ("007", 1)):
        seconds = list(range(count))
        draw.shuffle(seconds)
        for second in seconds:
            made.append(("train", client, sentence(" ".join(draw.choices(WORDS, k=3 + second)), date(second))))
    made += [("test", "10", sentence("the test .", date(0, 2018))), ("test", "only", sentence("later", date(1, 2019)))]
    made += [("heldout", "30", sentence(f"held out {n} .", date(n))) for n in range(5)]
    return made


@pytest.fixture
def file(tmp_path, rows):
    return tff_sqlite(tmp_path / "stackoverflow.sqlite", rows)


def stream_of(path, **options):
    given = DataOptions(data=str(path), **options)
    source = registry.source_of(given.data)
    assert source.name == "tff_sqlite"
    source.check(given)
    return source.opened(given)


def test_an_example_is_read_as_protobuf_writes_it_and_the_other_way_round():
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


def test_splits_are_as_published(file, rows):
    found = {}
    for part in stream_of(file).parts():
        assert len(part.texts) == len(part.times)
        found.setdefault((part.client, part.held_out, part.side), []).extend(zip(part.texts, part.times, strict=True))
    wanted = {}
    for split, client, features in rows:
        key = client, split == "heldout", "" if split == "heldout" else split
        wanted.setdefault(key, []).append((features["tokens"], unix(features["creation_date"])))
    assert found == wanted


def test_dates():
    draw = random.Random(2)
    for _ in range(300):
        moment = datetime.fromtimestamp(draw.randrange(0, 2_000_000_000), UTC)
        text = moment.strftime("%Y-%m-%d %H:%M:%S UTC")
        assert stackoverflow.seconds(text) == moment.timestamp()
        assert stackoverflow.seconds(text.replace(" UTC", ".937 UTC")) == moment.timestamp()
    for wrong in ("", "2010-01-08", "2010-02-30 09:34:05 UTC", "2010-01-08 09:34:05 CET", "x2010-01-08 09:34:05 UTC"):
        with pytest.raises(ValueError, match=r"no date|day|month"):
            stackoverflow.seconds(wrong)


def test_one_split_alone_is_split_anew(tmp_path, rows):
    file = tff_sqlite(tmp_path / "x.sqlite", [row for row in rows if row[0] == "train"])
    stream = stream_of(file)
    assert {(part.held_out, part.side) for part in stream.parts()} == {(None, "")}
    assert "one split alone" in stream.about


def words_of(sequences, vocabulary):
    return [
        [vocabulary.tokens[token] for token in row[: length + 1]]
        for row, length in zip(sequences.tokens, sequences.lengths, strict=True)
    ]


def test_the_protocol_tff_cuts_as_tensorflow_federated_does(tmp_path, file, monkeypatch):
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
        assert client.held_out == (client.id == "30")
        for sequences, texts in ((client.train, train), (client.test, test)):
            expected = []
            for text in texts:
                tokens = [word if word in known else "<oov>" for word in text.split(" ")][:steps]
                expected.append(["<bos>", *tokens, *(["<eos>"] if len(tokens) < steps else [])])
            assert words_of(sequences, population.vocabulary) == expected
    scored = population.vocabulary.scored
    assert not scored[[population.vocabulary.tokens.index(name) for name in ("<pad>", "<oov>", "<bos>", "<eos>")]].any()
    assert scored.sum() == size


def rows_of(file):
    base = sqlite3.connect(file)
    for split, client, blob in base.execute("SELECT split_name, client_id, serialized_example_proto FROM examples"):
        features = Example.FromString(blob).features.feature
        yield split, client, {name: features[name].bytes_list.value[0].decode() for name in ("tokens", "creation_date")}
    base.close()


@pytest.mark.parametrize("index", [False, True])
def test_the_protocol_motley(tmp_path, index):
    """The rows of clients lie between those of others; a client over the cap; equal dates stay in the order of the rows."""
    draw = random.Random(3)
    rows = [("train", "big", sentence(f"w{n}", date(n % 60))) for n in range(1030)]
    for client, count in (("h1", 1), ("h2", 7), ("h3", 1029)):
        rows += [("heldout", client, sentence(f"{client} {n}", date(draw.randrange(9)))) for n in range(count)]
    rows += [("test", "big", sentence("not part of it", date(1, 2018)))]
    draw.shuffle(rows)
    file = tff_sqlite(tmp_path / "so.sqlite", rows, index=index)
    found = {}
    for part in stream_of(file, protocol="motley").parts():
        found.setdefault((part.client, part.held_out, part.side), []).extend(part.texts)
    wanted = {}
    for client in ("big", "h1", "h2", "h3"):
        own = [row[2] for row in rows if row[1] == client and row[0] != "test"][:1024]
        if client == "big":
            wanted[client, False, "train"] = [features["tokens"] for features in own]
            continue
        own.sort(key=lambda features: int("".join(filter(str.isdigit, features["creation_date"]))))
        texts = [features["tokens"] for features in own]
        wanted[client, True, "train"], wanted[client, True, "test"] = texts[: len(own) // 2], texts[len(own) // 2 :]
    assert found == wanted


def test_shakespeare(tmp_path, monkeypatch):
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
def test_a_packed_file_is_unpacked_once_beside_the_prepared_data(tmp_path, file, kind, monkeypatch, capsys):
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


def test_damaged_packed_files(tmp_path, file, monkeypatch):
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
        ("ALTER TABLE examples RENAME COLUMN client_id TO user", r"the columns client_id are missing \(there are .*user\)"),
    ],
)  # fmt: skip
def test_faulty_rows_are_named(file, change, message):
    base = sqlite3.connect(file)
    base.execute(change)
    base.commit()
    base.close()
    if not message:
        assert len(list(stream_of(file).parts())) == 6
        return
    with pytest.raises(UserError, match=message) as refused:
        list(stream_of(file).parts())
    assert str(file) in str(refused.value) and "; " in str(refused.value)


@pytest.mark.parametrize("features", [{"title": "x"}, {"tokens": b"\xff", "creation_date": date(0)}, {"tokens": "a"},
                                      {"tokens": "a", "creation_date": "yesterday"}])  # fmt: skip
def test_faulty_features_are_named(tmp_path, features):
    file = tff_sqlite(tmp_path / "so.sqlite", [("train", "ann", sentence("a", date(0))), ("train", "ann", features)])
    with pytest.raises(UserError, match=r"table examples, row 2, client 'ann': .*; correct the row, or download"):
        list(stream_of(file).parts())


def test_damaged_databases_give_a_sentence(tmp_path, file):
    whole, draw = file.read_bytes(), random.Random(4)
    damaged = tmp_path / "damaged.sqlite"
    refused = 0
    for _ in range(150):
        content = bytearray(whole[: draw.choice([len(whole), draw.randrange(100, len(whole))])])
        for _ in range(draw.choice([1, 20, 300])):
            content[draw.randrange(16, len(content))] = draw.randrange(256)
        damaged.write_bytes(content)
        for options in ({}, {"protocol": "tff"}):
            given, said = DataOptions(data=str(damaged), **options), "damaged.sqlite"
            try:
                list(registry.source_of(given.data).opened(given).parts())
            except UserError as error:
                refused, said = refused + 1, str(error)
            assert "damaged.sqlite" in said
    assert refused > 100


@pytest.mark.parametrize(
    ("text", "message"),
    [("the 3\nword\n", "line 2: a word, a space and a number"), ("the x\n", "line 1"), ("", "is empty"),
     (b"the 3\n\xff 2\n", "line 2")],
)  # fmt: skip
def test_a_faulty_file_of_counts(tmp_path, file, text, message):
    (tmp_path / "stackoverflow.word_count").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=rf"stackoverflow\.word_count'.*{message}.*; download the file again"):
        stream_of(file)


def test_protocols_that_the_data_cannot_follow(tmp_path, rows, file, capsys):
    with pytest.raises(UserError, match=r"protocol='leaf' must be 'tff' or 'motley'; give one of these, or leave it out"):
        stream_of(file, protocol="leaf")
    alone = tff_sqlite(tmp_path / "alone.sqlite", [row for row in rows if row[0] == "train"])
    with pytest.raises(UserError, match=r"protocol='motley' needs the splits heldout and train, and .* has train; give all"):
        stream_of(alone, protocol="motley")
    assert stream_of(file, protocol="tff").vocabulary is None
    assert "there is no stackoverflow.word_count beside" in capsys.readouterr().err


def test_without_protobuf_the_message_says_what_to_install(file, monkeypatch):
    reader.message.cache_clear()
    monkeypatch.setitem(sys.modules, "google.protobuf.descriptor_pb2", None)
    with pytest.raises(UserError, match=r"needs the package protobuf .*; run: pip install 'flow-fl\[data\]'"):
        stream_of(file)


def test_few_rows_are_in_memory(tmp_path):
    file = tff_sqlite(tmp_path / "so.sqlite", (("train", "one", sentence("w " * 500, date(0))) for _ in range(20_000)))
    stream = stream_of(file)
    tracemalloc.start()
    texts = sum(len(part.texts) for part in stream.parts())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts == 20_000 and peak < 6_000_000 < file.stat().st_size
