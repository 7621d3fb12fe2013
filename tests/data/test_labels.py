"""Texts with classes from files: the same clients as a plain reader makes by ``Population.from_arrays``."""

import csv
import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from data_cases import write_jsonl
from oracles.labels import Row, population, same
from oracles.preparation import SPLIT

import flow
from flow.data import DataOptions, by_client, classes, description, dirichlet, load, preparing, registry, spool
from flow.data import prepared as stored
from flow.data import tokenizer as tokenizers
from flow.data.preparing import in_memory
from flow.data.streams import Part, Stream
from flow.errors import UserError

MOODS = ("glad", "sad", "so, so", 'a "mood"', "zoë", "日本")
WORDS = ["red", "blue", "Zoë", "日本", "don't", "1,000", "a", "c++", "two\nlines", "<pad>", "<oov-2>", "1e3", "<url>"]


def made_up(seed: int, labels: Sequence[str] = MOODS, rows: int = 230, empty: float = 0.1) -> list[Row]:
    draw = random.Random(seed)
    names = ["ann", "bob", "zoë", "user, 3", "7", 'q"q', *(f"c{n}" for n in range(15))]
    weights = [draw.random() ** 3 for _ in names]
    made = []
    for _ in range(rows):
        count = 0 if draw.random() < empty else draw.choice([1, 1, 2, 3, 7, 40])
        text = " ".join(draw.choices(WORDS, k=count)) if count else draw.choice(["", " ", "\t "])
        client = draw.choices(names, weights)[0]
        made.append(Row(client, text, draw.choice(labels), float(draw.randrange(40)), draw.choice(["", "g", "h"])))
    return made


HEADER = ["user_id", "body", "mood", "created_utc", "subreddit"]


def table(path: Path, rows: Sequence[Sequence[Any]], header: Sequence[str] = HEADER) -> str:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t" if ".tsv" in path.name else ",")
        writer.writerow(header)
        writer.writerows(row[: len(header)] for row in rows)
    return str(path)


def parquet(path: Path, rows: Sequence[Row], **columns: Any) -> str:
    given = {name: [row[n] for row in rows] for n, name in enumerate(HEADER)} | columns
    pyarrow.parquet.write_table(pyarrow.table(given), path, row_group_size=33)
    return str(path)


def given(data: str, **options: Any) -> DataOptions:
    return DataOptions(**{"data": data, "label_column": "mood", **options})


# --- the same clients as from_arrays makes ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.parquet"])
@pytest.mark.parametrize(
    ("options", "oracle"),
    [
        ({}, {}),
        ({"sequence_length": 1, "vocabulary_size": 3}, {"length": 1, "size": 3}),
        ({"sequence_length": 5, "oov_buckets": 3, "vocabulary_size": 4}, {"length": 5, "buckets": 3, "size": 4}),
        ({"max_clients": 4}, {"most": 4}),
        ({"tokenizer": "characters"}, {"tokenizer": "characters"}),
        ({"tokenizer": "spaces", "sequence_length": 7}, {"tokenizer": "spaces", "length": 7}),
    ],
)
def test_a_table_gives_the_clients_of_a_plain_reader(
    tmp_path: Path, name: str, options: dict[str, Any], oracle: dict[str, Any]
) -> None:
    rows = made_up(1)
    data = (parquet if name.endswith("parquet") else table)(tmp_path / name, rows)
    same(load(given(data, **options)), population(rows, **oracle))


def test_without_times_texts_are_in_the_order_of_the_rows(tmp_path: Path) -> None:
    rows = [row._replace(time=0.0, group="") for row in made_up(2)]
    same(load(given(table(tmp_path / "a.csv", rows, HEADER[:3]))), population(rows))


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (["10", "9", "-1", "007", "7"], ("-1", "007", "7", "9", "10")),
        (["10", "9", "b"], ("10", "9", "b")),
        (["True", "False"], ("False", "True")),
        (["1" * 30, "2", "10"], ("10", "1" * 30, "2")),
        (["B", "a", "ä"], ("B", "a", "ä")),
        (["1.0", "1"], ("1", "1.0")),
    ],
)
def test_classes_are_in_the_order_of_numbers_or_else_of_text(tmp_path: Path, labels: list[str], order: tuple[str, ...]) -> None:
    rows = made_up(3, labels)
    made = load(given(table(tmp_path / "a.csv", rows)))
    assert made.classes == order and made.outputs == len(order)
    assert all(re.fullmatch(r"-?[0-9]{1,18}", label) for label in order) == (order == ("-1", "007", "7", "9", "10"))
    if "1" * 30 not in labels:
        same(made, population(rows))


@pytest.mark.parametrize("kind", ["int", "bool", "float", "dictionary", "large_string"])
def test_types_of_a_parquet_file_make_no_difference(tmp_path: Path, kind: str) -> None:
    labels = {"bool": ["False", "True"], "int": ["-2", "0", "11"], "float": ["-2", "0", "11"]}.get(kind, list(MOODS))
    rows = made_up(4, labels)
    column = pyarrow.array([row.label for row in rows], pyarrow.large_string())
    if kind == "dictionary":
        column = column.dictionary_encode()
    elif kind != "large_string":
        column = pyarrow.array(
            [row.label == "True" if kind == "bool" else {"int": int, "float": float}[kind](row.label) for row in rows]
        )
    same(load(given(parquet(tmp_path / "a.parquet", rows, mood=column))), population(rows))


def lines(rows: Sequence[Row], value: Any, times: bool) -> tuple[list[dict[str, Any]], list[Row]]:
    """The rows as lines of a file, texts in the order of time; and the rows with what the lines say of held-out clients."""
    records, told = [], []
    for n, name in enumerate(sorted({row.client for row in rows})):
        own = sorted((row for row in rows if row.client == name), key=lambda row: row.time)
        split = [None, "train", "heldout"][n % 3]
        record: dict[str, Any] = {"id": name, "texts": [row.text for row in own], "mood": [value(row.label) for row in own]}
        record |= {"group": f"g{n % 2}"} | ({"split": split} if split else {})
        record |= {"ts": [row.time for row in own]} if times else {}
        records.append(record)
        told += [row._replace(group=f"g{n % 2}", held_out=None if split is None else split == "heldout") for row in own]
    return records, told


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize(
    ("labels", "value"),
    [(MOODS, str), (["3", "-20", "100"], int), (["3", "100"], float), (["True", "False"], lambda label: label == "True")],
)
def test_json_lines_give_the_clients_of_a_plain_reader(tmp_path: Path, name: str, labels: Sequence[str], value: Any) -> None:
    records, rows = lines(made_up(5, labels), value, name.endswith("gz"))
    records.append({"id": "nothing", "texts": [], "mood": []})
    made = load(given(write_jsonl(tmp_path / name, records), sequence_length=6))
    expected = population(rows, length=6)
    kept = [client for client in made.clients if client.id != "nothing"]
    assert len(kept) == len(made.clients) - 1
    same(replace(made, clients=tuple(kept)), expected)


def leaf(path: Path, data: dict[str, list[tuple[Any, Any]]]) -> None:
    """A file of LEAF of users with x and y."""
    user_data = {user: {"x": [x for x, _ in own], "y": [y for _, y in own]} for user, own in data.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"users": list(data), "num_samples": [1] * len(data), "user_data": user_data}))


def tweet(text: str, second: int) -> list[str]:
    return ["4", f"Mon Apr 06 22:19:{second:02} PDT 2009", "NO_QUERY", "someone", text, "i"]


def test_sent140_gives_the_clients_of_a_plain_reader(tmp_path: Path) -> None:
    rows = [
        row._replace(side=side, time=row.time % 40, group="")
        for seed, side in ((6, "train"), (7, "test"))
        for row in made_up(seed, ["0", "4"], 120)
    ]
    known = {row.client for row in rows if row.side == "train"}
    rows = [row for row in rows if row.client in known]
    for side in ("train", "test"):
        own: dict[str, list[tuple[Any, Any]]] = {}
        for row in rows:
            if row.side == side:
                own.setdefault(row.client, []).append((tweet(row.text, int(row.time)), int(row.label)))
        leaf(tmp_path / "sent" / side / f"all_data_0_{side}_9.json", own)
    made = load(DataOptions(data=str(tmp_path / "sent"), label_column="y"))
    same(made, population(rows))
    assert load(DataOptions(data=str(tmp_path / "sent"))).clients[0].group in ("0", "4")


def test_other_texts_of_leaf_have_labels_too(tmp_path: Path) -> None:
    rows = [row._replace(time=0.0, group="") for row in made_up(8, ["no", "yes"], 90)]
    own: dict[str, list[tuple[Any, Any]]] = {}
    for row in rows:
        own.setdefault(row.client, []).append((row.text, row.label))
    leaf(tmp_path / "mine.json", own)
    same(load(DataOptions(data=str(tmp_path / "mine.json"), label_column="y")), population(rows))


def test_a_saved_folder_of_hugging_face_gives_the_clients_of_a_plain_reader(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = made_up(9)
    features = datasets.Features(
        {name: datasets.Value("string") for name in HEADER} | {"created_utc": datasets.Value("float64")}
    )
    names = list(MOODS)
    plain = {name: [row[n] for row in rows] for n, name in enumerate(HEADER)}
    datasets.Dataset.from_dict(plain, features=features).save_to_disk(tmp_path / "plain")
    features["mood"] = datasets.ClassLabel(names=names)
    numbered = plain | {"mood": [names.index(row.label) for row in rows]}
    datasets.Dataset.from_dict(numbered, features=features).save_to_disk(tmp_path / "numbered")
    for folder in ("plain", "numbered"):
        same(load(given(f"hf:{tmp_path / folder}")), population(rows))
    numbered["mood"][4] = -1  # as the library has a label that is not known
    datasets.Dataset.from_dict(numbered, features=features).save_to_disk(tmp_path / "unknown")
    with pytest.raises(UserError, match="row 5: nothing in the column 'mood', where every text must have its class; fill it"):
        load(given(str(tmp_path / "unknown")))


def test_tokens_of_a_file(tmp_path: Path) -> None:
    library = pytest.importorskip("tokenizers")
    made = library.Tokenizer(library.models.BPE(unk_token="[UNK]"))
    trainer = library.trainers.BpeTrainer(vocab_size=30, special_tokens=["[UNK]"], show_progress=False)
    made.train_from_iterator(["red blue don't a1,000"], trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    rows = made_up(10)
    file = tokenizers.read(tmp_path / "tokenizer.json")
    names = file.vocabulary.tokens

    def encode(text: str) -> list[int]:
        return [names.index(token) if token in names else 1 for token in made.encode(text, add_special_tokens=False).tokens]

    expected = population(rows, encode=encode, vocabulary=file.vocabulary, length=64)
    same(load(given(table(tmp_path / "a.csv", rows), tokenizer=str(tmp_path / "tokenizer.json"))), expected)


# --- dealt out anew ---------------------------------------------------------------------------------------------------


def dealt(data: str, **options: Any) -> list[Row]:
    """The rows of a source that is dealt out, as it streams them."""
    parts = registry.source_of(data).opened(given(data, **options)).parts()
    return [
        Row(part.client, text, label, time, part.group)
        for part in parts
        for text, label, time in zip(part.texts, part.labels or (), part.times or [0.0], strict=True)
    ]


def test_labels_are_dealt_out_by_dirichlet_where_there_is_no_group(tmp_path: Path) -> None:
    rows = made_up(11, ["a", "b", "c"], 400)
    data = table(tmp_path / "a.csv", rows)
    skewed, even = (dealt(f"dirichlet:{alpha}:12:{data}", group_column="") for alpha in ("0.01", "1000"))
    for own in (skewed, even):
        assert Counter((row.text, row.label, row.time) for row in own) == Counter(
            (row.text, row.label, row.time) for row in rows
        )
    largest = [
        np.mean([max(Counter(row.label for row in own if row.client == name).values()) for name in {row.client for row in own}])
        for own in (skewed, even)
    ]
    assert largest[0] > 0.8 * len(rows) / 12 > 0.6 * len(rows) / 12 > largest[1]
    by_group = table(tmp_path / "b.csv", [row._replace(group=row.label) for row in rows])
    as_groups = dealt(f"dirichlet:0.01:12:{by_group}", group_column="subreddit")
    assert [row._replace(group="") for row in as_groups] == skewed  # the draw that groups have
    assert dealt(f"dirichlet:0.01:12:{data}") != skewed  # the guessed column of groups goes before the labels
    same(load(given(f"dirichlet:0.01:12:{data}", group_column="")), population(skewed))
    same(load(given(f"dirichlet:0.01:12:{data}")), population(dealt(f"dirichlet:0.01:12:{data}")))


def test_a_source_that_changes_its_labels_between_two_reads_is_refused() -> None:
    once = [Part("ann", ["one", "two"], labels=["a", "b"])]
    reads = iter([once, [Part("ann", ["one", "two"], labels=["a", "a"])]])
    base = Stream("mine", "", lambda: iter(next(reads)))
    with pytest.raises(UserError, match=r"data='dirichlet:1:2:mine' changed while it was being prepared"):
        list(dirichlet._parts(base, dirichlet._asked("dirichlet:1:2:mine"), 0, "dirichlet:1:2:mine", "label"))


# --- the way from the file to the arrays ------------------------------------------------------------------------------


def parts_of(rows: Sequence[Row], size: int) -> list[Part]:
    """The rows in parts of at most so many texts."""
    made: list[Part] = []
    for name in dict.fromkeys(row.client for row in rows):
        own = [row for row in rows if row.client == name]
        for begin in range(0, len(own), size):
            some = own[begin : begin + size]
            made.append(Part(name, [r.text for r in some], [r.time for r in some], labels=[r.label for r in some]))
    return made


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_same_arrays_for_any_number_of_processes_and_size_of_memory(
    monkeypatch: pytest.MonkeyPatch, processes: int, size: int
) -> None:
    rows = [row._replace(group="") for row in made_up(12, rows=400)]
    monkeypatch.setattr(spool, "BUFFER", 500)
    monkeypatch.setattr(by_client, "CHUNK", 300)
    monkeypatch.setattr(preparing, "ROWS", 600)
    monkeypatch.setattr(preparing, "DISTINCT", 3)
    made = Stream("made", "made up", lambda: iter(parts_of(rows, size)), continuous=True, first_only=True, sequence_length=3)
    options = DataOptions(label_column="mood", vocabulary_size=6, oov_buckets=2)
    same(in_memory(made, options, processes=processes), population(rows, size=6, buckets=2))


def test_sides_and_held_out_clients_move_with_their_labels() -> None:
    rows = [
        row._replace(side=random.Random(row.text).choice(["train", "test", ""]), held_out=row.client < "c3", group="")
        for row in made_up(13)
    ]
    parts = [Part(r.client, [r.text], [r.time], r.group, r.held_out, r.side, labels=[r.label]) for r in rows]
    same(in_memory(Stream("made", "made up", lambda: iter(parts)), DataOptions(label_column="mood")), population(rows))


def test_memory_and_a_prepared_folder_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made_up(14)
    options = given(table(tmp_path / "a.csv", rows))
    monkeypatch.setenv("FLOW_CACHE", "")
    in_ram = load(options)
    monkeypatch.setenv("FLOW_CACHE", str(tmp_path / "cache"))
    for _ in range(2):  # prepared, then opened
        made = load(options)
        same(made, in_ram)
        same(made, population(rows))
        assert made.about == in_ram.about
    load(replace(options, label_column=None))
    other = table(tmp_path / "b.csv", [row._replace(group=row.group or "i") for row in rows])
    load(replace(options, data=other, label_column="subreddit"))
    folders = {path.name: json.loads((path / "index.json").read_text()) for path in (tmp_path / "cache").iterdir()}
    assert len(folders) == 3
    assert sorted(str(index.get("classes")) for index in folders.values()) == sorted(
        ["None", str(sorted(MOODS)), "['g', 'h', 'i']"]
    )


@pytest.mark.parametrize(("vocabulary", "classes_", "kind"), [(100, 70_000, "int32"), (70_000, 3, "int32"), (100, 3, "uint16")])
def test_labels_decide_the_type_of_what_is_prepared(tmp_path: Path, vocabulary: int, classes_: int, kind: str) -> None:
    own = {
        "train": [[vocabulary - 1, 5]], "train_labels": [classes_ - 1],
        "test": [[4, 0], [1, 2]], "test_labels": [0, classes_ - 2],
    }  # fmt: skip
    made = flow.Population.from_arrays({"ann": own, "bob": own}, vocabulary=vocabulary, classes=classes_)
    stored.write(tmp_path / "made", made)
    same(stored.read(tmp_path / "made"), made)
    assert json.loads((tmp_path / "made" / "index.json").read_text())["types"]["tokens"] == kind


def test_records_of_texts_without_labels_have_the_bytes_that_they_had() -> None:
    part = Part("zoë", ["é", "b"], [1.0, 2.5], "g", False, "train", "row 7", 99)
    assert by_client._encoded(part, "data") == ("zoë".encode(), '[["é","b"],[1.0,2.5],"g",false,"train","row 7"]'.encode())
    labelled = part._replace(labels=("x", "y"))
    assert by_client.decoded("zoë", [by_client._encoded(labelled, "data")[1]]) == [
        labelled._replace(labels=["x", "y"], position=0)
    ]


def test_a_reader_that_forgets_labels_is_a_bug_of_its_own() -> None:
    for labels in (["a"], ["a", "b", "c"], None):
        parts = [Part("ann", ["x", "y"], labels=["a", "b"]), Part("ann", ["z", "w"], labels=labels)]
        with pytest.raises(ValueError, match=r"argument|labels"):
            in_memory(Stream("made", "made up", lambda: iter(parts)), DataOptions(label_column="mood"))  # noqa: B023


# --- what is said, and what is refused --------------------------------------------------------------------------------


def test_texts_without_a_token_are_left_out_and_counted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = made_up(15)
    without = sum(not SPLIT["words"](row.text) for row in rows)
    assert without > 5
    data = table(tmp_path / "a.csv", rows)
    load(given(data))
    message = (
        f"flow: data={data!r}: {without} of {len(rows)} texts have no token and are left out, for nothing says their class\n"
    )
    assert capsys.readouterr().err.count(message) == 1
    load(given(data))
    assert "left out" not in capsys.readouterr().err
    filled = table(tmp_path / "b.csv", [row for row in rows if SPLIT["words"](row.text)])
    load(given(filled))
    assert "left out" not in capsys.readouterr().err


def test_the_column_of_labels_is_no_guess_for_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["ann", "x y", "1"], ["ann", "y", "2"], ["bob", "x", "1"]]
    data = table(tmp_path / "a.csv", rows, ["user", "text", "label"])
    assert {client.group for client in load(DataOptions(data=data)).clients} == {"1"}
    assert "group: 'label'" in capsys.readouterr().err
    made = load(DataOptions(data=data, label_column="label"))
    assert {client.group for client in made.clients} == {""} and made.classes == ("1", "2")
    assert "group" not in capsys.readouterr().err
    both = load(DataOptions(data=data, label_column="label", group_column="label"))
    assert {client.group for client in both.clients} == {"1"} and both.classes == ("1", "2")


TABLE_REFUSALS = [
    ({"label_column": "gone"}, r"label_column='gone' is no column of the columns 'user_id', .*; give --label-column one of th"),
    (
        {"label_column": "body"},
        r"no column has a usual name for the text of the columns .*; give --text-column NAME",
    ),
    (
        {"label_column": "body", "text_column": "body"},
        r"the column 'body' holds both the text and its label.*--text-column NAME and --label-column NAM",
    ),
    (
        {"label_column": "subreddit"},
        r"line 2: nothing in the column 'subreddit', where every text must have its class; fill it",
    ),
    ({"label_column": "same"}, r"label_column='same' has the one class 'x', .* at least two; name another column, or leave"),
    ({"label_column": ""}, r"label_column='' names nothing; give the name of a column, or leave it out"),
]


@pytest.mark.parametrize(("options", "message"), TABLE_REFUSALS)
def test_columns_that_hold_no_classes_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    rows = [["ann", "x y", "a", "1", "", "x"], ["bob", "y", "b", "2", "g", "x"]]
    data = table(tmp_path / "a.csv", rows, [*HEADER, "same"])
    with pytest.raises(UserError, match=message):
        load(given(data, **options))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            ["a", None],
            r"a\.parquet', row 2: nothing in the column 'mood', where every text must have its class; fill it in, or",
        ),
        (["a", " "], r"row 2: nothing in the column 'mood'"),
        ([1.0, float("nan")], r"row 2: nothing in the column 'mood'"),
        (
            [1.0, 1.5],
            r"row 2: 1\.5 in the column 'mood' is no class; write every class as a string, a whole number or a boolean",
        ),
        ([1.0, float("inf")], r"row 2: inf in the column 'mood' is no class"),
        ([["a"], ["b"]], r"the column 'mood' holds list<.*>, where a label is a string or a number; give --label-column NAME"),
    ],
)
def test_values_of_a_parquet_file_that_are_no_classes_are_refused(tmp_path: Path, column: list[Any], message: str) -> None:
    rows = [Row("ann", "x", ""), Row("bob", "y", "")]
    with pytest.raises(UserError, match=message):
        load(given(parquet(tmp_path / "a.parquet", rows, mood=column)))


LINE = {"id": "ann", "texts": ["x", "y"], "mood": ["a", "b"]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"id": "ann", "texts": ["x"]}, r"line 2: the field 'mood' is missing \(fields present: 'id', 'texts'\); add it"),
        (LINE | {"mood": ["a"]}, r"line 2: mood=a list of 1 must be a list of 2 classes, one per text; correct it, or name"),
        (LINE | {"mood": "ab"}, r"line 2: mood='ab' must be a list of 2 classes"),
        (LINE | {"mood": ["a", None]}, r"line 2: nothing in mood\[1\], where every text must have its class; fill it in, or"),
        (LINE | {"mood": ["", "a"]}, r"line 2: nothing in mood\[0\]"),
        (LINE | {"mood": ["a", 1.5]}, r"line 2: 1\.5 in mood\[1\] is no class; write every class as a string"),
        (LINE | {"mood": ["a", ["b"]]}, r"line 2: \['b'\] in mood\[1\] is no class"),
        (LINE | {"mood": ["a", "\ud800"]}, r"line 2: client 'ann' holds half of a surrogate pair"),
    ],
)
def test_lines_without_classes_are_refused(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    data = write_jsonl(tmp_path / "a.jsonl", [{"id": "bob", "texts": ["x"], "mood": ["a"]}, record])
    with pytest.raises(UserError, match=message):
        load(given(data))


@pytest.mark.parametrize("field", ["id", "texts", "group", "split", "ts"])
def test_fields_of_a_line_with_another_meaning_are_refused(tmp_path: Path, field: str) -> None:
    data = write_jsonl(tmp_path / "a.jsonl", [LINE])
    with pytest.raises(
        UserError, match=rf"label_column='{field}' is a field with a meaning of its own, as are id, texts, .*; put"
    ):
        load(given(data, label_column=field))


def test_what_leaf_has_no_labels_for_is_refused(tmp_path: Path) -> None:
    leaf(tmp_path / "sent.json", {"ann": [(tweet("x y", 1), 0), (tweet("y", 2), None)]})
    leaf(tmp_path / "first.json", {"ann": [(tweet("x y", 1), None), (tweet("y", 2), 0)]})
    leaf(tmp_path / "play.json", {"ANN": [("to be", "o"), ("o be ", "r")]})
    leaf(tmp_path / "reddit.json", {"ann": [([["a", "b"]], {"subreddit": "x"})]})
    leaf(tmp_path / "mine.json", {"ann": [("x", "no"), ("y", "yes"), ("z", "")]})
    for name, column, message in (
        ("sent", "label", r"label_column='label': the labels of LEAF's files are in y; give --label-column y, or leave it out"),
        ("mine", "y", r"client 'ann', example 3: nothing in y, where every text must have its class; fill it in"),
        ("sent", "y", r"client 'ann', example 2: nothing in y, where every text must have its class"),
        ("first", "y", r"client 'ann', example 1: nothing in y, where every text must have its class"),
        ("play", "y", r"label_column='y' is for texts with labels, as in Sent140, and this is LEAF's Shakespeare.*; leave it"),
        ("reddit", "y", r"label_column='y' is for texts with labels, as in Sent140, and this is LEAF's Reddit"),
    ):
        with pytest.raises(UserError, match=message):
            load(DataOptions(data=str(tmp_path / f"{name}.json"), label_column=column))


@pytest.mark.parametrize("data", ["shakespeare", "synthetic", "git:.", "texts"])
def test_sources_without_labels_refuse_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("one\n")
    with pytest.raises(
        UserError, match=r"label_column='mood' is an option of data='hf' and .*'tabular'.*, not of data='.*'; leave"
    ):
        load(given(data))


def test_more_classes_than_there_may_be_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_client, "CHUNK", 300)
    rows = [Row(f"c{n % 7}", "x y", f"label {n}") for n in range(90)]
    data = table(tmp_path / "a.csv", rows, HEADER[:3])
    monkeypatch.setattr(classes, "MOST", 90)
    assert len(load(given(data)).classes) == 90
    monkeypatch.setattr(classes, "MOST", 89)
    message = (
        r"label_column='mood' has more than 89 classes, as texts or ids would, and there may be at most 89; name the column wh"
    )
    for source in (data, f"dirichlet:1:3:{data}"):
        with pytest.raises(UserError, match=message):
            load(given(source, vocabulary_size=50))


def test_sizes_count_classes_and_tokens(tmp_path: Path) -> None:
    rows = made_up(16)
    made = load(given(table(tmp_path / "a.csv", rows), sequence_length=5, vocabulary_size=4, oov_buckets=2))
    sizes = description.sizes(made)
    cut = {row: SPLIT["words"](row.text)[:5] for row in rows}
    known = set(made.vocabulary.tokens)
    total = sum(len(cut[row]) for row in rows)
    assert sizes.texts == sum(bool(cut[row]) for row in rows) and sizes.tokens == total
    counts = Counter(row.label for row in rows if cut[row])
    assert sizes.texts_of_class == tuple(counts[label] for label in sorted(MOODS))
    assert sizes.unknown == pytest.approx(sum(token not in known for row in rows for token in cut[row]) / total)


def test_a_label_is_text() -> None:
    for value, label in (("a ", "a "), (3, "3"), (3.0, "3"), (-0.0, "0"), (True, "True"), ("3.0", "3.0")):
        assert classes.label_of(value, "x", "y") == label
