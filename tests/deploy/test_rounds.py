"""A deployment has the numbers of a simulation: the same clients, draws, server's steps, in one process without Flower."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from algorithm_cases import CASES
from deployed_cases import SHARES, Exchange, deployed, difference, node_files, seed_where, written

import flow
from flow.algorithms import algorithm_of
from flow.config import read_config
from flow.data import DataOptions
from flow.deploy.options import Deployment
from flow.errors import UserError
from flow.server.options import ServerOptions
from flow.server.schedules import ScheduleOptions
from flow.storage import run_folder

AVERAGING = sorted(name for name, options in CASES.items() if algorithm_of(options).averages)
TIMES = ("seconds", "sequences_per_second", "data_seconds", "training_seconds", "aggregation_seconds", "evaluation_seconds")


def compared(tmp_path: Path, options: Any, **changes: Any) -> tuple[flow.Result, Any]:
    """The same run simulated and deployed on three nodes."""
    run, app = written(tmp_path, options, **changes)
    result = flow.simulate(run, progress=False)
    server, _ = deployed(app, Exchange(app, node_files(tmp_path)), tmp_path / "run")
    return result, server


@pytest.mark.parametrize("name", AVERAGING)
def test_the_state_of_the_server_is_that_of_a_simulation(name: str, tmp_path: Path) -> None:
    """To the bit, of every algorithm that averages, and what the rows of metrics.jsonl count is the same too."""
    result, server = compared(tmp_path, CASES[name], rounds=3 if "pretrained" in name else 2)
    assert difference(result.state, server.state) == 0
    for row, own in zip(result.metrics, server.metrics, strict=True):
        same = {key for key in row if key not in (*TIMES, "download_bytes", "client_state_bytes")}
        assert {key: own[key] for key in same} == {key: row[key] for key in same}
    assert any(row["clients"] for row in server.metrics)


@pytest.mark.parametrize(
    "changes",
    [
        {"server": ServerOptions("adam")},
        {"server": ServerOptions(aggregator="median")},
        {"server": ServerOptions(aggregator="krum", byzantine=0.2)},
        {"schedule": ScheduleOptions(lr_schedule="cosine", lr_warmup=1)},
        {"chunk": 1, "threads": 2},
        {"seed": 5, "validation_share": 0.3},
    ],
    ids=["adam", "median", "krum", "schedule", "chunk", "validation"],
)
def test_the_servers_options_are_those_of_a_simulation(changes: dict[str, Any], tmp_path: Path) -> None:
    result, server = compared(tmp_path, CASES["fedavg"], rounds=3, **changes)
    assert difference(result.state, server.state) == 0


@pytest.mark.parametrize("options", [{"tokenizer": "characters"}, {"sequence_length": 4, "vocabulary_size": 9}])
def test_texts_are_cut_as_the_simulation_cuts_them(options: dict[str, Any], tmp_path: Path) -> None:
    data = DataOptions(str(tmp_path / "all.jsonl"), **options)
    result, server = compared(tmp_path, CASES["fedavg"], data=data)
    assert difference(result.state, server.state) == 0


@pytest.mark.parametrize("gone", [False, True])
def test_a_node_that_dies_is_survived(gone: bool, tmp_path: Path) -> None:
    """The oracle is a simulation in which the uploads of exactly its clients are lost by dropout."""
    run, app = written(tmp_path, CASES["fedavg"], rounds=2, cohort=3, seed=seed_where([None, 0], 3, 0.4))
    result = flow.simulate(replace(run, dropout=0.4), progress=False)
    assert [row["dropped"] for row in result.metrics] == [0, 1]
    exchange = Exchange(app, node_files(tmp_path), dies={0: 2}, gone=gone)
    server, lines = deployed(app, exchange, tmp_path / "run")
    assert difference(result.state, server.state) == 0
    assert [row["dropped"] for row in server.metrics] == [0, 1]
    assert any("goes on without node 0" in line for line in lines)


def test_a_round_without_any_upload_changes_nothing(tmp_path: Path) -> None:
    _, app = written(tmp_path, CASES["fedavg"], rounds=2)
    exchange = Exchange(app, node_files(tmp_path), dies={0: 1, 1: 1, 2: 1})
    server, _ = deployed(app, exchange, tmp_path / "run")
    assert [row["clients"] for row in server.metrics] == [0, 0]
    assert [row["loss"] for row in server.metrics] == [None, None]
    before = server.task.algorithm.init(server.task.config.algorithm, server.task.model, 0, 24)
    assert difference(before, server.state) == 0


def test_the_folder_of_the_run_is_one_of_flow(tmp_path: Path) -> None:
    """Its configuration, its rows with their checksums, and a checkpoint that holds the state."""
    _, app = written(tmp_path, CASES["flow"])
    server, lines = deployed(app, Exchange(app, node_files(tmp_path)), tmp_path / "run")
    folder = tmp_path / "run"
    assert read_config(folder) == app.config
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [1, 2]
    [*_, last] = run_folder.stored(folder / "checkpoints")
    tensors, round = run_folder.load(last, server.run.digest)
    assert round == 2 and all(torch.equal(tensors[name], server.state[name]) for name in server.state)
    assert lines[0] == "22 clients that may train on 3 nodes" and lines[-1].startswith("round 2 of 2: loss ")
    texts = " ".join(text for share in SHARES for texts in share.values() for text in texts)
    stored = "".join(path.read_text() for path in (tmp_path / "app").iterdir() if path.is_file())
    assert not any(text in stored for text in texts.split(". ")), "a text is in the app"


@pytest.mark.parametrize("name", ["flow", "fedavgft"])
def test_a_client_adapts_the_model_of_a_deployment_as_that_of_a_simulation(name: str, tmp_path: Path) -> None:
    """By `flow adapt` on the run's folder, with texts that no node has."""
    run, app = written(tmp_path, CASES[name])
    flow.simulate(run, tmp_path / "simulated", progress=False)
    deployed(app, Exchange(app, node_files(tmp_path)), tmp_path / "run")
    texts = [" ".join(["the lazy dog jumps over", "every child sleeps"][number % 2 :]) for number in range(9)]
    mine, theirs = (
        flow.adapt(tmp_path / folder, tmp_path / f"me-{folder}", texts=texts, progress=False) for folder in ("run", "simulated")
    )
    assert mine.report["personal_loss"] == theirs.report["personal_loss"] is not None
    assert mine.report["general_loss"] == theirs.report["general_loss"]


def test_what_clients_keep_stays_on_their_node(tmp_path: Path) -> None:
    """And the folder of the run has no file of it."""
    _, app = written(tmp_path, CASES["ditto"])
    options = node_files(tmp_path)
    server, _ = deployed(app, Exchange(app, options), tmp_path / "run")
    for own, share in zip(options, SHARES, strict=True):
        kept = list(Path(own.state).rglob("*.safetensors"))
        assert 0 < len(kept) <= len(share)
    assert not (tmp_path / "run" / "clients").exists()
    assert not server.run.states.rows().size


def test_secure_aggregation_is_for_means_alone(tmp_path: Path) -> None:
    secure = Deployment(secagg=True)
    with pytest.raises(UserError, match="secagg=True shows the server the sum of the uploads alone, and hypcluster"):
        written(tmp_path, CASES["hypcluster"], secure)
    with pytest.raises(UserError, match="and aggregator='median' compares single ones; leave either out"):
        written(tmp_path, CASES["fedavg"], secure, server=ServerOptions(aggregator="median"))
