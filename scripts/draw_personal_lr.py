"""Draw what a comparison found against the learning rate of personalization: ``draw_personal_lr.py FOLDER PICTURE.png``.

FOLDER is that of ``flow compare`` with a table of settings for every rate, as docs/results/personal-lr.toml has them. A line
joins the names that stand for one algorithm with one gate.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

LABELS = {"fedavgft": "fine-tuning", "flow": "Flow"}
COLOURS = {"fedavgft": "#b4531f", "flow": "#1d5fa8"}
PANELS = {"seen": "seen clients", "unseen": "unseen clients"}


def draw(folder: Path, picture: Path) -> None:
    """Read the comparison's plan and table, and write the picture."""
    settings = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["settings"]
    with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["algorithm"]: row for row in csv.DictReader(file)}
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for place, axes in enumerate(figure.subplots(1, 2, sharey=True)):
        side, title = list(PANELS.items())[place]
        lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for name, own in settings.items():
            lines[own["algorithm"]].append((own["personal_lr"], 100 * float(rows[name][f"personal_{side}"])))
        received = 100 * float(next(iter(rows.values()))[f"global_{side}"])
        axes.axhline(received, color="#777777", linewidth=1, linestyle=":", label="as received")
        for algorithm, points in lines.items():
            x, y = zip(*sorted(points), strict=True)
            axes.plot(x, y, marker="o", markersize=4, color=COLOURS[algorithm], label=LABELS[algorithm])
        axes.set_xscale("log", base=2)
        rates = sorted({x for points in lines.values() for x, _ in points})
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axes.set_xlabel("learning rate of personalization")
        axes.set_title(title, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        if not place:
            axes.set_ylabel("% of tokens right, mean of clients")
            axes.legend(frameon=False)
    figure.savefig(picture, dpi=144, metadata={"Software": None})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
