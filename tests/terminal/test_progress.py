"""Progress as lines in a pipe and as a bar in a terminal."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from terminals import Terminal

from flow.terminal import progress
from flow.terminal.progress import Progress

WORK = """
import sys, time
from flow.terminal.progress import Progress
with Progress(what="a/very/long/name/of/a/folder/with/a/run", unit="round", total=40) as bar:
    for number in range(40):
        time.sleep(0.05)
        bar.say({"loss": "1.234"})
        bar.update()
print("done", flush=True)
"""


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()
    monkeypatch.setattr(progress, "time", own)
    return own


def test_a_line_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress[None](what="runs/mine", unit="round", total=100) as bar:
        for _ in range(60):
            clock.now += 1
            bar.say({"loss": "2.5"})
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "runs/mine: 10 of 100 rounds in 0:10, about 1:30 left, loss 2.5",
        "runs/mine: 25 of 100 rounds in 0:25, about 1:15 left, loss 2.5",
        "runs/mine: 48 of 100 rounds in 0:48, about 0:52 left, loss 2.5",
        "runs/mine: 60 of 100 rounds in 1:00, about 0:40 left, loss 2.5",
    ]


def test_short_work_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for item in Progress(range(5), what="short", unit="client", total=5):
        clock.now += item / 2
    assert capsys.readouterr() == ("", "")
    with Progress[None](what="quiet", unit="client", visible=False) as bar:
        clock.now += 1000
        bar.update()
    assert capsys.readouterr() == ("", "")


def test_bytes_are_a_share_or_megabytes(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for unit, total, expected in (
        ("B", 4_000_000, "50 %"),
        ("B", None, "2.0 MB"),
        ("", None, "2,000,000"),
        ("", 8_000_000, "25 %"),
    ):
        bar: Progress[None] = Progress(what="reading", unit=unit, total=total)
        clock.now += 3700
        bar.update(2_000_000)
        assert capsys.readouterr().err.startswith(f"reading: {expected} in 1:01:40")


def test_a_run_that_goes_on_counts_what_was_done(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar: Progress[None] = Progress(what="r", unit="round", total=80, before=40)
    clock.now += 20
    bar.update(10)
    assert capsys.readouterr().err == "r: 50 of 80 rounds in 0:20, about 1:00 left\n"


def work(folder: Path, columns: int, **environment: str | None) -> Terminal:
    return Terminal([sys.executable, "-c", WORK], folder, columns, environment)


def frames(text: str) -> list[str]:
    """What was drawn, one after the other."""
    return [frame for frame in re.split(r"[\r\n]+", text) if frame]


@pytest.mark.parametrize("columns", [100, 40, 20])
def test_a_bar_fits_into_the_terminal(columns: int, tmp_path: Path) -> None:
    with work(tmp_path, columns) as terminal:
        code, text = terminal.end()
    assert (code == 0 and "40/40" in text) or columns == 20
    assert len(frames(text)) > 5 and max(map(len, frames(text))) <= columns
    assert text.endswith("done\r\n") and "\x1b" not in text


def test_a_bar_follows_the_window(tmp_path: Path) -> None:
    with work(tmp_path, 100) as terminal:
        terminal.until("10/40")
        terminal.resize(50)
        before = len(terminal.text)
        code, text = terminal.end()
    later = frames(text[before:])[3:]  # one frame may have been drawn already
    assert code == 0 and len(later) > 3 and max(map(len, later)) <= 50 < max(map(len, frames(text[:before])))


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"CI": "true"}])
def test_a_terminal_that_is_not_drawn_over_gets_no_bar(environment: dict[str, str | None], tmp_path: Path) -> None:
    with work(tmp_path, 80, **environment) as terminal:
        assert terminal.end() == (0, "done\r\n")
