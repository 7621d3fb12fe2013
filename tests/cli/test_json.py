"""--json: every command answers with one document, whose fields are those of docs/files.md."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from adapted_cases import texts_of
from command_line import here  # noqa: F401
from comparisons import plain_fixture  # noqa: F401
from fields import leaves, rows

from flow.cli.json_output import FORMAT, plain
from flow.cli.main import main
from flow.version import __version__

pytestmark = pytest.mark.usefixtures("plain", "here")
TINY = ["--embedding-dim", "4", "--hidden-size", "5", "--cohort", "3", "--rounds", "2", "--min-texts", "5", "--threads", "1"]
RUN = ["run", "--data", "mine.jsonl.gz", *TINY, "--folder", "r"]
ELSEWHERE = {"summary": ("evaluation.json", "summary"), "run": ("run.json", "")}
"""Objects of a document that are those of a file: its name, and where in it."""


def answered(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    """The document that a command prints, with `--json` behind its arguments."""
    capsys.readouterr()
    assert main([*arguments, "--json"]) == code
    out = capsys.readouterr().out

    def refused(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    document: dict[str, Any] = json.loads(out, parse_constant=refused)
    assert list(document)[:3] == ["command", "format", "flow"]
    assert (document["format"], document["flow"]) == (FORMAT, __version__)
    assert out.isascii() and out.endswith("}\n")
    return document


def check(document: Mapping[str, Any], table: str, other: str = "") -> None:
    """Hold a document against its table of the page; other: a file whose fields stand beside those of the table."""
    known = [*rows("any --json"), *rows(f"{table} --json"), *(rows(other) if other else [])]
    used = set()
    for path, value in leaves(document):
        top = path.partition(".")[0]
        if top in ELSEWHERE and "." in path:
            file, place = ELSEWHERE[top]
            inner = f"{place}.{path.partition('.')[2]}".lstrip(".")
            fits = [row for row in rows(file) if row[0].fullmatch(inner)]
            assert any(type(value) in row[2] for row in fits), f"{path}: {value!r}"
            continue
        fits = [row for row in known if row[0].fullmatch(path) or (path.startswith(f"{row[1]}.") and dict in row[2])]
        assert fits, f"{path} is not on the page"
        assert any(type(value) in row[2] or dict in row[2] for row in fits), f"{path}: {value!r}"
        used |= {row[1] for row in fits}
    tops = {re.split(r"[.\[]", row[1])[0] for row in known}
    assert set(document) == tops - ({"sha256"} if other else set())
    assert used


def test_run_and_report(capsys: pytest.CaptureFixture[str], here: Path) -> None:  # noqa: F811
    document = answered(RUN, capsys)
    check(document, "run")
    assert (document["command"], document["folder"], document["rounds"]) == ("run", "r", 2)
    evaluation = json.loads(Path("r/evaluation.json").read_text())
    assert document["summary"] == evaluation["summary"]
    again = answered(["report", "r"], capsys)
    check(again, "run")
    assert {**again, "command": "run"} == document
    Path("r/run.json").unlink()
    assert answered(["report", "r"], capsys)["run"] is None
    resumed = answered(["run", "--resume", "r"], capsys)
    assert resumed["summary"] == document["summary"]


def test_what_a_run_prints_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--json"]) == 0
    out, err = capsys.readouterr()
    json.loads(out)
    assert "seen clients" in err and "report: r" in err and "seconds: data" in err


def test_compare_and_its_list(capsys: pytest.CaptureFixture[str]) -> None:
    compare = ["compare", "fedavg", "flow", "--data", "mine.jsonl.gz", *TINY, "--evaluate-every", "0", "--folder", "c"]
    document = answered([*compare, "--against", "fedavg"], capsys)
    check(document, "compare", "results.json")
    results = json.loads(Path("c/results.json").read_text())
    assert {key: document[key] for key in results if key != "sha256"} == {k: v for k, v in results.items() if k != "sha256"}
    listed = answered(["compare", "--list"], capsys)
    check(listed, "compare --list")
    names = [algorithm["name"] for algorithm in listed["algorithms"]]
    assert names[:3] == ["flow", "local", "fedavg"] and len(names) == 28
    assert listed["algorithms"][0]["personalizes"] and listed["algorithms"][0]["options"]["lr"] > 0


def test_data_and_prepare(capsys: pytest.CaptureFixture[str]) -> None:
    document = answered(["data", "mine.jsonl.gz", "--sample", "2", "--folder", "page"], capsys)
    check(document, "data")
    assert (document["clients"], document["clients_held_out"], len(document["samples"])) == (9, 2, 2)
    assert document["page"] == "page/data.html" and document["near_duplicates"]["texts"] == document["texts"]
    numbers = answered(["data", "synthetic", "--clients", "12", "--sequences", "3"], capsys)
    check(numbers, "data")
    assert numbers["near_duplicates"] is None and numbers["samples"] == []
    prepared = answered(["prepare", "--data", "mine.jsonl.gz"], capsys)
    check(prepared, "prepare")
    assert (prepared["clients"], prepared["clients_held_out"]) == (9, 2)


def test_what_comes_after_a_run(capsys: pytest.CaptureFixture[str], here: Path) -> None:  # noqa: F811
    with (here / "posts.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["time", "text"], *enumerate(texts_of(4, 15))])
    assert main(RUN) == 0
    adapted = answered(["adapt", "r", "--texts", "posts.csv", "--out", "me"], capsys)
    check(adapted, "adapt")
    assert adapted["folder"] == "me" and adapted["personal_loss_nats"] > 0 and not adapted["of_the_run"]
    following = answered(["predict", "me", "the quick", "--top", "3"], capsys)
    check(following, "predict")
    assert [token["text"] for token in following["read"]] == ["the", "quick"] and len(following["following"]) == 3
    completed = answered(["predict", "me", "the quick", "--complete", "4"], capsys)
    check(completed, "predict")
    assert completed["completed"].startswith("the quick") and len(completed["added"]) <= 4 and not completed["following"]
    scored = answered(["predict", "me", "--score", "posts.csv"], capsys)
    check(scored, "predict")
    assert scored["score"]["unit"] == "tokens" and 0 <= scored["score"]["accuracy_share"] <= 1
    assert set(following) == set(completed) == set(scored)
    assert main(["run", "fedavg", "--data", "mine.jsonl.gz", *TINY, "--folder", "f"]) == 0
    assert main(["adapt", "f", "--client", "c3", "--out", "one"]) == 0
    exported = answered(["export", "one", "--format", "torch", "--out", "weights"], capsys)
    check(exported, "export")
    assert exported["export_format"] == "torch" and "model.safetensors" in exported["files"]


def test_a_command_that_fails_prints_no_document(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["run", "--resume", "nowhere"], ["data", "nowhere"], ["report", "nowhere"], ["predict", "no", "a"]):
        assert main([*arguments, "--json"]) == 2
        out, err = capsys.readouterr()
        assert not out and err.startswith("flow: ") and err.count("\n") == 1


def test_an_algorithm_of_a_file_may_stand_behind_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--json", "own.py:MINE"]) == 2
    assert "own.py" in capsys.readouterr().err  # and not that --json takes no value


class Pair(NamedTuple):
    first: float
    second: Path


def test_whatever_is_not_finite_is_null() -> None:
    assert plain({"a": math.nan, "b": [math.inf, np.float64(-math.inf), np.float32(0.5)], 3: Pair(1.0, Path("x"))}) == {
        "a": None,
        "b": [None, None, 0.5],
        "3": {"first": 1.0, "second": "x"},
    }
    assert plain((True, np.bool_(False), np.int64(7), "\udcff", None)) == [True, False, 7, "\udcff", None]
    with pytest.raises(TypeError, match="JSON has nothing for"):
        plain({1, 2})
