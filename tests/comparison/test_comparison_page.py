"""The pictures and tables of comparison.html: the lines drawn, the names beside them, and the routed models."""

import itertools
import json
from pathlib import Path
from typing import Any

import browser
import pages
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
from optional import present
from report_cases import Page
from report_cases import charts as charts_of

from flow import compare
from flow.comparison import charts, kept
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
            curve = present(charts.curve_of(name, runs, metric, cost))
            assert curve.x == pytest.approx([point[other] for point in means], rel=1e-12)
            assert curve.y == pytest.approx([point[place] for point in means], rel=1e-12)
            assert curve.x[0] < curve.x[1] < curve.x[2]


def test_a_curve_without_evaluations_along_the_run_is_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, original = list[charts.Curve](), charts.curve_of

    def line(*given: Any) -> charts.Curve:
        seen.append(present(original(*given)))
        return seen[-1]

    monkeypatch.setattr("flow.simulation.loop._write_report", lambda folder: (folder / "report.html").write_text("report"))
    monkeypatch.setattr(charts, "curve_of", line)
    result = compare(["fedavg", "fedavgft"], tmp_path / "c", TINY, against="fedavg", **QUIET)
    assert [len(curve.x) for curve in seen] == [1] * 8
    source = Page(result.report.read_text(encoding="utf-8"))
    pictures = source.text["pictures"]
    titles = ("Accuracy at equal client compute", "Accuracy at equal communication", "Loss at equal client compute")
    assert all(title in pictures for title in (*titles, "Loss at equal communication", "Unseen clients, loss"))
    assert "Perplexity at equal" not in pictures and charts_of(source) == 8
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


@pytest.mark.browser
def test_the_page_in_a_browser(whole: Path) -> None:
    """At the widths of a phone and a desk, in both colours; every table of algorithms is sorted by its headers."""
    with browser.page() as own:
        for width, scheme in itertools.product(pages.WIDTHS, ("light", "dark")):
            pages.show(own, whole / "comparison.html", width, scheme)
            assert pages.beyond(own) == [] and own.problems() == []
            assert pages.objections(own) == []
        tables = own.value("document.querySelectorAll('table.sortable').length")
        assert tables == 4
        head = "document.querySelector('table.sortable').tHead.rows[1].cells[14]"
        column = "[...document.querySelector('table.sortable').tBodies[0].rows].map((row) => row.cells[14].textContent)"
        assert own.value(f"{head}.textContent") == "in rounds"
        before = own.value(column)
        pages.click(own, f"{head}.querySelector('button')")
        assert own.value(column) == sorted(before, key=flops, reverse=True) and len(set(map(flops, before))) > 1
        pages.press(own, "Enter")
        assert own.value(column) == sorted(before, key=flops)
        assert own.value(f"{head}.getAttribute('aria-sort')") == "ascending"
        texts = ["1.45 MB", "999 B", "5 min", "2.5 h", "90 s", "−0.55", "38.75 ± 0.32", "< 0.001", "33 seen", "stateful"]
        assert own.value(f"{json.dumps(texts)}.map(number)") == [1.45e6, 999, 300, 9000, 90, -0.55, 38.75, 0.001, 33, None]
        pages.point(own, *pages.middle(own, "document.querySelector('#pictures .stage')"))
        tip = own.value("document.querySelector('#pictures .tip').textContent").split("\n")
        assert tip[0] in ("fedavg", "fedavgft", "ditto") and "so far" in tip[1]
        assert pages.cut(own, 1047) == []
        assert own.problems() == []


def flops(text: str) -> float:
    value, unit = text.split()
    return float(value) * 1000.0 ** ["FLOP", "kFLOP", "MFLOP", "GFLOP"].index(unit)
