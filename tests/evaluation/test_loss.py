"""Loss, perplexity and calibration of a run, against one sequence at a time in float64."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import oracles
import pytest
from optional import present
from run_cases import POPULATION, SMALL, run
from score_cases import PLAIN

from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.flow import FlowOptions
from flow.data import Client
from flow.evaluation.calibration import BINS, calibration, reliability
from flow.evaluation.metrics import ACCURACY, LOSS, PERPLEXITY
from flow.evaluation.summaries import client_rows, side_summary
from flow.model.parameters import Tensors
from flow.reports.terminal import summary_table
from flow.simulation.loop import Result
from flow.training.predict import Guess


def predictions(state: Tensors, client: Client) -> Iterator[tuple[float, float, bool]]:
    """(probability of the target, largest probability, whether that token is the target) of every scored test token."""
    for sequence, length in zip(client.test.tokens, client.test.lengths, strict=True):
        logits, _ = oracles.run(state, sequence, int(length), "global", 1.0)
        for t in range(int(length)):
            target, p = int(sequence[t + 1]), logits[t].softmax(0).tolist()
            if target >= 4:
                yield p[target], max(p), p.index(max(p)) == target


@pytest.fixture(scope="module")
def averaged() -> Result:
    return run(dataclasses.replace(SMALL, algorithm=FedAvgOptions(lr=2.0, batch_size=4)))


def test_the_loss_of_every_client_and_of_both_sides(averaged: Result) -> None:
    clients, evaluation = {client.id: client for client in POPULATION.clients}, averaged.evaluation
    for row in evaluation["clients"]:
        nats = [-math.log(p) for p, _, _ in predictions(averaged.state, clients[row["id"]])]
        assert len(nats) == row["tokens"] and row["global_nats"] == pytest.approx(sum(nats), rel=1e-6)
        assert row["personal_nats"] is row["hard_nats"] is None
    for side, summary in evaluation["summary"].items():
        own = [row for row in evaluation["clients"] if row["seen"] == (side == "seen")]
        token = sum(row["global_nats"] for row in own) / sum(row["tokens"] for row in own)
        client = sum(row["global_nats"] / row["tokens"] for row in own) / len(own)
        assert summary["global_loss_token"] == pytest.approx(token) and summary["global_loss_client"] == pytest.approx(client)
        assert summary["global_perplexity_token"] == pytest.approx(math.exp(token))
        assert summary["global_perplexity_client"] == pytest.approx(math.exp(client))
        assert summary["personal_loss_token"] is summary["soft_perplexity_client"] is None


def test_the_loss_of_an_untrained_model_that_knows_nothing() -> None:
    """A model whose head is zero gives every token the same chance."""
    result = run(dataclasses.replace(SMALL, algorithm=FedAvgOptions(lr=1e-30), rounds=1))
    assert 0.5 < result.evaluation["summary"]["seen"]["global_loss_token"] / math.log(oracles.VOCABULARY) < 1.5


def test_hard_and_soft_routing_stand_beside_what_a_client_predicts_with() -> None:
    variant: Literal["neurips", "workshop"]
    for variant, own, other in (("neurips", "hard", "soft"), ("workshop", "soft", "hard")):
        algorithm = FlowOptions(variant=variant, lr=0.5, personal_lr=2.0, epochs=2, gamma=0.0, batch_size=4)
        result = run(dataclasses.replace(SMALL, algorithm=algorithm))
        for row in result.evaluation["clients"]:
            assert row["personal_nats"] == row[f"{own}_nats"] and row["personal_correct"] == row[f"{own}_correct"]
        assert any(row["personal_nats"] != row[f"{other}_nats"] for row in result.evaluation["clients"])


def test_the_calibration_error_over_all_tokens_of_a_side(averaged: Result) -> None:
    clients = {client.id: client for client in POPULATION.clients}
    for side, reported in averaged.evaluation["calibration"].items():
        rows = [row for row in averaged.evaluation["clients"] if row["seen"] == (side == "seen")]
        bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
        for row in rows:
            for _, top, right in predictions(averaged.state, clients[row["id"]]):
                bins[next(b for b in range(BINS) if top <= (b + 1) / BINS)].append((top, right))
        total = sum(map(len, bins))
        assert reported["tokens"] == list(map(len, bins)) and total == sum(row["tokens"] for row in rows)
        error = sum(abs(sum(p for p, _ in own) - sum(r for _, r in own)) for own in bins) / total
        assert reported["error"] == pytest.approx(error, rel=1e-5)
        for own, p, accuracy in zip(bins, reported["probability"], reported["accuracy"], strict=True):
            assert (p is None) == (accuracy is None) == (not own)
            if own:
                assert p == pytest.approx(np.mean([top for top, _ in own]), rel=1e-5)
                assert accuracy == pytest.approx(np.mean([right for _, right in own]))


def test_a_probability_at_the_edge_of_a_bin_and_one_that_is_no_number() -> None:
    probability = np.array([[0.0, 1 / BINS, 1.0, math.nan, 0.5]])
    guess = Guess(
        np.array([[4, 4, 5, 4, 4]]),
        np.zeros((1, 5), np.float32),
        np.zeros((1, 5), np.float32),
        probability,
        np.full((1, 5), -1),
    )
    table = reliability(guess, np.full((1, 5), 4), np.array([[True, True, True, True, False]]))
    assert table[0, 0] == 3 and table[0, -1] == 1 and table[0].sum() == 4
    assert table[2].sum() == 3
    assert present(calibration([table]))["error"] == pytest.approx((abs(1 / BINS - 3) + 1) / 4)
    assert calibration([]) is None


def test_a_loss_that_is_not_finite_is_no_number_in_files(averaged: Result) -> None:
    counts = {"personal": {"accuracy": 1, "loss": math.inf, "perplexity": math.nan}}
    scores = [PLAIN._replace(counts=counts), PLAIN._replace(id="c", counts=counts)]
    assert [row["personal_nats"] for row in client_rows(scores, (ACCURACY, LOSS, PERPLEXITY))] == [None, None]
    summary = side_summary(scores, 0, (ACCURACY, LOSS, PERPLEXITY))
    assert [summary[metric.summary_key("personal", "client")] for metric in (LOSS, PERPLEXITY)] == [None, None]
    assert summary["personal_client"] == 1.0


def test_the_terminal_shows_all_three(averaged: Result) -> None:
    evaluation = averaged.evaluation
    lines = summary_table(evaluation["summary"], evaluation["calibration"]).splitlines()
    assert lines[0].split() == ["seen", "clients", "unseen", "clients"]
    assert lines[1].split() == ["accuracy,", "%", "loss,", "nats", "perplexity"] * 2
    row = next(line for line in lines if line.startswith("global, over tokens")).split()[-6:]
    sides = [evaluation["summary"][side] for side in ("seen", "unseen")]
    values = [(100 * s["global_token"], s["global_loss_token"], s["global_perplexity_token"]) for s in sides]
    assert row == [f"{value:.{digits}f}" for side in values for value, digits in zip(side, (2, 4, 2), strict=True)]
    errors = [f"{100 * evaluation['calibration'][side]['error']:.2f}" for side in ("seen", "unseen")]
    assert lines[-2].split() == ["calibration", "error,", "%", *errors]
