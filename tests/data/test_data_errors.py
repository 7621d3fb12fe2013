"""What is refused of data and its options."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_cases import write_jsonl

from flow.data import DataOptions, load
from flow.data.corpus import cut_windows
from flow.data.preparing import in_memory
from flow.data.streams import Part, Stream
from flow.errors import UserError


@pytest.mark.parametrize("data", ["stackoverflow", "texts.abc", ""])
def test_unknown_source(data: str) -> None:
    with pytest.raises(ValueError, match=r"no such data set.*shakespeare.*must end in \.jsonl, \.jsonl\.gz.* and exist") as e:
        load(DataOptions(data=data))
    assert f"data={data!r}" in str(e.value)


@pytest.mark.parametrize("name", ["none.jsonl", "none.jsonl.gz", "none.csv.gz", "none.parquet"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}.*there is no such file; give the path"):
        load(DataOptions(data=str(tmp_path / name)))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UserError, match=r"folder\.jsonl"):
        load(DataOptions(data=str(tmp_path / "folder.jsonl")))


def test_truncated_gzip(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    rng = np.random.default_rng(0)
    write_jsonl(path, [{"id": f"u{i}", "texts": [str(rng.integers(1 << 60))] * 2} for i in range(2000)])
    whole = path.read_bytes()
    for keep in (len(whole) // 2, len(whole) - 1, 5):
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=r"cut\.jsonl\.gz'.*truncated gzip file, unreadable after line \d+.*again"):
            load(DataOptions(data=str(path)))


def test_damaged_gzip_and_wrong_names(tmp_path: Path) -> None:
    plain = json.dumps({"id": "a", "texts": ["x é"]}, ensure_ascii=False).encode()
    (tmp_path / "plain.jsonl.gz").write_bytes(plain)
    with pytest.raises(ValueError, match=r"plain\.jsonl\.gz': this is not compressed; rename it to 'plain\.jsonl'"):
        load(DataOptions(data=str(tmp_path / "plain.jsonl.gz")))
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress(plain))
    with pytest.raises(ValueError, match=r"packed\.jsonl': this is a gzip file; rename it to 'packed\.jsonl\.gz'"):
        load(DataOptions(data=str(tmp_path / "packed.jsonl")))
    damaged = bytearray(gzip.compress(plain * 50))
    damaged[-8] ^= 1  # the checksum
    (tmp_path / "damaged.jsonl.gz").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"damaged\.jsonl\.gz"):
        load(DataOptions(data=str(tmp_path / "damaged.jsonl.gz")))


GOOD = '{"id": "good", "texts": ["a b", "c"]}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'id': 1}", "not JSON .*every line must be one JSON object"),
        ('{"id": "a", "texts": ["x"]', "not JSON"),
        ('["a"]', "a JSON list where an object with the fields id and texts"),
        ('{"texts": ["x"]}', "the field 'id' is missing .fields present: 'texts'.; add it"),
        ('{"id": "a", "text": ["x"]}', "the field 'texts' is missing .fields present: 'id', 'text'.; add it"),
        pytest.param("[" * 100_000, "JSON that cannot be read .*too deep.*correct or remove the line", id="deep"),
        pytest.param('{"ts": [' + "9" * 5000 + "]}", "JSON that cannot be read .*4300.*remove the line", id="digits"),
        ('{"id": 3, "texts": ["x"]}', "id=3 must be a string"),
        ('{"id": "", "texts": ["x"]}', "id='' must be a string that is not empty"),
        ('{"id": "a", "texts": "x"}', "texts must be a list of strings"),
        ('{"id": "a", "texts": ["x", 1]}', "texts must be a list of strings"),
        ('{"id": "a", "texts": ["x"], "group": 4}', "group=4 must be a string"),
        ('{"id": "a", "texts": ["x"], "split": "test"}', "split='test' must be 'train' or 'heldout'"),
        ('{"id": "a", "texts": ["x"], "ts": [1, 2]}', "ts must be a list of 1 numbers"),
        ('{"id": "a", "texts": ["x"], "ts": ["1"]}', "ts must be a list of 1 numbers"),
        ('{"id": "a", "texts": ["x", "y"], "ts": [2, 1]}', r"ts\[1\]=1 is not at or after ts\[0\]=2.*sort"),
        ('{"id": "a", "texts": ["x", "y"], "ts": [2, NaN]}', r"ts\[1\]=nan must be a finite number"),
        ('{"id": "a", "texts": ["x", "y"], "ts": [2, Infinity]}', r"ts\[1\]=inf must be a finite number"),
        ('{"id": "a", "texts": ["x", "y"], "ts": [1e999, 2]}', r"ts\[0\]=inf must be a finite number"),
        pytest.param('{"id": "a", "texts": ["x"], "ts": [1' + "0" * 400 + "]}", r"ts has a number above 2e\+308", id="huge"),
        ('{"id": "a", "texts": ["x"], "texts": ["y"]}', "the field 'texts' stands twice in the object; keep one"),
        ('{"id": "a", "texts": ["x"], "id": "a"}', "the field 'id' stands twice"),
        ('{"id": "a", "note": 1, "texts": ["x"], "note": 2}', "the field 'note' stands twice"),
        pytest.param('{"id": "a", "texts": ["x\0"]}', "a NUL character at column 25, as in a file that was not", id="NUL"),
        ('{"id": "a", "texts": ["x"]}\r{"id": "b", "texts": ["x"]}', "a carriage return .CR. between them"),
        ('{"id": "a", "texts": ["x"]} {"id": "b", "texts": ["x"]}', "not JSON .Extra data at column 29"),
        ('{"id": "a", "texts": ["\\ud800"]}', "client 'a' holds half of a surrogate pair.*remove"),
        ('{"id": "good", "texts": ["x"]}', "client id 'good' already stands in line 1; ids must be distinct"),
    ],
)
def test_faulty_lines_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "faulty.jsonl"
    path.write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(ValueError, match=rf"faulty\.jsonl', line 2: .*{message}"):
        load(DataOptions(data=str(path)))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("sequence_length", -1, "sequence_length=-1 must be at least 1; give a positive integer or 0 for the source's"),
        ("vocabulary_size", 0, "vocabulary_size=0 must be at least 1; give a positive integer$"),
        ("vocabulary_size", -5, "vocabulary_size=-5 must be at least 1"),
        ("max_clients", -2, "max_clients=-2 must be at least 1; give a positive integer or 0 for all clients"),
    ],
)
def test_options_out_of_range(option: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(DataOptions(**{option: value}))  # type: ignore[arg-type]


def test_sizes_out_of_range_below_the_options() -> None:
    stream = Stream("n", "about", lambda: iter([Part("a", ["x y", "z"])]))
    with pytest.raises(ValueError, match="sequence_length=-1 must be at least 1"):
        in_memory(stream, DataOptions(sequence_length=-1))
    with pytest.raises(ValueError, match="vocabulary_size=0 must be at least 1"):
        in_memory(stream, DataOptions(vocabulary_size=0))
    with pytest.raises(ValueError, match="sequence_length=0 must be at least 1"):
        cut_windows([], 0)


@pytest.mark.parametrize(
    "records",
    [
        [{"id": "a", "split": "heldout", "texts": ["x", "y"]}],
        [{"id": "a", "split": "train", "texts": []}, {"id": "b", "split": "train", "texts": [" ", "late"]}],
    ],
)
def test_no_training_clients(tmp_path: Path, records: list[Any]) -> None:
    path = write_jsonl(tmp_path / "a.jsonl.gz", records)
    with pytest.raises(ValueError, match=f"no training clients: of {len(records)} clients .* give at least one client"):
        load(DataOptions(data=path))
