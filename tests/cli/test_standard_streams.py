"""What commands print where the shell closed a standard stream, or leads it to a disk that is full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PYTHON = Path(sys.executable).absolute()
ROOT = Path(__file__).parents[2]
FULL = Path("/dev/full")


def shell(line: str) -> tuple[int, str]:
    """The exit code of a command, and what it says on both streams."""
    ended = subprocess.run(["bash", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return ended.returncode, ended.stdout


@pytest.mark.parametrize(
    ("arguments", "closed"),
    [("--help", ">&-"), ("run --help", ">&-"), ("--help", "2>&-"), ("nothing", ">&-"), ("nothing", "2>&-")],
)
def test_a_closed_stream_changes_nothing_but_what_is_seen(arguments: str, closed: str) -> None:
    code, text = shell(f"{PYTHON} -m flow {arguments} {closed}")
    assert code == (2 if arguments == "nothing" else 0)
    assert "Traceback" not in text and "Exception ignored" not in text
    assert bool(text) == (closed == (">&-" if code else "2>&-"))  # an error goes to one stream, everything else to the other


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    ("arguments", "unbuffered"), [("--help", ""), ("--version", "1"), ("run --help", ""), ("run --help", "1")]
)
def test_an_output_that_cannot_be_written_is_said_in_one_line(arguments: str, unbuffered: str) -> None:
    code, text = shell(f"PYTHONUNBUFFERED={unbuffered} {PYTHON} -m flow {arguments} > {FULL}")
    assert code == 2
    assert text == (
        "flow: the standard output cannot be written (No space left on device); direct it to a terminal, to /dev/null or to a "
        "file on a disk with free space\n"
    )


RUN = (
    "run fedavg --data mine.jsonl --rounds 1 --cohort 2 --threads 1 --embedding-dim 4 --hidden-size 4 --final-clients 2 "
    "--folder"
)


def start(place: Path, folder: str, streams: str) -> tuple[int, str]:
    """A small run; its exit code, and what it says on the streams that are left."""
    lines = (f'{{"id": "{name}", "texts": ["a b c {name}", "b c", "c"]}}\n' for name in "uvwxyz")
    (place / "mine.jsonl").write_text("".join(lines))
    return shell(f"set -o pipefail; cd {place} && FLOW_CACHE= PYTHONPATH={ROOT} {PYTHON} -m flow {RUN} {folder} {streams}")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    ("streams", "code"), [(f"> {FULL}", 2), (f"2> {FULL}", 0), (f"> {FULL} 2> {FULL}", 2), ("| true", 141)]
)
def test_a_run_whose_output_is_refused_leaves_everything_on_disk(tmp_path: Path, streams: str, code: int) -> None:
    ended, text = start(tmp_path, "mine", streams)
    assert ended == code
    assert {"evaluation.json", "run.json", "report.html"} <= {path.name for path in (tmp_path / "mine").iterdir()}
    assert "resume" not in text and "Traceback" not in text
    assert ("the standard output cannot be written (No space left on device)" in text) == (streams == f"> {FULL}")
    if streams == f"2> {FULL}":
        assert text.endswith("report: mine/report.html\n") and not text.startswith("\n")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_full_error_stream_leaves_the_output_as_it_is() -> None:
    assert shell(f"{PYTHON} -m flow nothing 2> {FULL}") == (2, "")
    assert shell(f"{PYTHON} -m flow --help 2> {FULL}") == shell(f"{PYTHON} -m flow --help")


def test_a_file_never_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """A run without standard streams writes the same files as any other run."""
    for folder, closed in (("open", ""), ("closed", "<&- >&- 2>&-")):
        code, text = start(tmp_path, folder, closed)
        assert code == 0, text
    texts = [(tmp_path / folder / "evaluation.json").read_text() for folder in ("open", "closed")]
    assert texts[0] == texts[1]
