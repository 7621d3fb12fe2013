"""The benchmarks' common part: paired timing, and a table of ratios at the end of the run.

Two ways of computing the same thing are timed in turn, A B A B ..., so that a machine whose speed drifts slows both; the figure
to quote is the median of the ratios of neighbours. Absolute times are pytest-benchmark's.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import torch

PAIRS = 15
SECONDS = 0.05  # least length of one timing


@dataclass
class Row:
    name: str
    baseline: str
    ours_ms: float
    baseline_ms: float
    ratio: float
    spread: tuple[float, float]


@dataclass
class Table:
    rows: list[Row] = field(default_factory=list)

    def compare(self, name: str, ours: Callable[[], object], baseline: str, theirs: Callable[[], object]) -> float:
        """Time both in turn; returns how many times faster `ours` is (median over the pairs)."""
        pairs = [(_time(ours), _time(theirs)) for _ in range(PAIRS)]
        ratios = sorted(b / a for a, b in pairs)
        a, b = (statistics.median(p[i] for p in pairs) * 1e3 for i in (0, 1))
        row = Row(name, baseline, a, b, statistics.median(ratios), (ratios[PAIRS // 10], ratios[-1 - PAIRS // 10]))
        self.rows.append(row)
        return row.ratio


def _time(function: Callable[[], object]) -> float:
    """Seconds per call, over as many calls as fill SECONDS."""
    start, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < SECONDS or not calls:
        function()
        calls += 1
    return elapsed / calls


_table = Table()


@pytest.fixture
def table() -> Table:
    return _table


@pytest.fixture(params=[1, 2], ids=lambda n: f"{n} thread{'s' * (n > 1)}")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _table.rows:
        return
    write = terminalreporter.write_line
    terminalreporter.section("ratios, medians of interleaved pairs")
    write(f"{_processor()}; torch {torch.__version__}; {time.strftime('%Y-%m-%d')}")
    width = max(len(row.name) for row in _table.rows)
    write(f"{'':{width}}  {'ours ms':>9}  {'other ms':>9}  {'ratio':>6}  {'10-90 %':>13}  against")
    for row in _table.rows:
        low, high = row.spread
        spread = f"{low:.2f} - {high:.2f}"
        write(
            f"{row.name:{width}}  {row.ours_ms:9.2f}  {row.baseline_ms:9.2f}  {row.ratio:5.2f}x  {spread:>13}  {row.baseline}"
        )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {torch.get_num_threads()} cores for torch, {torch.backends.cpu.get_cpu_capability()}"
