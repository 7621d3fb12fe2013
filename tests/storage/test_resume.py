"""A run that was stopped goes on to the bit, and what is damaged in its folder is named."""

import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
from checksums import plain, rewrite, rows
from run_cases import POPULATION, SMALL, change, copied_fixture, finished_fixture, run, timeless  # noqa: F401 (fixtures)

from flow import Config, Diverged, ModelOptions, UserError, resume
from flow.algorithms.fedavg import FedAvgOptions
from flow.algorithms.flow import FlowOptions
from flow.config import read_config
from flow.engine.task import prepare
from flow.model.parameters import Tensors
from flow.server import optimizers
from flow.server.options import ServerOptions
from flow.simulation import loop
from flow.simulation.loop import Result
from flow.storage import run_folder


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_write_report", lambda folder: None)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Config[Any]], Result]:
    """Configuration -> its whole run, made once."""

    @functools.cache
    def of(config: Config[Any]) -> Result:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(loop, "_write_report", lambda folder: None)
            return run(config, tmp_path_factory.mktemp("whole") / "run")

    return of


@pytest.mark.parametrize("algorithm", [FlowOptions(), FedAvgOptions(), FlowOptions(variant="workshop")])
@pytest.mark.parametrize("stop", [1, 4, 5])
def test_resume_equals_the_unbroken_run_to_the_bit(
    algorithm: object, stop: int, unbroken: Callable[[Config[Any]], Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = change(algorithm=algorithm, model=ModelOptions(embedding_dim=3, hidden_size=4))
    whole = unbroken(config)

    def interrupted(folder: Path, row: Mapping[str, Any], append: Callable[..., None] = run_folder.append_metrics) -> None:
        append(folder, row)
        if row["round"] == stop:  # in the middle: the row is written, the checkpoint is not
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "append_metrics", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "broken")
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
        file.write('{"round": 6, "lo')  # and killed while writing
    broken = resume(tmp_path / "broken", population=POPULATION, progress=False)
    assert timeless(broken.metrics) == timeless(whole.metrics)
    assert rows(tmp_path / "broken") == broken.metrics
    assert broken.evaluation == whole.evaluation
    assert broken.config == whole.config
    for name, tensor in whole.state.items():
        assert torch.equal(tensor, broken.state[name])


def test_resuming_a_finished_run_repeats_its_evaluation(finished: Result, copied: Path) -> None:
    (copied / "evaluation.json").unlink()
    again = resume(copied, population=POPULATION, progress=False)
    assert plain((copied / "evaluation.json").read_text()) == finished.evaluation
    assert again.metrics == finished.metrics


@pytest.mark.parametrize("stop", [1, 3])
def test_a_run_keeps_its_number_of_threads_where_it_is_resumed(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = change(model=ModelOptions(embedding_dim=3, hidden_size=4), checkpoint_every=1)
    torch.set_num_threads(2)  # of the machine that the run is started on
    whole = run(config, tmp_path / "whole")
    assert whole.config.threads == json.loads((tmp_path / "whole" / "config.json").read_text())["threads"] == 2

    def interrupted(folder: Path, row: Mapping[str, Any], append: Callable[..., None] = run_folder.append_metrics) -> None:
        append(folder, row)
        if row["round"] == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "append_metrics", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "broken")
    torch.set_num_threads(1)  # and of the one where it goes on
    assert prepare(read_config(tmp_path / "broken"), POPULATION).workers == 2
    broken = resume(tmp_path / "broken", population=POPULATION, progress=False)
    assert all(torch.equal(tensor, broken.state[name]) for name, tensor in whole.state.items())
    assert broken.evaluation == whole.evaluation


def test_divergence_ends_the_run_and_keeps_earlier_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(
        state: Tensors,
        moments: Tensors,
        target: Tensors,
        options: ServerOptions,
        step: Callable[..., tuple[Tensors, Tensors]] = optimizers.step,
    ) -> tuple[Tensors, Tensors]:
        calls.append(1)
        state, moments = step(state, moments, target, options)
        return {n: t * (1e200 if len(calls) == 4 else 1.0) for n, t in state.items()}, moments

    calls: list[int] = []
    monkeypatch.setattr(optimizers, "step", explode)
    with pytest.raises(Diverged, match=r"diverged in round 5: .* smaller lr.*clip.*last good checkpoint is .*round_000004"):
        run(folder=tmp_path / "run")
    assert [p.name for p in run_folder.stored(tmp_path / "run" / "checkpoints")] == [
        "round_000002.safetensors",
        "round_000004.safetensors",
    ]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4


def test_a_folder_that_holds_no_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not the folder of a run, there is no config\.json"):
        resume(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("{}", "not the configuration of a run"),
        ("[]", "not the configuration of a run"),
        ('{"algorithm": {"name": "magic"}}', "not the configuration of a run"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_damaged_configuration_is_named(copied: Path, text: str, message: str) -> None:
    (copied / "config.json").write_text(text)
    with pytest.raises(UserError, match=rf"config\.json: {message}.*put back"):
        resume(copied, population=POPULATION)


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        (None, "rounds", "x", "rounds must be an integer, got 'x'"),
        (None, "seed", 2**64, "seed must be at most 9223372036854775807, got 18446744073709551616"),
        (None, "cohort", 4.5, "cohort must be an integer, got 4.5"),
        (None, "chunk", None, "chunk must be an integer, got None"),
        ("model", "dtype", "load", "dtype must be 'float32' or 'float64' or 'bfloat16', got 'load'"),
        ("model", "hidden_size", [4], r"hidden_size must be an integer, got \[4\]"),
        ("data", "data", 3, "data must be a string, got 3"),
        ("algorithm", "lr", "high", "lr must be a number, got 'high'"),
        ("algorithm", "lr", False, "lr must be a number, got False"),
        ("algorithm", "temperature", 1e-60, "temperature must be a finite number of at least 0.001, got 1e-60"),
        ("algorithm", "variant", "load", "variant must be 'decoupled' or 'neurips' or 'workshop', got 'load'"),
    ],
)
def test_a_changed_value_in_the_configuration_is_named(
    copied: Path, part: str | None, name: str, value: object, message: str
) -> None:
    config = plain((copied / "config.json").read_text())
    (config if part is None else config[part])[name] = value
    rewrite(copied / "config.json", config)
    with pytest.raises(UserError, match=rf"config\.json: {message}; .*put back the file that the run was started with"):
        resume(copied, population=POPULATION)


def _flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["last byte", "middle", "metadata", "cut", "empty"])
def test_a_damaged_checkpoint_is_named_kept_and_the_run_goes_on_from_the_one_before(
    finished: Result, copied: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / "checkpoints" / "round_000005.safetensors"
    size = path.stat().st_size
    if damage == "last byte":
        _flip(path, size - 1)
    elif damage == "middle":
        _flip(path, size // 2)
    elif damage == "metadata":
        content = path.read_bytes()
        assert content.count(b'"round":"5"') == 1
        path.write_bytes(content.replace(b'"round":"5"', b'"round":"3"'))
    else:
        path.write_bytes(path.read_bytes()[: size - 8 if damage == "cut" else 0])
    content = path.read_bytes()
    again = resume(copied, population=POPULATION, progress=False)
    warning = capsys.readouterr().err
    assert f"flow: went back to round 4: {path}: " in warning and "; kept as round_000005.safetensors.damaged\n" in warning
    assert path.with_name("round_000005.safetensors.damaged").read_bytes() == content
    assert all(torch.equal(tensor, again.state[name]) for name, tensor in finished.state.items())


def test_a_checkpoint_of_another_configuration_or_of_other_data_is_refused(copied: Path) -> None:
    with pytest.raises(UserError, match="another configuration or other data"):
        resume(copied, population=oracles.population(seed=4))
    config = plain((copied / "config.json").read_text())
    config["algorithm"]["lr"] = 0.25
    rewrite(copied / "config.json", config)
    with pytest.raises(UserError, match="another configuration or other data"):
        resume(copied, population=POPULATION)


def test_metrics_that_do_not_reach_the_checkpoint_are_named(copied: Path) -> None:
    path = copied / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(UserError, match=r"metrics\.jsonl: does not hold rounds 1 to 5"):
        resume(copied, population=POPULATION)


def test_nothing_partial_is_left_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    path = run_folder.save(tmp_path, {"w": torch.zeros(3)}, 1, "run")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        run_folder.save(tmp_path, {"w": torch.ones(3)}, 1, "run")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert not run_folder.load(path, "run")[0]["w"].any()
