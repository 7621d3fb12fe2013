"""Commands in a terminal, in a pipe and in continuous integration, and what Ctrl-C leaves there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from terminals import Terminal

ROOT = Path(__file__).parents[2]
FLOW = [sys.executable, "-m", "flow"]
ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
LONG = [
    *FLOW,
    "run",
    "fedavg",
    "--data",
    "mine.jsonl",
    "--rounds",
    "100000",
    "--cohort",
    "3",
    "--threads",
    "1",
    "--folder",
    "r",
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a small data set."""
    lines = (f'{{"id": "{name}", "texts": ["a b c {name}", "b c", "c a b"]}}\n' for name in "uvwxyz")
    (tmp_path / "mine.jsonl").write_text("".join(lines))
    return tmp_path


def terminal(command: list[str], place: Path, columns: int = 80, **environment: str | None) -> Terminal:
    return Terminal(command, place, columns, {"PYTHONPATH": str(ROOT), "FLOW_CACHE": "", **environment})


def piped(command: list[str], place: Path, **environment: str) -> tuple[int, str]:
    """The exit code, and what goes into a pipe."""
    own = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE")}
    own |= {"PYTHONPATH": str(ROOT), "FLOW_CACHE": "", **environment}
    ended = subprocess.run(command, cwd=place, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return ended.returncode, ended.stdout.decode()


SHORT = [part if part != "100000" else "30" for part in LONG]


@pytest.mark.parametrize("environment", [{}])
def test_a_run_in_a_pipe_writes_plain_lines(environment: dict[str, str], place: Path) -> None:
    code, text = piped(SHORT, place, **environment)
    assert code == 0 and "report: r/report.html" in text
    assert "\r" not in text and "\x1b" not in text


def test_a_run_in_continuous_integration_with_a_terminal_writes_plain_lines(place: Path) -> None:
    with terminal(SHORT, place, CI="true") as session:
        code, text = session.end()
    assert code == 0 and "report: r/report.html" in text
    assert "\r" not in text.replace("\r\n", "\n") and not ESCAPES.search(text)


def test_ctrl_c_in_a_terminal_leaves_a_clean_line(place: Path) -> None:
    with terminal(LONG, place) as session:
        session.until("loss=")
        session.type("\x03")
        code, text = session.end()
    assert code == 130
    assert "Traceback" not in text
    last = [line for line in ESCAPES.sub("", text).replace("\r\n", "\n").split("\n") if line.strip("\r")][-1]
    assert last.rpartition("\r")[2] == "flow: stopped; go on with `flow run --resume r`"
    assert text.endswith(("`\r\n", "`\r\n\r\x1b[K"))  # what the shell writes next begins at the left


def test_ctrl_c_before_anything_is_drawn_leaves_a_clean_line(place: Path) -> None:
    sleeping = "import sys, time, flow.data.loading as l; l._load = lambda *a: (print('ready', flush=True), time.sleep(60)); "
    sleeping += "from flow.cli.main import main; sys.exit(main(['prepare', '--data', 'mine.jsonl']))"
    with terminal([sys.executable, "-c", sleeping], place) as session:
        session.until("ready")
        session.type("\x03")
        code, text = session.end()
    assert code == 130 and "Traceback" not in text and text.endswith("\r\x1b[K")


@pytest.mark.parametrize("columns", [40])
def test_help_in_a_narrow_terminal_and_without_colours(columns: int, place: Path) -> None:
    with terminal([*FLOW, "report", "--help"], place, columns, NO_COLOR="1") as session:
        code, text = session.end()
    assert code == 0 and "FOLDER" in text and not ESCAPES.search(text)
    _, *lines = text.replace("\r\n", "\n").split("\n")  # the first one is for copying
    assert max(map(len, lines)) <= columns


def test_help_in_a_pipe_has_no_colours(place: Path) -> None:
    code, text = piped([*FLOW, "report", "--help"], place)
    assert code == 0 and "FOLDER" in text and not ESCAPES.search(text)
