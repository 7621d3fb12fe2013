"""Runs that go on with more rounds, or with their data in another place."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import checksums
import oracles
import pytest
import torch
from optional import present
from run_cases import timeless
from safetensors.torch import load_file

from flow import Config, ModelOptions, UserError, resume, simulate
from flow.algorithms.ditto import DittoOptions
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.lgfedavg import LGFedAvgOptions
from flow.cli.main import main
from flow.config import read_config
from flow.data import DataOptions, load
from flow.simulation import loop
from flow.simulation.loop import Result
from flow.storage import files, run_folder

POPULATION = oracles.population()
FIXTURES = Path(__file__).parents[1] / "fixtures"
BASE: Config[Any] = Config(
    algorithm=FedAvgOptions(lr=0.5, batch_size=4),
    model=ModelOptions(embedding_dim=3, hidden_size=4, dtype="float64"),
    rounds=4,
    cohort=4,
    evaluate_every=3,
    evaluate_clients=2,
    chunk=3,
    validation_share=0.0,
)
CASES: dict[str, Any] = {
    "fedavg": BASE,
    "ditto, memory": dataclasses.replace(BASE, algorithm=DittoOptions(lr=0.5, batch_size=4)),
    "ditto, disk": dataclasses.replace(BASE, algorithm=DittoOptions(lr=0.5, batch_size=4), client_memory=0),
    "lgfedavg": dataclasses.replace(BASE, algorithm=LGFedAvgOptions(lr=0.5, batch_size=4)),
}


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    def report(folder: Path) -> Path:
        files.write(folder / "report.html", b"report")
        return folder / "report.html"

    monkeypatch.setattr(loop, "_write_report", report)  # pictures are tested elsewhere, and slow


@contextlib.contextmanager
def stopped_in(
    stop: int, monkeypatch: pytest.MonkeyPatch, append: Callable[..., None] = run_folder.append_metrics
) -> Iterator[None]:
    """A run in this block is stopped in this round, after its row is written and before its checkpoint."""

    def interrupted(folder: Path, row: Mapping[str, Any]) -> None:
        append(folder, row)
        if row["round"] == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "append_metrics", interrupted)
        with pytest.raises(KeyboardInterrupt):
            yield


def same(first: Result, second: Result) -> None:
    """Two runs have the same numbers to the bit, and the same files say so."""
    assert first.config == second.config
    assert timeless(first.metrics) == timeless(second.metrics)
    assert first.evaluation == second.evaluation
    last = [load_file(run_folder.stored(present(run.folder) / "checkpoints")[-1]) for run in (first, second)]
    rounds = [tensors.pop("clients:rounds", None) for tensors in last]
    assert (rounds[0] is None) == (rounds[1] is None)
    assert last[0].keys() == last[1].keys()
    assert all(torch.equal(tensor, last[1][name]) for name, tensor in last[0].items())
    configs = [run_folder.read_config(present(run.folder)) for run in (first, second)]
    assert configs[0] == configs[1]
    for name in ("evaluation.json", "metrics.jsonl", "run.json", "report.html"):
        assert (present(first.folder) / name).is_file()
    assert checksums.plain((present(first.folder) / "evaluation.json").read_text()) == second.evaluation
    assert json.loads((present(first.folder) / "run.json").read_text())["sequences"] == sum(
        row["sequences"] for row in second.metrics
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("stop", [None, 3])
def test_a_run_with_more_rounds_is_the_run_that_had_them_from_the_start(
    name: str, stop: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CASES[name]
    if stop is None:
        first = simulate(config, tmp_path / "run", population=POPULATION, progress=False)
        resolved = first.config
    else:
        config = dataclasses.replace(config, checkpoint_every=2)
        with stopped_in(stop, monkeypatch):
            simulate(config, tmp_path / "run", population=POPULATION, progress=False)
        resolved = read_config(tmp_path / "run")
    if name == "lgfedavg":
        assert resolved.algorithm.pretrain_rounds == 2
    longer = resume(tmp_path / "run", rounds=6, population=POPULATION, progress=False)
    whole = simulate(dataclasses.replace(resolved, rounds=6), tmp_path / "whole", population=POPULATION, progress=False)
    assert bool(list(tmp_path.glob("run/clients/*/*"))) == (name == "ditto, disk")
    same(longer, whole)
    again = resume(tmp_path / "run", population=POPULATION, progress=False)
    assert len(again.metrics) == 6
    same(again, whole)


def test_what_clients_keep_goes_to_disk_where_more_rounds_make_memory_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 rounds of 5 clients that keep 45 kB each stay within 1 MB, 6 rounds do not."""
    clients = load(DataOptions(data="synthetic", clients=60, sequences=4, sequence_length=5, vocabulary_size=36))
    config = dataclasses.replace(
        CASES["ditto, memory"],
        model=ModelOptions(embedding_dim=16, hidden_size=28, dtype="float64"),
        cohort=5,
        client_memory=1,
        evaluate_every=0,
        min_texts=1,
        final_clients=3,
    )
    simulate(config, tmp_path / "run", population=clients, progress=False)
    assert not (tmp_path / "run" / "clients").exists()
    with stopped_in(5, monkeypatch):
        resume(tmp_path / "run", rounds=6, population=clients, progress=False)
    assert not (tmp_path / "run" / "evaluation.json").exists(), "it is that of a shorter run"
    longer = resume(tmp_path / "run", population=clients, progress=False)
    whole = simulate(dataclasses.replace(config, rounds=6), tmp_path / "whole", population=clients, progress=False)
    assert list(tmp_path.glob("run/clients/*/*")) and list(tmp_path.glob("whole/clients/*/*"))
    same(longer, whole)
    again = resume(tmp_path / "run", rounds=7, population=clients, progress=False)
    assert len(again.metrics) == 7


def test_fewer_rounds_than_are_done_are_refused_and_a_stopped_run_may_end_earlier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CASES["ditto, disk"], checkpoint_every=1, rounds=6)
    with stopped_in(4, monkeypatch):
        simulate(config, tmp_path / "run", population=POPULATION, progress=False)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    rounds: Any
    for rounds, rule in (
        (2, r"rounds=2 is fewer than the 3 that the run in .*run has done; give 3 or more"),
        (0, "rounds must be at least 1, got 0"),
        ("9", "rounds must be an integer, got '9'"),
    ):
        with pytest.raises(UserError, match=rule):
            resume(tmp_path / "run", rounds=rounds, population=POPULATION, progress=False)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    ended = resume(tmp_path / "run", rounds=4, population=POPULATION, progress=False)
    whole = simulate(dataclasses.replace(config, rounds=4), tmp_path / "whole", population=POPULATION, progress=False)
    same(ended, whole)


def test_a_configuration_that_cannot_be_written_leaves_the_run_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(BASE, tmp_path / "run", population=POPULATION, progress=False)
    before = (tmp_path / "run" / "config.json").read_bytes()

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files, "write", full)
        with pytest.raises(OSError, match="No space"):
            resume(tmp_path / "run", rounds=6, population=POPULATION, progress=False)
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    assert len(resume(tmp_path / "run", population=POPULATION, progress=False).metrics) == 4


def test_a_run_of_an_older_build_goes_on_longer_and_keeps_its_digest(tmp_path: Path) -> None:
    old, at_once = (shutil.copytree(FIXTURES / "old_run", tmp_path / name) for name in ("old", "at once"))
    resume(old, progress=False)
    longer_run, longer_at_once = (resume(folder, rounds=6, progress=False) for folder in (old, at_once))
    assert [row["round"] for row in longer_run.metrics] == [1, 2, 3, 4, 5, 6]
    same(longer_run, longer_at_once)
    content = run_folder.read_config(old)
    assert (content["rounds"], content["digested"]) == (6, {"rounds": 4})
    longer = resume(old, rounds=7, progress=False)
    assert run_folder.read_config(old)["digested"] == {"rounds": 4} and len(longer.metrics) == 7
    (old / "config.json").write_text(json.dumps(content | {"rounds": 7, "digested": {"rounds": 5}}))
    with pytest.raises(UserError, match="another configuration or other data"):
        resume(old, progress=False)


TINY = ["--embedding-dim", "3", "--hidden-size", "4", "--cohort", "3", "--rounds", "2", "--min-texts", "5", "--threads", "1"]


def aged(folder: Path) -> None:
    """Make it the folder of an older build, which ties its files to the path as it was given and to the number of rounds."""
    content = run_folder.read_config(folder)
    population = load(read_config(folder).data)
    before = run_folder.digest(content, population)
    del content["population"]
    content["data"]["data"] = "mine.jsonl.gz"
    files.write_json(folder / "config.json", content)
    checksums.unlabelled(folder)
    for path in run_folder.stored(folder / "checkpoints"):
        state, round = run_folder.load(path, before)
        files.write_tensors(path, state, round, run_folder.digest(content, population))


@pytest.fixture(params=["new", "old"])
def started(request: pytest.FixtureRequest, here: Path) -> str:
    """A run on a file whose path was given relative to the working directory, by this build or an older one."""
    assert main(["run", "fedavg", *TINY, "--data", "mine.jsonl.gz", "--folder", "run"]) == 0
    if request.param == "old":
        aged(here / "run")
    (here / "elsewhere").mkdir()
    return str(request.param)


def test_a_run_goes_on_from_any_folder_and_after_its_data_moved(
    started: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    end = run_folder.stored(here / "run" / "checkpoints")[-1]
    state = load_file(end)
    stored = run_folder.read_config(here / "run")["data"]["data"]
    assert stored == ("mine.jsonl.gz" if started == "old" else str(here / "mine.jsonl.gz"))
    monkeypatch.chdir(here / "elsewhere")
    capsys.readouterr()
    if started == "new":
        assert main(["run", "--resume", "../run"]) == 0
    os.rename(here / "mine.jsonl.gz", here / "elsewhere" / "moved.jsonl.gz")
    assert main(["run", "--resume", "../run"]) == 2
    last_line = capsys.readouterr().err.splitlines()[-1]
    gone = here / ("elsewhere" if started == "old" else "") / "mine.jsonl.gz"
    assert last_line == (
        f"flow: data='{gone}': there is no such file, which the run in ../run was started with; put it back, or say where "
        "it is now with `flow run --resume ../run --data FILE`"
    )
    assert main(["run", "--resume", "../run", "--data", "moved.jsonl.gz", "--rounds=3"]) == 0
    content = run_folder.read_config(here / "run")
    assert (content["data"]["data"], content["rounds"]) == (str(here / "elsewhere" / "moved.jsonl.gz"), 3)
    assert ("digested" in content) == (started == "old")
    monkeypatch.chdir(here)
    longer = resume(here / "run", progress=False)
    assert len(longer.metrics) == 3
    again = load_file(here / "run" / "checkpoints" / end.name)
    assert all(torch.equal(tensor, again[name]) for name, tensor in state.items())


def test_data_of_other_content_are_refused_in_one_sentence(
    started: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"id": name, "split": "train", "texts": ["the quick fox"] * 9}) for name in "abcd"]
    (here / "other.jsonl").write_text("\n".join(lines) + "\n")
    before = (here / "run" / "config.json").read_bytes()
    assert main(["run", "--resume", "run", "--data", "other.jsonl"]) == 2
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert last_line.startswith(
        f"flow: data='{here / 'other.jsonl'}' holds other clients, texts or words than the run in run was started with; give"
        if started == "new"
        else "flow: run/checkpoints/round_000002.safetensors: was made with another configuration or other data than the run"
    )
    assert (here / "run" / "config.json").read_bytes() == before
    assert main(["run", "--resume", "run"]) == 0


def test_another_population_is_refused_before_the_first_checkpoint_too(tmp_path: Path) -> None:
    simulate(BASE, tmp_path / "run", population=POPULATION, progress=False)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match=r"population holds other clients, texts or words than the run in .* was started with"):
        resume(tmp_path / "run", population=oracles.population(seed=4), progress=False)
    with pytest.raises(UserError, match=r"data='mine\.jsonl' does nothing beside population.*leave either out"):
        resume(tmp_path / "run", data="mine.jsonl", population=POPULATION, progress=False)


@pytest.mark.parametrize("build", ["new", "old"])
def test_a_comparison_goes_on_from_any_folder(build: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of an older build, which kept the path as it was given, goes on in the working directory that it was started in."""
    monkeypatch.setattr("flow.comparison.page.pictures", lambda *given: [])
    arguments = ["compare", "fedavg", *TINY, "--data", "mine.jsonl.gz", "--evaluate-every", "0", "--folder", str(here / "c")]
    assert main(arguments) == 0
    run = here / "c" / "runs" / "fedavg-seed0"
    record = here / "c" / "comparison.json"
    content = json.loads(record.read_text())
    assert content["config"]["data"]["data"] == run_folder.read_config(run)["data"]["data"] == str(here / "mine.jsonl.gz")
    (run / "report.html").unlink()
    shutil.rmtree(here / "c" / "kept")
    if build == "old":
        aged(run)
        content["config"]["data"]["data"] = "mine.jsonl.gz"
        checksums.rewrite(record, content)
    else:
        (here / "elsewhere").mkdir()
        monkeypatch.chdir(here / "elsewhere")
    assert main(["compare", "--resume", str(here / "c")]) == 0
    assert (run / "report.html").is_file()
    assert main(arguments) == (0 if build == "old" else 2), "the path that was given names another file, or none"
