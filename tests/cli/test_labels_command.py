"""Texts with classes on the command line: `flow data`, `flow run` with its resumption, and `flow compare`."""

import csv
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from flow.cli.data import _shares
from flow.cli.main import main

MOODS = {
    "calm": ["even", "quiet", "slow", "soft", "still"],
    "glad": ["fine", "great", "happy", "lovely", "sunny"],
    "sad": ["awful", "grey", "lost", "sorry", "tired"],
}
DATA = ["--data", "posts.csv", "--label-column", "label"]
TINY = ["--embedding-dim", "8", "--hidden-size", "12", "--cohort", "6", "--threads", "1", "--evaluate-every", "0"]


@pytest.fixture
def posts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """A table of 30 authors, whose texts hold words of their mood among words of none."""
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    rows = []
    for _ in range(700):
        mood = draw.choice(list(MOODS))
        words = [draw.choice(MOODS[mood] if draw.random() < 0.5 else ["the", "a", "it", "was"]) for _ in range(8)]
        rows.append((f"author-{draw.randrange(30)}", " ".join(words), mood))
    with Path("posts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["author", "body", "label"])
        writer.writerows(rows)
    return rows


def test_flow_data_shows_the_classes_and_their_shares(
    posts: list[tuple[str, str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "posts.csv", "--label-column", "label", "--sample", "40", "--folder", "page"]) == 0
    output = capsys.readouterr().out
    counts = Counter(mood for _, _, mood in posts)
    shares = ", ".join(f"{mood} {100 * count / 700:.1f} %" for mood, count in counts.most_common())
    assert f"classes            3: {shares}\n" in output and "headroom" not in output
    assert f"3: {shares}" in Path("page/data.html").read_text()
    shown_rows = re.findall(r"\n(author-\d+), (\w+)\n(.+)\n", output)
    assert len(shown_rows) == 40
    assert {(client, text, mood) for client, mood, text in shown_rows} <= set(posts)
    assert main(["data", "posts.csv"]) == 0
    output = capsys.readouterr().out
    assert "classes" not in output and "headroom" in output


def test_many_classes_are_counted_and_not_all_named() -> None:
    names = tuple(f"c{n:02}" for n in range(13))
    line = _shares(names, (1, *[2] * 12))
    assert line == f"13: {', '.join(f'{name} 8.0 %' for name in names[1:11])}, 3 more"


@pytest.mark.usefixtures("posts")
def test_a_run_learns_is_resumed_and_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "fedavg", *DATA, *TINY, "--rounds", "10", "--folder", "whole"]) == 0
    output = capsys.readouterr().out
    assert "macro-F1" in output
    summary = json.loads(Path("whole/evaluation.json").read_text())["summary"]
    for side in ("seen", "unseen"):
        assert summary[side]["global_token"] > 0.8  # by chance a third
        assert summary[side]["global_f1_token"] > 0.8
    config = json.loads(Path("whole/config.json").read_text())
    assert config["data"]["label_column"] == "label"
    assert main(["run", "fedavg", *DATA, *TINY, "--rounds", "4", "--folder", "half"]) == 0
    assert main(["run", "--resume", "half", "--rounds", "10"]) == 0
    assert json.loads(Path("half/evaluation.json").read_text())["summary"] == summary
    last = "checkpoints/round_000010.safetensors"
    whole, half = load_file(Path("whole", last)), load_file(Path("half", last))
    assert whole.keys() == half.keys() and all((whole[name] == half[name]).all() for name in whole)
    page = Path("half/report.html").read_text(encoding="utf-8")
    assert all(mood in page for mood in MOODS)
    assert main(["report", "half"]) == 0


def test_a_run_is_not_resumed_with_other_labels(posts: list[tuple[str, str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "fedavg", *DATA, *TINY, "--rounds", "1", "--folder", "mine"]) == 0
    content = Path("posts.csv").read_text()
    Path("posts.csv").write_text(content.replace(f"{posts[0][1]},{posts[0][2]}", f"{posts[0][1]},{sorted(MOODS)[0]}", 1))
    if posts[0][2] == sorted(MOODS)[0]:
        pytest.fail("the first text has this label already; take another")
    capsys.readouterr()
    assert main(["run", "--resume", "mine", "--rounds", "2"]) == 2
    assert "mine" in capsys.readouterr().err


@pytest.mark.usefixtures("posts")
def test_a_comparison_of_texts_dealt_out_by_their_labels(capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", "dirichlet:0.3:20:posts.csv", "--label-column", "label"]
    few = ["--seeds", "1", "--rounds", "2", "--folder", "compared"]
    assert main(["compare", "fedavg", "fedavgft", *data, *TINY, *few]) == 0
    assert "fedavgft" in capsys.readouterr().out
    results = json.loads(Path("compared/comparison.json").read_text())
    assert results["config"]["data"]["label_column"] == "label"
    assert main(["compare", "--resume", "compared"]) == 0


@pytest.mark.usefixtures("posts")
def test_n_grams_are_refused_for_classes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "ngram", *DATA, *TINY, "--rounds", "1"]) == 2
    assert "predicts by n-grams, which say what token comes next" in capsys.readouterr().err
