"""Data sets of the library datasets: what is read of saved folders and of its cache, and what is refused."""

import json
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from oracles import preparation

from flow.cli.main import main
from flow.data import DataOptions, load, located, registry
from flow.data.population import Population
from flow.data.readers import hf
from flow.data.streams import Part
from flow.errors import UserError

datasets = pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")

HEADER = ["user_id", "body", "created_utc", "subreddit"]
TEXTS = ["red, blue", 'he said "red"', "two\nlines", "", "日本 zoë", "tab\there", " blank ", "'"]


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, and no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hf, "getproxies", dict)
    datasets.disable_progress_bars()


Row = tuple[str, str, float, str]


def made_up(seed: int, rows: int = 200) -> list[Row]:
    draw = random.Random(seed)
    names = ["ann", "bob", "zoë", "user, 3", "7"]
    return [
        (draw.choice(names), draw.choice(TEXTS), float(draw.randrange(40)), draw.choice(["", "g", "h"])) for _ in range(rows)
    ]


def dataset(rows: Sequence[tuple[Any, ...]], header: Sequence[str] = HEADER, **columns: Any) -> Any:
    return datasets.Dataset.from_dict({name: list(values) for name, values in zip(header, zip(*rows, strict=True), strict=True)}
                                      | columns)  # fmt: skip


def saved(path: Path, rows: Any, **options: Any) -> str:
    rows.save_to_disk(path, **options)
    return str(path)


def expected(rows: Sequence[tuple[Any, ...]]) -> Any:
    parts = [Part(client, [text], [time], group) for client, text, time, group in rows]
    return preparation.prepared(parts, "words", 20, 10_000, 1)


def plain(population: Population) -> tuple[Any, Any]:
    return population.vocabulary.tokens, {
        client.id: (
            client.group, client.held_out, client.texts,
            *(list(zip(side.tokens.tolist(), side.lengths.tolist(), strict=True)) for side in (client.train, client.test)),
        )
        for client in population.clients
    }  # fmt: skip


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
def test_a_saved_folder_gives_the_clients_of_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int) -> None:
    monkeypatch.setattr(hf, "BATCH", 7)
    rows = made_up(1)
    data = saved(tmp_path / "posts", dataset(rows), num_shards=shards)
    assert plain(load(DataOptions(data=data))) == plain(load(DataOptions(data=f"hf:{data}"))) == expected(rows)
    stream = registry.source_of(data).opened(DataOptions(data=data))
    parts = list(stream.parts())
    assert parts == list(stream.parts()) and parts[-1].position == stream.total == len(rows)
    assert [(part.client, text) for part in parts for text in part.texts] == [row[:2] for row in rows]
    number = 1
    for part in parts:
        assert part.place == f"row {number}"
        number += len(part.texts)


def test_types_make_no_difference(tmp_path: Path) -> None:
    rows = made_up(2)
    features = datasets.Features({
        "user_id": datasets.Value("large_string"), "body": datasets.Value("large_string"),
        "created_utc": datasets.Value("timestamp[us, tz=UTC]"), "subreddit": datasets.ClassLabel(names=["h", "", "g"]),
    })  # fmt: skip
    other = dataset(
        rows, created_utc=[datetime.fromtimestamp(row[2], UTC) for row in rows],
        subreddit=[["h", "", "g"].index(row[3]) for row in rows],
    ).cast(features)  # fmt: skip
    assert plain(load(DataOptions(data=saved(tmp_path / "types", other)))) == expected(rows)
    numbered = [(str(len(row[0])), *row[1:]) for row in rows]
    numbers = dataset(rows, user_id=[len(row[0]) for row in rows], created_utc=[str(int(row[2])) for row in rows])
    assert plain(load(DataOptions(data=saved(tmp_path / "numbers", numbers)))) == expected(numbered)
    floats = dataset(rows, user_id=[float(len(row[0])) for row in rows])
    assert plain(load(DataOptions(data=saved(tmp_path / "floats", floats)))) == expected(numbered)


def test_columns_are_given_or_guessed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [("ann", "red blue", 2.0, "g"), ("ann", "blue", 1.0, "h"), ("bob", "red", 3.0, "g")]
    data = saved(tmp_path / "posts", dataset(rows, subreddit=["g", None, "g"]))
    load(DataOptions(data=data))
    assert "columns by their names, client: 'user_id', text: 'body', time: 'created_utc'" in capfd.readouterr().err
    given = ["--client-column", "subreddit", "--text-column", "user_id", "--time-column", "", "--group-column", ""]
    with pytest.raises(UserError, match=r"row 2: nothing in the column 'subreddit', which names the client of the row"):
        load(DataOptions(data=data, client_column="subreddit", text_column="user_id", time_column="", group_column=""))
    data = saved(tmp_path / "others", dataset(rows))
    assert main(["data", data, *given, "--sample", "1"]) == 0
    population = load(DataOptions(data=data, client_column="subreddit", text_column="user_id", time_column="", group_column=""))
    assert [(client.id, client.group, client.texts) for client in population.clients] == [("g", "", 2), ("h", "", 1)]


def test_splits_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made_up(3)
    both = datasets.DatasetDict({"train": dataset(rows[:90]), "late.r": dataset(rows[90:])})
    data = saved(tmp_path / "posts", both)
    monkeypatch.chdir(tmp_path)
    assert plain(load(DataOptions(data="hf:posts:train"))) == expected(rows[:90])
    assert plain(load(DataOptions(data=f"hf:{data}:late.r"))) == expected(rows[90:])
    assert plain(load(DataOptions(data="hf:posts:train+late.r"))) == expected(rows)
    first = next(registry.source_of("hf:").opened(DataOptions(data="hf:posts:late.r+train")).parts())
    assert first.place == "split late.r, row 1"
    for asked, message in (
        (
            "posts",
            r"data='posts' has the splits 'train', 'late\.r'; say which, such as hf:posts:train, or hf:posts:train\+late",
        ),
        ("hf:posts:test", r"'test' is no split of 'train', 'late\.r'; give hf:posts:SPLIT with one of these"),
        ("hf:posts:train+train", r"the split 'train' stands there twice; name it once"),
        ("hf:posts:train[:10]", r"SPLIT='10\]' must be the name of a split, or several with \+ between them"),
        ("hf:posts:", r"SPLIT='' must be the name of a split"),
    ):
        with pytest.raises(UserError, match=message):
            load(DataOptions(data=asked))
    saved(tmp_path / "single", dataset(rows))
    with pytest.raises(UserError, match=r"data='hf:single:train': this folder has no splits; leave ':train' out"):
        load(DataOptions(data="hf:single:train"))
    alone = saved(tmp_path / "alone", datasets.DatasetDict({"train": dataset(rows)}))
    assert plain(load(DataOptions(data=alone))) == expected(rows)


def test_the_content_decides_and_neither_place_nor_split_of_others(tmp_path: Path) -> None:
    rows = made_up(4)
    first, second = (saved(tmp_path / name / "posts", dataset(rows)) for name in ("a", "b"))
    other = saved(tmp_path / "c" / "posts", dataset(rows[::-1]))
    labels = [
        saved(tmp_path / names / "posts", dataset(rows, subreddit=[0, 1] * 100).cast_column(
            "subreddit", datasets.ClassLabel(names=list(names))))
        for names in ("xy", "yx")
    ]  # fmt: skip
    digests = [registry.source_of(data).content(data).digest for data in (first, second, f"hf:{first}", other, *labels)]
    assert digests[0] == digests[1] == digests[2] and len(set(digests)) == 4


def test_a_folder_is_recognised_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(tmp_path / "posts", dataset(made_up(5)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert registry.source_of("posts").name == "hf" and located("posts") == data
    assert located("hf:posts") == f"hf:{data}" and located("hf:posts:train") == f"hf:{data}:train"
    assert located("hf:ann/posts:train") == "hf:ann/posts:train"
    assert located("dirichlet:1:2:hf:posts") == f"dirichlet:1:2:hf:{data}"
    with pytest.raises(UserError, match=r"which needs the package datasets \(.*\); run: pip install 'flow-fl\[hf\]'"):
        load(DataOptions(data="posts"))


def cached(tmp_path: Path, rows: Sequence[Row], name: str = "posts") -> None:
    """The cache of the library as it is after ann/NAME was downloaded: what it makes of files, under the name of the Hub."""
    source = tmp_path / "source" / name
    source.mkdir(parents=True)
    dataset(rows[:90]).to_json(source / "train.jsonl")
    dataset(rows[90:]).to_json(source / "test.jsonl")
    datasets.load_dataset(str(source))
    (tmp_path / "hf-cache" / name).rename(tmp_path / "hf-cache" / f"ann___{name}")


def test_a_name_is_taken_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made_up(6)
    cached(tmp_path, rows)
    monkeypatch.chdir(tmp_path)
    assert plain(load(DataOptions(data="hf:ann/posts:train"))) == expected(rows[:90])
    assert plain(load(DataOptions(data="hf:ann/posts:train+test"))) == expected(rows)
    with pytest.raises(UserError, match=r"data='hf:ann/posts' has the splits .*'train'.*; say which, such as hf:ann/posts:t"):
        load(DataOptions(data="hf:ann/posts"))
    assert datasets.config.HF_HUB_OFFLINE is False
    dealt = load(DataOptions(data="dirichlet:0.5:4:hf:ann/posts:train"))
    assert len(dealt.clients) == 4
    (tmp_path / "ann" / "posts").mkdir(parents=True)
    with pytest.raises(UserError, match=r"'ann/posts' is a folder here, but none that save_to_disk .* wrote; give such"):
        load(DataOptions(data="hf:ann/posts:train"))


def test_a_name_that_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cache has nothing, the library is asked once more, and may use the network."""
    rows = made_up(7)
    asked: list[tuple[str, bool]] = []

    def load_dataset(name: str) -> Any:
        asked.append((name, datasets.config.HF_HUB_OFFLINE))
        if datasets.config.HF_HUB_OFFLINE:
            raise ConnectionError("not there")
        return datasets.load_from_disk(data)

    data = saved(tmp_path / "posts", dataset(rows))
    monkeypatch.setattr(hf, "_reach", lambda endpoint: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(list(hf._stream(DataOptions(data="hf:ann/posts")).parts())) > 100
    assert asked == [("ann/posts", True), ("ann/posts", False)]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_names_that_lead_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    message = (
        r"data='hf:ann/gone:train' cannot be read from the cache of the library datasets \(.+\), and was not to be had from "
        r"http://127\.0\.0\.1:9 \(ConnectionRefusedError: .*\); correct the name, connect this machine and try again, or save"
    )
    with pytest.raises(UserError, match=message):
        load(DataOptions(data="hf:ann/gone:train"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"\), and HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set; unset it, or save the data"):
        load(DataOptions(data="hf:ann/gone"))
    for name in ("", "csv", "a b/c", "a/b/c", "https://a.org/b", ":train", "../x/y", "a//b"):
        with pytest.raises(UserError, match=r"must have the form hf:OWNER/NAME or hf:OWNER/NAME:SPLIT, such as|SPLIT='x'"):
            load(DataOptions(data=f"hf:{name}"))


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"body": [["a"], ["b"]]}, {}, r"the column 'body' holds \w+, where a text is a string; give --text-column NAME"),
        ({"body": [1, 2]}, {}, r"the column 'body' holds int64, where a text is a string"),
        ({"user_id": [{"a": 1}, {"a": 2}]}, {}, r"the column 'user_id' holds \w+, where a client is a string or a number"),
        ({"created_utc": ["1", "late"]}, {}, r"row 2: 'late' in the column 'created_utc' is no time .*; write Unix seconds"),
        ({"created_utc": [1.0, float("nan")]}, {}, r"row 2: nan in the column 'created_utc' is no time \(it is not finite\)"),
        ({"created_utc": [1.0, None]}, {}, r"row 2: None in the column 'created_utc' is no time"),
        ({"body": ["a", None]}, {}, r"row 2: nothing \(null\) in the column 'body', which holds the text; fill it in"),
        ({"user_id": ["", "a"]}, {}, r"row 1: nothing in the column 'user_id', which names the client"),
        ({"author": ["a", "b"]}, {}, r"the columns 'user_id' and 'author' may each hold the client"),
        ({}, {"text_column": "x"}, r"text_column='x' is no column of the columns 'user_id', 'body'"),
        ({"character_id": ["A", "A"], "x": ["ab", "bc"], "y": ["c", "d"]}, {}, r"the rows of 'x' are windows that overlap"),
    ],
)  # fmt: skip
def test_faulty_rows_are_refused_by_column_and_row(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    made = dataset([("ann", "red", 1.0, "g"), ("bob", "blue", 2.0, "h")], **columns)
    with pytest.raises(UserError, match=rf"^data='.*posts'.*{message}"):
        load(DataOptions(data=saved(tmp_path / "posts", made), **options))


def test_damaged_folders(tmp_path: Path) -> None:
    rows = made_up(8, 3000)
    saved(tmp_path / "whole", dataset(rows))
    arrow = "data-00000-of-00001.arrow"
    content = (tmp_path / "whole" / arrow).read_bytes()
    state = json.loads((tmp_path / "whole" / "state.json").read_text())
    cannot = r"is a folder of the library datasets that it cannot read \(\w+: .+\); copy or save it again"
    broken = r"rows from 1 on: damaged, or no values of Python \(.*\); copy or save the data set again"
    place = content.index("日本".encode())
    damages: list[tuple[Callable[[Path], object], str]] = [
        (lambda folder: (folder / arrow).write_bytes(content[: len(content) // 2]), cannot),
        (lambda folder: (folder / arrow).write_bytes(b""), cannot),
        (lambda folder: (folder / arrow).write_bytes(b"x" * 1000), cannot),
        (lambda folder: (folder / arrow).unlink(), cannot),
        (lambda folder: (folder / "dataset_info.json").write_text("{"), cannot),
        (lambda folder: (folder / "dataset_info.json").unlink(), cannot),
        (lambda folder: (folder / "state.json").write_text(json.dumps(state | {"_data_files": 3})), cannot),
        (lambda folder: (folder / "state.json").write_text("{"), r"data='.*broken' is a folder; give the path of a"),
        (lambda folder: (folder / arrow).write_bytes(content[:place] + b"\xff" + content[place + 1 :]), broken),
    ]  # fmt: skip
    for damage, message in damages:
        folder = tmp_path / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", folder)
        damage(folder)
        with pytest.raises(UserError, match=message):
            load(DataOptions(data=str(folder)))
    empty = saved(tmp_path / "empty", dataset(rows).select(range(0)))
    with pytest.raises(UserError, match=rf"there is no row; give a data set with one text a row|{cannot}"):
        load(DataOptions(data=empty))
