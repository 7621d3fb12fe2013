"""Pages and the terminal of runs that classify texts speak of texts and classes, those of other runs of tokens."""

from __future__ import annotations

import csv
import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_cases import POPULATION

import flow
from flow.algorithms import REGISTRY
from flow.reports.format import capitalized
from flow.reports.run_page import write_report
from flow.reports.words import words_of
from flow.storage import files

CONFIG: flow.Config[Any] = flow.Config(
    model=flow.ModelOptions(4, 5), rounds=2, cohort=4, evaluate_every=1, evaluate_clients=3, min_texts=0, threads=1,
    validation_share=0.0, metric="top3",
)  # fmt: skip
AT_EVERY_TOKEN = (
    "At every token the local expert",
    "at the last token of every text",
    "decided anew for every token",
    "one expert computes every token",
    "mixed anew at every token",
)
"""Of the tokens that a classifier reads, one after the other."""


def classified() -> flow.Population:
    draw = np.random.default_rng(4)
    clients: dict[str, dict[str, Any]] = {}
    for n in range(9):
        own: dict[str, Any] = {"held_out": n > 6}
        for side, count in (("train", 6), ("test", 3 + n)):
            own |= {side: draw.integers(4, 12, (count, 5)), f"{side}_labels": draw.integers(0, 4, count)}
        clients[f"c{n}"] = own
    return flow.Population.from_arrays(clients, vocabulary=12, classes=("joy", "fear", "rage", "calm"))


def texts_of(source: str) -> str:
    """What a page shows or reads aloud, without the configuration and the statements of AT_EVERY_TOKEN."""
    source = re.sub(r"<style>.*?</style>|<script.*?</script>|<pre.*?</pre>", "", source, flags=re.DOTALL)
    read_aloud = " ".join(re.findall(r"aria-label=\"([^\"]*)\"", source))
    content = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", source)).split()) + read_aloud
    for words in AT_EVERY_TOKEN:
        content = content.replace(words, "")
    return content


@pytest.mark.parametrize("name", ["flow", "fedavg"])
def test_a_report_of_a_classifier(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(CONFIG, algorithm=REGISTRY[name].options())
    result = flow.simulate(config, tmp_path / "run", population=classified(), progress=True)
    assert result.report is not None and result.evaluation["classes"] == 4
    page = result.report.read_text(encoding="utf-8")
    shown_text = texts_of(page)
    assert not re.findall(r"\b(?:token|word)s?\b", shown_text, re.IGNORECASE)
    for words in (
        "to tell which of 4 classes a text has for 2 rounds", "one of 4 classes", "Scored texts", "by text",
        "probability of the right class", "% of texts right", "nats a text", "% of texts, class among the top three",
        "probability of the predicted class (%)", "Macro-F1 on held-out text", "Macro-F1, %", "counted by text",
    ):  # fmt: skip
        assert words in shown_text
    assert ("Over all texts" in shown_text) == (name == "flow") and "Along the sequence" not in shown_text
    terminal = capsys.readouterr().out
    assert "global, over texts" in terminal and "token" not in terminal


def test_a_report_of_next_words_and_one_of_an_older_build_speak_of_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = flow.simulate(replace(CONFIG, algorithm=REGISTRY["flow"].options()), tmp_path / "run", population=POPULATION)
    assert result.report is not None and result.evaluation["classes"] == 0
    page = result.report.read_text(encoding="utf-8")
    unit = POPULATION.vocabulary.unit
    for words in (
        f"to predict the next {unit} for 2 rounds", f"<dd>next {unit}<", f"Scored {unit}s", "by token", "% of tokens right",
        "nats a token", "probability of the predicted token (%)", "Along the sequence", "On real text",
        "% of tokens among the three most likely",
    ):  # fmt: skip
        assert words in page
    assert "class of" not in page and "global, over tokens" in capsys.readouterr().out
    path = tmp_path / "run" / "evaluation.json"
    evaluation = json.loads(path.read_text())
    del evaluation["classes"], evaluation["sha256"]
    files.write_json(path, files.with_checksum(evaluation))
    assert write_report(tmp_path / "run").read_text(encoding="utf-8") == page


def test_a_comparison_of_classifiers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(CONFIG, algorithm=flow.SharedOptions())
    names = ["flow", "fedavg", "fedavgft"]
    result = flow.compare(names, tmp_path / "c", config, population=classified(), against="fedavg")
    shown_text = texts_of(result.report.read_text(encoding="utf-8"))
    assert not re.findall(r"\btokens?\b", shown_text)
    for words in (
        "Accuracy in % of held-out texts", "clients with more texts right", "also by text", "% of texts right, unseen clients",
        "nats a text, mean over clients", "Seen clients, macro-F1, %", "more, or fewer, texts right",
    ):  # fmt: skip
        assert words in shown_text
    assert "more, or fewer, texts right" in result.text() and "token" not in result.text()
    assert result.text() in capsys.readouterr().out
    (line, *_) = csv.DictReader((tmp_path / "c" / "table.csv").open())
    assert "personal_f1_seen_by_token" in line  # names of columns stay
    again = flow.resume_comparison(tmp_path / "c", population=classified(), progress=False)
    assert again.text() == result.text()


def test_a_comparison_of_next_words_speaks_of_tokens(tmp_path: Path) -> None:
    config = replace(CONFIG, algorithm=flow.SharedOptions(), evaluate_every=0)
    result = flow.compare(
        ["fedavg", "fedavgft"], tmp_path / "c", config, population=POPULATION, against="fedavg", progress=False
    )
    page = result.report.read_text(encoding="utf-8")
    for words in ("Accuracy in % of held-out tokens", "clients with more tokens right", "also by token", "% of tokens right"):
        assert words in page
    assert "more, or fewer, tokens right" in result.text()


def test_a_side_of_classifiers_without_texts_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    clients = {
        f"c{n}": {"train": [[5, 6]], "train_labels": [0], "test": [[7, 8]][: 1 - n], "test_labels": [1][: 1 - n]}
        for n in (0, 1)
    }
    clients["c1"] |= {"held_out": True}
    clients["c1"]["test"] = np.zeros((0, 2), dtype=int)
    population = flow.Population.from_arrays(clients, vocabulary=9, classes=2)
    flow.simulate(replace(CONFIG, algorithm=REGISTRY["fedavg"].options(), cohort=1, metric=""), population=population)
    assert (
        "unseen clients: no accuracy, none of the 1 could be scored (1 with no text to be tested on)" in capsys.readouterr().out
    )


def test_a_capital_leaves_the_others() -> None:
    assert [capitalized(text) for text in ("macro-F1, %", "loss", "", "AUC")] == ["Macro-F1, %", "Loss", "", "AUC"]
    assert words_of("character", 0).task == "predict the next character" and words_of("word", 2).nats == "nats a text"
