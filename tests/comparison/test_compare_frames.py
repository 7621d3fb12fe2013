"""Comparison.table, held against table.csv, results.json and the runs' own files."""

from __future__ import annotations

import csv
import json
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from comparisons import QUIET, TINY, write_plainly

from flow import Comparison, Diverged, UserError, compare, resume_comparison, simulate
from flow.comparison import jobs

pandas = pytest.importorskip("pandas")
NAMES = ["fedavg", "flow", "ditto"]
MARKS = ["algorithm", "seed", "kind", "stateful", "per_client", "per_instance", "lr", "diverged"]


@pytest.fixture(scope="module", name="whole")
def whole_fixture(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Three algorithms with seeds 7 and 8; the second run of ditto diverges."""

    def simulated(config: Any, folder: Path, **options: Any) -> Any:
        if folder.name == "ditto-seed8":
            folder.mkdir()
            raise Diverged("training diverged in round 1")
        return simulate(config, folder, **options)

    with pytest.MonkeyPatch.context() as patch:
        write_plainly(patch.setattr)
        patch.setattr(jobs, "simulate", simulated)
        return compare(NAMES, tmp_path_factory.mktemp("compared") / "c", replace(TINY, seed=7), seeds=2, **QUIET)


def test_every_row_is_one_run_with_the_numbers_of_its_own_files(whole: Comparison) -> None:
    table = whole.table
    runs = [(name, seed) for name in NAMES for seed in (7, 8)]
    assert list(zip(table["algorithm"], table["seed"], strict=True)) == runs
    assert table["diverged"].tolist() == [run == ("ditto", 8) for run in runs] and table["diverged"].dtype == "bool"
    for place, (name, seed) in enumerate(runs[:-1]):
        summary = json.loads((whole.folder / "runs" / f"{name}-seed{seed}" / "evaluation.json").read_text())["summary"]
        for side in ("seen", "unseen"):
            for model in ("global", "personal", "soft"):
                for infix in ("", "loss_", "perplexity_"):
                    for ending, average in (("", "client"), ("_by_token", "token")):
                        value = table[f"{model}_{infix}{side}{ending}"][place]
                        expected = summary[side][f"{model}_{infix}{average}"]
                        assert math.isnan(value) if expected is None else value == expected
    assert table.loc[5].drop(MARKS).isna().all() and not table.loc[4].drop(MARKS).isna().all()


def test_the_means_over_seeds_are_those_of_the_csv(whole: Comparison) -> None:
    table = whole.table
    with (whole.folder / "table.csv").open(newline="") as file:
        lines = {line["algorithm"]: line for line in csv.DictReader(file)}
    assert list(lines) == NAMES
    measures = [name for name in table.columns if name not in MARKS]
    only_there = lines["flow"].keys() - {*MARKS, *measures, *(f"{name}_std" for name in measures)}
    assert only_there == {"runs", "worst_tenth_seen", "worst_tenth_unseen"}
    for name, line in lines.items():
        own = table[table["algorithm"] == name]
        for mark in ("kind", "stateful", "per_client", "per_instance", "lr"):
            assert {str(value) for value in own[mark].tolist()} <= {line[mark], str(line[mark] == "1")}
        assert (len(own) - own["diverged"].sum(), own["diverged"].sum()) == (int(line["runs"]), int(line["diverged"]))
        for measure in measures:
            values = own.loc[~own["diverged"], measure].tolist()
            if line[measure]:
                assert statistics.fmean(values) == float(line[measure])
            else:
                assert all(map(math.isnan, values))


def test_results_json_names_the_seed_of_every_run(whole: Comparison) -> None:
    for row in json.loads((whole.folder / "results.json").read_text())["algorithms"]:
        own = whole.table[whole.table["algorithm"] == row["name"]]
        assert row["seeds"] == own["seed"].tolist() == [7, 8]
        for run, (_, line) in zip(row["each"], own.iterrows(), strict=True):
            assert (run is None) == line["diverged"]
            for key, value in (run or {}).items():
                assert math.isnan(line[key]) if value is None else line[key] == value


def test_a_comparison_that_is_opened_again_has_the_same_table(whole: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is run for it."""
    write_plainly(monkeypatch.setattr)
    for name in ("simulate", "resume"):
        monkeypatch.setattr(jobs, name, lambda *_, **__: pytest.fail("a run was started"))
    pandas.testing.assert_frame_equal(resume_comparison(whole.folder, **QUIET).table, whole.table, check_exact=True)


def test_where_pandas_is_missing_the_table_says_what_to_install(whole: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"^Comparison\.table is a pandas DataFrame, .*; run: pip install 'flow-fl\[frames\]'$"):
        _ = whole.table
    assert "fedavg" in whole.text()
