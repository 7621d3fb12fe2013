"""The piecewise reader of JSON, compared with json.loads."""

import gzip
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from flow.data.readers import pieces
from flow.errors import UserError


def read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for piece in pieces.pieces(path, "apart", "a file"):
        if piece.key is None:
            values[piece.name] = piece.value
        else:
            values.setdefault(piece.name, {})[piece.key] = piece.value
    return values


def anything(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.randrange(8 if depth < 3 else 5)
    if kind < 2:
        letters = ["a", '"', "\\", "\n", "é", "日", "\U0001f600", "{", "}", "\u2028"]
        return "".join(draw.choices(letters, k=draw.choice([0, 1, 9, 40])))
    if kind == 2:
        return draw.choice([0, -1, 123456789012345678901234567890, True, False, None])
    if kind == 3:
        return draw.choice([1.5, -2e-30, 1e300])
    if kind < 6:
        return [anything(draw, depth + 1) for _ in range(draw.randrange(5))]
    return {str(anything(draw, 4)): anything(draw, depth + 1) for _ in range(draw.randrange(4))}


@pytest.mark.parametrize("block", [1, 2, 7, 64])
def test_the_values_are_those_of_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(pieces, "BLOCK", block)
    monkeypatch.setattr(pieces._Text.more, "__defaults__", (block,))
    draw, file = random.Random(block), tmp_path / "x.json"
    for trial in range(120):
        wanted = {f"n{n}": anything(draw) for n in range(draw.randrange(4))}
        wanted["apart"] = {str(anything(draw, 4)): anything(draw) for _ in range(1 + draw.randrange(4))}
        wanted["last"] = anything(draw)
        text = json.dumps(wanted, ensure_ascii=draw.random() < 0.5, indent=draw.choice([None, 1, 4]))
        content = ("\ufeff" * draw.randrange(2) + text + "\r\n" * draw.randrange(2)).encode()
        file.write_bytes(gzip.compress(content) if trial % 2 else content)
        assert read(file) == wanted


def test_every_cut_and_every_changed_byte_gives_the_value_or_a_sentence(tmp_path: Path) -> None:
    wanted = {"users": ["a", "é"], "apart": {"a": {"x": ["one", 2.5, None]}, "é": [True]}, "n": [1, 2]}
    whole, file = json.dumps(wanted, ensure_ascii=False).encode(), tmp_path / "x.json"
    draw = random.Random(0)
    cases = [whole[:end] for end in range(len(whole))]
    for _ in range(500):
        changed = bytearray(whole)
        changed[draw.randrange(len(whole))] = draw.choice(b'{}[],:" \\0a\xff')
        cases.append(bytes(changed))
    for content in cases:
        try:
            expected = json.loads(content)
        except ValueError:
            expected = None
        file.write_bytes(content)
        if not isinstance(expected, dict) or not isinstance(expected.get("apart"), dict):
            if expected is None or not isinstance(expected, dict):
                with pytest.raises(UserError, match=r"x\.json'.*; (copy or download the file again|save the file in UTF-8)"):
                    read(file)
        else:
            assert read(file) == {name: value for name, value in expected.items() if value != {} or name != "apart"}


def test_one_piece_at_a_time_is_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    with file.open("w") as out:
        out.write('{"apart": {')
        for n in range(400):
            out.write(f'{"," if n else ""}"{n}": {json.dumps(["word " * 100] * 100)}')
        out.write("}}")
    tracemalloc.start()
    count = sum(1 for _ in pieces.pieces(file, "apart", "a file"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 400 and file.stat().st_size > 20_000_000 and peak < 1_500_000


def test_a_fault_ends_the_reading_where_it_is(tmp_path: Path) -> None:
    """A fault at the start of a large file is found without the rest."""
    file = tmp_path / "x.json"
    file.write_bytes(b'{"apart": {"a": {"x": [1,, ' + b"1, " * 1_000_000)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"'apart', 'a', character 26: Expecting value"):
        read(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_500_000


def test_files_that_are_packed_wrong(tmp_path: Path) -> None:
    packed, file = gzip.compress(random.Random(0).randbytes(3000)), tmp_path / "x.json.gz"
    for content, message in ((packed[:60], "truncated gzip"), (packed[:10] + b"\xff" * 20, "damaged gzip")):
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf"x\.json\.gz'.*{message}"):
            read(file)
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "none.json")
