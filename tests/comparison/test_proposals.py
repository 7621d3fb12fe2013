"""A search by Optuna: its ranges, its budget, the same tries after a kill, and the choice recomputed from what is kept."""

import csv
import dataclasses
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pytest
from comparisons import (
    QUIET,
    TINY,
    plain_fixture,  # noqa: F401
    results,
    tree,
)
from fields import leaves, rows
from optional import present
from report_cases import Page

from flow import Comparison, UserError, compare, resume_comparison
from flow.algorithms.interface import Tunable
from flow.cli.main import main
from flow.comparison import proposals, tuning
from flow.comparison.proposals import Proposer, proposal, range_of
from flow.comparison.tuning import Trial
from flow.storage import files

ASIDE = dataclasses.replace(TINY, validation_share=0.37)
NAMES = ("fedavg", "ditto", "knnper")
BUDGET = 5


def search(folder: Path, **changes: Any) -> Comparison:
    return compare(NAMES, folder, ASIDE, **{"tune": BUDGET, "tune_rounds": 1, "tuner": "optuna", **QUIET, **changes})


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    """A finished search of three algorithms."""
    folder = tmp_path_factory.mktemp("searched") / "c"
    return folder, search(folder)


@pytest.mark.parametrize(
    ("tunable", "default", "low", "high", "zero"),
    [
        (Tunable("lr"), 2.0, 0.25, 16.0, False),
        (Tunable("server_lr", factor=10**0.5), 0.1, 0.1 / 1000**0.5, 0.1 * 1000**0.5, False),
        (Tunable("mu", "weight", 10**0.5), 0.001, 0.001 / 1000**0.5, 0.001 * 1000**0.5, False),
        (Tunable("gamma", "weight", 10**0.5), 0.0, 0.01 / 1000**0.5, 0.01 * 1000**0.5, True),
        (Tunable("epochs", "count"), 3, 1, 24, False),
        (Tunable("clusters", "count"), 1, 1, 8, False),
        (Tunable("alpha", "share", 3.0), 0.5, 1 / 28, 27 / 28, False),
    ],
    ids=["rate", "server", "weight", "no weight", "count", "one", "share"],
)
def test_a_range_is_three_steps_around_the_default(
    tunable: Tunable, default: float, low: float, high: float, zero: bool
) -> None:
    own = range_of(tunable, default)
    assert [own.low, own.high] == pytest.approx([low, high], rel=1e-12) and own.zero == zero
    assert own.scale == ("odds" if tunable.kind == "share" else "log")
    assert type(own.low) is type(own.high) is (int if tunable.kind == "count" else float)


def made(trials: list[dict[str, float]], seed: int = 0, name: str = "own", higher: bool = True) -> dict[str, float]:
    """What is proposed after these; the better the nearer lr is to 4."""
    tunable = {
        "lr": Tunable("lr"),
        "n": Tunable("n", "count"),
        "gamma": Tunable("gamma", "weight"),
        "alpha": Tunable("alpha", "share", 3.0),
    }
    start = {"lr": 2.0, "n": 3, "gamma": 0.0, "alpha": 0.25}
    ranges = {option: range_of(own, start[option]) for option, own in tunable.items()}
    sign = 1 if higher else -1
    scores = [None if values["lr"] > 12 else -sign * abs(math.log2(values["lr"] / 4)) for values in trials]
    known = [Trial(values, "m", score, score, None, "") for values, score in zip(trials, scores, strict=True)]
    return proposal(Proposer(name, start, ranges, seed, 60, higher), known)


def test_proposals_stay_in_their_ranges_and_come_near_to_the_best() -> None:
    trials: list[dict[str, float]] = [{"lr": 2.0, "n": 3, "gamma": 0.0, "alpha": 0.25}]
    while len(trials) < 60:
        trials.append(made(trials))
    assert all(0.25 <= values["lr"] <= 16 and 0 < values["alpha"] < 1 for values in trials)
    assert all(type(values["n"]) is int and 1 <= values["n"] <= 24 for values in trials)
    above = [values["gamma"] for values in trials[1:] if values["gamma"]]
    assert 0 < len(above) < 59 and all(0.00125 <= gamma <= 0.08 for gamma in above)
    first, last = ([abs(math.log2(values["lr"] / 4)) for values in part] for part in (trials[1:10], trials[30:]))
    assert np.median(last) < 0.5 * np.median(first)


def test_a_proposal_follows_from_seed_name_and_the_tries_before() -> None:
    trials = [made([], seed) for seed in range(30)]
    assert made(trials) == made(trials) != made(trials, seed=1)
    assert made(trials) != made(trials, name="other") and made(trials) != made(trials[:-1])
    assert made(trials) == made(trials, higher=False), "the same order of the tries, the other way round"


def test_every_algorithm_has_the_same_budget_and_it_is_told(
    searched: tuple[Path, Comparison], capfd: pytest.CaptureFixture[str]
) -> None:
    folder, result = searched
    options = {"fedavg": ["lr"], "ditto": ["lr", "personal_lr", "lam"], "knnper": ["lr", "neighbours", "lam"]}
    record = json.loads((folder / "comparison.json").read_text())
    assert record["tuner"] == "optuna" and list(record["ranges"]) == list(NAMES)
    for name in NAMES:
        trials = result.tried[name]
        assert [list(trial.values) for trial in trials] == [options[name]] * BUDGET
        assert trials[0].values == {option: pytest.approx(value) for option, value in DEFAULTS[name].items()}
        assert len({tuning.show(trial.values) for trial in trials}) == BUDGET
        for trial, (option, own) in ((t, pair) for t in trials for pair in record["ranges"][name].items()):
            assert own["low"] <= trial.values[option] <= own["high"]
        rounds = [json.loads(path.read_text())["rounds"] for path in sorted(folder.glob(f"tuning/{name}-*/config.json"))]
        refused = [trial for trial in trials if trial.reason]
        assert rounds == [1] * (BUDGET - len(refused)) and len(refused) <= (name == "ditto")
        assert all("lam" in trial.reason and "personal_lr" in trial.reason for trial in refused), (
            "a pull that is too strong is a try, too"
        )
        assert results(folder)["tuning"][name] == [trial._asdict() for trial in trials]
    told = [(path, value) for path, value in leaves(record) if path.startswith("ranges.")]
    for path, value in told:
        assert any(row[0].fullmatch(path) and type(value) in row[2] for row in rows("comparison.json, with Optuna")), path
    assert len(told) == 4 * sum(map(len, options.values())) and len(rows("comparison.json, with Optuna")) == 4
    page = Page(result.report.read_text(encoding="utf-8"))
    assert "5 tries of 1 round each" in page.text["tuning"] and "TPE sampler of Optuna" in page.text["tuning"]
    assert "The budget is the same for all." in page.text["tuning"] and "ditto, ranges: lr 0.25 to 16" in page.text["tuning"]
    for name in NAMES:
        assert all(
            tuning.number(value) in page.text[f"rates-{name}"] for t in result.tried[name] for value in t.values.values()
        )
    resume_comparison(folder, population=harness.POPULATION)
    assert "tuning: every algorithm has the same budget, 5 tries of 1 round\n" in capfd.readouterr().err


DEFAULTS = {
    "fedavg": {"lr": 2.0},
    "ditto": {"lr": 2.0, "personal_lr": 0.5, "lam": 0.2},
    "knnper": {"lr": 2.0, "neighbours": 5, "lam": 0.5},
}


def test_the_choice_is_the_best_of_what_is_kept(searched: tuple[Path, Comparison]) -> None:
    """From the counts of single clients in the CSV files, in exact arithmetic of integers and one division each."""
    folder, result = searched
    for name in NAMES:
        scores = []
        for number in range(1, BUDGET + 1):
            path = folder / "kept" / "tuning" / f"{name}-{number}.csv"
            if not path.exists():
                assert result.tried[name][number - 1].score is None
                scores.append(-math.inf)
                continue
            with path.open(newline="") as file:
                lines = list(csv.DictReader(file))
            model = "global" if name == "fedavg" else "personal"
            sides = [
                [int(line[f"{model}_correct"]) / int(line["tokens"]) for line in lines if line["side"] == side]
                for side in ("seen", "unseen")
            ]
            scores.append(sum(math.fsum(side) / len(side) for side in sides) / 2)
        told = [-math.inf if trial.score is None else trial.score for trial in result.tried[name]]
        np.testing.assert_allclose(told, scores, rtol=1e-14)
        proposed = files.read_json(proposals.place(folder, name), "")["proposals"]
        assert results(folder)["chosen"][name] == proposed[int(np.argmax(scores))]


def test_by_a_loss_the_lowest_is_taken(tmp_path: Path, plain: None) -> None:
    result = compare(["fedavg"], tmp_path / "c", ASIDE, tune=4, tune_rounds=1, tuner="optuna", tune_by="loss", **QUIET)
    trials = result.tried["fedavg"]
    assert tuning.best(trials) == min(trials, key=lambda trial: present(trial.score)).values
    assert results(tmp_path / "c")["chosen"]["fedavg"] == tuning.best(trials)


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
import comparisons, test_proposals
from flow.comparison import run
comparisons.write_plainly(setattr)
original = run.kept_of
def kept_of(job, progress):
    if job.folder.name == "ditto-3":
        (Path({folder!r}).parent / "there").touch()
        import time
        time.sleep(600)
    return original(job, progress)
run.kept_of = kept_of
test_proposals.search(Path({folder!r}))
"""


def test_a_search_that_was_killed_goes_on_with_the_same_tries(
    searched: tuple[Path, Comparison], tmp_path: Path, plain: None
) -> None:
    paths, folder = [path for path in sys.path if path], tmp_path / "c"
    with subprocess.Popen([sys.executable, "-c", KILLED.format(paths=paths, folder=str(folder))], env=os.environ) as process:
        limit = time.monotonic() + 120
        while not (tmp_path / "there").exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert len(files.read_json(proposals.place(folder, "ditto"), "")["proposals"]) == 3, "written before it is tried"
    before = tree(folder / "tuning")
    again = search(folder)
    assert again.tried == searched[1].tried
    after = tree(folder / "tuning")
    assert {name: after[name] for name in before} == before and "ditto-2/evaluation.json" in before
    assert results(folder)["chosen"] == results(searched[0])["chosen"]
    assert proposals.place(folder, "ditto").read_bytes() == proposals.place(searched[0], "ditto").read_bytes()


def without_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.import_module

    def refusing(name: str, package: str | None = None) -> Any:
        if name == "optuna":
            raise ImportError("No module named 'optuna'")
        return original(name, package)

    monkeypatch.setattr(importlib, "import_module", refusing)


def test_without_the_library_nothing_runs(tmp_path: Path, plain: None, monkeypatch: pytest.MonkeyPatch) -> None:
    without_optuna(monkeypatch)
    with pytest.raises(
        UserError,
        match=r"^tuner='optuna' is a search by Optuna, which needs the package optuna \(No module named 'optuna'\); "
        r"run: pip install 'flow-fl\[optuna\]'$",
    ):
        search(tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_finished_search_needs_no_library_and_what_is_kept_is_enough(
    searched: tuple[Path, Comparison], tmp_path: Path, plain: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_optuna(monkeypatch)
    for path in [searched[0] / "comparison.json", *(searched[0] / "kept").rglob("*.*")]:
        target = tmp_path / "c" / path.relative_to(searched[0])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    assert resume_comparison(tmp_path / "c", **QUIET).tried == searched[1].tried
    assert not (tmp_path / "c" / "tuning").exists()


def changed(path: Path, **content: Any) -> None:
    path.write_text(json.dumps(files.with_checksum({**files.read_json(path, ""), **content})))


def test_a_file_of_proposals_that_is_another_is_refused(searched: tuple[Path, Comparison], tmp_path: Path, plain: None) -> None:
    (tmp_path / "kept" / "proposals").mkdir(parents=True)
    path = proposals.place(tmp_path, "ditto")
    original = proposals.place(searched[0], "ditto").read_bytes()
    content = json.loads(original)["proposals"]
    proposer = Proposer("ditto", dict(DEFAULTS["ditto"]), {}, 0, BUDGET, True)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"seed": 1}, "is of another search than this comparison's; put it back from a copy, or remove it"),
        ({"algorithm": "fedavg"}, "is of another search"),
        ({"proposals": [*content, content[0]]}, "is of another search"),
        ({"proposals": [{"lr": 2.0}]}, "is of another search"),
        ({"proposals": [{**content[0], "lr": "2"}]}, "is of another search"),
        ({"proposals": [3]}, "not what a search by Optuna of this version writes"),
    ]
    for change, message in cases:
        path.write_bytes(original)
        changed(path, **change)
        with pytest.raises(UserError, match=f"ditto.json: {message}"):
            proposals.complete(path, proposer)
    path.write_bytes(original)
    assert proposals.complete(path, proposer) and not proposals.complete(path, proposer._replace(budget=BUDGET + 1))
    path.write_bytes(original.replace(b"ditto", b"DITTO"))
    with pytest.raises(UserError, match="does not have the SHA-256 stored with it; put it back"):
        proposals.complete(path, proposer)


def test_the_option_alone_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "fedavg", "--tuner", "optuna"])
    assert "tuner='optuna' does nothing without --tune; add --tune, or leave it out" in capsys.readouterr().err


def test_the_argument_is_checked(tmp_path: Path, plain: None) -> None:
    with pytest.raises(UserError, match=r"^tuner must be 'steps' or 'optuna', got 'grid'; leave it out for 'steps'$"):
        search(tmp_path / "c", tuner="grid")
    with pytest.raises(UserError, match=r"^tuner='optuna' does nothing without tries; give tune=7, or leave tuner out$"):
        search(tmp_path / "c", tune=0)
    search(tmp_path / "c", tune=1)
    with pytest.raises(UserError, match="tuner is 'optuna' there, 'steps' here"):
        search(tmp_path / "c", tune=1, tuner="steps")
