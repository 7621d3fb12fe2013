"""Run folders of older builds: a newer one reads them, and goes on with them to the same numbers."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
from harness import labelled
from safetensors.torch import load_file

from flow import Config, UserError, config, resume, simulate
from flow.algorithms import REGISTRY
from flow.algorithms.fedfomo import FedFomoOptions
from flow.config import completed, read_config
from flow.data import population
from flow.engine.task import prepare
from flow.model.parameters import Tensors
from flow.storage import files, run_folder

FIXTURES = Path(__file__).parents[1] / "fixtures"
LATER = {"chunk": 2, "server": {"tau": 1e-3}, "algorithm": {"lam": 0.2}}  # what the fixture has for options made "later"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Ditto with FedYogi on synthetic clients, float64, stopped after two of four rounds, by the build before the rooms."""
    return shutil.copytree(FIXTURES / "old_run", tmp_path / "run")


def end(folder: Path) -> Tensors:
    return load_file(folder / "checkpoints" / "round_000004.safetensors")


def same(tensors: Tensors) -> None:
    """What the old build had after the last round. Other processors and versions of torch round differently."""
    expected = load_file(FIXTURES / "old_run_end.safetensors")
    assert tensors.keys() == expected.keys() and any(name.startswith("clients:kept/") for name in expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-9, atol=1e-11, msg=labelled(name))


def without(content: dict[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a config.json of a build that did not know these options."""
    for name, inner in names.items():
        if isinstance(inner, dict):
            without(content[name], inner)
        else:
            del content[name]
    return content


def signed(folder: Path, content: dict[str, Any]) -> None:
    """Make the folder that of a build that wrote this config.json: its checkpoint is tied to the keys that there are."""
    population = prepare(read_config(folder)).population
    before, after = (run_folder.digest(described, population) for described in (run_folder.read_config(folder), content))
    path = folder / "checkpoints" / "round_000002.safetensors"
    state, round = run_folder.load(path, before)
    files.write_tensors(path, state, round, after)
    files.write_json(folder / "config.json", content)


def test_a_run_folder_from_before_the_rooms_goes_on(old: Path) -> None:
    result = resume(old, progress=False)
    assert [row["round"] for row in result.metrics] == [1, 2, 3, 4]
    same(end(old))


def test_options_that_came_later_are_what_they_were_and_leave_the_digest_alone(old: Path) -> None:
    content = without(run_folder.read_config(old), LATER)
    signed(old, content)
    assert read_config(old) == dataclasses.replace(read_config(FIXTURES / "old_run"), chunk=0)
    result = resume(old, progress=False)
    assert len(result.metrics) == 4 and run_folder.read_config(old) == content, "the file is not written anew"
    same(end(old))


def test_a_later_option_may_say_what_runs_did_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the new default is not what the old build did."""

    @dataclasses.dataclass(frozen=True)
    class Newer(Config[Any]):
        split: Any = dataclasses.field(default="texts", metadata={"absent": "random"})
        plain: int = 3

    monkeypatch.setattr(config, "Config", Newer)
    content = completed(run_folder.read_config(FIXTURES / "old_run"))
    assert (content["split"], content["plain"], content["cohort"]) == ("random", 3, 3)


def test_a_run_from_before_validation_clients_has_none(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever would be one where the option were read as today's default."""
    assert read_config(old).validation_share == 0.0 < Config().validation_share
    monkeypatch.setattr(population, "is_validation", lambda client_id, share: client_id[-1] in "147")
    assert prepare(dataclasses.replace(read_config(old), validation_share=0.1)).population.validation.sum() >= 2
    resume(old, progress=False)
    same(end(old))


def test_runs_from_before_the_final_fits_predict_without_them() -> None:
    """The private part of FFGG started anew and was fitted as in a round; pFedHN's models were predicted with as they came."""

    def options(name: str, **given: Any) -> dict[str, Any]:
        content = run_folder.read_config(FIXTURES / "old_run")
        algorithm: dict[str, Any] = completed({**content, "algorithm": {"name": name, **given}})["algorithm"]
        return algorithm

    assert [options("ffgg", epochs=4)[key] for key in ("start", "personal_epochs", "epochs")] == ["initial", None, 4]
    assert options("fedrep")["personal_lr"] is None
    for name in ("pfedhn", "pfedhnpc"):
        assert options(name)["personal_epochs"] == 0 < REGISTRY[name].options().personal_epochs


def test_an_option_that_has_another_name_now_is_read_under_the_old_one(tmp_path: Path) -> None:
    """FedFomo's validation_share is called weighing_share since runs have a validation_share of their own."""
    given = Config(algorithm=FedFomoOptions(weighing_share=0.3, models=2), rounds=1, cohort=3, min_texts=0, evaluate_every=0)
    folder = tmp_path / "run"
    simulate(given, folder, population=oracles.population(), progress=False)
    content = run_folder.read_config(folder)
    del content["validation_share"]
    content["algorithm"]["validation_share"] = content["algorithm"].pop("weighing_share")
    files.write_json(folder / "config.json", files.with_checksum(content))
    config = read_config(folder)
    assert config.algorithm == given.algorithm and config.validation_share == 0.0
    content["algorithm"]["weighing_share"] = 0.2
    files.write_json(folder / "config.json", files.with_checksum(content))
    with pytest.raises(UserError, match=r"not the configuration of a run of this version .*validation_share"):
        read_config(folder)


@pytest.mark.parametrize("where", [(), ("server",), ("algorithm",), ("data",), ("model",)], ids=".".join)
def test_an_option_of_a_newer_build_is_refused_by_name(old: Path, where: tuple[str, ...]) -> None:
    content = part = run_folder.read_config(old)
    for name in where:
        part = part[name]
    part["warp_speed"] = 9
    (old / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"config\.json: not the configuration of a run of this version .*warp_speed"):
        resume(old, progress=False)
    assert len((old / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_changed_option_is_still_refused(old: Path) -> None:
    content = run_folder.read_config(old)
    (old / "config.json").write_text(json.dumps(content | {"cohort": 2}))
    with pytest.raises(UserError, match="was made with another configuration or other data"):
        resume(old, progress=False)
    del content["server"]["tau"]
    (old / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="was made with another configuration or other data"):
        resume(old, progress=False)
