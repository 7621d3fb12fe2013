"""Print the table of docs/results.md from what a comparison keeps: ``tabulate_comparison.py FOLDER REFERENCE [--seeds N]``.

A row for every algorithm of which all seeds are there: accuracy and loss of seen and of unseen clients, the difference in loss
to REFERENCE with its 95 % interval (docs/paired-tests.md), and the shares of clients helped and hurt. Rows are in the order of
the mean loss of both sides.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flow.comparison.paired import paired

SIDES = ("seen", "unseen")
Matrix = npt.NDArray[np.float64]


class Scores(NamedTuple):
    """What one algorithm reached on one side, [seeds, clients]."""

    accuracy: Matrix
    """%."""
    loss: Matrix
    """Nats a token."""
    better: Matrix
    """Tokens predicted right beyond those of the model as received; empty where there is no such model."""


def scores(folder: Path, algorithm: str, side: str, seeds: int) -> Scores:
    """Read what is kept of the runs of an algorithm."""
    runs = []
    for seed in range(seeds):
        with (folder / "kept" / f"{algorithm}-seed{seed}.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["side"] == side]
        runs.append(sorted(rows, key=lambda row: row["client"]))

    def column(name: str) -> Matrix:
        return np.array([[float(row[name]) for row in run] for run in runs])

    model = "personal" if "personal_correct" in runs[0][0] else "global"
    tokens, right = column("tokens"), column(f"{model}_correct")
    both = {"personal_correct", "global_correct"} <= runs[0][0].keys()
    better = right - column("global_correct") if both else np.zeros((len(runs), 0))
    return Scores(100 * right / tokens, column(f"{model}_nats") / tokens, better)


def table(folder: Path, reference: str, seeds: int = 1) -> str:
    """The table in Markdown."""
    names = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["algorithms"]
    done = [name for name in names if all((folder / "kept" / f"{name}-seed{seed}.csv").exists() for seed in range(seeds))]
    scored = {name: [scores(folder, name, side, seeds) for side in SIDES] for name in done}
    order = sorted(done, key=lambda name: sum(float(side.loss.mean()) for side in scored[name]))
    clients = [side.loss.shape[1] for side in scored[reference]]
    lines = [
        f"| | {clients[0]} seen clients: accuracy, % | loss, nats | difference (95 % interval) | helped / hurt, % "
        f"| {clients[1]} unseen clients: accuracy, % | loss, nats | difference (95 % interval) | helped / hurt, % |",
        "| --- |" + " --- |" * 8,
    ]
    for name in order:
        cells = []
        for side, against in zip(scored[name], scored[reference], strict=True):
            test = None if name == reference else paired(side.loss - against.loss)
            difference = "" if test is None else f"{test.difference:+.4f} ({test.low:+.4f} to {test.high:+.4f})"
            changed = f"{100 * (side.better > 0).mean():.0f} / {100 * (side.better < 0).mean():.0f}" if side.better.size else ""
            cells += [f"{side.accuracy.mean():.2f}", f"{side.loss.mean():.4f}", difference, changed]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines).replace("|  |", "| |")


def main(given: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("reference", help="the algorithm that all others are compared with")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args(given)
    print(table(options.folder, options.reference, options.seeds))


if __name__ == "__main__":
    main()
