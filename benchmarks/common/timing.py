"""How everything here is timed. Knows nothing of what it times and imports neither torch nor JAX: workers use it too.

Contenders take turns, A B C A B C ..., so that a machine whose speed drifts slows all of them. A ratio is taken within a turn,
against the mean of our two samples around it; the figure to quote is the median over the turns.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Sample:
    seconds: float  # a call
    cores: float  # processor time by wall time: how many cores were busy


@dataclass(frozen=True)
class Spread:
    """Of repeated measurements: the median, and the range without the lowest and the highest tenth."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        tenths = statistics.quantiles(values, n=10, method="inclusive")
        return cls(statistics.median(values), tenths[0], tenths[-1])


class Contender(Protocol):
    name: str

    def sample(self, seconds: float) -> Sample: ...


def sample(call: Callable[[], object], seconds: float) -> Sample:
    """Time `call` over as many calls as fill `seconds`, after one that warms what another contender has cooled. A call that
    fills the time alone is warm enough: that one counts."""
    cpu, start = time.process_time(), time.perf_counter()
    call()
    first = time.perf_counter() - start
    if first >= seconds:
        return Sample(first, (time.process_time() - cpu) / first)
    calls = 0
    cpu, start = time.process_time(), time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or not calls:
        for _ in range(batch := max(1, int(seconds / 8 / max(first, 1e-7)))):  # the clock is read a few times, not every call
            call()
        calls += batch
    return Sample(elapsed / calls, (time.process_time() - cpu) / elapsed)


@dataclass(frozen=True)
class Effort:
    seconds: float  # least length of one sample
    turns: tuple[int, int]  # fewest, most
    budget: float  # seconds for all turns of one comparison, where the fewest allow it


def compare(ours: Contender, others: Sequence[Contender], effort: Effort) -> dict[str, Any]:
    """Sample all in turn; returns {"turns": n, "contenders": {name: {"seconds", "cores", "ratio"}}}, spreads as dictionaries.

    A ratio is that contender's time by ours: how many times faster we are."""
    start = time.perf_counter()
    for contender in (ours, *others):  # nobody's first call of all is measured
        contender.sample(0.0)
    estimate = max(time.perf_counter() - start, (len(others) + 1) * effort.seconds)
    fewest, most = effort.turns
    turns = min(most, max(fewest, int(effort.budget / estimate)))
    mine = [ours.sample(effort.seconds)]
    theirs: list[list[Sample]] = [[] for _ in others]
    for _ in range(turns):
        for contender, samples in zip(others, theirs, strict=True):
            samples.append(contender.sample(effort.seconds))
        mine.append(ours.sample(effort.seconds))
    around = [(a.seconds + b.seconds) / 2 for a, b in itertools.pairwise(mine)]
    entries = {ours.name: _entry(mine)}
    for contender, samples in zip(others, theirs, strict=True):
        ratios = [theirs.seconds / ours_seconds for theirs, ours_seconds in zip(samples, around, strict=True)]
        entries[contender.name] = _entry(samples) | {"ratio": asdict(Spread.of(ratios))}
    return {"turns": turns, "contenders": entries}


def _entry(samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        "seconds": asdict(Spread.of([s.seconds for s in samples])),
        "cores": round(statistics.median(s.cores for s in samples), 2),
    }
