"""`flow deploy` on the command line, and what it says where Flower is missing."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from adapted_cases import CLIENTS, write_jsonl
from fields import rows

import flow.deploy
from flow.cli.main import main
from flow.deploy import application, options
from flow.errors import UserError


def command(tmp_path: Path, *more: str) -> list[str]:
    """An app for three nodes, of a file of texts."""
    path = write_jsonl(tmp_path / "all.jsonl", CLIENTS)
    return [
        "deploy",
        "fedavg",
        "--app",
        str(tmp_path / "flow-app"),
        "--data",
        str(path),
        "--rounds",
        "3",
        "--cohort",
        "4",
        *more,
    ]


def test_the_folder_is_an_app_of_flower(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path, "--secagg", "--timeout", "20", "--folder", "runs/one")) == 0
    folder = tmp_path / "flow-app"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"app: {folder}, fedavg for 3 rounds on 3 nodes"
    assert lines[1] == "vocabulary: 17 tokens of all; no text is in the app"
    names = {"client_app.py", "config.json", "pyproject.toml", "server_app.py", "vocabulary.json"}
    assert {path.name for path in folder.iterdir()} == names
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    app = project["tool"]["flwr"]["app"]
    assert app["components"] == {"serverapp": "server_app:app", "clientapp": "client_app:app"}
    expected = options.Deployment(folder="runs/one", nodes=3, timeout=20.0, secagg=True)
    assert options.read(app["config"]) == expected
    made = application.read(folder)
    assert (made.config.rounds, made.config.cohort, made.config.validation_share) == (3, 4, 0.0)
    assert not any(text in path.read_text() for path in folder.iterdir() for texts in CLIENTS.values() for text in texts)


def test_the_answer_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path, "--json")) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert answer["algorithm"] == "fedavg" and answer["tokens"] == 17
    own = {field for _, field, _ in [*rows("any --json"), *rows("deploy --json")]}
    assert set(answer) == own
    assert answer["digest"] == application.read(tmp_path / "flow-app").digest


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--dropout", "0.1"], "flow: dropout=0.1 is for simulations"),
        (["--nodes", "0"], "flow: nodes must be at least 1, got 0"),
        (["--secagg", "--aggregator", "median"], "flow: secagg=True shows the server the sum of the uploads alone"),
        (["other.py:ALGORITHM"], "flow: one algorithm is deployed at a time, got fedavg and other.py:ALGORITHM"),
    ],
)
def test_what_is_refused(more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path, *more)) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)
    assert not (tmp_path / "flow-app").exists()


def test_without_flower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "flwr" else find(name, *more))
    for function in (flow.deploy.server_app, flow.deploy.client_app):
        with pytest.raises(UserError, match=r"a deployment needs Flower, .* `pip install 'flow-fl\[flower\]'`"):
            function(tmp_path)
