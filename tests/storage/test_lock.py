"""One process at a time in a folder: by real processes, which are also killed, and race for the same new folder."""

import errno
import json
import os
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from comparisons import (
    QUIET,
    TINY,
    plain_fixture,  # noqa: F401
)
from holders import Holder
from optional import present
from run_cases import KEPT, POPULATION, change, run, timeless

from flow import UserError, compare, resume, resume_comparison
from flow.reports.run_page import write_report
from flow.simulation import loop
from flow.simulation.loop import Result
from flow.storage import lock, run_folder


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_write_report", lambda folder: None)


def in_use(holder: Holder) -> str:
    """The one sentence with which every other process is refused."""
    host = re.escape(socket.gethostname())
    return rf"^folder='.*' is in use by process {holder.process.pid} on host {host} since 20\S+ \S+; wait until .*, or stop it"


def again(folder: Path) -> Result:
    return resume(folder, population=POPULATION, progress=False)


def test_a_second_process_is_refused_and_a_killed_one_keeps_nobody_out(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    whole = run(KEPT, tmp_path / "whole")
    with Holder("simulate", folder, stop="3") as holder:
        holder.started()
        seconds: list[Callable[[], Result]] = [lambda: again(folder), lambda: run(KEPT, folder)]
        for second in seconds:
            with pytest.raises(UserError, match=in_use(holder)) as refused:
                second()
            assert "\n" not in str(refused.value)
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3
        holder.kill()  # between the row of round 3 and the checkpoint that counts on it
    assert (folder / lock.NAME).exists()
    with pytest.raises(UserError, match=r"exists already .*continue that run with `flow run --resume"):
        run(KEPT, folder)
    result = again(folder)
    assert timeless(result.metrics) == timeless(whole.metrics) and result.evaluation == whole.evaluation
    assert all(torch.equal(tensor, result.state[name]) for name, tensor in whole.state.items())
    assert not (folder / lock.NAME).exists()


def test_of_two_processes_that_go_on_with_a_run_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    run(KEPT, folder)
    (folder / "checkpoints" / "round_000006.safetensors").unlink()
    race("resume", folder, "5")
    assert [json.loads(line)["round"] for line in (folder / "metrics.jsonl").open()] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("task", ["simulate", "compare"])
def test_of_two_processes_that_start_in_the_same_new_folder_one_does(task: str, tmp_path: Path) -> None:
    race(task, tmp_path / "parent" / "new", "1")


def race(task: str, folder: Path, stop: str) -> None:
    """Start two processes at the same moment: one comes to its stop, the other one is refused."""
    with Holder(task, folder, stop) as first, Holder(task, folder, stop) as second:
        for holder in (first, second):
            assert holder.line() == "ready"
        for holder in (first, second):
            holder.go()
        lines = {holder: holder.line() for holder in (first, second)}
        (winner,) = (holder for holder, line in lines.items() if line == "waits")
        (loser,) = (holder for holder in lines if holder is not winner)
        assert re.search(in_use(winner), lines[loser])
        assert (loser.ended(), winner.ended()) == (2, 0)
    assert not (folder / lock.NAME).exists()


@pytest.mark.parametrize("task", ["simulate", "compare"])
def test_a_folder_of_a_process_killed_before_it_wrote_anything_is_taken_over(task: str, tmp_path: Path, plain: None) -> None:
    folder = tmp_path / "new"
    starts: dict[str, Callable[[], object]] = {
        "simulate": lambda: run(KEPT, folder),
        "compare": lambda: compare(["fedavg"], folder, TINY, **QUIET),
    }
    start = starts[task]
    with Holder(task, folder, stop="prepare") as holder:
        holder.started()
        with pytest.raises(UserError, match=in_use(holder)):
            start()
        holder.kill()
    assert [path.name for path in folder.iterdir()] == [lock.NAME]
    (folder / ".config.json.999999999.tmp").write_text("{")
    start()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_comparison_and_its_runs_are_locked(tmp_path: Path, plain: None) -> None:
    folder = tmp_path / "compared"
    with Holder("compare", folder) as holder:
        holder.started()
        seconds: list[Callable[[], object]] = [
            lambda: compare(["fedavg"], folder, TINY, **QUIET),
            lambda: resume_comparison(folder, **QUIET),
            lambda: again(folder / "runs" / "fedavg-seed0"),
        ]
        for second in seconds:
            with pytest.raises(UserError, match=in_use(holder)):
                second()
        holder.kill()
    assert resume_comparison(folder, **QUIET).rows[0].runs == 1
    assert not list(folder.rglob(lock.NAME))


def test_a_report_takes_no_lock(tmp_path: Path) -> None:
    folder = present(run(change(rounds=1), tmp_path / "run").folder)
    with lock.held(folder):
        assert write_report(folder).is_file() and (folder / lock.NAME).is_file()


def test_an_empty_folder_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already and is left as it is; give another folder"):
        run(folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["this system", "its file system"])
def test_without_file_locks_a_run_says_so_once_and_goes_on(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    if what == "this system":
        monkeypatch.setattr(lock, "fcntl", None)
    else:
        monkeypatch.setattr("flow.storage.lock.fcntl.flock", unsupported)
    folder, leftover = tmp_path / "run", tmp_path / "run" / ".run.json.999999999.tmp"
    run(change(rounds=1), folder)
    leftover.touch()
    again(folder)
    assert leftover.exists(), "whoever wrote it may still be there"
    only = "let only one process at a time use the folder"
    assert capsys.readouterr().err == f"flow: {folder}: {what} has no file locks; {only}\n"
    assert not (folder / lock.NAME).exists()


def test_what_a_killed_process_did_not_finish_is_removed_when_the_run_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = run(KEPT, folder)
    gone, alive = 999_999_999, os.getppid()
    names = ["metrics.jsonl", "report.html", "checkpoints/round_000006.safetensors", "clients/0000/0000001-000006.safetensors"]
    for name in names:
        for process in (gone, alive, os.getpid()):
            path = folder / name
            path.with_name(f".{path.name}.{process}.tmp").write_text("x")
    (folder / ".mine.tmp").touch()
    again_metrics = again(folder).metrics
    assert again_metrics == result.metrics
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob(".*"))
    expected = [(folder / name).with_name(f".{(folder / name).name}.{alive}.tmp").relative_to(folder) for name in names]
    assert left == sorted([".mine.tmp", *map(str, expected)])


def test_the_lock_is_given_up_where_a_run_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(folder: Path, row: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "append_metrics", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(KEPT, tmp_path / "run")
    assert not (tmp_path / "run" / lock.NAME).exists()
    again(tmp_path / "run")


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "pipe"])
def test_what_is_no_lock_is_neither_written_into_nor_removed(kind: str, tmp_path: Path) -> None:
    folder, other = tmp_path / "run", tmp_path / "other"
    run(KEPT, folder)
    other.write_text("precious " * 9)
    path = folder / lock.NAME
    if kind == "symbolic link":
        path.symlink_to(other)
    elif kind == "hard link":
        path.hardlink_to(other)
    else:
        os.mkfifo(path)
    with pytest.raises(OSError, match=re.escape(str(path))):
        again(folder)
    assert other.read_text() == "precious " * 9 and os.path.lexists(path)
