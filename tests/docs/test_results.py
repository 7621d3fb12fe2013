"""The tables of docs/results.md follow from the counts that are kept of the runs."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from flow.comparison.paired import paired

DOCS = Path(__file__).parents[2] / "docs"
SEEDS = range(3)
LINES = {"fedavgft": "fine-tuning (`fedavgft`)", "flow": "**Flow**", "constant": "constant mixture, weight "}


class Counts:
    """Of one algorithm on one side: [seeds, clients] each."""

    def __init__(self, folder: Path, algorithm: str, side: str, seeds: range = SEEDS) -> None:
        runs = []
        for seed in seeds:
            with (folder / "kept" / f"{algorithm}-seed{seed}.csv").open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["side"] == side]
            runs.append(sorted(rows, key=lambda row: int(row["client"], 16)))
        self.ids = [[row["client"] for row in run] for run in runs]

        def column(name: str) -> np.ndarray:
            return np.array([[float(row[name]) for row in run] for run in runs])

        tokens = column("tokens")
        self.accuracy = 100 * column("personal_correct") / tokens
        self.loss = column("personal_nats") / tokens
        self.received = 100 * column("global_correct") / tokens, column("global_nats") / tokens
        better = column("personal_correct") - column("global_correct")
        self.helped, self.hurt = 100 * (better > 0).mean(), 100 * (better < 0).mean()


@pytest.mark.parametrize(("name", "clients"), [("flow-shakespeare", (495, 76)), ("flow-gitlog", (150, 150))])
def test_kept_counts_give_the_tables_of_the_page(name: str, clients: tuple[int, int]) -> None:
    page, folder = (DOCS / "results.md").read_text(encoding="utf-8"), DOCS / "results" / name
    for side, count in zip(("seen", "unseen"), clients, strict=True):
        reference = Counts(folder, "fedavgft", side)
        assert reference.accuracy.shape == (3, count)
        accuracy, loss = (f"{part.mean():.{digits}f}" for part, digits in zip(reference.received, (2, 4), strict=True))
        assert f"| as received | {accuracy} | | {loss} | | |" in page
        for algorithm, label in LINES.items():
            counts = Counts(folder, algorithm, side)
            assert counts.ids == reference.ids
            assert all(np.array_equal(a, b) for a, b in zip(counts.received, reference.received, strict=True)), "another w_g"
            cells = []
            for values, start, digits in ((counts.accuracy, reference.accuracy, 2), (counts.loss, reference.loss, 4)):
                test = None if algorithm == "fedavgft" else paired(values - start)
                printed = test and f"{test.difference:+.{digits}f} ({test.low:+.{digits}f} to {test.high:+.{digits}f})"
                cells += [f"{values.mean():.{digits}f}", printed or ""]
            line = " | ".join([*cells, f"{counts.helped:.0f} / {counts.hurt:.0f}"]).replace("|  |", "| |")
            assert f" | {line} |" in page and label in page, (side, algorithm, line)


def test_kept_counts_give_the_table_of_the_memory() -> None:
    page, folder = (DOCS / "results.md").read_text(encoding="utf-8"), DOCS / "results" / "flow-memory"
    labels = {
        "fedavgft": "fine-tuning (`fedavgft`)",
        "flow": "Flow",
        "fine-tuned-memory": "fine-tuning with memory (`--gate local --memory`)",
        "flow-memory": "Flow with memory (`--memory`)",
    }
    for algorithm, label in labels.items():
        cells = [label]
        for side in ("seen", "unseen"):
            counts = Counts(folder, algorithm, side, range(1))
            cells += [f"{counts.accuracy.mean():.2f}", f"{counts.loss.mean():.4f}", f"{counts.helped:.0f} / {counts.hurt:.0f}"]
        assert f"| {' | '.join(cells)} |" in page
    ours, theirs = ([Counts(folder, name, side, range(1)) for side in ("seen", "unseen")] for name in list(labels)[:1:-1])
    tests = [paired(a.loss - b.loss) for a, b in zip(ours, theirs, strict=True)]
    printed = [f"{test.difference:.4f} ({test.low:.4f} to {test.high:.4f})" for test in tests]
    assert f"loss {printed[0]} and {printed[1]}" in page


def test_kept_counts_give_the_table_of_all_algorithms() -> None:
    page, folder = (DOCS / "results.md").read_text(encoding="utf-8"), DOCS / "results" / "all-shakespeare"
    rows = {
        name: cells for name, *cells in re.findall(r"^\| (\w+) \| (.+) \|$", page, re.MULTILINE) if cells[0].count("|") == 7
    }
    assert len(rows) == len(list((folder / "kept").glob("*-seed0.csv")))
    checked = 0
    for name, (cells,) in rows.items():
        columns = (folder / "kept" / f"{name}-seed0.csv").read_text(encoding="utf-8").split("\n")[0].split(",")
        if not {"personal_correct", "global_correct"} <= set(columns):
            continue  # one model alone; the counts below need two
        expected = []
        for side, count in (("seen", 100), ("unseen", 76)):
            counts, reference = (Counts(folder, known, side, range(1)) for known in (name, "fedavgft"))
            assert counts.ids == reference.ids and counts.loss.shape == (1, count)
            test = None if name == "fedavgft" else paired(counts.loss - reference.loss)
            difference = "" if test is None else f"{test.difference:+.4f} ({test.low:+.4f} to {test.high:+.4f})"
            expected += [f"{counts.accuracy.mean():.2f}", f"{counts.loss.mean():.4f}", difference]
            expected += [f"{counts.helped:.0f} / {counts.hurt:.0f}"]
        assert cells == " | ".join(expected).replace("|  |", "| |"), name
        checked += 1
    assert checked > 15
