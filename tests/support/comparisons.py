"""Small comparisons, and what they leave behind."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checksums
import harness
import pytest

from flow import Config, ModelOptions, SharedOptions
from flow.simulation import loop
from flow.storage import files

TINY: Config[Any] = Config(
    algorithm=SharedOptions(batch_size=2, epochs=1),
    model=ModelOptions(embedding_dim=3, hidden_size=4),
    rounds=2,
    cohort=4,
    evaluate_every=0,
    checkpoint_every=1,
    threads=1,
    min_texts=0,
    validation_share=0.0,
)
ARGUMENTS = [
    "--embedding-dim",
    "4",
    "--hidden-size",
    "5",
    "--cohort",
    "3",
    "--rounds",
    "2",
    "--min-texts",
    "5",
    "--threads",
    "1",
]
ARGUMENTS += ["--data", "mine.jsonl.gz", "--evaluate-every", "0"]
QUIET: dict[str, Any] = {"population": harness.POPULATION, "progress": False}


def write_plainly(put: Callable[[object, str, object], None]) -> None:
    """Let runs write a report of one word: reports are tested elsewhere.

    put: what sets an attribute, as setattr.
    """

    def report(folder: Path) -> Path:
        files.write(folder / "report.html", b"report")
        return folder / "report.html"

    put(loop, "_write_report", report)


@pytest.fixture(name="plain")
def plain_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of one word."""
    write_plainly(monkeypatch.setattr)


def tree(folder: Path) -> dict[str, str]:
    """The content of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(Path(folder).rglob("*"))
    }


def results(folder: Path) -> dict[str, Any]:
    """results.json without what the clock says."""
    content = checksums.plain((Path(folder) / "results.json").read_text())
    for row in content["algorithms"]:
        for numbers in (row["mean"], row["spread"], *(run for run in row["each"] if run is not None)):
            del numbers["seconds"]
    return content
