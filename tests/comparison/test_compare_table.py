"""The table of a comparison, from known numbers."""

import csv
import io
import math
from typing import Literal

import pytest

from flow.algorithms import NAMES
from flow.algorithms.ditto import DittoOptions
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.ffgg import FFGGOptions
from flow.comparison.table import Row, csv_table, descriptions, row_of, text_table
from flow.reports.format import HYPHEN, scaled


def test_the_classes_of_the_poster() -> None:
    """Table 1 of Panchal et al. (CrossFL 2022). LG-FedAvg is stateless there; clients keep their body here, as published."""
    classes = {
        "server-side only": ["fedavg", "fedyogi"],
        "stateful, per client": ["apfl", "ditto", "lgfedavg"],
        "stateful, per client + per instance": ["privategate"],
        "stateless, per client": ["fedprox", "fedrecon"],
        "stateless, per client + per instance": ["dynamic_routing", "flow"],
    }
    for kind, names in classes.items():
        for name in names:
            assert row_of(name, NAMES[name].algorithm.options(), []).kind() == kind, name
    start: Literal["kept", "initial"]
    for start, kind in (("kept", "stateful, per client"), ("initial", "stateless, per client")):
        assert row_of("ffgg", FFGGOptions(start=start), []).kind() == kind


def numbers(value: float | None) -> dict[str, float | None]:
    return dict.fromkeys(descriptions(), value)


def test_the_table_of_known_numbers() -> None:
    runs = [
        {**numbers(0.25), "upload_bytes": 1500.0, "total_flops": 2e9, "seconds": 90.0},
        {**numbers(0.75), "upload_bytes": 1500.0, "total_flops": 2e9},
    ]
    row = row_of("ditto", DittoOptions(lr=0.5), [runs[0], None, runs[1]], {"worst_tenth_seen": 0.123})
    assert (row.runs, row.diverged, row.lr) == (2, 1, 0.5)
    assert row.mean["personal_seen"] == 0.5 and row.spread["personal_seen"] == pytest.approx(math.sqrt(0.125))
    nothing = row_of("fedavg", FedAvgOptions(), [None])
    assert nothing.mean == nothing.spread == numbers(None)
    partly = row_of("fedavg", FedAvgOptions(), [numbers(0.5), {**numbers(0.5), "helped_seen": None}])
    assert partly.mean["helped_seen"] is None and partly.mean["personal_seen"] == 0.5
    printed = text_table([row, nothing])
    assert "50.00 ± 35.36" in printed and "1.50 kB" in printed and "2.00 GFLOP" in printed and "45.4 s" in printed
    assert "12.30" in printed and row.mean["worst_tenth_seen"] == 0.123
    assert row.mean["worst_tenth_unseen"] is row.spread["worst_tenth_seen"] is None
    assert "ditto (1 diverged)" in printed and "fedavg (1 diverged)" in printed
    widths = {len(line) for line in printed.splitlines()[1:4]}
    assert len(widths) == 1  # columns line up
    line = list(csv.DictReader(io.StringIO(csv_table([row, nothing]))))
    assert line[0]["total_flops"] == "2000000000.0" and line[1]["total_flops"] == "" and line[1]["diverged"] == "1"
    assert line[0]["worst_tenth_seen"] == "0.123" and "worst_tenth_seen_std" not in line[0]
    assert [scaled(value, missing=HYPHEN) for value in (0.0, 999.0, 999.6, 12345.0, 999_600.0, 2e15, None)] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "12.3 kB",
        "1.00 MB",
        "2000 TB",
        "-",
    ]
    assert isinstance(row, Row)
