"""The runs of a comparison as a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flow.comparison.table import JOINT, Row, asked, descriptions
from flow.simulation.frames import frame

if TYPE_CHECKING:
    import pandas


def of_runs(rows: Sequence[Row]) -> pandas.DataFrame:
    """One row per algorithm and seed, see :attr:`flow.comparison.run.Comparison.table`."""
    rows = [asked(row, rows) for row in rows]
    runs = [(row, seed, measures) for row in rows for seed, measures in zip(row.seeds, row.each, strict=True)]
    columns: dict[str, list[Any]] = {
        "algorithm": [row.name for row, _, _ in runs],
        "seed": [seed for _, seed, _ in runs],
        "kind": [row.kind() for row, _, _ in runs],
        "stateful": [row.stateful for row, _, _ in runs],
        "per_client": [row.client for row, _, _ in runs],
        "per_instance": [row.instance for row, _, _ in runs],
        "lr": [row.lr for row, _, _ in runs],
        "diverged": [measures is None for _, _, measures in runs],
    }
    columns |= {
        name: [None if measures is None else measures[name] for _, _, measures in runs]
        for name in descriptions()
        if name not in JOINT and all(name in row.mean for row in rows)
    }
    return frame(columns, None, "Comparison.table")
