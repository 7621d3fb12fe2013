"""Which parameters a comparison chooses, and on what."""

import dataclasses
import itertools
import json
import math
import re
import shutil
import tomllib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import harness
import numpy as np
import numpy.typing as npt
import oracles
import pytest
from comparisons import (
    QUIET,
    TINY,
    plain_fixture,  # noqa: F401
    results,
    tree,
)
from optional import present
from report_cases import Page

from flow import Comparison, SharedOptions, UserError, compare, resume_comparison, simulate
from flow.algorithms import NAMES
from flow.algorithms.interface import Algorithm, Tunable
from flow.comparison import plan as plans
from flow.comparison import run, tuning
from flow.comparison.plan import Plan, planned
from flow.comparison.tuning import Trial
from flow.config import checked
from flow.data import Client, Population, Sequences
from flow.evaluation import metrics
from flow.evaluation.metrics import ACCURACY, Metric
from flow.server.options import ServerOptions
from flow.storage import files
from flow.training.predict import Guess

SHARE = 0.37
VALIDATES = ("client 2", "client 4", "client 5")
"""Of harness.POPULATION, by that share; see tests/data/test_validation_clients.py."""
ASIDE = dataclasses.replace(TINY, validation_share=SHARE)
LR = Tunable("lr")
Part = tuple[int, float, float | None]
"""Clients, and what they reach with the global model and with their own."""


def expected_population(validates: Collection[str] = VALIDATES) -> Population:
    """What a run of the tuning may know, put together client by client."""
    clients = []
    for client in harness.POPULATION.clients:
        if client.held_out:
            continue
        train, test = client.train, client.test
        if client.id not in validates:
            cut = oracles.older(client, 0.8) or len(train)  # a single sequence is for training
            first, last = list(range(cut)), list(range(cut, len(train)))
            train, test = (Sequences(client.train.tokens[some], client.train.lengths[some]) for some in (first, last))
        clients.append(Client(client.id, client.group, client.id in validates, client.texts, train, test))
    whole = harness.POPULATION
    return Population(whole.name, tuple(clients), whole.vocabulary, whole.sequence_length, "put together by hand")


def one_half(values: tuning.Values) -> Trial:
    return scored(values, 0.5)


def scored(values: tuning.Values, score: float | None) -> Trial:
    return tuning.Trial(values, "accuracy", score, score, score, "")


@pytest.mark.parametrize("validates", [(), VALIDATES])
def test_a_run_that_tries_something_knows_validation_texts_and_validation_clients_alone(validates: Collection[str]) -> None:
    smaller = tuning.population_of(harness.POPULATION.setting_aside(SHARE if validates else 0.0))
    expected = expected_population(validates)
    assert smaller.fingerprint == expected.fingerprint and smaller.vocabulary is harness.POPULATION.vocabulary
    assert smaller.validation_share == 0.0 and not smaller.validation.any()
    for own, other in zip(smaller.clients, expected.clients, strict=True):
        assert own.id == other.id and own.held_out == other.held_out == (own.id in validates)
        for side, part in itertools.product(("train", "test"), ("tokens", "lengths")):
            assert np.array_equal(getattr(getattr(own, side), part), getattr(getattr(other, side), part))


def test_parameters_are_chosen_with_the_same_budget_and_both_parts_count_alike(tmp_path: Path, plain: None) -> None:
    config = dataclasses.replace(ASIDE, algorithm=SharedOptions(batch_size=2, clip=0.0), rounds=4)
    names, budget = ["fedavg", "ditto", "fedyogi", "knnper"], 4
    result = compare(names, tmp_path / "c", config, tune=budget, tune_rounds=3, **QUIET)
    stored = results(tmp_path / "c")
    options = {
        "fedavg": ["lr"],
        "ditto": ["lr", "personal_lr", "lam"],
        "fedyogi": ["lr", "server_lr"],
        "knnper": ["lr", "neighbours", "lam"],
    }
    smaller = expected_population()
    for name, row in zip(names, result.rows, strict=True):
        trials = result.tried[name]
        assert len(trials) == budget and [list(trial.values) for trial in trials] == [options[name]] * budget
        assert row.lr == stored["chosen"][name]["lr"] and stored["chosen"][name] == tuning.best(trials)
        ran = json.loads((tmp_path / "c" / "runs" / f"{name}-seed0" / "config.json").read_text())
        assert {**ran["server"], **ran["algorithm"]}.items() >= stored["chosen"][name].items()
        assert ran["validation_share"] == SHARE
        assert stored["tuning"][name] == [trial._asdict() for trial in trials]
        for trial in trials[-1:]:  # each is an ordinary run on the smaller population
            rate: dict[str, Any] = {k: v for k, v in trial.values.items() if k == "server_lr"}
            server = dataclasses.replace(NAMES[name].server, **rate)
            others = {k: v for k, v in trial.values.items() if k != "server_lr"}
            own = NAMES[name].algorithm.options(batch_size=2, clip=0.0, **others)
            alone = dataclasses.replace(config, algorithm=own, rounds=3, server=server, validation_share=0.0)
            summary = simulate(alone, None, population=smaller, progress=False).evaluation["summary"]
            assert (summary["seen"]["clients"], summary["unseen"]["clients"]) == (3, 3)  # one has a single sequence
            model = "global" if name in ("fedavg", "fedyogi") else "personal"
            parts = [summary[side][f"{model}_client"] for side in ("seen", "unseen")]
            assert [trial.seen, trial.unseen] == parts and trial.score == pytest.approx(sum(parts) / 2, rel=1e-15)
            assert trial.note == trial.reason == ""
    page = Page(result.report.read_text(encoding="utf-8"))
    for name in names:
        assert tuning.show(stored["chosen"][name]) in page.text[f"rates-{name}"]
        best = max(result.tried[name], key=lambda trial: present(trial.score))
        seen, unseen = present(best.seen), present(best.unseen)
        assert f"{100 * present(best.score):.2f}" in page.text[f"rates-{name}"]
        assert f"{100 * seen:.2f} / {100 * unseen:.2f}" in page.text[f"rates-{name}"]
    assert "newest of every training client" in page.source and "4 tries of 3 rounds each" in page.source
    assert {len(list((tmp_path / "c" / "tuning").glob(f"{name}-*"))) for name in names} == {budget}
    before = tree(tmp_path / "c" / "tuning")
    (tmp_path / "c" / "tuning" / "ditto-2" / "evaluation.json").unlink()  # a try that was stopped goes on
    (tmp_path / "c" / "kept" / "tuning" / "ditto-2.json").unlink()
    again = compare(names, tmp_path / "c", config, tune=budget, tune_rounds=3, **QUIET)
    assert again.tried == result.tried
    assert {name for name, content in tree(tmp_path / "c" / "tuning").items() if content != before[name]} <= {
        "ditto-2/run.json",
        "ditto-2/report.html",
    }


def test_nothing_that_the_final_runs_are_judged_on_changes_a_try(tmp_path: Path, plain: None) -> None:
    """Test texts of training clients, and unseen clients altogether, are replaced; then a word of a validation client."""
    other = oracles.population(seed=11)

    def replaced(whose: Callable[[Client], bool], **sides: bool) -> Population:
        """The population in which these clients have some sides of another one's."""
        clients = [
            dataclasses.replace(own, **{side: getattr(new, side) for side in sides}) if whose(own) else own
            for own, new in zip(harness.POPULATION.clients, other.clients, strict=True)
        ]
        return dataclasses.replace(harness.POPULATION, clients=tuple(clients))

    def tried(population: Population, folder: str) -> Comparison:
        given: dict[str, Any] = {"tune": 2, "tune_by": "fine", "population": population, "progress": False}
        return compare(["fedavgft"], tmp_path / folder, ASIDE, **given)

    def fine(
        guess: Guess, targets: npt.NDArray[np.int32], scored: npt.NDArray[np.bool_]
    ) -> float:  # shows a change that the accuracy of few words may not
        return float((np.arange(targets.size).reshape(targets.shape) * (guess.tokens == targets) * scored).sum())

    with pytest.MonkeyPatch.context() as patched:
        finer = dataclasses.replace(ACCURACY, name="fine", column="fine", infix="fine_", count=fine)
        patched.setattr(metrics, "METRICS", (ACCURACY, finer))
        first = tried(harness.POPULATION, "first")
        unknown = replaced(lambda client: client.id not in VALIDATES, test=True)
        unknown = dataclasses.replace(
            unknown,
            clients=tuple(
                dataclasses.replace(new, held_out=True) if new.held_out else own
                for own, new in zip(unknown.clients, other.clients, strict=True)
            ),
        )
        assert unknown.fingerprint != harness.POPULATION.fingerprint
        second = tried(unknown, "second")
        third = tried(replaced(lambda client: client.id == VALIDATES[0], test=True), "third")
    assert second.tried == first.tried
    assert second.rows[0].mean["global_seen_by_token"] != first.rows[0].mean["global_seen_by_token"]
    assert [trial.seen for trial in third.tried["fedavgft"]] == [trial.seen for trial in first.tried["fedavgft"]]
    assert [trial.unseen for trial in third.tried["fedavgft"]] != [trial.unseen for trial in first.tried["fedavgft"]]


def judged(values: tuning.Values, seen: Part, unseen: Part) -> Trial:
    """The score of a run with these parts, (clients, global, personal) of both sides."""

    def side(clients: int, common: float, own: float | None) -> dict[str, Any]:
        return {"clients": clients, "skipped": 4, "global_client": common, "personal_client": own}

    return tuning.judged(values, "accuracy", {"seen": side(*seen), "unseen": side(*unseen)}, Path("tuning/flow-1"))


def test_both_kinds_of_clients_count_alike_however_many_there_are() -> None:
    """Weighted by clients, or by one kind alone, another choice would win."""
    parts = [
        ((90, 0.1, 0.60), (10, 0.1, 0.20)),  # the best of training clients, and over all clients
        ((90, 0.1, 0.20), (10, 0.1, 0.61)),  # the best of validation clients
        ((90, 0.1, 0.41), (10, 0.1, 0.43)),
        ((90, 0.9, 0.30), (10, 0.9, 0.30)),  # the best global model, which these clients do not predict with
    ]
    trials = [judged({"lr": float(n)}, *parts[n]) for n in range(4)]
    assert [trial.score for trial in trials] == pytest.approx([0.40, 0.405, 0.42, 0.30])
    assert [(trial.seen, trial.unseen) for trial in trials] == [(seen[2], unseen[2]) for seen, unseen in parts]
    assert tuning.best(trials) == {"lr": 2.0}
    assert judged({}, (3, 0.25, None), (5, 0.75, None)).score == 0.5  # without a personal model, the global one


@pytest.mark.parametrize("metric", ["loss", "perplexity"])
def test_a_try_whose_metric_is_not_finite_has_no_result(metric: str) -> None:
    """Neither the global model, with which nobody predicts, nor the other side stands in for it."""

    def score(seen: float | None, unseen: float | None) -> Trial:
        sides: dict[str, dict[str, Any]] = {
            side: {"clients": 4, "skipped": 0, "personal_client": 0.1, f"global_{metric}_client": 2.0}
            | {f"personal_{metric}_client": own}
            for side, own in (("seen", seen), ("unseen", unseen))
        }
        return tuning.judged({"lr": 1.0}, metric, sides, Path("tuning/flow-1"))

    assert score(3.0, 5.0).score == 4.0
    for parts, who in (((None, 5.0), "training"), ((3.0, None), "validation"), ((None, None), "training")):
        trial = score(*parts)
        assert (trial.score, trial.note) == (None, "") and trial.reason == f"the {metric} of its {who} clients is not finite"


def test_a_comparison_goes_on_after_a_try_whose_loss_is_not_finite(tmp_path: Path, plain: None) -> None:
    """Its clients' own models leave the finite numbers where they predict, which no round of training notices."""
    settings = {"fedavgft": {"lr": 0.5, "clip": 0.0, "personal_epochs": 3}}
    plan: dict[str, Any] = {"settings": settings, "tune": 2, "tune_by": "loss"}
    start = replaced_start("fedavgft", personal_lr=1e38)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Plan, "start", start)
        with pytest.raises(
            UserError, match=r"fedavgft: nothing that tune tried has a result \(personal_lr 1e\+38: the loss of"
        ):
            compare(["fedavgft"], tmp_path / "c", TINY, **plan, **QUIET)


def replaced_start(name: str, **values: float) -> Callable[[Plan, str], dict[str, float]]:
    return lambda self, of_name: dict(values) if of_name == name else {}


EARLY = Metric(
    name="early",
    label="early misses",
    unit="per mille",
    axis="early misses per 1000 tokens",
    column="early_misses",
    infix="early_",
    count=lambda guess, targets, scored: int(((guess.tokens != targets) & scored)[:, :2].sum()),
    scale=1000.0,
    digits=1,
    higher_is_better=False,
)


def test_any_metric_decides_in_its_own_direction(tmp_path: Path, plain: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "METRICS", (ACCURACY, EARLY))
    result = compare(["fedavg"], tmp_path / "c", ASIDE, tune=4, tune_by="early", **QUIET)
    trials = result.tried["fedavg"]
    for number, trial in enumerate(trials, start=1):
        summary = json.loads((tmp_path / "c" / "tuning" / f"fedavg-{number}" / "evaluation.json").read_text())["summary"]
        assert [trial.seen, trial.unseen] == [summary[side]["global_early_client"] for side in ("seen", "unseen")]
    assert len({trial.score for trial in trials}) > 1
    lowest = min(trials, key=lambda trial: present(trial.score))
    assert tuning.best(trials) == lowest.values == results(tmp_path / "c")["chosen"]["fedavg"]
    page = Page(result.report.read_text(encoding="utf-8"))
    assert "lowest score" in page.text["tuning"] and "early misses" in page.text["tuning"]
    assert f"{1000 * present(lowest.score):.1f}" in page.text["rates-fedavg"]
    assert json.loads((tmp_path / "c" / "comparison.json").read_text())["tune_by"] == "early"
    assert resume_comparison(tmp_path / "c", **QUIET).tried == result.tried
    with pytest.raises(UserError, match="tune_by is 'early' there, 'accuracy' here"):
        compare(["fedavg"], tmp_path / "c", ASIDE, tune=4, **QUIET)
    with pytest.raises(UserError, match=r"^tune_by='magic' must be the name of a metric, accuracy or early; leave it out for"):
        planned(["fedavg"], ASIDE, 1, None, 4, 0, "magic")
    evaluation = tmp_path / "c" / "tuning" / "fedavg-1" / "evaluation.json"
    content = json.loads(evaluation.read_text())
    for numbers in (*content["summary"].values(), *content["clients"]):
        for key in [key for key in numbers if "early" in key]:
            del numbers[key]
    shutil.rmtree(tmp_path / "c" / "kept" / "tuning")
    del content[files.CHECKSUM]
    evaluation.write_text(json.dumps(files.with_checksum(content)))  # of a build that did not know the metric
    with pytest.raises(UserError, match="fedavg-1: the run says nothing of tune_by='early'; remove the folder and its files"):
        resume_comparison(tmp_path / "c", **QUIET)


def test_the_page_names_the_unit_of_a_score_only_where_it_has_one(tmp_path: Path, plain: None) -> None:
    for metric, unit in (("perplexity", "equal weight (mean over"), ("loss", "equal weight (in nats, mean over")):
        result = compare(["fedavg"], tmp_path / metric, ASIDE, tune=1, tune_by=metric, **QUIET)
        assert unit in Page(result.report.read_text(encoding="utf-8")).text["tuning"]


@pytest.mark.parametrize(
    ("share", "texts", "note"),
    [
        (0.0, 12, "there are no validation clients"),
        (0.01, 12, "there are no validation clients"),
        (SHARE, 3, "none of the 3 validation clients could be scored"),
    ],
    ids=["share 0", "nobody below the share", "too few texts"],
)
def test_without_validation_clients_the_others_alone_decide_and_it_is_said(
    tmp_path: Path, plain: None, capsys: pytest.CaptureFixture[str], share: float, texts: int, note: str
) -> None:
    note += ", so the validation texts of the training clients alone decide"
    clients = [
        dataclasses.replace(client, texts=texts) if client.id in VALIDATES else client for client in harness.POPULATION.clients
    ]
    population = dataclasses.replace(harness.POPULATION, clients=tuple(clients))
    config = dataclasses.replace(TINY, validation_share=share, min_texts=5)
    result = compare(["fedavg", "local"], tmp_path / "c", config, tune=2, population=population)
    for name in ("fedavg", "local"):
        trials = result.tried[name]
        assert [trial.note for trial in trials] == [note] * 2
        assert [trial["note"] for trial in results(tmp_path / "c")["tuning"][name]] == [note] * 2
        assert [(trial.score, trial.unseen) for trial in trials] == [(trial.seen, None) for trial in trials]
    assert capsys.readouterr().err.count(note) == 2
    assert f"fedavg: {note}." in Page(result.report.read_text(encoding="utf-8")).text["tuning"]


def test_a_rate_climbs_from_the_best_of_the_others() -> None:
    """Against a known accuracy: highest at lr 8 and personal_lr 0.25, none beyond lr 8."""
    asked = []

    def tried(values: tuning.Values) -> Trial:
        asked.append(values)
        if values["lr"] > 8:
            return scored(values, None)
        return scored(values, 1 - abs(math.log2(values["lr"] / 8)) / 9 - abs(math.log2(values["personal_lr"] / 0.25)) / 99)

    trials = tuning.search({"lr": 2.0, "personal_lr": 0.5}, {"lr": LR, "personal_lr": Tunable("personal_lr")}, 8, tried)
    assert [trial.values for trial in trials] == asked
    assert [(asked_values["lr"], asked_values["personal_lr"]) for asked_values in asked] == [
        (2.0, 0.5),
        (4.0, 0.5),
        (8.0, 0.5),
        (16.0, 0.5),
        (8 * 2**0.5, 0.5),
        (8.0, 1.0),
        (8.0, 0.25),
        (8.0, 0.125),
    ]
    assert tuning.best(trials) == {"lr": 8.0, "personal_lr": 0.25}
    for budget in range(1, 8):
        assert len(tuning.search(dict.fromkeys("abc", 1.0), dict.fromkeys("abc", LR), budget, one_half)) == budget


def sequence(
    parameter: Tunable, start: float, budget: int, better: Callable[[float], float] = lambda value: 0.0
) -> list[float]:
    """What is tried of one parameter, one after the other."""
    trials = tuning.search(
        {parameter.option: start}, {parameter.option: parameter}, budget, lambda values: scored(values, better(values["x"]))
    )
    return [trial.values["x"] for trial in trials]


COUNT, PART, WEIGHT = Tunable("x", "count"), Tunable("x", "share", 3.0), Tunable("x", "weight", 10**0.5)


@pytest.mark.parametrize(
    ("parameter", "start", "goal", "expected"),
    [
        (COUNT, 3, 12, [3, 6, 12, 24, 17, 8, 14]),
        (COUNT, 5, 1, [5, 10, 2, 1, 3]),
        (COUNT, 1, 1, [1, 2, 3, 4, 5, 6, 7]),  # nothing lies between 1 and 2, and nothing below
        (PART, 0.25, 0.5, [0.25, 0.5, 0.75, 3**0.5 / (1 + 3**0.5)]),
        (PART, 0.5, 0.0, [0.5, 0.75, 0.25, 0.1, 1 / 28, 1 / 82]),
        (WEIGHT, 0.1, 1.0, [0.1, 0.1 * 10**0.5, 1.0, 10**0.5, 10**0.25]),
        (WEIGHT, 0.0, 0.0, [0.0, 0.01, 0.01 / 10**0.5, 0.001, 0.0001 * 10**0.5]),
        (WEIGHT, 0.0, 0.05, [0.0, 0.01, 0.01 * 10**0.5, 0.1, 0.01 * 10**0.75]),
    ],
    ids=["up", "down", "at the bottom", "a share", "a share down", "a weight", "to none", "from none"],
)
def test_steps_by_kind(parameter: Tunable, start: float, goal: float, expected: list[float]) -> None:
    tried = sequence(parameter, start, len(expected), lambda value: -abs(value - goal))
    assert tried == pytest.approx(expected, rel=1e-12)
    if parameter is COUNT:
        assert all(type(value) is int for value in tried)


@pytest.mark.parametrize("sign", [0, 1, -1], ids=["equal", "more", "less"])
@pytest.mark.parametrize(
    ("parameter", "start"),
    [(COUNT, 1), (COUNT, 7), (PART, 0.25), (WEIGHT, 0.0), (WEIGHT, 0.3), (Tunable("x"), 2.0)],
    ids=["1", "7", "share", "no weight", "weight", "rate"],
)
def test_values_stay_in_range_and_are_never_tried_twice(parameter: Tunable, start: float, sign: int) -> None:
    tried = sequence(parameter, start, 300 if sign else tuning.MOST, lambda value: sign * value)
    assert len(set(tried)) == len(tried) and tried[0] == start
    if parameter.kind == "count":
        assert all(type(value) is int and value >= 1 for value in tried)
    elif parameter.kind == "share":
        assert all(0 < value < 1 for value in tried)
    else:
        assert all(0 < value < math.inf for value in tried[1:])


def test_the_first_of_equal_choices_and_none_at_all() -> None:
    trials = [scored({"lr": 9.0}, None)._replace(reason="gone"), *(one_half({"lr": lr}) for lr in (2.0, 1.0, 4.0))]
    assert tuning.chosen("flow", trials) == {"lr": 2.0}
    with pytest.raises(UserError, match=r"flow: nothing that tune tried has a result .lr 9: gone.; give a smaller lr"):
        tuning.chosen("flow", trials[:1])


def test_parameters_that_are_given_are_not_tuned(tmp_path: Path, plain: None) -> None:
    """Their tries go to the others; an algorithm that has no others keeps what was given."""
    config = dataclasses.replace(TINY, algorithm=SharedOptions(lr=0.5, batch_size=2, epochs=1))
    settings = {"ditto": {"personal_lr": 0.3}, "fedyogi": {"server_lr": 0.2}, "knnper": {"lam": 0.3}}
    names = ["fedavgft", "ditto", "fedyogi", "fedadam", "knnper"]
    result = compare(names, tmp_path / "c", config, settings=settings, tune=2, **QUIET)
    assert {name: [list(t.values) for t in trials] for name, trials in result.tried.items()} == {
        "fedavgft": [["personal_lr", "personal_epochs"]] * 2,
        "ditto": [["lam"]] * 2,
        "fedadam": [["server_lr"]] * 2,
        "knnper": [["neighbours"]] * 2,
    }
    assert [trial.values["neighbours"] for trial in result.tried["knnper"]] == [5, 10]
    assert "Not tuned, since all its parameters were given: fedyogi." in Page(result.report.read_text()).source
    assert [row.lr for row in result.rows] == [0.5] * 5
    chosen = tomllib.loads((tmp_path / "c" / "chosen.toml").read_text())
    tuned = results(tmp_path / "c")["chosen"]
    assert chosen == {name: {**settings.get(name, {}), **tuned.get(name, {})} for name in names}
    compare(names, tmp_path / "again", config, settings=chosen, **QUIET)
    first, again = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "kept").glob("*.csv")} for name in ("c", "again")
    )
    assert first == again and len(again) == 5
    assert not (tmp_path / "again" / "chosen.toml").exists()


def test_what_was_chosen_is_written_with_settings_of_every_type(tmp_path: Path, plain: None) -> None:
    own = {"twin": {"algorithm": "flow", "memory": True, "gate": "output", "router_share": 1e-05, "epochs": 2}}
    plan = planned(["twin"], TINY, 1, own, 2, 0, "loss")
    text = run.settings_text(plan, {"twin": {"lr": 0.1, "personal_epochs": 3}})
    assert tomllib.loads(text) == {"twin": {**own["twin"], "lr": 0.1, "personal_epochs": 3}}


def test_every_parameter_that_is_tuned_is_an_option_of_its_kind() -> None:
    decisive = {
        "flow": ["personal_epochs"],
        "local": ["personal_epochs"],
        "fedavgft": ["personal_epochs"],
        "fedprox": ["mu"],
        "fedper": ["personal_epochs"],
        "fedbabu": ["personal_epochs"],
        "ngram": ["lam"],
        "ditto": ["lam"],
        "apfl": ["alpha"],
        "lgfedavg": ["personal_epochs"],
        "fedrep": ["head_epochs"],
        "fedrecon": ["recon_epochs"],
        "dynamic_routing": ["personal_epochs"],
        "ffgg": ["pairs"],
        "fedfomo": ["models"],
        "pfedhn": ["steps"],
        "fedsim": ["personal_epochs"],
        "fedalt": ["private_epochs", "personal_epochs"],
        "partialfed": ["personal_epochs"],
        "pfedhnpc": ["steps"],
        "hypcluster": ["personal_epochs", "clusters"],
        "knnper": ["neighbours", "lam"],
    }
    for name in NAMES:
        plan = planned([name], TINY, 1, None, 5, 0)
        start, tunable = plan.start(name), plan.tunable(name)
        assert "lr" in start and list(start) == list(tunable) == plan.parameters[name]
        assert [option for option, parameter in tunable.items() if parameter.kind != "rate"] == decisive.get(name, [])
        kinds = [parameter.kind == "rate" for parameter in tunable.values()]
        assert kinds == sorted(kinds, reverse=True), "rates come first"
        for option, parameter in tunable.items():
            assert parameter.option == option and parameter.factor > 1
            assert type(start[option]) is (int if parameter.kind == "count" else float)
            assert 0 < start[option] < (1 if parameter.kind == "share" else math.inf)
            step = present(tuning.at(parameter, start[option], 1))
            checked(plans.configuration(plan, name, tuned={**start, option: step}))
    assert list(planned(["pfedhn"], TINY, 1, None, 5, 0).start("pfedhn")) == ["lr", "hyper_lr", "vector_lr", "steps"]
    settings = {"flow": {"server": "adam", "variant": "workshop"}}
    workshop = planned(["flow"], TINY, 1, settings, 5, 0)
    assert list(workshop.start("flow")) == ["lr", "personal_lr", "server_lr", "gamma"] and workshop.start("flow")["gamma"] == 0


def tuned_of(algorithm: Algorithm[Any]) -> tuple[Tunable, ...]:
    return algorithm.tuned(algorithm.options()) if callable(algorithm.tuned) else algorithm.tuned


def test_the_page_lists_what_is_tuned() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
    table = page.split("| algorithm | learning rates, in this order | then |\n|---|---|---|\n")[1].split("\n\n")[0]
    told: dict[str, list[list[str]]] = {}
    for line in table.splitlines()[:-1]:
        names, *columns = line.strip("| ").split("|")
        options = [re.findall(r"`(\w+)`", column) for column in (*columns, "")[:2]]
        told |= {name: options for name in names.strip().split(", ") if name in NAMES}
    assert table.splitlines()[-1].count("`server_lr`") == 1
    registered = {
        name: [
            [parameter.option for parameter in tuned_of(known.algorithm) if (parameter.kind == "rate") == rates]
            for rates in (True, False)
        ]
        for name, known in NAMES.items()
        if known.server == ServerOptions()
    }
    assert told == registered


@pytest.mark.parametrize("tune", [1001, 2**70])
def test_an_enormous_number_of_tries_is_refused(tmp_path: Path, plain: None, tune: int) -> None:
    with pytest.raises(UserError, match=f"^tune must be at most 1000 tries of every algorithm, got {tune}; give fewer$"):
        compare(["fedavg"], tmp_path / "c", TINY, tune=tune, **QUIET)
    compare(["fedavg"], tmp_path / "c", TINY, tune=1, tune_rounds=1, **QUIET)
    path = tmp_path / "c" / "comparison.json"
    content = {**json.loads(path.read_text()), "tune": tune}
    del content[files.CHECKSUM]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"comparison.json: tune must be at most 1000 tries .*put back the file"):
        resume_comparison(tmp_path / "c", **QUIET)


def test_a_comparison_of_an_older_build_tunes_what_it_tuned(tmp_path: Path, plain: None) -> None:
    """Rates alone, by the accuracy, on the training clients' validation texts; what it has done is kept."""
    names, given = ["ditto", "fedyogi", "knnper", "fedfomo"], dict[str, Any](tune=4, tune_rounds=1)
    settings = {"fedfomo": {"weighing_share": 0.3}}
    folder = tmp_path / "c"
    compare(names, folder, TINY, settings=settings, **given, **QUIET)
    path = folder / "comparison.json"
    content = json.loads(path.read_text())
    del content[files.CHECKSUM], content["tune_by"], content["parameters"], content["config"]["validation_share"]
    content["settings"]["fedfomo"] = {"validation_share": 0.3}
    path.write_text(json.dumps(content))
    for name in ("tuning", "runs", "kept"):
        (folder / name).rename(tmp_path / name)
    result = resume_comparison(folder, **QUIET)
    assert {name: [list(trial.values) for trial in trials] for name, trials in result.tried.items()} == {
        "ditto": [["lr", "personal_lr"]] * 4,
        "fedyogi": [["lr", "server_lr"]] * 4,
        "knnper": [["lr"]] * 4,
        "fedfomo": [["lr"]] * 4,
    }
    rates = [trial.values["lr"] for trial in result.tried["knnper"]]
    assert rates[:2] == [2.0, 4.0] and {round(math.log2(rate), 9) % 0.5 for rate in rates} == {0.0}
    before = tree(folder / "tuning")
    assert resume_comparison(folder, **QUIET).tried == result.tried and tree(folder / "tuning") == before
    with pytest.raises(UserError, match=r"another configuration .*parameters.ditto is .'lr', 'personal_lr'. there"):
        compare(names, folder, TINY, settings=settings, **given, **QUIET)
    content["parameters"] = {"ditto": ["lr", "speed"]}
    path.write_text(json.dumps(content | {"tune_by": "accuracy"}))
    with pytest.raises(UserError, match=r"parameters: ditto has no 'speed' to tune; those that it has are lr, pers"):
        resume_comparison(folder, **QUIET)


def test_tuning_needs_somebody_to_score(tmp_path: Path, plain: None) -> None:
    config = dataclasses.replace(TINY, min_texts=1000)
    with pytest.raises(UserError, match=r"no training client could be scored on its validation texts, .*lower min_texts"):
        compare(["fedavg"], tmp_path / "c", config, tune=1, **QUIET)
