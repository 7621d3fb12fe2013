"""Comparisons on tiny data: end to end, interrupted everywhere, and with the numbers of single runs."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import checksums
import pytest
from comparisons import (
    ARGUMENTS,
    QUIET,
    TINY,
    plain_fixture,  # noqa: F401
    results,
    tree,
)
from report_cases import Page

from flow import compare, resume, resume_comparison
from flow.cli.main import main
from flow.comparison import jobs
from flow.data import Client
from flow.draws import Draw
from flow.evaluation.metrics import METRICS
from flow.server.options import ServerOptions
from flow.simulation import loop
from flow.simulation.loop import Result
from flow.storage import files, run_folder


def test_from_the_command_to_the_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "flow", "fedyogi", "apfl", "local", *ARGUMENTS, "--seeds", "2", "--folder", "mine"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "1 of 8: flow, seed 0" in printed.err and "8 of 8: local, seed 1" in printed.err
    *table, last = printed.out.splitlines()
    assert last == "report: mine/comparison.html" and max(map(len, table)) < 200
    assert [line.split()[0] for line in table[2:6]] == ["flow", "fedyogi", "apfl", "local"]
    assert table[2].split()[1:4] == ["stateless", "yes", "yes"] and table[4].split()[1:4] == ["stateful", "yes", "-"]
    assert [line.split()[0] for line in table[9:13]] == ["flow", "fedyogi", "apfl", "local"]
    assert "± standard deviation over 2 seeds" in table[14]
    assert (here / "mine" / "table.txt").read_text().splitlines() == [line.rstrip() for line in printed.out.splitlines()[:-1]]

    lines = list(csv.DictReader(io.StringIO((here / "mine" / "table.csv").read_text())))
    assert [line["algorithm"] for line in lines] == ["flow", "fedyogi", "apfl", "local"]
    assert [line["kind"] for line in lines][:2] == ["stateless, per client + per instance", "server-side only"]
    for line in lines:
        evaluations = [
            json.loads((here / "mine" / "runs" / f"{line['algorithm']}-seed{seed}" / "evaluation.json").read_text())
            for seed in (0, 1)
        ]
        for side in ("seen", "unseen"):
            for model in ("global", "personal"):
                values = [evaluation["summary"][side][f"{model}_client"] for evaluation in evaluations]
                if None in values:
                    assert line[f"{model}_{side}"] == line[f"{model}_{side}_std"] == ""
                else:
                    assert float(line[f"{model}_{side}"]) == pytest.approx(sum(values) / 2)
                    assert float(line[f"{model}_{side}_std"]) == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))
    assert float(lines[3]["upload_bytes"]) == 0 < float(lines[1]["upload_bytes"]) < float(lines[0]["upload_bytes"])

    page = Page((here / "mine" / "comparison.html").read_text(encoding="utf-8"))
    assert {f"row-{name}" for name in ("flow", "fedyogi", "apfl", "local")} <= page.text.keys()
    assert (
        page.text["row-flow"].count("✓") == 2 and page.text["row-apfl"].count("✓") == 1 and "✓" not in page.text["row-fedyogi"]
    )
    assert page.source.count("<svg") == 4 * len({metric.column for metric in METRICS if metric.always})
    assert "<h2>Tuning</h2>" not in page.source and "client by client" not in page.source
    for tag, attributes in page.tags:  # nothing is fetched from anywhere
        assert (
            tag not in ("link", "img")
            and (tag != "script" or "src" not in attributes)
            and not any("http" in (value or "") for value in attributes.values())
        )

    before = tree(here)
    assert main(arguments) == 0  # done already: everything is kept
    again = capsys.readouterr()
    assert again.out == printed.out and "round/s" not in again.err
    assert tree(here) == before
    assert main(["compare", "--resume", "mine"]) == 0
    assert capsys.readouterr().out == printed.out


@pytest.mark.usefixtures("plain")
def test_the_numbers_are_those_of_single_runs(here: Path) -> None:
    """By `flow run` with the same options, and by simulate()."""
    assert (
        main(["compare", "flow", "fedadam", *ARGUMENTS, "--lr", "0.5", "--seeds", "2", "--seed", "3", "--folder", "mine"]) == 0
    )
    for name in ("flow", "fedadam"):
        for seed in (3, 4):
            alone, own = here / "alone" / f"{name}-seed{seed}", here / "mine" / "runs" / f"{name}-seed{seed}"
            assert main(["run", name, *ARGUMENTS, "--lr", "0.5", "--seed", str(seed), "--folder", str(alone)]) == 0
            for file in ("config.json", "evaluation.json"):
                assert (own / file).read_text() == (alone / file).read_text(), file
            rows = [[{k: v for k, v in row.items() if "second" not in k} for row in checksums.rows(f)] for f in (own, alone)]
            assert rows[0] == rows[1]


def test_all_algorithms_see_the_same_cohorts(tmp_path: Path, plain: None, monkeypatch: pytest.MonkeyPatch) -> None:
    module, drawn = loop, []

    def sample(
        clients: Sequence[Client], size: int, draw: Draw, original: Callable[..., list[Client]] = module.sample
    ) -> list[Client]:
        cohort = original(clients, size, draw)
        drawn.append((draw, [client.id for client in cohort]))
        return cohort

    monkeypatch.setattr(module, "sample", sample)
    names = ["flow", "fedavg", "ditto", "fedrecon"]
    compare(names, tmp_path / "c", TINY, **QUIET)
    cohorts = [(draw, ids) for draw, ids in drawn if draw.purpose == "cohort"]
    assert len(cohorts) == TINY.rounds * len(names)
    assert all(cohorts[n] == cohorts[n % TINY.rounds] for n in range(len(cohorts)))


NAMED: dict[str, Any] = {
    "algorithms": ["fedavg", "ditto"],
    "config": TINY,
    "tune": 2,
    "tune_rounds": 1,
    "settings": {"ditto": {"lam": 1.9, "lr": 2.0}},
}


def stopping(monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """Count what is written and stop after the at-th time; returns the counter."""
    count = [0]

    def after(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            result = original(*arguments, **options)
            count[0] += 1
            if count[0] == at:
                raise KeyboardInterrupt
            return result

        return call

    for owner, name in ((files, "write"), (run_folder, "append_metrics"), (Path, "mkdir")):
        monkeypatch.setattr(owner, name, after(getattr(owner, name)))
    return count


def test_stopped_after_anything_written_it_ends_as_if_never_stopped(
    tmp_path: Path, plain: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        count = stopping(patched, -1)
        compare(folder=tmp_path / "whole", **NAMED, **QUIET)
    whole = results(tmp_path / "whole")
    assert [trial["values"] for trial in whole["tuning"]["ditto"]] == [{"personal_lr": 0.5}, {"personal_lr": 1.0}]
    assert whole["tuning"]["ditto"][1]["reason"].startswith("lam=1.9 times personal_lr=1.0 must be at most 1")
    names = set(tree(tmp_path / "whole"))
    assert count[0] > 40
    for at in range(1, count[0] + 1, 3):  # the campaign stops after everything
        folder = tmp_path / f"stopped {at}"
        with monkeypatch.context() as patched:
            stopping(patched, at)
            with pytest.raises(KeyboardInterrupt):
                compare(folder=folder, **NAMED, **QUIET)
        if at % 2 and (folder / "comparison.json").exists():
            resume_comparison(folder, **QUIET)
        else:
            compare(folder=folder, **NAMED, **QUIET)
        assert results(folder) == whole, at
        assert set(tree(folder)) == names, at


def test_what_is_finished_is_not_done_again(tmp_path: Path, plain: None, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(["fedavg", "ditto"], tmp_path / "c", TINY, **QUIET)
    runs, before = tmp_path / "c" / "runs", tree(tmp_path / "c" / "runs" / "fedavg-seed0")
    (runs / "ditto-seed0" / "evaluation.json").unlink()  # as if stopped in its last evaluation
    (tmp_path / "c" / "kept" / "ditto-seed0.json").unlink()
    resumed = []

    def resuming(folder: Path, **options: Any) -> Result:
        resumed.append(folder.name)
        return resume(folder, **options)

    monkeypatch.setattr(jobs, "resume", resuming)
    compare(["fedavg", "ditto"], tmp_path / "c", TINY, **QUIET)
    assert resumed == ["ditto-seed0"]
    assert tree(runs / "fedavg-seed0") == before


@pytest.mark.usefixtures("plain")
def test_settings_of_single_algorithms(here: Path) -> None:
    (here / "own.toml").write_text('[ditto]\nlam = 0.4\n[fedavg]\nserver = "adam"\nepochs = 2\n')
    arguments = [*ARGUMENTS, "--settings", "own.toml", "--epochs", "1", "--folder", "mine", "--server", "adagrad"]
    assert main(["compare", "fedavg", "ditto", "fedyogi", "local", *arguments]) == 0
    configs = {
        name: json.loads((here / "mine" / "runs" / f"{name}-seed0" / "config.json").read_text())
        for name in ("fedavg", "ditto", "fedyogi", "local")
    }
    assert [configs[name]["algorithm"]["epochs"] for name in configs] == [2, 1, 1, 1]
    assert configs["ditto"]["algorithm"]["lam"] == 0.4
    # Its own setting, that of all, its name's, and none where nothing is averaged.
    assert [configs[name]["server"]["server"] for name in configs] == ["adam", "adagrad", "yogi", "average"]


@pytest.mark.usefixtures("plain")
def test_an_algorithm_twice_under_names_of_its_own(here: Path) -> None:
    (here / "own.toml").write_text(
        '[gentle]\nalgorithm = "fedavgft"\npersonal_lr = 0.1\n[slow]\nalgorithm = "fedyogi"\nepochs = 1\n'
    )
    arguments = ["compare", "fedavgft", "gentle", "slow", *ARGUMENTS, "--settings", "own.toml", "--folder", "mine"]
    assert main([*arguments, "--against", "fedavgft"]) == 0
    runs = here / "mine" / "runs"
    configs = {
        name: json.loads((runs / f"{name}-seed0" / "config.json").read_text()) for name in ("fedavgft", "gentle", "slow")
    }
    assert [config["algorithm"]["name"] for config in configs.values()] == ["fedavgft", "fedavgft", "fedavg"]
    assert [configs[name]["algorithm"]["personal_lr"] for name in ("fedavgft", "gentle")] == [0.5, 0.1]
    assert configs["slow"]["server"]["server"] == "yogi" and configs["slow"]["algorithm"]["epochs"] == 1
    page = (here / "mine" / "comparison.html").read_text()
    assert "FedAvg, then every client fine-tunes the global model. (algorithm = fedavgft, personal_lr = 0.1)" in page
    assert main(["compare", "--resume", "mine"]) == 0  # the names are in comparison.json
    assert main([*arguments, "--against", "gentle"]) == 0


def test_one_that_diverges_does_not_stop_the_others(tmp_path: Path, plain: None, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"fedavg": {"lr": 1e30, "clip": 0.0}}
    result = compare(["fedavg", "ditto"], tmp_path / "c", TINY, settings=settings, **QUIET)
    assert [(row.runs, row.diverged) for row in result.rows] == [(0, 1), (1, 0)]
    assert "1 of 1 runs diverged" in Page(result.report.read_text(encoding="utf-8")).text["row-fedavg"]
    assert "diverged in round" in json.loads((tmp_path / "c" / "runs" / "fedavg-seed0" / "diverged.json").read_text())["reason"]
    monkeypatch.setattr(jobs, "resume", None)  # it is known, and not tried again
    assert compare(["fedavg", "ditto"], tmp_path / "c", TINY, settings=settings, **QUIET).rows == result.rows


def test_server_options_hold_for_all_that_average(tmp_path: Path, plain: None) -> None:
    config = dataclasses.replace(TINY, server=ServerOptions(server="adam", server_lr=0.5))
    compare(["fedavg", "fedyogi", "local"], tmp_path / "c", config, **QUIET)
    servers = [
        json.loads((tmp_path / "c" / "runs" / f"{n}-seed0" / "config.json").read_text())["server"]
        for n in ("fedavg", "fedyogi", "local")
    ]
    assert [(server["server"], server["server_lr"]) for server in servers] == [("adam", 0.5), ("yogi", 0.01), ("average", 1.0)]
