"""flow adapt and flow predict, as they are typed."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
from adapted_cases import WORDS, texts_of
from command_line import here  # noqa: F401
from comparisons import plain_fixture  # noqa: F401

import flow
from flow.cli import predict
from flow.cli.main import main

pytestmark = pytest.mark.usefixtures("plain", "here")
RUN = [
    "run",
    "--data",
    "mine.jsonl.gz",
    "--embedding-dim",
    "4",
    "--hidden-size",
    "5",
    "--cohort",
    "3",
    "--rounds",
    "2",
    "--min-texts",
    "5",
    "--folder",
    "r",
]


@pytest.fixture(name="me")
def me_fixture(here: Path, capsys: pytest.CaptureFixture[str]) -> flow.PersonalModel:  # noqa: F811
    """A client adapted from a table, in the folder me."""
    with (here / "posts.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["time", "text"], *enumerate(texts_of(4, 15))])
    assert main(RUN) == 0
    capsys.readouterr()
    assert main(["adapt", "r", "--texts", "posts.csv", "--out", "me"]) == 0
    return flow.load("me")


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    capsys.readouterr()
    assert main(arguments) == code
    out, err = capsys.readouterr()
    return err if code else out


def test_adapt_says_what_it_gained(me: flow.PersonalModel, capsys: pytest.CaptureFixture[str]) -> None:
    out = capsys.readouterr().out.splitlines()
    report = me.report
    assert out[0] == "flow for posts, from round 2 of 2"
    assert out[1] == f"on the last fifth of its texts, {report['tokens']:,} tokens:"
    for line, name in zip(out[2:4], ("general", "personal"), strict=True):
        loss, accuracy = report[f"{name}_loss"], 100 * report[f"{name}_accuracy"]
        assert line == f"  {name:8}  loss {loss:.4f} nats, accuracy {accuracy:.1f} %"
    assert "private to its client" in out[4] and out[5] == "adapted: me"
    again = printed(["adapt", "r", "--client", "c3", "--out", "known"], capsys)
    assert again.startswith("flow for c3, from round 2 of 2\n")
    assert flow.load("known").report["of_the_run"]


def test_predict_in_a_pipe_and_in_a_terminal(
    me: flow.PersonalModel, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = me.predict("the quick", 3)
    lines = printed(["predict", "me", "the quick", "--top", "3"], capsys).splitlines()
    assert len(lines) == 3
    for line, token in zip(lines, expected.following, strict=True):
        assert line == f"{100 * token.probability:6.2f} %  {token.text}  local {token.local_weight:.2f}"
    completion = me.complete("the quick", 4)
    out = printed(["predict", "me", "the quick", "--complete", "4"], capsys).splitlines()
    assert out == [completion.text, " ".join(f"{token.text}:{token.local_weight:.2f}" for token in completion.tokens)]
    monkeypatch.setattr(predict, "is_coloured", lambda stream: True)
    out = printed(["predict", "me", "the quick"], capsys).splitlines()
    escape = r"\x1b\[38;5;(\d+)m(.*?)\x1b\[0m"
    assert [word for _, word in re.findall(escape, out[0])] == ["the", "quick"]
    shades = {word: int(shade) for line in out for shade, word in re.findall(escape, line)}
    assert len(out) == 6 and set(shades.values()) <= set(predict.SHADES)
    completed = printed(["predict", "me", "the quick", "--complete", "4"], capsys).rstrip("\n")
    assert re.sub(escape, r"\2", completed) == completion.text
    for token in completion.tokens:
        assert token.local_weight is not None
        place = min(len(predict.SHADES) - 1, int(token.local_weight * len(predict.SHADES)))
        assert f"\x1b[38;5;{predict.SHADES[place]}m{token.text}\x1b[0m" in completed


def test_predict_scores_a_file(me: flow.PersonalModel, here: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    scores = me.score(texts_of(4, 15))
    expected = f"{scores.tokens} tokens: loss {scores.loss:.4f} nats, accuracy {100 * scores.accuracy:.1f} %\n"
    (here / "plain.txt").write_text("\n".join(texts_of(4, 15)), encoding="utf-8")
    for name in ("posts.csv", "plain.txt"):
        assert printed(["predict", "me", "--score", name], capsys) == expected


def test_mistakes_end_with_code_2_and_one_sentence(
    me: flow.PersonalModel,
    here: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "bad.csv").write_bytes(b"client,text\na,fine\nb,f\0ine\n")
    (here / "one.csv").write_text("text\na,b\n")
    (here / "one.jsonl").write_text("text\n")
    for arguments, message in (
        (["predict", "me"], "text=None: there is nothing to go on with; write `flow predict me"),
        (["predict", "r", WORDS[0]], "folder='r' is no adapted folder, for it has no settings.json"),
        (["predict", "me", "a", "--score", "posts.csv"], "score='posts.csv' reads texts from a file"),
        (["predict", "me", "--score", "none.csv"], "none.csv"),
        (["predict", "me", "a", "--client", "c3"], "client='c3' is of a file of texts; give one with --score FILE"),
        (["predict", "me", "a", "--time-column", "when"], "time_column='when' is of a file of texts; give one with"),
        (["predict", "me", "a\udcff"], r"text='a\udcff' has a character that UTF-8 cannot hold, at 2; give a text in UTF-8"),
        (["predict", "me", "a\udcff", "--complete", "3"], "has a character that UTF-8 cannot hold"),
        (["adapt", "r", "--client", "c3", "--out", "me"], "out='me' exists already and is left as it is"),
        (["adapt", "r", "--out", "new"], "name nobody; give texts of a new client"),
        (["adapt", "r", "--texts", "mine.jsonl.gz", "--out", "new"], "has several clients, of 'c0', 'c1'"),
        (["predict", "me", "a", "--complete", "-3"], "complete must be a finite number from 0 to 10000, got -3"),
        (["predict", "me", "a", "--complete", "10001"], "complete must be a finite number from 0 to 10000, got 10001"),
        (["predict", "me", "--score", "bad.csv"], "score='bad.csv', line 3: a NUL character, as no text has; remove it"),
        (["predict", "me", "--score", "one.csv"], "score='one.csv', line 2: 2 values where the first line names 1 columns"),
        (["adapt", "r", "--texts", "one.csv", "--out", "new"], "texts='one.csv', line 2: 2 values where the first line"),
        (["adapt", "r", "--texts", "one.jsonl", "--out", "new"], "texts='one.jsonl', line 1: this is plain text"),
        (["adapt", "r", "--texts", "none.csv", "--out", "new"], "texts='none.csv': there is no such file"),
        (["adapt", "nowhere", "--texts", "none.csv", "--out", "me"], "run='nowhere': there is no such folder; give that of"),
        (["adapt", "me", "--texts", "none.csv", "--out", "me"], "me: not the folder of a run"),
        (["adapt", "r", "--client", "c3", "--out", "r/new"], "out='r/new' lies in the run's own folder, 'r', which stays"),
        (["adapt", "r", "--client", "c3", "--out", "one.csv/new"], "out='one.csv/new' leads through"),
        (["export", "me", "--format", "onnx", "--out", "one.csv/new"], "which is a file and not a folder; give another folder"),
        (
            ["export", "me", "--format", "torch", "--out", "me/new"],
            "out='me/new' lies in the adapted folder, 'me', which stays",
        ),
        (["run", "--data", "bad.csv"], "bad.csv', line 3: a NUL character, as no text has"),
    ):
        err = printed(arguments, capsys, 2)
        *guesses, error = err.splitlines()  # of the columns of a table
        assert message in error and error.startswith("flow: ") and all("columns by their names" in line for line in guesses)


def test_a_text_that_looks_like_a_file_of_code_is_a_text(me: flow.PersonalModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(printed(["predict", "me", "fix my.py: the fox"], capsys).splitlines()) == 5


MODULE = """
import torch
from flow.building_blocks import Personal, Sgd, Algorithm
from flow.algorithms.fedavg import FedAvgOptions, local
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Options(Sgd):
    "Options of its own."


def personalize(options, model, visit):
    return Personal(visit.received, "global")


MINE = Algorithm(name="mine", about="FedAvg as it came.", options=Options, local=local, personalize=personalize)


class Bag(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.embedding, self.head = torch.nn.Embedding(size, 4), torch.nn.Linear(4, size)

    def forward(self, tokens):
        return self.head(self.embedding(tokens))
"""


def test_code_of_ones_own_is_named_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """An algorithm and a module of a file: adapt and predict ask for what they need, and no folder runs code by itself."""
    (here / "own.py").write_text(MODULE, encoding="utf-8")
    run = [
        "run",
        "own.py:MINE",
        "--data",
        "mine.jsonl.gz",
        "--cohort",
        "3",
        "--rounds",
        "1",
        "--min-texts",
        "5",
        "--folder",
        "r",
        "--model",
        "own.py:Bag",
    ]
    assert main(run) == 0
    adapt = ["adapt", "r", "own.py:MINE", "--client", "c3", "--model", "own.py:Bag"]
    assert printed([*adapt, "--out", "me"], capsys).startswith("mine for c3, from round 1 of 1\n")
    lines = printed(["predict", "me", "the", "--model", "own.py:Bag", "--top", "2"], capsys).splitlines()
    assert len(lines) == 2 and "local" not in lines[0]
    fresh = f"import sys; from flow.cli.main import main; sys.exit(main({['predict', 'me', 'the']!r}))"
    done = subprocess.run([sys.executable, "-c", fresh], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the model is 'own.py:Bag', and a folder never runs code by itself; name it with --model" in done.stderr
    fresh = fresh.replace(repr(["predict", "me", "the"]), repr(["adapt", "r", "--client", "c3", "--out", "none"]))
    done = subprocess.run([sys.executable, "-c", fresh], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "(`flow adapt r own.py:NAME --model own.py:Bag`)" in done.stderr
    (here / "own.py").write_text(MODULE + "\n# changed\n", encoding="utf-8")
    err = printed([*adapt, "--out", "other"], capsys, 2)
    assert "put the recorded file back, or go on with the changed one by --changed-file" in err
    assert "mine for c3" in printed([*adapt, "--out", "other", "--changed-file"], capsys)


def test_a_guess_of_columns_names_the_option_of_the_file(
    me: flow.PersonalModel,
    here: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "other.csv").write_text("time,text\n1,the fox\n2,a dog\n")
    capsys.readouterr()
    assert main(["predict", "me", "--score", "other.csv"]) == 0
    assert "flow: score='other.csv': columns by their names, text: 'text', time: 'time'" in capsys.readouterr().err
