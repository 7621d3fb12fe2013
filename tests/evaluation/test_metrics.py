"""The registry of metrics: one more record is in every file, table and page; older run folders stay readable."""

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from comparisons import (
    QUIET,
    TINY,
    plain_fixture,  # noqa: F401
)
from optional import present
from report_cases import (
    Page,
    change,
    report,
    undrawn_fixture,  # noqa: F401
)
from report_folder import write_run_folder
from run_cases import POPULATION, SMALL

from flow import compare, simulate
from flow.evaluation import metrics
from flow.evaluation.metrics import ACCURACY, MODELS, Metric
from flow.reports.terminal import summary_table
from flow.training.predict import Guess


def wrong_in_the_first_half(guess: Guess, targets: npt.NDArray[np.int32], scored: npt.NDArray[np.bool_]) -> int:
    half = targets.shape[1] // 2
    return int(((guess.tokens != targets) & scored)[:, :half].sum())


EARLY = Metric(
    name="early",
    label="early misses",
    unit="per mille",
    axis="early misses per 1000 tokens",
    column="early_misses",
    infix="early_",
    count=wrong_in_the_first_half,
    scale=1000.0,
    digits=1,
    higher_is_better=False,
)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "METRICS", (ACCURACY, EARLY))


def expected_count(passage: Mapping[str, Any]) -> int:
    """Of the global model, from what evaluation.json says of every token of a client's text."""
    client = next(c for c in POPULATION.clients if c.id == passage["client"])
    place = count = 0
    for sequence, length in zip(client.test.tokens, client.test.lengths, strict=True):
        for step in range(int(length)):
            if sequence[step + 1] >= 4 and step < (len(sequence) - 1) // 2:
                count += not passage["global_correct"][place]
            place += 1
    return count


def test_a_new_metric_is_in_everything_that_a_run_leaves_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(SMALL, tmp_path / "run", population=POPULATION)
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    clients = {row["id"]: row for row in evaluation["clients"]}
    for passage in evaluation["texts"]:
        assert clients[passage["client"]]["global_early_misses"] == expected_count(passage)
    for side, summary in evaluation["summary"].items():
        own = [row for row in clients.values() if row["seen"] == (side == "seen")]
        for model in MODELS:
            counts = [row[f"{model}_early_misses"] for row in own]
            assert 0 < sum(counts) / summary["tokens"] == summary[f"{model}_early_token"]
            shares = [count / row["tokens"] for count, row in zip(counts, own, strict=True)]
            assert summary[f"{model}_early_client"] == pytest.approx(sum(shares) / len(shares))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[1]["evaluation"]["seen"]["global_early_token"] > 0

    seen, unseen = evaluation["summary"]["seen"], evaluation["summary"]["unseen"]
    printed = capsys.readouterr().out.splitlines()
    heads = next(line for line in printed if "early misses, per mille" in line)
    row = next(line for line in printed if line.startswith("global, over tokens"))
    ends = [match.end() for match in re.finditer("early misses, per mille", heads)]
    assert [row[:end].split()[-1] for end in ends] == [f"{1000 * side['global_early_token']:.1f}" for side in (seen, unseen)]

    page = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert page.text_of("metric-early") == "Early misses, per mille"
    values = [f"{1000 * side[f'personal_early_{kind}']:.1f}" for side in (seen, unseen) for kind in ("token", "client")]
    assert re.findall(r"\d+\.\d", page.text_of("row-early_personal")) == values
    assert "Early misses on held-out text" in page.text["learning"] and "Lower is better, counted" in page.text["learning"]
    assert EARLY.axis in page.text["learning"] and page.source.count("<svg") == 10


def test_a_new_metric_is_in_every_table_of_a_comparison(tmp_path: Path) -> None:
    result = compare(["fedavg", "fedavgft"], tmp_path / "c", TINY, **QUIET)
    folder = tmp_path / "c"
    evaluation = json.loads((folder / "runs" / "fedavgft-seed0" / "evaluation.json").read_text())
    lines = list(csv.DictReader((folder / "table.csv").open()))
    for side, summary in evaluation["summary"].items():
        for model in ("global", "personal"):
            assert float(lines[1][f"{model}_early_{side}"]) == summary[f"{model}_early_client"]
            assert float(lines[1][f"{model}_early_{side}_by_token"]) == summary[f"{model}_early_token"]
        assert lines[0][f"personal_early_{side}"] == ""
    heads, _, _, tuned = (folder / "table.txt").read_text().splitlines()[5:9]
    titles = ["seen clients, early misses, per mille", "unseen clients, early misses, per mille", "worst tenth of clients, %"]
    assert [heads.index(title) for title in titles] == sorted(heads.index(title) for title in titles)
    value = f"{1000 * evaluation['summary']['unseen']['personal_early_client']:.1f}"
    assert f" {value} " in tuned

    page = Page(result.report.read_text(encoding="utf-8"))
    assert "Unseen clients, early misses, per mille" in page.text["table"] and value in page.text["other-fedavgft"]
    assert "Seen clients, early misses" in page.text["pictures"] and page.source.count("<svg") == 8


def test_where_a_lower_value_is_better_the_lowest_is_bold(tmp_path: Path, plain: None) -> None:
    result = compare(["fedavg", "fedprox"], tmp_path / "c", TINY, **QUIET)
    page = result.report.read_text(encoding="utf-8")
    for metric, best in ((ACCURACY, max), (EARLY, min)):
        means = [present(row.mean[metric.measure("global", "unseen", "client")]) for row in result.rows]
        printed = f"{metric.scale * best(means):.{metric.digits}f}"
        assert f'class="best">{printed}<' in page


@pytest.mark.usefixtures("undrawn")
def test_a_folder_that_is_older_than_a_metric_is_shown_without_it(tmp_path: Path) -> None:
    page = report(write_run_folder(tmp_path, rounds=4, every=2, seen=5, unseen=3))
    assert "row-global" in page.text and "metric-early" not in page.text and "row-early_global" not in page.text
    assert "Early misses" not in page.source


def test_what_a_folder_says_of_a_new_metric_is_checked(tmp_path: Path) -> None:
    folder = write_run_folder(tmp_path, rounds=4, every=2, seen=5, unseen=3)
    change(folder, lambda evaluation: evaluation["summary"]["unseen"].update(soft_early_client="many"))
    with pytest.raises(
        ValueError, match=r"evaluation.summary.unseen.soft_early_client is 'many', expected int or float or null"
    ):
        report(folder)


def test_the_terminal_leaves_out_what_was_not_measured() -> None:
    summary = {"clients": 2, "skipped": 1, "helped": 0.5, "hurt": 0.0}
    keys = [f"{model}_{infix}{kind}" for model in MODELS for infix in ("", "early_") for kind in ("token", "client")]
    table = summary_table({side: summary | dict.fromkeys(keys) | {"global_token": 0.25} for side in ("seen", "unseen")})
    lines = table.splitlines()
    assert lines[0].split() == ["seen", "clients", "unseen", "clients"] and lines[1].split() == ["accuracy,", "%"] * 2
    assert [line.split("  ")[0] for line in lines[2:]] == [
        "global, over tokens",
        "clients helped, %",
        "clients hurt, %",
        "clients (left out)",
    ]
    assert len({len(line) for line in lines[1:]}) == 1
    assert [line[26:].split() for line in lines[2:]] == [["25.00"] * 2, ["50.00"] * 2, ["0.00"] * 2, ["2", "(1)"] * 2]
