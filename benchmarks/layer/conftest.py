"""Options, the one Lab of a run, and what happens at its end: tables on the terminal, a JSON file, two pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.layer import plots, tables
from benchmarks.layer.lab import Lab
from flow.storage.files import write, write_json

LAB = pytest.StashKey[Lab]()
RESULTS = Path(__file__).resolve().parents[1] / "results"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("flow's benchmark")
    group.addoption("--quick", action="store_true", help="few turns and small sizes: does it work, in about a minute")
    group.addoption("--out", type=Path, default=RESULTS, help="folder for cpu.json and tables.md")
    group.addoption("--images", type=Path, default=None, help="folder for the pictures; that of --out if not given")


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    threads = torch.get_num_threads()
    session = Lab(quick=request.config.getoption("quick"))
    request.config.stash[LAB] = session
    if {"test_memory", "test_shapes"} <= {item.name.split("[")[0] for item in request.session.items}:
        session.crew.start_compiling()
    yield session
    session.close()
    torch.set_num_threads(threads)


@pytest.fixture(params=[1, 2], ids=lambda n: f"{n} thread{'s' * (n > 1)}")
def threads(request: pytest.FixtureRequest, lab: Lab) -> int:
    if request.param > lab.machine["cores"]:
        why = f"this process may use {lab.machine['cores']} core"
        lab.missing["2 threads"] = why
        pytest.skip(why)
    return int(request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Memory first: it can be measured while torch.compile is at work beside it, times cannot."""
    items.sort(key=lambda item: "test_memory" not in item.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lab = config.stash.get(LAB, None)
    if lab is None or not (lab.rows or lab.memory):
        return
    report = lab.report()
    text = tables.markdown(report)
    terminalreporter.section("ratios, medians of interleaved pairs")
    for line in text.splitlines():
        terminalreporter.write_line(line)
    folder: Path = config.getoption("out")
    images: Path = config.getoption("images") or folder
    for path in (folder, images):
        path.mkdir(parents=True, exist_ok=True)
    write_json(folder / "cpu.json", report)
    write(folder / "tables.md", text.encode())
    drawn = plots.draw(report, images)
    written = ", ".join(str(path) for path in (folder / "cpu.json", folder / "tables.md", *drawn))
    terminalreporter.write_line(f"\nwritten: {written}")
