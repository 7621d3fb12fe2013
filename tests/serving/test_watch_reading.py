"""What `flow watch` reads: rows of a file that grows, curves that stay small, and who works in a folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flow.serving.watch import rows
from flow.serving.watch.holder import Hold, holder
from flow.serving.watch.rows import Rows
from flow.serving.watch.thinning import MOST, Thinned
from flow.storage import lock


def line(round: int, **values: Any) -> bytes:
    return json.dumps({"round": round, **values}).encode() + b"\n"


def numbers(own: Rows) -> list[int]:
    return [row["round"] for row in own.read()]


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    own = Rows(path)
    assert numbers(own) == [] and own.written is None
    path.write_bytes(line(1) + line(2))
    assert numbers(own) == [1, 2] and numbers(own) == [] and own.written == path.stat().st_mtime
    with path.open("ab") as file:
        file.write(line(3) + line(4)[:5])
        file.flush()
        assert numbers(own) == [3], "the fourth line has not ended"
        file.write(line(4)[5:])
    assert numbers(own) == [4] and own.restarts == own.damaged == 0


def test_a_file_in_the_place_of_another_is_read_anew(tmp_path: Path) -> None:
    path, other = tmp_path / "metrics.jsonl", tmp_path / "other"
    path.write_bytes(line(1) + line(2) + line(3)[:4])
    own = Rows(path)
    assert numbers(own) == [1, 2]
    other.write_bytes(line(1) + line(2) + line(3))
    other.replace(path)  # as a resumed run does
    assert numbers(own) == [1, 2, 3] and own.restarts == 1
    path.write_bytes(line(1))  # shorter, and the same file
    assert numbers(own) == [1] and own.restarts == 2
    path.write_bytes(line(7) + line(8))  # longer, and another beginning
    assert numbers(own) == [7, 8] and own.restarts == 3
    path.unlink()
    assert numbers(own) == [] and own.restarts == 3 and own.written is None, "what was read stays"
    path.write_bytes(line(7))
    assert numbers(own) == [7] and own.restarts == 4


def test_lines_that_are_no_rows_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    wrong = [
        b"\xff",
        b"[]",
        b"{",
        b"null",
        b'{"round": true}',
        b'{"round": "2"}',
        b'{"round": 1}',
        b'{"round": 0}',
        b"[" * 99999,
    ]
    path.write_bytes(line(1) + b"".join(bad + b"\n" for bad in wrong) + b'{"round": ' + b"9" * 5000 + b"}\n" + line(2))
    own = Rows(path)
    assert numbers(own) == [1, 2] and own.damaged == len(wrong) + 1
    for value in (None, True, "1", float("nan"), float("inf"), 10**400, [1]):
        assert rows.number(value) is None
    assert rows.number(3) == 3.0 and rows.number(-0.5) == -0.5


def test_a_large_file_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "PIECE", 64)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(map(line, range(1, 31))) + b"x" * 200 + b"\n" + line(31))
    own, read = Rows(path), []
    for _ in range(40):
        new = numbers(own)
        assert len(new) <= 5
        read += new
    assert read == list(range(1, 32)) and own.damaged >= 1 and not own.behind


def test_what_is_no_file_has_no_rows(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")  # opening it for reading would wait for a writer
    assert numbers(Rows(tmp_path / "metrics.jsonl")) == []
    assert numbers(Rows(tmp_path)) == []


def test_a_curve_keeps_its_shape_and_stays_small() -> None:
    own = Thinned(1)
    for round in range(1, 10 * MOST + 1):
        own.add(round, 2.0 * round, round)
    start, points = own.since(0) or (0, [])
    assert own.each == 16 and start == 0 and MOST / 2 < len(points) <= MOST
    assert all(y == pytest.approx(2 * x, rel=1e-5) for x, y in points if x is not None)
    assert points[0] == [8.5, 17.0], "the mean of 16 rounds"


def test_only_what_changed_of_a_curve_is_told() -> None:
    own, told = Thinned(1), list[list[float | None]]()
    last = 0
    for version in range(1, 3 * MOST):
        own.add(version, None if version % 7 == 0 else 1.0 / version, version)
        if version % 5 == 0:
            start, new = own.since(last) or (len(told), [])
            told[start:] = new
            assert len(new) <= 6 or start == 0
            last = version
    assert own.since(last) is not None and own.since(3 * MOST) is None
    start, new = own.since(last) or (0, [])
    told[start:] = new
    assert (0, told) == own.since(0)


def test_gaps_are_told_as_gaps() -> None:
    own = Thinned(1)
    for round, value in enumerate((1.0, None, 3.0), start=1):
        own.add(round, value, 1)
    assert own.since(0) == (0, [[1.0, 1.0], [2.0, None], [3.0, 3.0]])


def test_who_has_a_folder_is_known_without_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert holder(tmp_path).hold is Hold.NONE and holder(tmp_path / "none").hold is Hold.NONE
    with lock.held(tmp_path):
        monkeypatch.setattr("fcntl.flock", lambda *_: pytest.fail("the lock was asked for"))
        before = (tmp_path / lock.NAME).read_bytes()
        assert holder(tmp_path).hold is Hold.HERE and holder(tmp_path).process == os.getpid()
        assert (tmp_path / lock.NAME).read_bytes() == before
    assert holder(tmp_path).hold is Hold.NONE


def test_a_lock_that_was_left_is_told_from_one_that_is_held(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = tmp_path / lock.NAME
    for process, host, expected in (
        (ended.pid, socket.gethostname(), Hold.LEFT),
        (os.getpid(), socket.gethostname(), Hold.LEFT),  # the number is that of another process now
        (10**18, socket.gethostname(), Hold.LEFT),
        (-1, socket.gethostname(), Hold.LEFT),
        (ended.pid, "another.host", Hold.ELSEWHERE),
    ):
        path.write_text(json.dumps({"process": process, "host": host, "since": "2026-01-01 10:00:00+00:00"}))
        assert holder(tmp_path)[:2] == (expected, process), (process, host)
    for content in ("", "{", "[]", '{"process": "x"}'):
        path.write_text(content)
        assert holder(tmp_path).hold is Hold.HERE, "a process is only now writing it"
        os.utime(path, (time.time() - 60, time.time() - 60))
        assert holder(tmp_path).hold is Hold.LEFT
