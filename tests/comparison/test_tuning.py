"""Which rates a comparison chooses, and on what."""

import dataclasses
import json
import math

import harness
import numpy as np
import pytest
from comparisons import (
    QUIET,
    TINY,
    plain_fixture,  # noqa: F401
    results,
)
from report_cases import Page

from flow import SharedOptions, UserError, compare, simulate
from flow.algorithms import NAMES
from flow.comparison import tuning
from flow.comparison.plan import planned


def test_validation_texts_are_neither_trained_on_nor_in_the_final_evaluation():
    smaller = tuning.population_of(harness.POPULATION)
    assert [client.id for client in smaller.clients] == [client.id for client in harness.TRAINING]
    for own, client in zip(smaller.clients, harness.TRAINING, strict=True):
        count = len(client.train)
        assert len(own.test) == (max(1, count // 5) if count > 1 else 0)
        for part in ("tokens", "lengths"):
            both = [getattr(own.train, part), getattr(own.test, part)]
            assert np.array_equal(np.concatenate(both), getattr(client.train, part))  # in time, and no test text
    assert smaller.vocabulary is harness.POPULATION.vocabulary


def test_rates_are_chosen_on_validation_texts_with_the_same_budget(tmp_path, plain):
    config = dataclasses.replace(TINY, algorithm=SharedOptions(batch_size=2, clip=0.0), rounds=4)
    names, budget = ["fedavg", "ditto", "fedyogi"], 4
    result = compare(names, tmp_path / "c", config, tune=budget, tune_rounds=3, **QUIET)
    stored = results(tmp_path / "c")
    options = {"fedavg": ["lr"], "ditto": ["lr", "personal_lr"], "fedyogi": ["lr", "server_lr"]}
    for name, row in zip(names, result.rows, strict=True):
        trials = result.tried[name]
        assert len(trials) == budget and [list(trial.values) for trial in trials] == [options[name]] * budget
        assert row.lr == stored["chosen"][name]["lr"] and stored["chosen"][name] == tuning.best(trials)
        ran = json.loads((tmp_path / "c" / "runs" / f"{name}-seed0" / "config.json").read_text())
        assert {**ran["server"], **ran["algorithm"]}.items() >= stored["chosen"][name].items()
        assert [trial["accuracy"] for trial in stored["tuning"][name]] == [trial.accuracy for trial in trials]
        for trial in trials[-1:]:  # each is an ordinary run on the smaller population
            server = dataclasses.replace(NAMES[name].server, **{k: v for k, v in trial.values.items() if k == "server_lr"})
            rates = {k: v for k, v in trial.values.items() if k != "server_lr"}
            own = NAMES[name].algorithm.options(batch_size=2, clip=0.0, **rates)
            alone = dataclasses.replace(config, algorithm=own, rounds=3, server=server)
            smaller = tuning.population_of(harness.POPULATION)
            summary = simulate(alone, None, population=smaller, progress=False).evaluation["summary"]
            own = summary["seen"]["personal_client"]
            assert trial.accuracy == (summary["seen"]["global_client"] if own is None else own)
            assert summary["unseen"]["clients"] == 0
    page = Page(result.report.read_text(encoding="utf-8"))
    for name in names:
        assert tuning.show(stored["chosen"][name]) in page.text[f"rates-{name}"]
    assert "last fifth of every training client" in page.source and "4 tries of 3 rounds each" in page.source
    assert {len(list((tmp_path / "c" / "tuning").glob(f"{name}-*"))) for name in names} == {budget}


def test_a_rate_climbs_from_the_best_of_the_others():
    """Against a known accuracy: highest at lr 8 and personal_lr 0.25, none beyond lr 8."""
    asked = []

    def tried(values):
        asked.append(values)
        if values["lr"] > 8:
            return tuning.Trial(values, None, "diverged")
        return tuning.Trial(
            values, 1 - abs(math.log2(values["lr"] / 8)) / 9 - abs(math.log2(values["personal_lr"] / 0.25)) / 99, ""
        )

    trials = tuning.search({"lr": 2.0, "personal_lr": 0.5}, {"lr": 2.0, "personal_lr": 4**0.5}, 8, tried)
    assert [trial.values for trial in trials] == asked
    assert [(one["lr"], one["personal_lr"]) for one in asked] == [
        (2.0, 0.5), (4.0, 0.5), (8.0, 0.5), (16.0, 0.5), (8 * 2**0.5, 0.5), (8.0, 1.0), (8.0, 0.25), (8.0, 0.125),
    ]  # fmt: skip
    assert tuning.best(trials) == {"lr": 8.0, "personal_lr": 0.25}
    for budget in range(1, 8):
        assert len(tuning.search({"a": 1.0, "b": 1.0, "c": 1.0}, dict.fromkeys("abc", 2.0), budget, one_half)) == budget


def one_half(values):
    return tuning.Trial(values, 0.5, "")


def test_the_first_of_equal_choices_and_none_at_all():
    trials = [tuning.Trial({"lr": 9.0}, None, "gone"), *(one_half({"lr": lr}) for lr in (2.0, 1.0, 4.0))]
    assert tuning.chosen("flow", trials) == {"lr": 2.0}
    with pytest.raises(UserError, match=r"flow: nothing that tune tried has a result .lr 9: gone.; give a smaller lr"):
        tuning.chosen("flow", trials[:1])


def test_rates_that_are_given_are_not_tuned(tmp_path, plain):
    """Their tries go to the others; an algorithm that has no others keeps what was given."""
    config = dataclasses.replace(TINY, algorithm=SharedOptions(lr=0.5, batch_size=2, epochs=1))
    settings = {"ditto": {"personal_lr": 0.3}, "fedyogi": {"server_lr": 0.2}}
    result = compare(["fedavgft", "ditto", "fedyogi", "fedadam"], tmp_path / "c", config, settings=settings, tune=2, **QUIET)
    assert {name: [list(t.values) for t in trials] for name, trials in result.tried.items()} == {
        "fedavgft": [["personal_lr"]] * 2, "fedadam": [["server_lr"]] * 2,
    }  # fmt: skip
    assert "Not tuned, since all its rates were given: ditto, fedyogi." in Page(result.report.read_text()).source
    assert [row.lr for row in result.rows] == [0.5] * 4


def test_every_rate_that_is_tuned_is_an_option_with_a_number_for_a_default():
    for name in NAMES:
        plan = planned([name], TINY, 1, None, 5, 0)
        start = plan.start(name)
        assert "lr" in start and list(start) == list(plan.rates(name)) and all(value > 0 for value in start.values())
    assert list(planned(["pfedhn"], TINY, 1, None, 5, 0).start("pfedhn")) == ["lr", "hyper_lr", "vector_lr"]
    assert list(planned(["flow"], TINY, 1, {"flow": {"server": "adam"}}, 5, 0).start("flow"))[-1] == "server_lr"


def test_tuning_needs_somebody_to_score(tmp_path, plain):
    config = dataclasses.replace(TINY, min_texts=1000)
    with pytest.raises(UserError, match=r"no client could be scored on its validation texts, .*lower min_texts"):
        compare(["fedavg"], tmp_path / "c", config, tune=1, **QUIET)
