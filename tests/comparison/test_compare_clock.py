"""A comparison with a clock has the times in its table, its page and its CSV file; the report of a run has a curve."""

import csv
import json
from pathlib import Path

from flow import Config, ModelOptions, SharedOptions, compare
from flow.data import DataOptions


def test_times_stand_in_table_page_and_report(tmp_path: Path) -> None:
    data = DataOptions(data="synthetic", clients=20, sequences=4, sequence_length=5, vocabulary_size=20)
    config = Config(
        algorithm=SharedOptions(epochs=1),
        data=data,
        model=ModelOptions(embedding_dim=3, hidden_size=4),
        rounds=3,
        cohort=4,
        evaluate_every=1,
        min_texts=1,
        clock="spread",
        target=1e-9,
    )
    compare(["fedavg", "ditto"], tmp_path / "both", config, progress=False)
    with (tmp_path / "both" / "table.csv").open() as file:
        lines = {line["algorithm"]: line for line in csv.DictReader(file)}
    for name in ("fedavg", "ditto"):
        about = json.loads((tmp_path / "both" / "runs" / f"{name}-seed0" / "run.json").read_text())
        assert float(lines[name]["virtual_seconds"]) == about["virtual_seconds"] > 0
        assert lines[name]["target_seconds"] == ("" if about["target_seconds"] is None else repr(about["target_seconds"]))
        report = (tmp_path / "both" / "runs" / f"{name}-seed0" / "report.html").read_text()
        assert "Accuracy over virtual time" in report and "Virtual time" in report
    assert float(lines["ditto"]["virtual_seconds"]) > float(lines["fedavg"]["virtual_seconds"]), "it trains two models"
    page = (tmp_path / "both" / "comparison.html").read_text()
    assert "<h2>Virtual time</h2>" in page and "accuracy of 1e-07 %" in page
