"""Environments of the rivals: what is decided follows from records, and it is carried out here without installing anything."""

from pathlib import Path

import pytest

from benchmarks.simulation import environments
from benchmarks.simulation.environments import PINS, RECORD, Command, Plan

FOLDER = Path("/rivals")
COMPLETE = {name: environments.record(name) for name in PINS}


def test_without_the_flag_what_is_complete_is_used_and_nothing_made() -> None:
    assert environments.plan(FOLDER, {}, {}, make=False) == Plan({})
    plan = environments.plan(FOLDER, COMPLETE | {"pfl": "pfl==0.1\n"}, {"flwr": "/my/python"}, make=False)
    assert plan.pythons == {"flwr": "/my/python", "fedjax": "/rivals/fedjax/bin/python"} and not plan.commands
    assert plan.missing == {"pfl": "/rivals/pfl holds other versions; --rivals makes it anew"}


def test_with_the_flag_what_is_absent_or_of_other_versions_is_made_and_torch_comes_first() -> None:
    given = {"fedjax": "/my/python"}
    plan = environments.plan(FOLDER, {"flwr": COMPLETE["flwr"], "pfl": "pfl==0.1\n"}, given, make=True, base="python3")
    assert set(plan.pythons) == {"pfl", "fedjax", "flwr"} and plan.pythons["fedjax"] == "/my/python"
    assert list(plan.commands) == ["pfl"] and not plan.missing
    venv, torch, pfl = plan.commands["pfl"]
    assert venv == ["python3", "-m", "venv", "/rivals/pfl"]
    assert torch == ["/rivals/pfl/bin/python", "-m", "pip", "install", "--quiet", "torch==2.13.0"]
    assert pfl[-1] == "pfl[pytorch]==0.6.0"
    assert environments.plan(FOLDER, COMPLETE, {}, make=True).commands == {}


@pytest.mark.parametrize("name", PINS)
def test_every_version_is_exact(name: str) -> None:
    packages = [package for call in PINS[name] for package in call]
    assert all(package.count("==") == 1 for package in packages)
    assert name in {package.partition("==")[0].partition("[")[0] for package in packages}


def test_an_environment_is_made_once_and_a_failure_is_a_sentence(tmp_path: Path) -> None:
    ran: list[Command] = []

    def run(command: Command) -> str:
        ran.append(command)
        if "venv" in command:
            Path(command[-1]).mkdir()
        return "ERROR: No matching distribution" if command[-1].startswith("pfl") else ""

    given = {"fedjax": "/my/python"}
    plan = environments.plan(tmp_path, environments.records(tmp_path), given, make=True)
    made = environments.prepare(tmp_path, plan, lambda line: None, run)
    assert made.pythons == {"fedjax": "/my/python", "flwr": str(tmp_path / "flwr" / "bin" / "python")}
    assert made.missing == {"pfl": "pfl[pytorch]==0.6.0 could not be installed: ERROR: No matching distribution"}
    assert len(ran) == 6 and not (tmp_path / "pfl").exists()
    assert environments.records(tmp_path) == {"flwr": COMPLETE["flwr"]}
    assert list(environments.plan(tmp_path, environments.records(tmp_path), given, make=True).commands) == ["pfl"]

    (tmp_path / "flwr" / RECORD).unlink()  # interrupted before it was complete
    assert "flwr" in environments.plan(tmp_path, environments.records(tmp_path), given, make=True).commands


def test_a_command_that_fails_says_why() -> None:
    assert environments.execute(["true"]) == ""
    assert environments.execute(["false"]) == "exit status 1"
    words = "echo 'ERROR: no such version' >&2; echo 'a hint' >&2; exit 1"
    assert environments.execute(["sh", "-c", words]) == "ERROR: no such version"
