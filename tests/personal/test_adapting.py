"""From a run to a client: the numbers of the run's own evaluation, a new client's texts, a run that stays as it is."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapted_cases import CLIENTS, LABELS, Attention, classified, config, contents, simulated, texts_of, write_jsonl
from algorithm_cases import CASES
from comparisons import plain_fixture  # noqa: F401
from run_cases import KEPT, POPULATION, SMALL

import flow
from flow import UserError
from flow.algorithms import REGISTRY
from flow.data import load as load_data
from flow.model.interface import Model
from flow.personal.texts import Columns, cutting_of, read_file
from flow.storage.client_states import ClientStates
from flow.training.messages import Personal, Visit
from flow.training.sgd import Sgd

pytestmark = pytest.mark.usefixtures("plain")
KINDS = (
    "fedavg", "fedavgft", "flow", "flow, decoupled", "flow, both", "flow, constant", "ditto", "apfl", "fedrep", "local",
    "privategate", "ngram", "knnper, bounded", "fedfomo", "pfedhn", "hypcluster",
)  # fmt: skip
"""One case of every way in which clients keep, receive and predict."""


def rows(result: flow.Result) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in result.evaluation["clients"]}


def same_as_evaluated(result: flow.Result, out: Path, **options: Any) -> flow.PersonalModel:
    """Adapt a seen and an unseen client; both have the numbers of evaluation.json, and the folder has them when it is read."""
    assert result.folder is not None
    scored = rows(result)
    seen = next(name for name, row in scored.items() if row["seen"])
    unseen = next(name for name, row in scored.items() if not row["seen"])
    for name in (seen, unseen):
        me = flow.adapt(result.folder, out / name, client=name, progress=False, **options)
        assert me.report["row"] == scored[name]
        assert me.report["of_the_run"] and me.report["client"] == name
    return me


@pytest.mark.parametrize("name", KINDS)
def test_a_client_of_the_run_has_the_numbers_of_the_evaluation(name: str, tmp_path: Path) -> None:
    """To the bit, and the folder that was read back has the loss of the report to the bit too."""
    run = replace(SMALL, algorithm=CASES[name], rounds=2, evaluate_every=0, model=replace(SMALL.model, dtype="float32"))
    result = simulated(tmp_path / "run", run, population=POPULATION)
    me = same_as_evaluated(result, tmp_path, population=POPULATION)
    client = next(client for client in POPULATION.clients if client.id == me.report["client"])
    own = "general" if me.report["personal_loss"] is None else "personal"
    scores = me.score_windows(client.test)
    assert (scores.loss, scores.accuracy, scores.tokens) == (
        me.report[f"{own}_loss"], me.report[f"{own}_accuracy"], me.report["tokens"],
    )  # fmt: skip


def test_a_classifier_and_a_module_of_ones_own(tmp_path: Path) -> None:
    population = classified()
    run = replace(SMALL, algorithm=CASES["fedavgft"], rounds=2, evaluate_every=0, min_texts=0)
    result = simulated(tmp_path / "classifier", run, population=population)
    me = same_as_evaluated(result, tmp_path / "classes", population=population)
    assert me.classes == ("low", "high")
    own = flow.TorchModel(Attention, "head")  # whose clients have other last bits beside others than alone
    result = simulated(tmp_path / "module", replace(run, model=own), population=POPULATION)
    me = same_as_evaluated(result, tmp_path / "modules", population=POPULATION)
    client = next(client for client in POPULATION.clients if client.id == me.report["client"])
    assert me.score_windows(client.test).loss == pytest.approx(me.report["personal_loss"], rel=1e-6)
    assert flow.load(me.folder, own).settings == me.settings
    with pytest.raises(UserError, match="is not the module of"):
        flow.load(me.folder, flow.TorchModel(torch.nn.Linear))


@pytest.mark.parametrize(
    "options", [{}, {"tokenizer": "characters"}, {"label_column": "mood"}, {"oov_buckets": 3, "vocabulary_size": 9}]
)
def test_texts_are_cut_as_the_run_cut_its_own(options: dict[str, Any], tmp_path: Path) -> None:
    """The oracle is what preparing made of the same texts in the run's population."""
    labelled = "label_column" in options
    path = write_jsonl(tmp_path / "posts.jsonl", CLIENTS, LABELS if labelled else None)
    run = config(path, "fedavg", **options)
    population = load_data(run.data)
    cutting = cutting_of(population, run.data, given=False)
    for client in population.clients[:5]:
        own = read_file(path, client.id, Columns(label_column=options.get("label_column")))
        for texts, labels, side in ((own.train, own.train_labels, client.train), (own.test, own.test_labels, client.test)):
            cut = cutting.rows(texts, labels) if labelled else cutting.windows(texts)
            np.testing.assert_array_equal(cut.tokens, side.tokens)
            np.testing.assert_array_equal(cut.lengths, side.lengths)
            assert cut.labelled == side.labelled


def test_a_new_client_is_what_a_client_of_the_run_with_the_same_texts_is(tmp_path: Path) -> None:
    """Where clients keep nothing: same texts and id, from a file of clients, a table, a list."""
    path = write_jsonl(tmp_path / "posts.jsonl", CLIENTS)
    result = simulated(tmp_path / "run", config(path, "flow"))
    name = next(name for name, row in rows(result).items() if not row["seen"])
    table = tmp_path / "posts.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["when", "body"], *([n, text] for n, text in reversed(list(enumerate(CLIENTS[name]))))])
    alone = tmp_path / "alone.csv"
    with alone.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([text] for text in CLIENTS[name])])
    plain = tmp_path / "mine.txt"
    plain.write_text("\n".join(CLIENTS[name]), encoding="utf-8")
    given: list[dict[str, Any]] = [
        {"texts": path}, {"texts": table, "time_column": "when"}, {"texts": alone}, {"texts": str(plain)},
        {"texts": CLIENTS[name]},
    ]  # fmt: skip
    for number, options in enumerate(given):
        me = flow.adapt(tmp_path / "run", tmp_path / f"me {number}", client=name, progress=False, **options)
        expected = {**rows(result)[name], "group": ""}
        assert me.report["row"] == expected
        assert not me.report["of_the_run"]


def test_words_that_nobody_had_and_a_last_fifth_without_any_known_one(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "posts.jsonl", CLIENTS)
    simulated(tmp_path / "run", config(path, "fedavgft"))
    me = flow.adapt(tmp_path / "run", tmp_path / "me", texts=["the fox", "zzz yyy"], progress=False)
    assert me.report["row"] is None and me.report["tokens"] == 0 and me.report["personal_loss"] is None
    assert "nothing says what this gained" in (tmp_path / "me" / "report.md").read_text(encoding="utf-8")
    alone = flow.adapt(tmp_path / "run", tmp_path / "alone", texts=["the fox"], progress=False)
    assert alone.report["tokens"] == 0
    assert "The last fifth is empty, or" in (tmp_path / "alone" / "report.md").read_text(encoding="utf-8")
    with pytest.raises(
        UserError, match=r"text='zzz \\udcff' has a character that UTF-8 cannot hold, at 5; give a text in UTF-8"
    ):
        flow.adapt(tmp_path / "run", tmp_path / "broken", texts=["the fox", "zzz \udcff"], progress=False)
    assert not (tmp_path / "broken").exists()
    with pytest.raises(UserError, match="has 0 training sequences, and fedavgft needs 1; give more text"):
        flow.adapt(tmp_path / "run", tmp_path / "nobody", texts=[], progress=False)
    assert not (tmp_path / "nobody").exists()


def test_the_run_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where what clients keep is in files, some of which are later than the checkpoint that is taken."""
    result = simulated(tmp_path / "run", KEPT, population=POPULATION)
    assert result.folder is not None
    newest = sorted((result.folder / "checkpoints").iterdir())[-1]
    newest.unlink()
    before = contents(result.folder)
    assert any("000006.safetensors" in name for name in before)
    name = next(iter(rows(result)))

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the states of clients were written")

    monkeypatch.setattr(ClientStates, "write", refuse)
    me = flow.adapt(result.folder, tmp_path / "me", client=name, population=POPULATION, progress=False)
    assert me.report["round"] == 4 and me.report["rounds"] == 6
    assert contents(result.folder) == before


def test_it_reads_a_run_that_keeps_states_in_its_checkpoint_though_they_moved_to_files(tmp_path: Path) -> None:
    """A run that had few rounds keeps states in the checkpoint; read with a bound of 0 they would be written to files."""
    result = simulated(tmp_path / "run", replace(KEPT, client_memory=1024), population=POPULATION)
    assert result.folder is not None
    (result.folder / "clients").mkdir()
    before, name = contents(result.folder), next(iter(rows(result)))
    me = flow.adapt(result.folder, tmp_path / "me", client=name, population=POPULATION, progress=False)
    assert me.report["row"] == rows(result)[name]
    assert contents(result.folder) == before


def test_what_is_private_is_said(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "posts.jsonl", CLIENTS)
    for name, options, held in (
        ("fedavgft", {}, "texts."),
        ("flow", {}, "counts of the single words of these texts"),
        ("flow", {"memory": True}, "counts of the single words, pairs and triples of words of these texts"),
        ("knnper", {}, "every word in its order, as the label of a stored example, of these texts"),
    ):
        out = tmp_path / f"{name} {options}"
        simulated(tmp_path / f"run {name} {options}", config(path, name, **options))
        me = flow.adapt(tmp_path / f"run {name} {options}", out, client="c03", progress=False)
        for text in (me.settings["private"], me.report["private"], (out / "report.md").read_text(encoding="utf-8")):
            assert "private to its client" in text and held in text
        assert out.stat().st_mode & 0o077 == 0
        assert all(path.stat().st_mode & 0o077 == 0 for path in out.iterdir())


def test_mistakes_are_named_before_anything_is_written(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "posts.jsonl", CLIENTS)
    simulated(tmp_path / "run", config(path, "fedavgft"))
    (tmp_path / "there").mkdir()
    several = write_jsonl(tmp_path / "two.jsonl", {"ann": texts_of(1, 4), "bob": texts_of(2, 4)})
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "name nobody; give texts of a new client, or the id of a client of the run"),
        ({"client": "nobody"}, r"client='nobody' is none of the 24 clients of the run .* such as 'c00', 'c01', 'c02'"),
        ({"texts": several}, "has several clients, of 'ann', 'bob'; say whose texts with client=ID"),
        ({"texts": several, "client": "eve"}, "has no client 'eve', of 'ann', 'bob'"),
        ({"texts": tmp_path / "none.txt"}, "none.txt"),
        ({"texts": tmp_path / "image.png"}, "image.png"),
        ({"texts": ["a", 3]}, "must be a list of strings"),
        ({"texts": ["a"], "labels": ["x", "y"]}, "labels are 2 and must be 1"),
        ({"texts": ["the fox"] * 6, "labels": ["x"] * 6}, "has no classes; leave the labels out"),
        ({"texts": ["a"], "text_column": "body"}, "columns are those of a file"),
        ({"client": "c01", "label_column": "mood"}, "do nothing beside client='c01'"),
        ({"texts": several, "text_column": "body"}, "text_column='body': texts=.* has no columns"),
    ]
    for options, message in wrong:
        with pytest.raises(UserError, match=message):
            flow.adapt(tmp_path / "run", tmp_path / "me", progress=False, **options)
        assert not (tmp_path / "me").exists()
    with pytest.raises(UserError, match="exists already and is left as it is; give another folder"):
        flow.adapt(tmp_path / "run", tmp_path / "there", client="c01", progress=False)
    with pytest.raises(UserError, match=r"not the folder of a run, there is no config\.json"):
        flow.adapt(tmp_path, tmp_path / "me", client="c01", progress=False)
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        checkpoint.unlink()
    with pytest.raises(UserError, match="the run has no checkpoint yet; let it go on with `flow run --resume"):
        flow.adapt(tmp_path / "run", tmp_path / "me", client="c01", progress=False)


def test_a_run_of_numbers_adapts_its_clients_and_no_texts(tmp_path: Path) -> None:
    data = {f"c{n}": {"train": np.full((6, 5), 4 + n), "test": np.full((2, 5), 4 + n), "texts": 12} for n in range(12)}
    population = flow.Population.from_arrays(data, vocabulary=20)
    run = replace(SMALL, algorithm=CASES["fedavgft"], rounds=2, evaluate_every=0)
    result = simulated(tmp_path / "run", run, population=population)
    name = next(iter(rows(result)))
    me = flow.adapt(tmp_path / "run", tmp_path / "me", client=name, population=population, progress=False)
    assert me.report["row"] == rows(result)[name]
    with pytest.raises(UserError, match="are numbers and no texts, so nobody knows how a text becomes tokens"):
        flow.adapt(tmp_path / "run", tmp_path / "new", texts=["a"] * 5, population=population, progress=False)


@dataclass(frozen=True)
class OwnOptions(Sgd):
    """Options of an algorithm of the user's own."""


def by_a_function(options: OwnOptions, model: Model, visit: Visit) -> Personal:
    return Personal(visit.received, "global", probabilities=lambda out, batch: out.logits.softmax(-1))


def test_a_way_of_predicting_that_no_file_can_hold_is_refused(tmp_path: Path) -> None:
    flow.register(replace(REGISTRY["fedavg"], name="mine", options=OwnOptions, personalize=by_a_function))
    run: flow.Config[Any] = replace(SMALL, algorithm=OwnOptions(lr=0.5), rounds=1, evaluate_every=0)
    simulated(tmp_path / "run", run, population=POPULATION)
    message = "algorithm='mine' predicts by a function of its own, which no file can hold; have it give"
    with pytest.raises(UserError, match=message):
        flow.adapt(tmp_path / "run", tmp_path / "me", client="client 1", population=POPULATION, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_report_and_settings_are_json_with_what_they_say(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "posts.jsonl", CLIENTS)
    simulated(tmp_path / "run", config(path, "flow"))
    me = flow.adapt(tmp_path / "run", tmp_path / "me", texts=texts_of(3, 12), progress=False)
    report = json.loads((tmp_path / "me" / "report.json").read_text(encoding="utf-8"))
    row = report["row"]
    assert report["general_loss"] == row["global_nats"] / row["tokens"]
    assert report["personal_accuracy"] == row["personal_correct"] / row["tokens"]
    assert report["texts"] == 12 and report["client"] == "me" and report["round"] == 2
    assert me.settings["predicts"] == {"route": "mixture", "routing": "soft", "alone": "local"}
