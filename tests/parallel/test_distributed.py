"""A run on several processes: the same numbers as on one, and an end that says why."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import checksums
import oracles
import pytest
import ranks
import torch

from flow import resume, simulate
from flow.cli.main import main
from flow.config import read_config
from flow.parallel.processes import Ranks, shard
from flow.simulation import loop
from flow.storage import run_folder

POPULATION = oracles.population()


def test_shares_are_even_and_follow_from_the_costs_alone() -> None:
    costs = [7.0, 3.0, 9.0, 3.0, 1.0, 9.0, 2.0]
    assert shard(costs, 1).places == (tuple(range(7)),)
    assert shard(costs, 2).places == ((0, 2, 4), (1, 3, 5, 6))  # 17 and 17: the costliest first, of equals the first one
    assert shard(costs, 3).places == ((2, 3), (5, 6), (0, 1, 4))  # 12, 11 and 11
    assert shard([5.0], 3).places == ((0,), (), ())
    assert shard([], 2).counts() == [0, 0]


def test_one_process_alone_exchanges_nothing() -> None:
    alone, vector, rows = Ranks(), torch.ones(2), {"a": torch.ones(3, 2)}
    assert alone.sum(vector, rows, True) == (vector, rows)
    assert alone.gather(rows, [3]) is rows
    assert alone.texts("x") == ["x"] and alone.in_turn(lambda: None) is None
    with alone.together(lambda: "nothing"):
        pass


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("single")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "_write_report", lambda path: None)
        for name, config in ranks.configurations().items():
            simulate(config, folder / name, population=POPULATION, progress=False)
    return folder


def same(actual: Any, expected: Any, where: str = "") -> None:
    """Nested content is the same, numbers to the bit; seconds and memory aside."""
    assert type(actual) is type(expected), where
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), where
        for key, value in expected.items():
            if "second" not in key or key.startswith("virtual"):
                same(actual[key], value, f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), where
        for n, (actual_item, expected_item) in enumerate(zip(actual, expected, strict=True)):
            same(actual_item, expected_item, f"{where}/{n}")
    else:
        assert actual == expected, where


@pytest.mark.parametrize("processes", [3])
def test_any_number_of_processes_gives_the_same_bits(single: Path, processes: int, tmp_path: Path) -> None:
    ran = ranks.launch(processes, "ranks", "all", str(tmp_path))
    assert not ran.returncode, ran.stderr
    compared(single, tmp_path, list(ranks.configurations()), processes)


@pytest.mark.long
def test_virtual_time_is_the_same_on_four_processes(single: Path, tmp_path: Path) -> None:
    """Asynchronous, compressed and timed runs; from the start, and after a checkpoint that one process wrote."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "_write_report", lambda path: None)
        for name, config in ranks.timed().items():
            begun = dataclasses.replace(config, rounds=(config.rounds - 1) // 2 * 2)  # a checkpoint that the whole run has, too
            simulate(begun, tmp_path / "begun" / name, population=POPULATION, progress=False)
    ran = ranks.launch(4, "ranks", "timed", str(tmp_path))
    assert not ran.returncode, ran.stderr
    assert sum(config.async_buffer > 0 for config in ranks.timed().values()) == 5
    for name, config in ranks.timed().items():
        assert [row["round"] for row in checksums.rows(single / name)] == list(range(1, config.rounds + 1))
    compared(single, tmp_path, list(ranks.timed()), 4)
    compared(single, tmp_path / "begun", list(ranks.timed()), 4)


def compared(single: Path, folder: Path, names: list[str], processes: int) -> None:
    """What these runs left behind is the same, to the bit."""
    for name in names:
        reference, several = single / name, folder / name
        same(checksums.rows(several), checksums.rows(reference), f"{name}: metrics")
        ours, theirs = (checksums.plain((own / "evaluation.json").read_text()) for own in (several, reference))
        same(ours, theirs, f"{name}: evaluation")
        stored = [run_folder.stored(own / "checkpoints") for own in (several, reference)]
        assert [path.name for path in stored[0]] == [path.name for path in stored[1]]
        digest = run_folder.digest(run_folder.describe(read_config(reference), json_name(reference), POPULATION), POPULATION)
        for path, other in zip(*stored, strict=True):
            actual, expected = run_folder.load(path, digest)[0], run_folder.load(other, digest)[0]
            assert actual.keys() == expected.keys()
            for key, tensor in expected.items():
                assert torch.equal(actual[key], tensor), f"{name} {key}"
        files = [sorted(path.name for path in (own / "clients").glob("*/*")) for own in (several, reference)]
        assert files[0] == files[1] and bool(files[1]) == name.endswith("kept on disk")
        about = json.loads((several / "run.json").read_text())
        assert about["processes"] == len(about["peak_memory_bytes"]) == processes
        assert [path.name for path in several.iterdir() if path.name.startswith(".")] == []


def json_name(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text())["algorithm"]["name"])


DATA = "--data synthetic --clients 40 --sequences 4 --sequence-length 5 --vocabulary-size 30"
TINY = f"{DATA} --embedding-dim 3 --hidden-size 4 --dtype float64 --cohort 5 --rounds 4 --checkpoint-every 1 --evaluate-every 0"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            "kill-1-3",
            "flow: process 1 of 2 ended in round 3 without a word, as one that was killed or is cut off; go on after its last",
        ),
        (
            "kill-0-3",
            "flow: process 0 of 2 ended in round 3 without a word, as one that was killed or is cut off; go on after its last",
        ),
        ("fail-1-3", "flow: process 1 of 2 ended in round 3 (UserError: the disk of this process is gone); go on after its"),
    ],
)
def test_a_process_that_is_lost_ends_the_run_and_it_goes_on_on_any_number(task: str, message: str, tmp_path: Path) -> None:
    folder, cache = tmp_path / "run", tmp_path / "cache"
    ran = ranks.launch(2, "ranks", task, str(folder), ARGUMENTS=TINY, FLOW_CACHE=str(cache))
    assert ran.returncode
    (line,) = (line for line in ran.stderr.splitlines() if line.startswith("flow: "))
    assert line.startswith(message)
    assert line.endswith(f"checkpoint with `flow run --resume {folder}`, on any number of processes")
    assert run_folder.rounds(folder / "checkpoints") == [1, 2]
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(os.environ, "FLOW_CACHE", str(cache))
        config = read_config(folder)
        whole = simulate(config, progress=False)
        if task.startswith("kill-1"):
            ran = ranks.launch(3, "run", "--resume", str(folder), FLOW_CACHE=str(cache))
            assert not ran.returncode, ran.stderr
            assert f"report: {folder / 'report.html'}" in ran.stdout.splitlines()[-1]
        again = resume(folder, progress=False)
    assert [row["round"] for row in again.metrics] == [1, 2, 3, 4]
    for name, tensor in whole.state.items():
        assert torch.equal(again.state[name], tensor), name
    same(again.evaluation, whole.evaluation)


def test_a_mistake_is_told_by_the_first_process_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in (0, 1):
        monkeypatch.setattr("flow.cli.main.joined", lambda rank=rank: Ranks(rank, 2))
        assert main(["compare", "--list"]) == 2
        warning = capsys.readouterr().err
        assert warning == ("" if rank else "flow: `flow compare` runs in one process, not in 2; start it without torchrun\n")
