"""What is measured, the most telling first, so that a run that ends early has that."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.common.cases import Case

INPUTS = 96
CLIENTS, HIDDEN, BATCH, DTYPES = (1, 8, 32, 128), (64, 128, 256, 512, 1024), (4, 16, 64), ("bfloat16", "float32")
COHORT = Case(16, 20, INPUTS, 256, clients=32, dtype="bfloat16")
ALONE = Case(64, 80, INPUTS, 512, clients=1, dtype="bfloat16")
STACKED = ("stacked", "stacked graph")
# The shapes that goals are set for, and whom each is compared with, row by row: a compiler that takes too long costs its own.
GOALS = {
    "cohort": (COHORT, (("loop", *STACKED, "GRU"), ("compiled graph",))),
    "alone": (ALONE, ((*STACKED, "GRU", "GRU graph"),)),
}
TINY = Case(3, 4, 5, 8, clients=2)

Todo = list[tuple[Case, tuple[str, ...]]]


def goal(name: str, gpu: bool) -> Todo:
    case, rows = GOALS[name]
    case = case if gpu else replace(TINY, clients=min(case.clients, 2), dtype=case.dtype)
    return [(case, rivals) for rivals in rows]


def sweep(gpu: bool) -> Todo:
    """K, H, B and dtype: first one at a time around the cohort's shape, then all together."""
    if not gpu:
        return [(replace(TINY, clients=k, dtype=dtype), against(k)) for k in (1, 2) for dtype in DTYPES]
    cases = list(dict.fromkeys(itertools.chain(*(_around(dtype) for dtype in DTYPES), _grid())))
    return [(case, against(case.clients)) for case in cases]


def against(clients: int) -> tuple[str, ...]:
    return ("loop", *STACKED, "GRU") if clients <= COHORT.clients else STACKED


def _around(dtype: str) -> Iterator[Case]:
    base = replace(COHORT, dtype=dtype)
    yield from (replace(base, hidden=h) for h in HIDDEN)
    yield from (replace(base, clients=k) for k in CLIENTS)
    yield from (replace(base, batch=b) for b in BATCH)


def _grid() -> Iterator[Case]:
    for dtype, hidden, clients, batch in itertools.product(DTYPES, HIDDEN, CLIENTS, BATCH):
        yield replace(COHORT, dtype=dtype, hidden=hidden, clients=clients, batch=batch)
