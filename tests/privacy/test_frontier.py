"""Epsilon and noise in report, run.json and on the terminal; the frontier of a comparison with several epsilons."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from fields import leaves, rows

from flow import Config, ModelOptions, PrivacyOptions, SharedOptions, compare, resume_comparison, simulate
from flow.algorithms.fedavgft import FedAvgFTOptions
from flow.data import DataOptions

DATA = DataOptions(data="synthetic", clients=30, sequences=4, sequence_length=5, vocabulary_size=20)
SMALL: dict[str, Any] = {
    "data": DATA, "model": ModelOptions(embedding_dim=3, hidden_size=4), "rounds": 3, "cohort": 4, "evaluate_every": 1,
    "min_texts": 1,
}  # fmt: skip


def test_a_report_has_epsilon_noise_and_what_every_epsilon_was_worth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    privacy = PrivacyOptions(dp_noise=1.0, dp_quantile=0.5)
    result = simulate(Config(algorithm=FedAvgFTOptions(epochs=1), privacy=privacy, **SMALL), tmp_path / "run")
    epsilon = result.metrics[-1]["epsilon"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<h2>Privacy</h2>" in page and f"epsilon {epsilon:.4g}" in page and "1 times the clip" in page
    assert "Accuracy over epsilon" in page and "Helped and hurt over epsilon" in page and "4 clients a round on average" in page
    for row in result.metrics:
        assert f"{row['epsilon']:.6g}," in page, "a point for every small evaluation"
    output = capsys.readouterr().out
    assert f"privacy of a client: epsilon {epsilon:.4g} at delta" in output and "PLD of dp-accounting" in output
    about = json.loads((tmp_path / "run" / "run.json").read_text())["privacy"]
    assert about["epsilon"] == epsilon and about["noise"] == 1.0 and about["clip"] == result.metrics[-1]["clip"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    for file, section, content in (
        ("config.json", {"noise"}, config),
        ("metrics.jsonl", {"epsilon", "clip"}, result.metrics[-1]),
        ("run.json", {"privacy"}, {"privacy": about}),
    ):
        table = {row[1]: row[2] for row in rows(file, "privacy")}
        own = {path: value for path, value in leaves(content) if path.split(".")[0] in section}
        assert set(own) == set(table)
        assert all(type(value) in table[path] for path, value in own.items())


def test_a_comparison_has_the_frontier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {
        "much": {"algorithm": "fedavgft", "dp_noise": 2.0},
        "little": {"algorithm": "fedavgft", "dp_noise": 0.5},
        "clipped": {"algorithm": "fedavgft", "dp_noise": 0.0, "dp_clip": 5.0},
    }
    config = Config(algorithm=SharedOptions(epochs=1), **SMALL)
    names = ["fedavgft", "much", "little", "clipped"]
    result = compare(names, tmp_path / "four", config, settings=settings, progress=False)
    with (tmp_path / "four" / "table.csv").open() as file:
        lines = {line["algorithm"]: line for line in csv.DictReader(file)}
    assert [lines[name]["noise_multiplier"] for name in names] == ["", "2.0", "0.5", "0.0"]
    assert 0 < float(lines["much"]["epsilon"]) < float(lines["little"]["epsilon"])
    assert lines["clipped"]["epsilon"] == lines["fedavgft"]["epsilon"] == ""
    text = result.text()
    table = text.split("Accuracy, helped and hurt against epsilon")[1].splitlines()
    assert [line.split()[0] for line in table[3:7]] == ["much", "little", "fedavgft", "clipped"], "those that cost least first"
    page = (tmp_path / "four" / "comparison.html").read_text()
    assert (
        "Accuracy over epsilon" in page
        and "Helped and hurt over epsilon" in page
        and "4 clients a round on average" not in page
    )
    assert "4 clients a round, on average in private runs" in page
    for run in (tmp_path / "four" / "runs").iterdir():
        run.rename(tmp_path / run.name)
    (tmp_path / "four" / "runs").rmdir()
    assert resume_comparison(tmp_path / "four", progress=False).text() == text, "from what is kept alone"
    capsys.readouterr()


def test_tuning_says_that_it_costs_what_is_not_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(algorithm=SharedOptions(epochs=1), privacy=PrivacyOptions(dp_noise=1.0), **SMALL | {"rounds": 1})
    compare(["fedavg"], tmp_path / "tuned", config, tune=2, progress=False)
    assert "flow: tuning looks at private data, which costs epsilon that is not counted\n" in capsys.readouterr().err
    page = (tmp_path / "tuned" / "comparison.html").read_text()
    assert "These tries looked at private data, which costs epsilon that is not counted." in page
