"""fedjax's SQLite files, made with sqlite3, zlib and msgpack."""

import random
import sqlite3
import sys
import zlib
from pathlib import Path
from typing import Any

import msgpack
import pytest
from foreign import fedjax_packed, fedjax_sqlite, other_form, tff_h5

from flow.data import DataOptions, load, registry
from flow.data.streams import Part, Stream
from flow.errors import UserError

DATE = "2016-02-29 23:0{}:00 UTC"


def stream_of(path: Path, **options: Any) -> Stream:
    given = DataOptions(data=str(path), **options)
    source = registry.source_of(given.data)
    assert source.name == "fedjax"
    source.check(given)
    return source.opened(given)


def plain(part: Part) -> Part:
    return part._replace(place="", position=0, texts=list(part.texts), times=None if part.times is None else list(part.times))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same data as fedjax's files and, in another folder, as TensorFlow Federated's HDF5 files."""
    draw = random.Random(1)
    for name in ("fedjax", "tff"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stackoverflow.word_count").write_text("the 3\nzoë 2\n")
    for split, sizes in {"train": {"10": 5, "2": 1030}, "held_out": {"30": 7}, "test": {"10": 2}}.items():
        clients = {
            client: {
                "creation_date": [DATE.format(draw.randrange(9)) for _ in range(count)],
                "score": list(range(count)),
                "tokens": [f"{split} zoë the {n} ." for n in range(count)],
            }
            for client, count in sizes.items()
        }
        fedjax_sqlite(tmp_path / "fedjax" / f"stackoverflow_{split}.sqlite", clients)
        tff_h5(tmp_path / "tff" / f"stackoverflow_{split}.h5", clients)
    return tmp_path / "fedjax"


@pytest.mark.parametrize("protocol", [None, "tff", "motley"])
def test_the_texts_are_those_of_tensorflow_federated(folder: Path, protocol: str | None) -> None:
    given = DataOptions(data=str(folder.parent / "tff"), protocol=protocol)
    other, stream = registry.source_of(given.data).opened(given), stream_of(folder, protocol=protocol)
    mine, theirs = (sorted(plain(part) for part in read.parts()) for read in (stream, other))
    assert mine == theirs and len(mine) == 4
    assert stream.vocabulary == other.vocabulary == ("the", "zoë")
    assert max(part.position for part in stream.parts()) <= stream.total == 4


def test_shakespeare_and_a_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_CACHE", "")
    file = fedjax_sqlite(
        tmp_path / "shakespeare_train.sqlite", {f"P_{n}": {"snippets": ["To be,", "or not."] * 3} for n in range(9)}
    )
    population = load(DataOptions(data=str(file)))
    assert population.vocabulary.unit == "character" and {client.texts for client in population.clients} == {6}
    assert "one split alone" in population.about


def test_numbers_and_foreign_files_are_refused(tmp_path: Path, folder: Path) -> None:
    file = fedjax_sqlite(tmp_path / "x.sqlite", {"ann": {"tokens": [1, 2], "creation_date": [DATE.format(1)] * 2}})
    with pytest.raises(UserError, match=r"row 1, client 'ann': tokens must be an array of text .*is numbers; correct the row"):
        list(stream_of(file).parts())
    (folder / "notes.sqlite").write_text("x")
    with pytest.raises(UserError, match=r"notes\.sqlite' is no SQLite database of fedjax"):
        stream_of(folder)
    (folder / "notes.sqlite").unlink()
    fedjax_sqlite(folder / "stackoverflow_dev.sqlite", {"ann": {"tokens": ["x"]}})
    with pytest.raises(UserError, match=r"stackoverflow_dev\.sqlite' names no split"):
        stream_of(folder)


TWO = fedjax_packed({"tokens": ["a", "b"], "creation_date": [DATE.format(1)] * 2})


@pytest.mark.parametrize(
    ("client", "data", "message"),
    [
        (b"ann", b"no zlib", r"row 2, client 'ann': data must be the zlib form of a msgpack"),
        (b"ann", TWO[:-6], r"row 2, client 'ann': data must be the zlib form of a msgpack \(the client is incomplete"),
        (b"ann", zlib.compress(b"\xc1"), r"row 2, client 'ann': data must be the zlib form of a msgpack"),
        (b"ann", zlib.compress(msgpack.packb([1])), r"row 2, client 'ann': data must be fields by their names"),
        (b"ann", None, r"row 2, client 'ann': data must be the zlib"),
        (b"", TWO, r"row 2: client_id=b'' must be text in UTF-8 that is not empty"),
        (b"\xff", TWO, r"row 2: client_id=b'\\xff' must be text in UTF-8"),
        (b"ann", fedjax_packed({"tokens": ["a"]}), r"row 2, client 'ann': the field 'creation_date' is missing"),
        (
            b"ann",
            fedjax_packed({"tokens": ["a"], "creation_date": ["soon"]}),
            r"client 'ann', creation_date: 'soon' is no date",
        ),
        (b"ann", fedjax_packed({"tokens": ["a"], "creation_date": [DATE.format(1)] * 2}), r"1 tokens and 2 creation_date"),
        (
            b"ann",
            fedjax_packed({"tokens": [b"\xff"], "creation_date": [DATE.format(1)]}),
            r"value 1: 'tokens' must be UTF-8 \(invalid start",
        ),
        (b"ann", zlib.compress(msgpack.packb({"tokens": msgpack.ExtType(4, b"\x01"), "creation_date": 1})), "no array of text"),
        *(
            (
                b"ann",
                zlib.compress(msgpack.packb({"tokens": msgpack.ExtType(4, msgpack.packb(array)), "creation_date": 1})),
                why,
            )
            for array, why in (
                ([[1], [3]], r"tokens is no array of text \(value 1 is a int\)"),
                ([[1], [["a"]]], r"tokens is no array of text \(value 1 is a list\)"),
                ([[2], [b"a"]], r"tokens is no array of text \(its shape is \[2\], and there are 1 values\)"),
                ([[1], b"a"], r"tokens is no array of text \(it is not a list of its shape and its values\)"),
                ([3, [b"a"]], r"tokens is no array of text \(it is not a list of its shape and its values\)"),
                ({"a": 1}, r"tokens is no array of text \(it is not a list of its shape and its values\)"),
            )
        ),
        (b"ann", zlib.compress(msgpack.packb({"tokens": "a", "creation_date": 1})), "must be an array of text .* is a str"),
    ],
)
def test_faulty_rows_are_named(tmp_path: Path, client: bytes, data: bytes | None, message: str) -> None:
    file = fedjax_sqlite(tmp_path / "x.sqlite", {"one": TWO})
    base = sqlite3.connect(file)
    if data is None:
        base.execute("CREATE TABLE copy (client_id BLOB, data BLOB, num_examples INTEGER)")
        base.execute("INSERT INTO copy SELECT * FROM federated_data")
        base.execute("DROP TABLE federated_data")
        base.execute("ALTER TABLE copy RENAME TO federated_data")
    base.execute("INSERT INTO federated_data VALUES (?, ?, 2)", (client, data))
    base.commit()
    base.close()
    with pytest.raises(UserError, match=message) as refused:
        list(stream_of(file).parts())
    assert "x.sqlite" in str(refused.value) and "; correct the row, or download" in str(refused.value)


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE VIEW federated_data AS SELECT * FROM old"],
        ["CREATE TABLE federated_data (n INTEGER PRIMARY KEY, client_id BLOB, data BLOB, num_examples INTEGER) WITHOUT ROWID",
         "INSERT INTO federated_data SELECT rowid, * FROM old"],
        ["CREATE TABLE Federated_Data (client_id TEXT, data TEXT, num_examples TEXT)",
         "INSERT INTO federated_data SELECT CAST(client_id AS TEXT), CAST(data AS TEXT), num_examples FROM old"],
        ["CREATE TABLE federated_data (client_id INTEGER, data, num_examples)",
         "INSERT INTO federated_data SELECT CAST(client_id AS INTEGER), data, num_examples FROM old"],
    ],
)  # fmt: skip
def test_other_forms_of_the_table_give_the_same(folder: Path, statements: list[str]) -> None:
    file = folder / "stackoverflow_train.sqlite"
    wanted = [plain(part) for part in stream_of(file).parts()]
    other_form(file, "federated_data", *statements)
    stream = stream_of(file)
    assert [plain(part) for part in stream.parts()] == wanted
    assert [part.position for part in stream.parts()] == [1, 2] and stream.total == 2


def test_an_empty_table_and_missing_columns(tmp_path: Path) -> None:
    file = fedjax_sqlite(tmp_path / "x.sqlite", {})
    with pytest.raises(UserError, match=r"table federated_data: there is no row"):
        stream_of(file)
    base = sqlite3.connect(file)
    base.execute("ALTER TABLE federated_data RENAME COLUMN data TO content")
    base.close()
    with pytest.raises(UserError, match=r"the columns data are missing \(there are client_id, content, num_examples\)"):
        stream_of(file)


def test_without_msgpack_the_message_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(UserError, match=r"needs the package msgpack .*; run: pip install 'flow-fl\[data\]'"):
        stream_of(folder)


def test_damaged_files_give_a_sentence(tmp_path: Path, folder: Path) -> None:
    whole, draw, refused = (folder / "stackoverflow_train.sqlite").read_bytes(), random.Random(6), 0
    damaged = tmp_path / "damaged.sqlite"
    for _ in range(60):
        cut = bytearray(whole[: draw.choice([len(whole), draw.randrange(4200, len(whole))])])
        for _ in range(draw.choice([1, 20, 300])):
            cut[draw.randrange(4000, len(cut))] = draw.randrange(256)
        damaged.write_bytes(cut)
        message = "damaged.sqlite"
        try:
            given = DataOptions(data=str(damaged))
            list(registry.source_of(given.data).opened(given).parts())
        except UserError as error:
            refused, message = refused + 1, str(error)
        assert "damaged.sqlite" in message
    assert refused > 30
