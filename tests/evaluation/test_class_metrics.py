"""Top-3 accuracy and macro-F1 beside plain loops."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import oracles
import pytest
import torch
from run_cases import POPULATION, SMALL

import flow
from flow.algorithms import REGISTRY
from flow.errors import UserError
from flow.evaluation import metrics
from flow.evaluation.metrics import macro_f1, table_of_classes
from flow.training.predict import Guess

CLASSES = 4


def plain_f1(truth: list[int], predicted: list[int]) -> float:
    """One class after the other, from precision and recall; a class that neither occurs nor is predicted has none."""
    scores = []
    for kind in sorted({*truth, *predicted}):
        right = sum(a == b == kind for a, b in zip(truth, predicted, strict=True))
        precision = right / predicted.count(kind) if kind in predicted else 0.0
        recall = right / truth.count(kind) if kind in truth else 0.0
        scores.append(2 * precision * recall / (precision + recall) if right else 0.0)
    return sum(scores) / len(scores)


def test_macro_f1_is_that_of_a_loop_over_classes() -> None:
    rng = np.random.default_rng(3)
    for count in (1, 2, 7, 40):
        for classes in (2, 5, 30):
            truth, predicted = rng.integers(0, classes, (2, 1, count)).astype(np.int32)
            scored = rng.random((1, count)) < 0.8
            scored[0, 0] = True
            nothing = np.zeros((1, count), np.float32)
            guess = Guess(predicted, nothing, nothing, nothing, np.full((1, count), -1, np.int32))
            table = table_of_classes(guess, truth, scored, classes)
            expected = plain_f1(truth[scored].tolist(), predicted[scored].tolist())
            assert macro_f1(table) == pytest.approx(expected, abs=1e-12)
            assert metrics.MACRO_F1.count(guess, truth, scored) == pytest.approx(expected * scored.sum(), abs=1e-12)
            assert table.shape == (3, classes) and table[2].sum() == scored.sum() == table[1].sum()


def classified(seed: int = 2) -> tuple[dict[str, dict[str, Any]], flow.Population]:
    rng = np.random.default_rng(seed)
    clients: dict[str, dict[str, Any]] = {}
    for n in range(9):
        own: dict[str, Any] = {"held_out": n > 6}
        for side, count in (("train", 6), ("test", 1 + 2 * n)):
            own |= {side: rng.integers(4, 12, (count, 5)), f"{side}_labels": rng.integers(0, CLASSES, count)}
        clients[f"c{n}"] = own
    return clients, flow.Population.from_arrays(clients, vocabulary=12, classes=CLASSES)


def scores_of(state: dict[str, torch.Tensor], text: npt.NDArray[np.int64]) -> torch.Tensor:
    h = torch.zeros(state["gru.weight_hh_l0"].shape[1], dtype=torch.float64)
    for token in text.tolist():
        h = oracles.expert(state, state["embedding.weight"][token], h, False)
    return state["head.weight"] @ h + state["head.bias"]


BASE: dict[str, Any] = dict(
    rounds=2, cohort=5, evaluate_every=1, evaluate_clients=2, min_texts=0, validation_share=0.0, threads=1
)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_top3_and_macro_f1_of_a_classifier_are_those_of_a_loop_over_texts(backend: str) -> None:
    clients, population = classified()
    model = flow.ModelOptions(4, 5, dtype="float64", backend=backend)
    config: flow.Config[Any] = flow.Config(algorithm=REGISTRY["fedavg"].options(), model=model, metric="top3", **BASE)
    result = flow.simulate(config, population=population, progress=False)
    pairs: dict[str, list[tuple[int, int]]] = {}
    for row in result.evaluation["clients"]:
        own, top3 = clients[row["id"]], 0
        pairs[row["id"]] = []
        for text, label in zip(own["test"], own["test_labels"].tolist(), strict=True):
            order = scores_of(result.state, text).argsort(descending=True).tolist()
            top3 += label in order[:3]
            pairs[row["id"]].append((label, order[0]))
        assert row["global_top3"] == top3
        f1 = plain_f1(*map(list, zip(*pairs[row["id"]], strict=True)))
        assert row["global_f1"] / row["tokens"] == pytest.approx(f1)
    for side, summary in result.evaluation["summary"].items():
        own_pairs = {name: pair for name, pair in pairs.items() if clients[name]["held_out"] == (side == "unseen")}
        truth, predicted = zip(*(pair for own in own_pairs.values() for pair in own), strict=True)
        assert summary["global_f1_token"] == pytest.approx(plain_f1(list(truth), list(predicted)))
        each = [plain_f1(*map(list, zip(*own, strict=True))) for own in own_pairs.values()]
        assert summary["global_f1_client"] == pytest.approx(np.mean(each)) and summary["personal_f1_client"] is None
        assert summary["global_token"] <= summary["global_top3_token"] <= 1
    assert result.metrics[0]["evaluation"]["seen"]["global_f1_token"] > 0


@pytest.mark.parametrize("name", ["fedavg", "flow", "knnper", "ngram"])
def test_top3_of_the_next_token_lies_between_top1_and_all(name: str) -> None:
    """By the kernels, by autograd, and of an algorithm's own answers; evaluation.json has it only where it is asked for."""
    results = []
    for metric, backend in (("", "cpu"), ("top3", "cpu"), ("top3", "reference")):
        config: flow.Config[Any] = flow.Config(
            algorithm=REGISTRY[name].options(batch_size=4), metric=metric, rounds=1, cohort=4, min_texts=0, threads=1,
            evaluate_every=0, model=flow.ModelOptions(5, 6, dtype="float64", backend=backend),
        )  # fmt: skip
        results.append(flow.simulate(config, population=oracles.population(), progress=False).evaluation)
    plain, kernels, autograd = results
    for first, second, without in zip(kernels["clients"], autograd["clients"], plain["clients"], strict=True):
        for model in ("global", "personal", "hard"):
            top3 = first[f"{model}_top3"]
            assert top3 == second[f"{model}_top3"]
            assert top3 is None or first[f"{model}_correct"] <= top3 <= first["tokens"]
        assert not [key for key in without if "top3" in key or "f1" in key]
        assert {key: value for key, value in first.items() if "top3" not in key} == without
    assert sum(row["global_top3"] for row in kernels["clients"]) > sum(row["global_correct"] for row in kernels["clients"])


def test_the_rank_of_a_score_that_is_no_number_is_the_last() -> None:
    from flow.training.predict import ranks_of

    scores = torch.tensor([[0.5, 0.1, 0.3, 0.3], [float("nan")] * 4])
    assert ranks_of(scores[[0, 0, 0, 1]], torch.tensor([0.5, 0.1, 0.3, float("nan")])).tolist() == [0, 3, 1, 4]


def test_a_comparison_of_classifiers_has_both(tmp_path: Path) -> None:
    _, population = classified()
    config: flow.Config[Any] = flow.Config(model=flow.ModelOptions(4, 5), algorithm=flow.SharedOptions(), metric="top3", **BASE)
    result = flow.compare(["fedavg", "fedavgft"], tmp_path / "c", config, population=population, progress=False)
    evaluation = json.loads((tmp_path / "c" / "runs" / "fedavgft-seed0" / "evaluation.json").read_text())
    line = list(csv.DictReader((tmp_path / "c" / "table.csv").open()))[1]
    for side, summary in evaluation["summary"].items():
        for key in ("f1", "top3"):
            assert float(line[f"personal_{key}_{side}"]) == pytest.approx(summary[f"personal_{key}_client"])
            assert float(line[f"personal_{key}_{side}_by_token"]) == pytest.approx(summary[f"personal_{key}_token"])
    page = result.report.read_text(encoding="utf-8")
    assert "macro-F1, %" in page and "top-3 accuracy, %" in page


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("top5", "there is no 'top5', only accuracy, loss, perplexity, top3, f1"),
        ("top3,f1", "'f1' is of texts that are classified, and the data have no classes; leave it out"),
    ],
)
def test_metrics_that_a_run_cannot_count_are_refused(metric: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        flow.simulate(replace(SMALL, metric=metric), tmp_path / "run", population=POPULATION)
    assert not (tmp_path / "run" / "config.json").exists()
