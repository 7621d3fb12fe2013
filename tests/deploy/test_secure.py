"""Secure aggregation by Flower's own workflow and mod, in one process: the mean is that of a simulation to its quantisation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from algorithm_cases import CASES
from deployed_cases import NODES, difference, node_files, seed_where, written
from flower_federation import checkpoint, need_flower
from flower_in_process import InProcess, run_app

import flow
from flow.algorithms import algorithm_of
from flow.deploy.options import Deployment

pytestmark = pytest.mark.flower
SECURE = Deployment(nodes=NODES, secagg=True)
MEANS = sorted(
    name for name, case in CASES.items() if algorithm_of(case).takes_the_mean and ("," not in name or "pretrained" in name)
)


@pytest.fixture(autouse=True)
def _flower() -> None:
    need_flower()


def state_of(folder: Path, round: int, names: Any) -> Any:
    """The server's state after a round."""
    from safetensors.torch import load_file

    tensors = load_file(checkpoint(folder, round))
    return {name: tensors[name] for name in names}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def secured(tmp_path: Path, dies: dict[int, int] | None = None, **options: Any) -> InProcess:
    """The app below tmp_path on three nodes, by secure aggregation."""
    grid = InProcess(tmp_path / "app", node_files(tmp_path), dies)
    run_app(
        tmp_path / "app", grid, **{"folder": str(tmp_path / "run"), "nodes": NODES, "secagg": True, "timeout": 0.1} | options
    )
    return grid


@pytest.mark.parametrize("name", MEANS)
def test_the_state_is_that_of_a_simulation_to_the_quantisation(name: str, tmp_path: Path) -> None:
    """After one round: the bound of the page, and what rounding to float32 adds. Nodes weigh differently."""
    from flow.deploy import secure

    run, _ = written(tmp_path, CASES[name], SECURE, rounds=1, cohort=18)
    result = flow.simulate(run, progress=False)
    secured(tmp_path)
    bound = secure.error(NODES, SECURE.secagg_clip, 1.0, 1.0)
    assert bound < 2e-7
    assert difference(result.state, state_of(tmp_path / "run", 1, result.state)) < bound + 3e-7
    [row], [own] = result.metrics, rows_of(tmp_path / "run")
    assert own["clients"] == row["clients"] and own["loss"] == pytest.approx(row["loss"], rel=0.05)


def test_the_servers_optimiser_and_the_rounds_go_on_as_in_a_simulation(tmp_path: Path) -> None:
    run, _ = written(tmp_path, CASES["flow"], SECURE, rounds=3, cohort=12)
    result = flow.simulate(run, progress=False)
    secured(tmp_path)
    assert difference(result.state, state_of(tmp_path / "run", 3, result.state)) < 1e-5


def test_the_server_gets_no_upload_in_the_clear(tmp_path: Path) -> None:
    """What leaves the nodes: keys, shares, masked integers that look like nothing, and the names of the tensors."""
    import numpy as np
    from flwr.common import bytes_to_ndarray

    written(tmp_path, CASES["fedavg"], SECURE, rounds=1, cohort=18)
    grid = secured(tmp_path)
    masked = []
    for reply in grid.sent:
        for record in reply.content.array_records.values():
            assert not record, "an array in the clear"
        for record in reply.content.config_records.values():
            for contents in (value for name, value in record.items() if name == "masked_params"):
                masked.append([bytes_to_ndarray(content) for content in contents])
    assert len(masked) == NODES
    for arrays in masked:
        numbers = np.concatenate([array.ravel() for array in arrays[1:]])
        assert numbers.dtype == np.int64 and numbers.min() >= 0 and numbers.max() < 2**32
        assert abs(numbers.mean() / 2**31 - 1) < 0.1 and numbers.std() == pytest.approx(2**32 / 12**0.5, rel=0.1)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_node_that_dies_after_the_keys_were_shared_is_survived(stage: int, tmp_path: Path) -> None:
    """Before its masked upload: the sum is that of the others, as after dropout in a simulation. After it: it is in it."""
    run, _ = written(tmp_path, CASES["fedavg"], SECURE, rounds=1, cohort=6, seed=seed_where([2], 6, 0.4))
    secured(tmp_path, {2: stage})
    result = flow.simulate(replace(run, dropout=0.4 if stage == 2 else 0.0), progress=False)
    assert difference(result.state, state_of(tmp_path / "run", 1, result.state)) < 1e-6
    [row], [own] = result.metrics, rows_of(tmp_path / "run")
    assert (own["clients"], own["dropped"]) == (row["clients"], row["dropped"])
    assert (row["dropped"] > 0) == (stage == 2)


@pytest.mark.parametrize("stage", [0, 1])
def test_a_node_that_dies_before_costs_the_round(stage: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Flower cannot unmask it. The node is left out from then on, and with two nodes left nothing is sent any more."""
    written(tmp_path, CASES["fedavg"], SECURE, rounds=2, cohort=18)
    secured(tmp_path, {0: stage})
    assert [row["clients"] for row in rows_of(tmp_path / "run")] == [0, 0]
    lines = capsys.readouterr().out
    assert "takes no part any more: no answer" in lines
    assert "round 2 reaches 2 of the nodes, and secure aggregation needs 3; nothing is sent" in lines


def test_a_change_above_the_clip_is_not_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, CASES["fedavg"], SECURE, rounds=1, cohort=18)
    secured(tmp_path, secagg_clip=1e-3)
    assert "secagg_clip=0.001 is below the largest change of a parameter on this node in round 1, " in capsys.readouterr().out
    assert rows_of(tmp_path / "run")[0]["clients"] == 0


def test_the_steps_fit_into_the_modulus() -> None:
    from flow.deploy import secure

    for nodes in (3, 4, 5, 64, 1000, 1025):
        count = secure.steps(nodes)
        assert nodes * count < secure.MODULUS and 2 * nodes * count * 2 >= 2**31
        assert count & (count - 1) == 0
