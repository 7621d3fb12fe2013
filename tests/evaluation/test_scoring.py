"""Evaluations of a sample, the summary at the end of a run, and what a population costs in memory."""

import dataclasses
import re
import tracemalloc
from pathlib import Path
from typing import Literal

import checksums
import oracles
import pytest
from run_cases import SMALL, run

from flow import Config, ModelOptions, UserError, simulate
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.flow import FlowOptions
from flow.data import prepared, synthetic
from flow.draws import Draw
from flow.engine.participation import turnout
from flow.engine.task import prepare
from flow.evaluation.select import choose_clients
from flow.simulation import timing
from flow.simulation.loop import sample

POPULATION = oracles.population(sizes=(5, 1, 11, 2, 8, 3, 4, 6, 7), held_out=(6, 9, 5, 3))


def test_the_final_evaluation_of_a_sample_scores_the_same_numbers_of_fewer_clients() -> None:
    config = dataclasses.replace(SMALL, rounds=1, evaluate_every=0)
    whole = run(config, population=POPULATION).evaluation
    part = run(dataclasses.replace(config, final_clients=3), population=POPULATION).evaluation
    assert whole["eligible"] == part["eligible"] == {"seen": 8, "unseen": 4}  # one has too few training sequences
    rows = {row["id"]: row for row in whole["clients"]}
    assert len(rows) == 12 and len(part["clients"]) == 6
    for row in part["clients"]:
        expected = rows[row["id"]]
        assert row.pop("local_weight") == pytest.approx(expected["local_weight"], rel=1e-6)
        assert row == {key: value for key, value in expected.items() if key != "local_weight"}
    for side in ("seen", "unseen"):
        assert (part["summary"][side]["clients"], part["summary"][side]["skipped"]) == (3, whole["summary"][side]["skipped"])
    again = run(dataclasses.replace(config, final_clients=3, chunk=1), population=POPULATION).evaluation
    assert [row["id"] for row in again["clients"]] == [row["id"] for row in part["clients"]]
    everybody = run(dataclasses.replace(config, final_clients=8), population=POPULATION).evaluation
    assert everybody == whole


def test_the_sample_for_the_curve_is_another_for_another_seed_and_the_final_one_is_not() -> None:
    population = oracles.population(sizes=(4,) * 30, held_out=(4,))

    def ids(seed: int, what: Literal["final", "curve"]) -> list[int]:
        task = prepare(dataclasses.replace(SMALL, seed=seed), population)
        return list(map(int, choose_clients(task, 5, what)["seen"].places))

    drawn = [ids(0, "final"), ids(0, "curve"), ids(1, "curve")]
    assert ids(0, "final") == ids(1, "final") == drawn[0] and len(set(map(tuple, drawn))) == 3
    assert drawn[0] != sorted(drawn[0]) and max(drawn[0]) > 5  # not the first ones


def test_algorithms_that_need_more_of_a_client_score_the_same_ones_of_those_that_both_can() -> None:
    population = oracles.population(sizes=(1, 4) * 20, held_out=(1, 4))
    tasks = [
        prepare(dataclasses.replace(SMALL, algorithm=options, min_texts=0), population)
        for options in (FedAvgOptions(batch_size=4), FlowOptions(variant="neurips", batch_size=4))
    ]
    assert [task.minimum for task in tasks] == [1, 2]
    for most in (1, 5, 9, 19):
        every, some = (choose_clients(task, most, "final")["seen"].places.tolist() for task in tasks)
        assert len(every) == len(some) == most
        of_both = [place for place in every if population.table.train[place] >= 2]
        assert some[: len(of_both)] == of_both


def test_the_summary_adds_up_the_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = dataclasses.replace(SMALL, threads=2)
    result = simulate(config, tmp_path / "run", population=POPULATION)
    about = checksums.plain((tmp_path / "run" / "run.json").read_text())
    assert about == result.run
    for part in ("data", "training", "aggregation"):
        assert about[f"{part}_seconds"] == sum(row[f"{part}_seconds"] for row in result.metrics) > 0
    curve = [row["evaluation_seconds"] for row in result.metrics]
    assert [bool(seconds) for seconds in curve] == [False, True, False, True, False]
    assert about["evaluation_seconds"] > sum(curve)
    assert about["rounds_seconds"] == sum(row["seconds"] for row in result.metrics)
    assert about["sequences"] == sum(row["sequences"] for row in result.metrics)
    assert about["sequences_per_second"] == about["sequences"] / about["rounds_seconds"]
    assert (about["processes"], about["workers"], about["peak_device_memory_bytes"]) == (1, 2, [0])
    assert about["peak_memory_bytes"][0] > 50e6
    for row in result.metrics:  # of one worker on average
        assert row["data_seconds"] + row["training_seconds"] <= 1.02 * row["seconds"]
    lines = capsys.readouterr().err.strip().splitlines()
    parts = ", ".join(rf"{part} \d+\.\d" for part in ("data", "training", "aggregation", "evaluation"))
    assert re.fullmatch(rf"seconds: {parts}; rounds \d+\.\d in all \(2 workers\)", lines[-2])
    assert re.fullmatch(r"\d+ client-sequences a second; peak memory \d+ MB", lines[-1])


def test_the_peak_is_that_of_this_process() -> None:
    before = timing.peak_memory()
    block = bytearray(before + (1 << 27))
    block[:: 1 << 12] = b"\1" * len(block[:: 1 << 12])
    assert timing.peak_memory() > before + (1 << 26)


def test_a_population_costs_a_few_bytes_a_client(tmp_path: Path) -> None:
    config = Config(algorithm=FedAvgOptions(), model=ModelOptions(embedding_dim=2, hidden_size=2), cohort=20)

    def peak(clients: int) -> int:
        folder = tmp_path / str(clients)
        prepared.write(folder, synthetic.population(synthetic.Shape(clients, 2), 3, 20, 1))
        tracemalloc.start()
        task = prepare(config, prepared.read(folder))
        choose_clients(task, 20, "curve")
        for round in range(1, 4):
            cohort = sample(task.clients, 20, Draw(0, round, "cohort"))
            for client in turnout(config, cohort, 1, task.population.numbers(cohort), round).able:
                client.read()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(30)  # whatever is made once
    assert (peak(4000) - peak(400)) / 3600 < 60


def test_a_projection_lies_between_gru_and_head() -> None:
    model = ModelOptions(embedding_dim=3, hidden_size=4, projection_dim=2)
    result = run(dataclasses.replace(SMALL, model=model, rounds=1), population=POPULATION)
    assert result.state["projection.weight"].shape == (2, 4)
    assert result.state["head.weight"].shape[1] == 2
    with pytest.raises(UserError, match=r"projection_dim must be at least 1, got 0; leave it out for the default, None"):
        run(dataclasses.replace(SMALL, model=dataclasses.replace(model, projection_dim=0)))
