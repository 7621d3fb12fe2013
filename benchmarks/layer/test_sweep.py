"""The two pictures: time against H for everything, and the speed-up against the eager loop over (H, B)."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.common.cases import Case
from benchmarks.common.timing import Effort
from benchmarks.layer.lab import Lab

HIDDEN = [32, 64, 128, 512, 1024]  # beside 256 and 670, which test_training.py measures
MAP_HIDDEN = [32, 64, 100, 256, 512, 670, 1024]
MAP_BATCH = [1, 2, 3, 4, 8, 16, 64]
MAP = Effort(seconds=0.02, turns=(3, 5), budget=1.2)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_time_against_hidden(hidden: int, lab: Lab, benchmark: Any) -> None:
    if lab.quick and hidden > 128:
        pytest.skip("quick: too long")
    case = Case(16, 20, 96, hidden)
    ours = lab.measure("sweep", case, ("eager", "hoisted", "GRU", "jax scan", "jax hoisted", "mkl eager"))
    benchmark.pedantic(ours.call, rounds=3, iterations=1)


@pytest.mark.parametrize("batch", MAP_BATCH)
@pytest.mark.parametrize("hidden", MAP_HIDDEN)
def test_map(hidden: int, batch: int, lab: Lab, benchmark: Any) -> None:
    if lab.quick and (hidden * batch > 1100 or hidden in (100, 512) or batch in (2, 4)):
        pytest.skip("quick: too long")
    case = Case(batch, 20, 96, hidden)
    ours = lab.measure("map", case, ("eager",), effort=None if lab.quick else MAP)
    benchmark.pedantic(ours.call, rounds=1, iterations=1)
