"""Callbacks: what they are told, that they change nothing, and that a run outlives those that fail."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import TINY, plain_fixture  # noqa: F401
from ranks import TORCHRUN
from run_cases import POPULATION, SMALL, run, timeless

from flow import Callback, Diverged, Result, UserError, compare, resume, resume_comparison, simulate
from flow.algorithms.fedavg import FedAvgOptions
from flow.callbacks import Data
from flow.callbacks.base import Memory, name_of
from flow.callbacks.calls import EVENTS
from flow.storage import run_folder

pytestmark = pytest.mark.usefixtures("plain")


class Recorder(Callback):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Data]] = []

    def run_started(self, run: Data) -> None:
        self.told.append(("run_started", run))

    def round_done(self, row: Data) -> None:
        self.told.append(("round_done", row))

    def evaluation_done(self, evaluation: Data) -> None:
        self.told.append(("evaluation_done", evaluation))

    def run_ended(self, run: Data) -> None:
        self.told.append(("run_ended", run))

    def of(self, event: str) -> list[Data]:
        """What it was told by one method."""
        return [content for name, content in self.told if name == event]


class Raises(Recorder):
    """Raises an error when it is told something for the n-th time."""

    def __init__(self, event: str, number: int, error: BaseException) -> None:
        super().__init__()
        self.event, self.number, self.error = event, number, error

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if name not in EVENTS or name != self.event:
            return method

        def raising(content: Data) -> None:
            method(content)
            if len(self.of(name)) == self.number:
                raise self.error

        return raising


def watched(*callbacks: Callback | str, config: Any = SMALL, folder: Path | None = None, progress: bool = False) -> Result:
    return simulate(config, folder, population=POPULATION, progress=progress, callbacks=callbacks)


def test_a_callback_is_told_everything_in_order(tmp_path: Path) -> None:
    recorder = Recorder()
    result = watched(recorder, folder=tmp_path / "run")
    names = [name for name, _ in recorder.told]
    evaluated = ["round_done", "evaluation_done", "round_done"]
    assert names == ["run_started", *evaluated, *evaluated, "round_done", "evaluation_done", "run_ended"]
    start = recorder.of("run_started")[0]
    assert (start["name"], start["algorithm"], start["rounds"], start["done"]) == ("run", "flow", 5, 0)
    assert start["folder"] == str(tmp_path / "run") and start["earlier"] == []
    assert start["config"] == run_folder.options(run_folder.read_config(tmp_path / "run"))
    assert recorder.of("round_done") == result.metrics
    along, final = recorder.of("evaluation_done")[:-1], recorder.of("evaluation_done")[-1]
    assert [(each["round"], each["final"]) for each in (*along, final)] == [(2, False), (4, False), (5, True)]
    assert [{side: each[side] for side in ("seen", "unseen")} for each in along] == [
        {side: row["evaluation"][side] for side in ("seen", "unseen")} for row in result.metrics if row["evaluation"]
    ]
    assert final == {"round": 5, "final": True, **result.evaluation["summary"]}
    assert recorder.of("run_ended") == [{"outcome": "finished", "reason": None, "rounds": 5, "run": result.run}]


class Meddles(Recorder):
    """Changes whatever it gets, and draws from every global stream."""

    def __getattribute__(self, name: str) -> Any:
        if name not in EVENTS:
            return super().__getattribute__(name)

        def meddling(content: Data) -> None:
            self.told.append((name, {}))
            spoil(content)
            spoil_streams()

        return meddling


def spoil(content: Any) -> None:
    """Change every number, and empty every list and dictionary."""
    for value in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        spoil(value)
    if isinstance(content, dict):
        content.update(dict.fromkeys(content, -1))
        content["lr"] = 1e9
    elif isinstance(content, list):
        content.clear()


def spoil_streams() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert random.random() + np.random.rand(100).sum() + float(torch.rand(100).sum()) > 0


def test_a_callback_that_changes_all_it_gets_changes_nothing_in_the_run() -> None:
    meddler, recorder = Meddles(), Recorder()
    alone, beside = run(), watched(meddler, recorder)
    assert len(meddler.told) == len(recorder.told) == 10
    assert set(alone.state) == set(beside.state)
    assert all(torch.equal(alone.state[name], beside.state[name]) for name in alone.state)
    assert timeless(alone.metrics) == timeless(beside.metrics) == timeless(recorder.of("round_done"))
    assert timeless([alone.evaluation]) == timeless([beside.evaluation])


def test_a_logger_that_raises_in_round_3_is_named_and_the_run_ends(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    faulty, recorder = Raises("round_done", 3, ConnectionError("no route\nto the host")), Recorder()
    result = watched(faulty, recorder, folder=tmp_path / "run", progress=True)
    sentence = (
        "the callback Raises failed in round 3 (ConnectionError: no route to the host) and was called no more; the run went on "
        "without it"
    )
    printed = capsys.readouterr()
    assert printed.err.count(f"flow: warning: {sentence}\n") == 1
    assert printed.out.rstrip().endswith(f"\n{sentence}")
    assert [row["round"] for row in faulty.of("round_done")] == [1, 2, 3] and not faulty.of("run_ended")
    assert [row["round"] for row in recorder.of("round_done")] == [1, 2, 3, 4, 5] and recorder.of("run_ended")
    assert timeless(result.metrics) == timeless(run().metrics)
    assert (tmp_path / "run" / "evaluation.json").is_file()


@pytest.mark.parametrize(
    ("event", "number", "where", "told"),
    [
        ("run_started", 1, "at the start of the run", 1),
        ("evaluation_done", 2, "in the evaluation of round 4", 6),
        ("evaluation_done", 3, "in the final evaluation", 9),
        ("run_ended", 1, "at the end of the run", 10),
    ],
)
def test_a_callback_may_fail_anywhere(
    event: str, number: int, where: str, told: int, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty = Raises(event, number, ZeroDivisionError())
    assert len(watched(faulty).metrics) == 5
    assert f"the callback Raises failed {where} (ZeroDivisionError) and was called no more" in capsys.readouterr().err
    assert len(faulty.told) == told


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interrupt_within_a_callback_ends_the_run_as_everywhere(error: BaseException, tmp_path: Path) -> None:
    faulty, recorder = Raises("round_done", 3, error), Recorder()
    with pytest.raises(type(error)):
        watched(recorder, faulty, folder=tmp_path / "run")
    end = recorder.of("run_ended")[0]
    assert (end["outcome"], end["rounds"], end["run"]) == ("stopped", 3, None)
    assert end["reason"].startswith(type(error).__name__)
    again = Recorder()
    resume(tmp_path / "run", population=POPULATION, progress=False, callbacks=[again])
    start = again.of("run_started")[0]
    assert start["done"] == 2 and timeless(start["earlier"]) == timeless(run().metrics[:2])
    assert [row["round"] for row in again.of("round_done")] == [3, 4, 5]


def test_a_run_that_diverges_says_so() -> None:
    recorder = Recorder()
    with pytest.raises(Diverged):
        watched(recorder, config=replace(TINY, algorithm=FedAvgOptions(lr=1e30, clip=0.0)))
    end = recorder.of("run_ended")[0]
    assert end["outcome"] == "failed" and end["reason"].startswith("Diverged: training diverged in round ")


def test_one_object_sees_every_run_of_a_comparison(tmp_path: Path) -> None:
    recorder = Recorder()
    folder, quiet = tmp_path / "both", {"population": POPULATION, "progress": False}
    compare(["fedavg", "local"], folder, TINY, callbacks=["csv", recorder], **quiet)  # type: ignore[arg-type]
    assert [start["name"] for start in recorder.of("run_started")] == ["both/fedavg-seed0", "both/local-seed0"]
    assert len(recorder.of("run_ended")) == 2
    assert (folder / "runs" / "local-seed0" / "logs" / "rounds.csv").is_file()
    resume_comparison(folder, callbacks=[recorder], **quiet)  # type: ignore[arg-type]
    assert len(recorder.of("run_started")) == 2, "finished runs are not done again"
    assert name_of(folder / "tuning" / "fedavg-3", "fedavg") == "both/tuning/fedavg-3"
    assert name_of(None, "fedavg") == "fedavg"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": "x"}'])
def test_what_a_logger_remembers_is_kept_and_a_damaged_file_counts_as_none(content: str, tmp_path: Path) -> None:
    run = {"folder": str(tmp_path)}
    memory = Memory("mlflow", run)
    assert not memory.known and memory.content["logged"] == 0
    memory.keep(logged=7)
    again = Memory("mlflow", run)
    assert again.known and again.content == memory.content
    assert again.missing([{"round": 7}, {"round": 8}]) == [{"round": 8}]
    (tmp_path / "logs" / "mlflow.json").write_text(content)
    anew = Memory("mlflow", run)
    assert not anew.known and anew.content["id"] != memory.content["id"]


class Half:
    """Has one of the methods."""

    def round_done(self, row: Data) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ("csv", r"callbacks must be a list, got 'csv'; write callbacks=\['csv'\]"),
        (["excel"], "callbacks has 'excel', which is no logger; give one of csv, mlflow, tensorboard, trackio, wandb, or"),
        ([Recorder], "which is a class, not an object of it; give an object of a class that inherits flow.Callback"),
        ([Half()], "which has no method run_started; give an object of a class that inherits flow.Callback"),
    ],
)
def test_what_is_no_callback_is_refused_before_anything_is_written(callbacks: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        simulate(SMALL, tmp_path / "run", population=POPULATION, progress=False, callbacks=callbacks)
    with pytest.raises(UserError, match=message):
        compare(["fedavg"], tmp_path / "run", TINY, population=POPULATION, progress=False, callbacks=callbacks)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["mlflow", "tensorboard", "trackio", "wandb"])
def test_a_library_that_is_missing_is_named_before_the_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    needed = rf"log='{name}' is a logger, which needs the package {name} \(.*\); run: pip install 'flow-fl\[{name}\]'$"
    with pytest.raises(UserError, match=needed):
        watched(name, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_logger_that_needs_a_folder_is_refused_without_one() -> None:
    with pytest.raises(UserError, match=r"callbacks has 'csv', which writes into the run's folder, and folder is None; give"):
        watched("csv")


def test_a_run_without_loggers_loads_none_of_their_libraries() -> None:
    code = (
        "import sys, flow.simulation.loop, flow.cli.run, flow.callbacks\n"
        "print({'mlflow', 'tensorboard', 'trackio', 'wandb', 'sqlalchemy'} & sys.modules.keys())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout == "set()\n"


def test_of_several_processes_the_first_calls(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ["--data", "synthetic", "--clients", "20", "--hidden-size", "4", "--rounds", "2", "--cohort", "4", "--log", "csv"]
    command = [*TORCHRUN, "2", "--standalone", "-m", "--", "flow", "run", "fedavg", *options, "--folder", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    rows = (folder / "logs" / "rounds.csv").read_text().splitlines()
    assert len(rows) == 3 and [row.split(",")[0] for row in rows] == ["round", "1", "2"]
