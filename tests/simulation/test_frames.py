"""Results as DataFrames, held against a plain reading of the files that runs write."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from comparisons import plain_fixture, write_plainly  # noqa: F401
from optional import present
from run_cases import POPULATION, change, run

from flow import Result, UserError, resume
from flow.algorithms import REGISTRY
from flow.simulation import frames

pandas = pytest.importorskip("pandas")
pytestmark = pytest.mark.usefixtures("plain")
MODELS = ("global", "local", "personal", "hard", "soft")


@pytest.fixture(scope="module", name="finished")
def finished_fixture(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A whole run of SMALL, in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        write_plainly(patch.setattr)
        return run(folder=tmp_path_factory.mktemp("runs") / "whole")


def same(value: Any, expected: Any) -> bool:
    """Whether a cell of a DataFrame is a value of a JSON file, to the last bit; NaN is null."""
    if expected is None:
        return isinstance(value, float) and math.isnan(value)
    return bool(value == expected)


def lines(result: Result) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in (present(result.folder) / "metrics.jsonl").read_text().splitlines()]


def check_rounds(result: Result) -> None:
    """Every cell of `rounds` against metrics.jsonl."""
    table, rows = result.rounds, lines(result)
    assert table.index.name == "round" and table.index.tolist() == [row["round"] for row in rows]
    expected = set()
    for row in rows:
        for key in row.keys() - {"round", "evaluation", "run", "sha256"}:
            expected.add(key)
            assert same(table.loc[row["round"], key], row[key]), key
        for side in ("seen", "unseen"):
            for key in SUMMARY:
                value = None if row["evaluation"] is None else row["evaluation"][side][key]
                assert same(table.loc[row["round"], f"evaluation.{side}.{key}"], value), key
                expected.add(f"evaluation.{side}.{key}")
    assert set(table.columns) == expected


AVERAGES = [f"{infix}{average}" for infix in ("", "loss_", "perplexity_") for average in ("token", "client")]
SUMMARY = [
    "clients", "skipped", "tokens", "helped", "hurt", "download_bytes", "upload_bytes", "flops",
    *(f"{model}_{average}" for model in MODELS for average in AVERAGES),
]  # fmt: skip


def check_clients(result: Result) -> None:
    """Every cell of `clients` against evaluation.json."""
    table = result.clients
    stored = json.loads((present(result.folder) / "evaluation.json").read_text())["clients"]
    assert table.index.name == "id" and table.index.tolist() == [client["id"] for client in stored]
    for client in stored:
        for key in client.keys() - {"id"}:
            assert same(table.loc[client["id"], key], client[key]), key
        for model in MODELS:
            right, nats = client[f"{model}_correct"], client[f"{model}_nats"]
            known = None if right is None else right / client["tokens"]
            assert same(table.loc[client["id"], f"{model}_accuracy"], known)
            loss = None if nats is None else nats / client["tokens"]
            assert same(table.loc[client["id"], f"{model}_loss"], loss)
            perplexity = table.loc[client["id"], f"{model}_perplexity"]
            assert same(perplexity, None) if loss is None else perplexity == pytest.approx(math.exp(loss), rel=1e-14)
    own = [f"{model}_{name}" for model in MODELS for name in ("accuracy", "loss", "perplexity")]
    assert set(table.columns) == {*stored[0], *own} - {"id"}


@pytest.mark.parametrize("name", ["flow", "fedavgft", "fedavg"])
def test_every_cell_is_that_of_the_files(name: str, tmp_path: Path) -> None:
    """With a router, without one, and without personalization; the evaluation comes every second round of five."""
    result = run(change(algorithm=REGISTRY[name].options(batch_size=4)), tmp_path / "run")
    check_rounds(result)
    check_clients(result)
    rounds, clients = result.rounds, result.clients
    assert rounds["clients"].dtype == rounds["upload_bytes"].dtype == "int64"
    assert rounds["evaluation.seen.tokens"].dtype == rounds["evaluation.seen.personal_token"].dtype == "float64"
    assert rounds["evaluation.unseen.global_token"].dropna().index.tolist() == [2, 4]
    assert rounds["evaluation.unseen.personal_token"].isna().all() == (name == "fedavg")
    assert clients["seen"].dtype == "bool" and clients["tokens"].dtype == "int64"
    assert clients["global_accuracy"].dtype == clients["personal_loss"].dtype == "float64"
    assert clients["local_weight"].isna().all() == clients["soft_accuracy"].isna().all() == (name != "flow")


def test_means_over_clients_are_those_of_the_summary(finished: Result) -> None:
    """What the columns are for, by way of pandas: both averages of either side."""
    for seen, rows in finished.clients.groupby("seen"):
        summary = finished.evaluation["summary"]["seen" if seen else "unseen"]
        assert rows["personal_accuracy"].mean() == pytest.approx(summary["personal_client"], rel=1e-12)
        assert rows["personal_nats"].sum() / rows["tokens"].sum() == pytest.approx(summary["personal_loss_token"], rel=1e-12)
        assert (rows["personal_correct"] > rows["global_correct"]).mean() == pytest.approx(summary["helped"], rel=1e-12)


def test_a_run_that_goes_on_after_its_end_trains_nothing_and_has_the_same_frames(finished: Result, tmp_path: Path) -> None:
    """The seconds of every round are the old ones, too."""
    copied = shutil.copytree(present(finished.folder), tmp_path / "run")
    again = resume(copied, population=POPULATION, progress=False)
    pandas.testing.assert_frame_equal(again.rounds, finished.rounds, check_exact=True)
    pandas.testing.assert_frame_equal(again.clients, finished.clients, check_exact=True)
    longer = resume(copied, rounds=7, population=POPULATION, progress=False)
    assert longer.rounds.index.tolist() == [1, 2, 3, 4, 5, 6, 7]
    check_rounds(longer)
    check_clients(longer)


def test_frames_need_no_folder_and_no_evaluation_along_the_run() -> None:
    """A frame that is changed leaves the result as it is."""
    result = run(change(evaluate_every=0, rounds=2))
    rounds = result.rounds
    assert rounds.index.tolist() == [1, 2] and not [name for name in rounds if name.startswith("evaluation.")]
    assert rounds["loss"].tolist() == [row["loss"] for row in result.metrics]
    rounds["loss"] = 0.0
    assert result.rounds["loss"].tolist() == [row["loss"] for row in result.metrics]


def test_rounds_whose_uploads_are_all_lost_have_no_loss() -> None:
    rows = run(change(dropout=0.6, cohort=1, rounds=6, evaluate_every=0, seed=3)).rounds
    lost = rows["clients"] == 0
    assert lost.any() and not lost.all()
    assert rows["loss"].isna().tolist() == lost.tolist() and rows["clients"].dtype == "int64"


def test_a_number_beyond_64_bits_and_nobody_who_is_scored() -> None:
    """Counted operations may be any integer; the columns are the same where no client could be scored."""
    huge = frames.of_rounds([{"round": 1, "flops": 2**70, "evaluation": None}, {"round": 2, "flops": 1, "evaluation": None}])
    assert huge["flops"].tolist() == [float(2**70), 1.0] and list(huge) == ["flops"]
    nobody = frames.of_clients({"clients": []})
    assert len(nobody) == 0 and len(nobody[nobody["seen"]]) == 0
    assert set(nobody.columns) == set(run(change(rounds=1)).clients.columns)


def test_where_pandas_is_missing_one_sentence_says_what_to_install(finished: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for name in ("rounds", "clients"):
        with pytest.raises(
            UserError, match=rf"^Result\.{name} is a pandas DataFrame, .*; run: pip install 'flow-fl\[frames\]'$"
        ):
            getattr(finished, name)
