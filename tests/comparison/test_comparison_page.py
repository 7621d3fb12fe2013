"""The pictures and tables of comparison.html: the lines drawn, the names beside them, and the routed models."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from comparisons import (
    QUIET,
    TINY,
    plain_fixture,  # noqa: F401
)
from kept_cases import (
    again,
    copied_fixture,  # noqa: F401
    evaluation,
    lines,
    whole_fixture,  # noqa: F401
)
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from optional import present
from report_cases import Page

from flow import compare
from flow.algorithms import NAMES
from flow.comparison import kept, page
from flow.comparison.labels import HEIGHT, Label, add_labels, spread
from flow.comparison.table import run_of
from flow.evaluation.metrics import METRICS


def drawn(folder: Path, name: str, seed: int) -> list[tuple[float, float, float, float]]:
    """(operations, bytes, accuracy, loss) of every evaluation of unseen clients, and of the final one in place of the last."""
    model = "global" if name == "fedavg" else "personal"
    rows = (folder / "runs" / f"{name}-seed{seed}" / "metrics.jsonl").read_text().splitlines()
    flops = nbytes = 0
    points = []
    for row in map(json.loads, rows):
        clients = row["clients"] + row["skipped"] + row["dropped"] + row["late"]
        flops, nbytes = flops + row["flops"] / clients, nbytes + (row["upload_bytes"] + row["download_bytes"]) / clients
        summary = row["evaluation"] if row["round"] < len(rows) else evaluation(folder, name, seed)["summary"]
        points.append((flops, nbytes, summary["unseen"][f"{model}_client"], summary["unseen"][f"{model}_loss_client"]))
    return points


def test_learning_curves_are_means_over_seeds_at_equal_rounds(whole: Path) -> None:
    assert [metric.name for metric in METRICS[:2]] == ["accuracy", "loss"]
    for name in ("fedavg", "fedavgft", "ditto"):
        runs = []
        for seed in (0, 1):
            about = json.loads((whole / "kept" / f"{name}-seed{seed}.json").read_text())
            expected = {**about["config"], "population": about["population"]}
            runs.append(run_of(kept.read(whole / "kept" / f"{name}-seed{seed}.json", expected)))
        points = [drawn(whole, name, seed) for seed in (0, 1)]
        means = [[(a + b) / 2 for a, b in zip(*both, strict=True)] for both in zip(*points, strict=True)]
        for (place, metric), (other, cost) in itertools.product(enumerate(METRICS[:2], 2), enumerate(("flops", "bytes"))):
            curve = present(page._line(name, runs, metric, cost))
            assert curve.x == pytest.approx([point[other] for point in means], rel=1e-12)
            assert curve.y == pytest.approx([point[place] for point in means], rel=1e-12)
            assert curve.x[0] < curve.x[1] < curve.x[2]


def test_a_curve_without_evaluations_along_the_run_is_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, original = list[page.Curve](), page._line

    def line(*given: Any) -> page.Curve:
        seen.append(present(original(*given)))
        return seen[-1]

    monkeypatch.setattr("flow.simulation.loop._write_report", lambda folder: (folder / "report.html").write_text("report"))
    monkeypatch.setattr(page, "_line", line)
    result = compare(["fedavg", "fedavgft"], tmp_path / "c", TINY, against="fedavg", **QUIET)
    assert [len(curve.x) for curve in seen] == [1] * 8
    source = Page(result.report.read_text(encoding="utf-8"))
    pictures = source.text["pictures"]
    titles = ("Accuracy at equal client compute", "Accuracy at equal communication", "Loss at equal client compute")
    assert all(title in pictures for title in (*titles, "Loss at equal communication", "Unseen clients, loss"))
    assert "Perplexity at equal" not in pictures and source.source.count("<svg") == 8
    assert pictures.count("fedavg is dark.") == 4 and "orange" not in pictures


def test_hard_and_soft_routing_are_in_the_csv_and_on_the_page(tmp_path: Path, plain: None) -> None:
    result = compare(["flow", "fedavg"], tmp_path / "c", TINY, **QUIET)
    summary = evaluation(result.folder, "flow", 0)["summary"]
    flow, fedavg = lines(result.folder / "table.csv")
    source = Page(result.report.read_text(encoding="utf-8"))
    assert "routed-flow" in source.text and "routed-fedavg" not in source.text
    for side, model in itertools.product(("seen", "unseen"), ("hard", "soft")):
        assert float(flow[f"{model}_{side}"]) == summary[side][f"{model}_client"] and fedavg[f"{model}_{side}"] == ""
        assert float(flow[f"{model}_loss_{side}_by_token"]) == summary[side][f"{model}_loss_token"]
        assert f"{100 * summary[side][f'{model}_client']:.2f}" in source.text["routed-flow"]


def test_where_nothing_is_routed_there_is_no_table_for_it(copied: Path) -> None:
    source = again(copied).report.read_text(encoding="utf-8")
    assert "hard and soft routing" not in source and 'id="routed' not in source


@pytest.mark.parametrize("loss", [False, True], ids=["ends apart", "ends together"])
def test_names_cover_neither_each_other_nor_a_line(loss: bool) -> None:
    figure = Figure(figsize=(4.9, 1.4 + 0.14 * len(NAMES)), layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    rng = random.Random(3)
    ends = [(name, rng.random(), 0.5 + (0.001 if loss else 0.4) * rng.random()) for name in NAMES]
    for _, x, y in ends:
        axes.plot([0, x], [0.1, y])
    add_labels(axes, [Label(*end, "black") for end in ends])
    canvas.draw()
    # Of the letters alone, without the dotted line.
    boxes = {text.get_text(): Text.get_window_extent(text, canvas.get_renderer()) for text in axes.texts}
    assert list(boxes) == sorted(NAMES, key=lambda name: next(y for other, _, y in ends if other == name))
    letters = list(boxes.values())
    assert not any(a.overlaps(b) for a, b in itertools.combinations(letters, 2))
    inside = axes.get_window_extent()
    assert all(box.x0 > inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1 + 1 for box in letters)
    assert max(box.x1 for box in letters) <= figure.bbox.x1


def test_names_are_as_near_to_their_lines_as_can_be() -> None:
    """Against all places on a grid."""
    rng = random.Random(1)
    for _ in range(20):
        wanted = sorted(rng.uniform(0, 6) for _ in range(3))
        places = spread(wanted, 1.5, 0.5, 6)
        assert all(b - a >= 1.5 - 1e-9 for a, b in itertools.pairwise(places)) and places[0] >= 0.5 and places[-1] <= 6
        cost = sum((a - b) ** 2 for a, b in zip(places, wanted, strict=True))
        grid = [0.5 + n / 8 for n in range(45)]
        allowed = [p for p in itertools.product(grid, repeat=3) if p[1] - p[0] >= 1.5 and p[2] - p[1] >= 1.5]
        assert cost <= min(sum((a - b) ** 2 for a, b in zip(p, wanted, strict=True)) for p in allowed) + 1e-9
    assert spread([], HEIGHT, 0, 9) == [] and spread([5.0], HEIGHT, 0, 9) == [5.0]
    assert spread([1.0, 1.0, 1.0], 2, 0, 3) == [0, 2, 4], "without room for all they begin at the lower end"
