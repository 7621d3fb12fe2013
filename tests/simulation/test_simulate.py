"""The loop: what a run leaves behind, and that its numbers are those of the definitions."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import checksums
import numpy as np
import oracles
import pytest
import torch
from optional import present
from run_cases import POPULATION, SMALL, change, copied_fixture, finished_fixture, run, timeless  # noqa: F401 (fixtures)

from flow import Config, ModelOptions, UserError, simulate
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.flow import FlowOptions
from flow.data import Vocabulary
from flow.engine.task import automatic_chunk, prepare
from flow.evaluation.score import Cost, Score
from flow.evaluation.select import nobody
from flow.evaluation.summaries import passages
from flow.model.language_model import LanguageModel
from flow.reports.terminal import summary_table
from flow.simulation.loop import Result
from flow.storage import run_folder


def test_a_run_leaves_what_the_report_reads(finished: Result) -> None:
    folder = present(finished.folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoints",
        "config.json",
        "evaluation.json",
        "metrics.jsonl",
        "report.html",
        "run.json",
    ]
    assert [path.name for path in run_folder.stored(folder / "checkpoints")] == [
        "round_000004.safetensors",
        "round_000005.safetensors",
    ]
    config = json.loads((folder / "config.json").read_text())
    assert config["algorithm"]["name"] == "flow"
    assert config["algorithm"]["epochs"] == 2
    assert config["rounds"] == 5
    rows = checksums.rows(folder)
    assert rows == finished.metrics
    assert [row["round"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["evaluation"] is not None for row in rows] == [False, True, False, True, False]
    assert checksums.plain((folder / "evaluation.json").read_text()) == finished.evaluation
    assert checksums.plain((folder / "run.json").read_text()) == finished.run
    assert finished.report == folder / "report.html"


def test_the_counts_of_a_round_are_right(finished: Result) -> None:
    clients = {client.id: client for client in POPULATION.clients}
    names = sorted(c.id for c in POPULATION.clients if not c.held_out)
    sent = sum(tensor.numel() * 8 for tensor in finished.state.values())
    for row in finished.metrics:
        chosen = oracles.stream(0, row["round"], "cohort").choice(len(names), 4, replace=False)
        sizes = [len(clients[names[i]].train) for i in chosen]
        able = [size for size in sizes if size >= 2]
        assert row["clients"] == len(able)
        assert row["skipped"] == len(sizes) - len(able)
        assert row["sequences"] == 2 * sum(able)
        assert row["upload_bytes"] == sent * len(able)
        assert row["download_bytes"] == sent * 4
        assert row["sequences_per_second"] == row["sequences"] / row["seconds"]
    assert any(row["skipped"] for row in finished.metrics), "no round of the fixture drew the client with one sequence"


@pytest.mark.parametrize(
    "options", [FedAvgOptions(batch_size=4), FlowOptions(variant="neurips", batch_size=4)], ids=["fedavg", "flow"]
)
def test_the_whole_loop_matches_the_oracle(options: FedAvgOptions | FlowOptions) -> None:
    result = run(change(algorithm=options, rounds=2, evaluate_every=0))
    task = prepare(change(algorithm=options), POPULATION)
    plain = vars(task.config.algorithm)
    shapes = {name: tuple(p.shape) for name, p in task.model.named_parameters()}
    state = task.algorithm.init(options, task.model, 0, len(task.clients))
    trained = sorted((c for c in POPULATION.clients if not c.held_out), key=lambda c: c.id)
    for round in (1, 2):
        uploads, nats, tokens = [], 0.0, 0
        for i in oracles.stream(0, round, "cohort").choice(len(trained), 4, replace=False):
            if len(trained[i].train) < task.minimum:
                continue
            if options.__class__ is FedAvgOptions:
                parameters, weight, losses = oracles.fedavg(state, trained[i], plain, 0, round)
            else:
                parameters, weight, losses = oracles.flow(state, shapes, trained[i], plain, 0, round)
            uploads.append(({name: parameters[name] for name in state}, weight))
            nats += sum(loss * count for loss, count in losses)
            tokens += sum(count for _, count in losses)
        state = oracles.weighted_mean(uploads)
        assert result.metrics[round - 1]["loss"] == pytest.approx(nats / tokens, rel=1e-11)
    for name, tensor in state.items():
        torch.testing.assert_close(result.state[name], tensor, rtol=1e-11, atol=1e-12)
    _check_evaluation(result, shapes, plain)


def _check_evaluation(result: Result, shapes: Mapping[str, tuple[int, ...]], options: Mapping[str, Any]) -> None:
    """Every client's counts, against the oracle's predictions."""
    flow = "variant" in options
    for row in result.evaluation["clients"]:
        client = next(c for c in POPULATION.clients if c.id == row["id"])
        assert row["seen"] == (not client.held_out)
        assert (row["tokens"], row["global_correct"]) == oracles.hits(result.state, client, "global")
        assert row["train_tokens"] == client.train.lengths.sum()
        if not flow:
            assert row["personal_correct"] is row["soft_correct"] is row["local_weight"] is None
            continue
        own, _, _ = oracles.flow(result.state, shapes, client, options, 0, 2, "evaluation")
        assert row["personal_correct"] == oracles.hits(own, client, "mixture", hard=True)[1]
        assert row["soft_correct"] == oracles.hits(own, client, "mixture")[1]
        assert row["local_correct"] == oracles.hits(own, client, "local")[1]
        weights = [
            float(oracles.run(own, sequence, int(length), "mixture", 1.0)[1][0][t, 1])
            for sequence, length in zip(client.test.tokens, client.test.lengths, strict=True)
            for t in range(length)
            if sequence[t + 1] >= 4
        ]
        assert row["local_weight"] == pytest.approx(np.mean(weights), rel=1e-6)
    assert {row["id"] for row in result.evaluation["clients"]} == {
        c.id for c in POPULATION.clients if len(c.train) >= (2 if flow else 1)
    }


def test_the_summary_follows_from_the_clients(finished: Result) -> None:
    for side, seen in (("seen", True), ("unseen", False)):
        rows, summary = (
            [r for r in finished.evaluation["clients"] if r["seen"] == seen],
            finished.evaluation["summary"][side],
        )
        assert summary["clients"] == len(rows)
        assert summary["clients"] + summary["skipped"] == sum(c.held_out != seen for c in POPULATION.clients)
        assert summary["tokens"] == sum(r["tokens"] for r in rows)
        for kind in ("global", "personal", "soft"):
            correct = [r[f"{kind}_correct"] for r in rows]
            assert summary[f"{kind}_token"] == sum(correct) / summary["tokens"]
            assert summary[f"{kind}_client"] == pytest.approx(
                np.mean([c / r["tokens"] for c, r in zip(correct, rows, strict=True)])
            )
        gains = [r["personal_correct"] - r["global_correct"] for r in rows]
        assert summary["helped"] == np.mean([g > 0 for g in gains])
        assert summary["hurt"] == np.mean([g < 0 for g in gains])


def test_routing_and_passages_describe_the_same_tokens(finished: Result) -> None:
    evaluation, tokens = finished.evaluation, sum(r["tokens"] for r in finished.evaluation["clients"])
    steps = evaluation["routing"]["steps"]
    assert sum(row["tokens"] for row in steps) == tokens == sum(evaluation["routing"]["histogram"]["counts"])
    mean = sum(r["local_weight"] * r["tokens"] for r in evaluation["clients"]) / tokens
    assert sum(row["mean"] * row["tokens"] for row in steps) / tokens == pytest.approx(mean, rel=1e-6)
    for row in steps:
        assert row["quantiles"] == sorted(row["quantiles"])
        assert row["quantiles"][0] <= row["mean"] <= row["quantiles"][-1]
    assert {text["seen"] for text in evaluation["texts"]} == {True, False}
    for text in evaluation["texts"]:
        client = next(c for c in POPULATION.clients if c.id == text["client"])
        test = client.test
        targets = [test.tokens[i, 1 + t] for i in range(len(test)) for t in range(test.lengths[i])]
        assert text["tokens"] == [POPULATION.vocabulary.tokens[token] for token in targets]
        scored = [hit for hit, token in zip(text["personal_correct"], targets, strict=True) if token >= 4]
        row = next(r for r in evaluation["clients"] if r["id"] == client.id)
        assert sum(scored) == row["personal_correct"]
        assert len(text["local_weight"]) == len(targets) == len(text["global_correct"])
        for model in ("global", "personal"):
            right = [a == b for a, b in zip(text["tokens"], text[f"{model}_predicted"], strict=True)]
            assert right == text[f"{model}_correct"]


def test_passages_come_from_the_clients_with_the_most_text_and_the_largest_gain() -> None:
    def score(name: str, held_out: bool, tokens: int, gain: int) -> Score:
        counts: dict[str, dict[str, float]] = {
            "global": {"accuracy": 10},
            "personal": {"accuracy": 10 + gain},
            "soft": {"accuracy": 10 + gain},
        }
        return Score(
            name,
            "",
            held_out,
            9,
            0,
            tokens,
            counts,
            None,
            np.zeros(0, np.int64),
            np.zeros((0, 2)),
            {"of": name},
            np.array([[0, 1], [2, -1]], np.int32),
            Cost(0, 0, 0.0),
        )

    seen = [score("a", False, 100, 0), score("b", False, 300, 9), score("c", False, 200, -5), score("d", False, 50, 4)]
    seen += [score("e", False, 60, 4), score("f", False, 70, 4)]
    unseen = [score("x", True, 40, 0), score("y", True, 30, -1)]
    chosen = passages([*seen, *unseen], ["p", "q", "r"])
    assert [passage["of"] for passage in chosen] == ["b", "c", "d", "e", "x", "y"]
    assert chosen[0]["global_predicted"] == ["p", "r"] and chosen[0]["personal_predicted"] == ["q", None]


def test_an_algorithm_without_personalization_says_so() -> None:
    evaluation = run(change(algorithm=FedAvgOptions(), rounds=1)).evaluation
    assert evaluation["personalized"] is False
    assert evaluation["routing"] is None
    assert evaluation["summary"]["seen"]["personal_token"] is evaluation["summary"]["seen"]["helped"] is None
    assert evaluation["texts"][0]["local_weight"] is evaluation["texts"][0]["personal_correct"] is None
    table = summary_table(evaluation["summary"])
    assert "personal" not in table
    assert "global, over tokens" in table


def test_clients_with_few_texts_train_but_are_not_scored() -> None:
    population = oracles.population(texts=9)
    result = run(change(rounds=1, evaluate_every=1), population=population)
    assert result.metrics[0]["clients"] > 0
    for side in ("seen", "unseen"):
        summary = result.evaluation["summary"][side]
        assert (summary["clients"], summary["tokens"], summary["global_token"], summary["helped"]) == (0, 0, None, None)
    assert result.evaluation["routing"] is None
    assert len(run(change(rounds=1, min_texts=9), population=population).evaluation["clients"]) == 8


def test_a_round_without_any_able_client_changes_nothing_and_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    population = oracles.population(sizes=(1, 1, 0, 4), held_out=(4,))
    config = change(rounds=6, cohort=2, seed=3)
    result = simulate(config, population=population)
    idle = [row for row in result.metrics if row["loss"] is None]
    assert 0 < len(idle) < 6
    assert all((row["clients"], row["skipped"]) == (0, 2) for row in idle)
    assert all(tensor.isfinite().all() for tensor in result.state.values())
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{len(idle)} of 6 rounds trained nobody: every client that was drawn has fewer than the 2 training")
    assert "raise cohort=2" in last
    first = next(row["round"] for row in result.metrics if row["loss"] is not None)
    assert first > 1, "the first round of this seed is meant to draw nobody who can train"
    before = run(dataclasses.replace(config, rounds=first - 1), population=population).state
    initial = dict(prepare(config, population).model.named_parameters())
    assert all(torch.equal(tensor, initial[name]) for name, tensor in before.items())


def test_a_population_in_which_nobody_can_train_is_refused(tmp_path: Path) -> None:
    population = oracles.population(sizes=(1, 1, 0), held_out=(4,))
    message = (
        r"data='tiny': none of the 3 clients that may train has the 2 training sequences that flow needs; give them more text"
    )
    with pytest.raises(UserError, match=message):
        run(change(cohort=3), tmp_path / "run", population)
    assert not (tmp_path / "run").exists()
    workshop = change(cohort=3, rounds=1, algorithm=FlowOptions(variant="workshop"))
    assert run(workshop, population=population).metrics[0]["clients"] == 2


def test_the_reasons_why_nobody_is_scored_are_counted() -> None:
    population = oracles.population(sizes=(1, 3, 4), held_out=())
    silent = dataclasses.replace(
        population.clients[1], test=dataclasses.replace(population.clients[1].test, lengths=np.zeros(3, np.int32))
    )
    few = dataclasses.replace(population.clients[2], texts=9)
    population = dataclasses.replace(population, clients=(population.clients[0], silent, few))
    assert nobody(population, "seen", 10, 2) == (
        "seen clients: no accuracy, none of the 3 could be scored (1 with fewer than the 2 training sequences needed, "
        "1 with no known token to be tested on, 1 with fewer than min_texts=10 texts); "
        "lower min_texts, or give clients more text"
    )
    assert nobody(population, "unseen", 10, 2).startswith("unseen clients: no accuracy, the data have none; give more")


@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_the_chunk_changes_results_only_to_rounding(finished: Result, chunk: int) -> None:
    other = run(change(chunk=chunk))
    for name, tensor in finished.state.items():
        torch.testing.assert_close(other.state[name], tensor, rtol=1e-11, atol=1e-12)
    assert [row["sequences"] for row in other.metrics] == [row["sequences"] for row in finished.metrics]
    for client, same in zip(other.evaluation["clients"], finished.evaluation["clients"], strict=True):
        assert client.pop("local_weight") == pytest.approx(same["local_weight"], rel=1e-6)
        assert client == {k: v for k, v in same.items() if k != "local_weight"}


@pytest.mark.parametrize(
    ("vocabulary", "backend", "device", "expected"),
    [
        (90, "reference", "cpu", 16),
        (10_000, "reference", "cpu", 1),
        (10_000, "reference", "cuda", 16),
        (90, "auto", "cpu", 16),
        (3000, "auto", "cpu", 3),
        (30_000, "auto", "cpu", 1),
    ],
)
def test_the_automatic_chunk_bounds_the_scores_or_the_parameters_held_at_a_time(
    vocabulary: int, backend: str, device: str, expected: int
) -> None:
    names = (*POPULATION.vocabulary.tokens[:4], *(str(i) for i in range(vocabulary - 4)))
    population = dataclasses.replace(POPULATION, vocabulary=Vocabulary(names, "word"), sequence_length=80)
    config: Config[Any] = Config(model=ModelOptions(device=device))
    model = LanguageModel(vocabulary, 32, 128, backend=backend)
    assert automatic_chunk(config, population, model) == expected


def test_the_threads_change_results_only_to_rounding(finished: Result) -> None:
    other = run(change(threads=3))
    assert (other.config.threads, finished.config.threads) == (3, 1)
    for name, tensor in finished.state.items():
        torch.testing.assert_close(other.state[name], tensor, rtol=1e-11, atol=1e-12)


def test_the_seed_decides_the_run() -> None:
    first, same, other = (run(change(seed=seed, rounds=1, evaluate_every=0)) for seed in (1, 1, 2))
    assert timeless(first.metrics) == timeless(same.metrics) != timeless(other.metrics)
    assert first.evaluation == same.evaluation


def test_the_global_streams_are_left_alone() -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].tolist()
    first = run(change(rounds=1))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state(legacy=False)["state"]["key"].tolist()
    torch.manual_seed(4)
    assert timeless(run(change(rounds=1)).metrics) == timeless(first.metrics)
