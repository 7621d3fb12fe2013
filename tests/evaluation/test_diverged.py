"""A client's model that diverges where the client prepares to predict: files say so, and nothing ends the run."""

import dataclasses
import json
from pathlib import Path

import pytest
from optional import present
from run_cases import POPULATION, SMALL

from flow import ModelOptions, simulate
from flow.algorithms.dynamic_routing import DynamicRoutingOptions
from flow.reports import files


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_routed_model_that_diverges_before_it_predicts(tmp_path: Path, backend: str) -> None:
    config = dataclasses.replace(
        SMALL,
        algorithm=DynamicRoutingOptions(personal_lr=1e38, personal_epochs=3, clip=0.0),
        rounds=1,
        evaluate_every=1,
        min_texts=0,
        model=ModelOptions(embedding_dim=3, hidden_size=4, backend=backend),
    )
    folder = present(simulate(config, tmp_path / "run", population=POPULATION, progress=False).folder)
    evaluation = files.read_evaluation(folder)
    assert evaluation["routing"] is None and all(text["local_weight"] is None for text in evaluation["texts"])
    for client in evaluation["clients"]:
        assert client["local_weight"] is None and client["personal_nats"] is None and client["global_nats"] > 0
    for summary in evaluation["summary"].values():
        assert summary["personal_loss_client"] is summary["personal_perplexity_token"] is None
        assert summary["personal_client"] == 0 and summary["global_loss_client"] > 0
    content = (folder / "evaluation.json").read_text() + (folder / "metrics.jsonl").read_text()
    assert "NaN" not in content and "Infinity" not in content
    assert json.loads((folder / "metrics.jsonl").read_text())["evaluation"]["seen"]["personal_loss_client"] is None
    assert (folder / "report.html").is_file()
