"""A small comparison with all that is kept of it, and its files read by plain Python."""

import csv
import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, NoReturn

import checksums
import oracles
import pytest
from comparisons import TINY, results, tree

from flow import Comparison, Config, compare, resume_comparison
from flow.comparison import jobs
from flow.evaluation.select import choose_clients
from flow.simulation import loop
from flow.storage import files

NAMES = ["fedavg", "fedavgft", "ditto"]
CONFIG: Config[Any] = dataclasses.replace(TINY, evaluate_every=1, evaluate_clients=2, final_clients=7, rounds=3)
"""Of the 12 seen clients other 7 are scored with every seed, so some are paired and some are not, see :func:`by_seed`."""
POPULATION = oracles.population((5, 1, 11, 2, 8, 3, 4, 6, 7, 2, 9, 4), (6, 9, 3, 4, 5))
QUIET: dict[str, Any] = {"population": POPULATION, "progress": False}
GIVEN: dict[str, Any] = {"algorithms": NAMES, "config": CONFIG, "seeds": 2, "against": "fedavgft"}


def by_seed(patched: pytest.MonkeyPatch) -> None:
    """Runs score other clients with every seed at the end, as those of an older build did."""
    patched.setattr("flow.evaluation.gather.choose_clients", lambda task, most, _: choose_clients(task, most, "curve"))


@pytest.fixture(scope="session", name="whole")
def whole_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished comparison; copy it before changing it."""

    def report(folder: Path) -> Path:
        files.write(folder / "report.html", b"report")
        return folder / "report.html"

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "_write_report", report)
        by_seed(patched)
        return compare(folder=tmp_path_factory.mktemp("kept") / "c", **GIVEN, **QUIET).folder


@pytest.fixture(name="copied")
def copied_fixture(whole: Path, tmp_path: Path, plain: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of that folder."""
    by_seed(monkeypatch)
    return shutil.copytree(whole, tmp_path / "c")


@pytest.fixture(name="untrained")
def untrained_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any training is an error."""

    def no_training(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a run was started or continued")

    monkeypatch.setattr(jobs, "simulate", no_training)
    monkeypatch.setattr(jobs, "resume", no_training)


def runs() -> list[tuple[str, int]]:
    """(name, seed) of every run."""
    return [(name, seed) for name in NAMES for seed in (0, 1)]


def evaluation(folder: Path, name: str, seed: int) -> Any:
    return json.loads((folder / "runs" / f"{name}-seed{seed}" / "evaluation.json").read_text())


def lines(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def hashed(client_id: str) -> str:
    return hashlib.sha256(client_id.encode()).hexdigest()[:16]


def again(folder: Path, **options: Any) -> Comparison:
    return resume_comparison(folder, **options, **QUIET)


def same_results(folder: Path, other: Path) -> None:
    """All that a comparison writes is the same, the times too, since they are kept."""
    for name in ("table.csv", "table.txt", "paired.csv", "results.json", "comparison.json"):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    assert results(folder) == results(other) and tree(folder / "kept") == tree(other / "kept")


def edit(path: Path, **changes: Any) -> None:
    """Change a JSON file, with a right checksum."""
    checksums.rewrite(path, json.loads(path.read_text()) | changes)
