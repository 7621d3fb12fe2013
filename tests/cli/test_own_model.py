"""docs/own-model.md, followed from the command line: a model of a file outside the repository."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import flow
from flow.algorithms import REGISTRY
from flow.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "own-model.md").read_text(encoding="utf-8")
TEXTS = ["red blue green", "a small cat", "tall green dog", "blue dog", "red red cat", "green", "cat and dog", "small"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOW_CACHE", "")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "lstm.py").write_text(code)
    lines = [json.dumps({"id": f"c{n}", "texts": [f"{text} {n}" for text in TEXTS]}) for n in range(8)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    return tmp_path / "lstm.py"


OPTIONS = ["--data", "t.jsonl", "--cohort", "3", "--min-texts", "0", "--evaluate-every", "0", "--checkpoint-every", "1"]
MODEL = ["--model", "lstm.py:LSTM"]


def run(*arguments: str) -> int:
    return main(["run", *arguments])


def cold(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`flow` in a process of its own, which has loaded no file of the user's yet."""
    program = "import sys; from flow.cli.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=100)


def test_a_run_of_the_page_is_that_of_python_and_goes_on(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("fedavg", *OPTIONS, *MODEL, "--rounds", "4", "--folder", "whole") == 0
    assert "flow: model lstm.py:LSTM: " in capfd.readouterr().err
    assert run("fedavg", *OPTIONS, *MODEL, "--rounds", "2", "--folder", "half") == 0
    capfd.readouterr()
    alone = cold("run", "--resume", "half", "--rounds", "4")
    assert alone.returncode == 2 and "a folder never runs code by itself" in alone.stderr
    assert run("--resume", "half", "--rounds", "4", *MODEL) == 0
    whole, half = (json.loads((Path(name) / "evaluation.json").read_text()) for name in ("whole", "half"))
    assert [row["global_nats"] for row in whole["clients"]] == [row["global_nats"] for row in half["clients"]]
    content = json.loads(Path("whole/config.json").read_text())
    assert content["model"] == {"factory": "lstm.py:LSTM", "head": "", "dtype": "float32", "device": "cpu"}
    assert content["code"]["model"]["file"] == "lstm.py"


def test_a_changed_file_is_refused_until_it_is_named_changed(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("ditto", *OPTIONS, *MODEL, "--rounds", "1", "--folder", "r") == 0
    before = Path("r/config.json").read_bytes()
    file.write_text(file.read_text() + "# another\n")
    capfd.readouterr()
    assert run("--resume", "r", "--rounds", "2", *MODEL) == 2
    assert "the file of the model is recorded as lstm.py with SHA-256" in capfd.readouterr().err
    assert Path("r/config.json").read_bytes() == before
    assert run("--resume", "r", "--rounds", "2", *MODEL, "--changed-file") == 0
    assert len(json.loads(Path("r/config.json").read_text())["code"]["model"]["before"]) == 1


def test_a_comparison_of_a_model_of_ones_own(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["fedavg", "fedper", *OPTIONS, *MODEL, "--head", "head", "--rounds", "1", "--folder", "c"]
    assert main(["compare", *arguments]) == 0
    table = Path("c/table.csv").read_text()
    assert main(["compare", "--resume", "c", *MODEL]) == 0
    assert Path("c/table.csv").read_text() == table
    assert json.loads(Path("c/comparison.json").read_text())["config"]["model"]["head"] == "head"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["flow", *MODEL], "flow needs two experts and a router, which the module does not have"),
        (["fedper", *MODEL], "fedper needs an output layer .*name its output layer with head"),
        (["fedper", *MODEL, "--head", "decoder"], "head='decoder' is no submodule; give one of these"),
        (["fedavg", *MODEL, "--hidden-size", "8"], "--hidden-size is of the built-in model and does nothing beside --model"),
        (["fedavg", *MODEL, "--preset", "shakespeare"], "--preset is of the built-in model"),
        (["fedavg", "--head", "head"], "head='head' does nothing without --model FILE.py:NAME"),
        (["fedavg", "--model", "lstm.py:GRU"], "lstm.py has no 'GRU' at its top level; the public names in it are LSTM"),
        (["fedavg", "--model", "none.py:LSTM"], "there is no file none.py"),
        (["fedavg", "--model", "lstm.py"], "must have the form FILE.py:NAME"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    file: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, *OPTIONS, "--rounds", "1", "--folder", "r") == 2
    last_line = capfd.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, last_line) and last_line.startswith("flow: ")
    assert not Path("r").exists()


def test_the_page_names_every_algorithm_where_it_belongs() -> None:
    rows = dict(re.findall(r"^\| (nothing more|`--head`|the built-in model) \| (.*) \|$", PAGE, re.MULTILINE))
    expected: dict[str, set[str]] = {"nothing more": set(), "`--head`": set(), "the built-in model": set()}
    for name, algorithm in REGISTRY.items():
        needs: Any = set(algorithm.needs(algorithm.options()))
        needs -= {"next_token"}
        kind = "the built-in model" if needs - {"head", "features"} else "`--head`" if needs else "nothing more"
        expected[kind].add(name)
    assert {row: set(re.findall(r"`(\w+)`", cells)) for row, cells in rows.items()} == expected


def test_a_resumed_run_in_python_needs_the_factory(tmp_path: Path) -> None:
    with pytest.raises(flow.UserError, match="not the folder of a run"):
        flow.resume(tmp_path)


def test_an_algorithm_and_a_model_of_files_are_named_again_in_any_order(file: Path) -> None:
    Path("mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from flow.building_blocks import Algorithm, Sgd, Update, fit\n\n"
        "@dataclass(frozen=True)\n"
        "class MineOptions(Sgd):\n"
        "    pass\n\n"
        "def local(options, model, visit):\n"
        "    return fit(model, visit.received, visit, Update(tuple(visit.received), 'global'), options)\n\n"
        "MINE = Algorithm(name='mine_of_a_model', about='Mine.', options=MineOptions, local=local, personalize=None)\n"
    )
    mine = "mine.py:MINE"
    assert run(mine, *OPTIONS, *MODEL, "--rounds", "1", "--folder", "r") == 0
    for rounds, arguments in enumerate(
        ([mine, "--resume", "r", *MODEL], ["--resume", "r", *MODEL, mine], [*MODEL, mine, "--resume=r"]), 2
    ):
        alone = cold("run", *arguments, "--rounds", str(rounds))
        assert alone.returncode == 0, alone.stderr
    assert len(Path("r/metrics.jsonl").read_text().splitlines()) == 4
    assert set(json.loads(Path("r/config.json").read_text())["code"]) == {"algorithm", "model"}
