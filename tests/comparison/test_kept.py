"""What is kept of every run: it says what the run says, a comparison goes on from it alone, and nothing wrong is taken."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparisons import (
    TINY,
    plain_fixture,  # noqa: F401
    results,
    tree,
)
from kept_cases import (
    CONFIG,
    GIVEN,
    NAMES,
    POPULATION,
    QUIET,
    again,
    copied_fixture,  # noqa: F401
    edit,
    evaluation,
    hashed,
    lines,
    runs,
    same_results,
    untrained_fixture,  # noqa: F401
    whole_fixture,  # noqa: F401
)

from flow import Comparison, UserError, compare, resume_comparison
from flow.comparison import kept
from flow.evaluation.metrics import METRICS, MODELS
from flow.storage import files

COUNTS = [
    f"{model}_{column}" for model in MODELS for column in dict.fromkeys(metric.column for metric in METRICS if metric.always)
]
COSTS = ["download_bytes", "upload_bytes", "flops"]


# ---- what the files say ----------------------------------------------------------------------------------------------


def test_a_line_for_every_scored_client_with_its_counts_and_costs(whole: Path) -> None:
    for name, seed in runs():
        path, clients = whole / "kept" / f"{name}-seed{seed}.csv", evaluation(whole, name, seed)["clients"]
        printed = lines(path)
        assert len(printed) == len(clients) == 12
        models = ("global",) if name == "fedavg" else ("global", "personal")
        counts = [key for key in COUNTS if key.startswith(models)]
        assert list(printed[0]) == ["client", "side", "tokens", *counts, *COSTS]
        for line, client in zip(printed, clients, strict=True):
            assert line["client"] == hashlib.sha256(client["id"].encode()).hexdigest()[:16]
            assert line["side"] == ("seen" if client["seen"] else "unseen")
            for key in ("tokens", *counts, *COSTS):
                assert float(line[key]) == client[key] and "," not in line[key], key
    assert len({line["client"] for line in printed}) == 12 and all(len(line["client"]) == 16 for line in printed)


def test_what_belongs_to_the_whole_run(whole: Path) -> None:
    for name, seed in runs():
        folder = whole / "runs" / f"{name}-seed{seed}"
        path = whole / "kept" / f"{name}-seed{seed}.json"
        about, config = json.loads(path.read_text()), json.loads((folder / "config.json").read_text())
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert files.has_checksum(about) and files.intact(about)
        assert (about["algorithm"], about["seed"], about["rounds"], about["diverged"]) == (name, seed, 3, None)
        assert about["population"] == config["population"] and about["run"] == rows[0]["run"]
        assert about["config"]["algorithm"] == config["algorithm"] and about["config"]["cohort"] == 4
        assert about["config"]["data"] == config["data"] | {"data": None}
        assert about["csv"] == hashlib.sha256(path.with_suffix(".csv").read_bytes()).hexdigest()
        assert about["calibration"] == evaluation(whole, name, seed)["calibration"]
        assert about["client_state_bytes"] == rows[-1]["client_state_bytes"]
        for key in ("clients", "skipped", "dropped", "late", *COSTS, "seconds"):
            assert about["totals"][key] == sum(row[key] for row in rows), key
        flops = nbytes = 0
        assert len(about["curve"]) == len(rows) == 3
        for point, row in zip(about["curve"], rows, strict=True):
            flops += row["flops"] / 4  # the cohort
            nbytes += row["upload_bytes"] / 4 + row["download_bytes"] / 4
            assert point["round"] == row["round"]
            assert (point["flops"], point["bytes"]) == pytest.approx((flops, nbytes), rel=1e-12)
            for side, summary in row["evaluation"].items():
                assert point["sides"][side] == {key: value for key, value in summary.items() if value is not None}
        assert about["drawn"] == pytest.approx({"flops": flops, "bytes": nbytes}, rel=1e-12)


def test_neither_a_text_nor_an_id_is_kept(whole: Path) -> None:
    content = b"".join(path.read_bytes() for path in (whole / "kept").iterdir()).decode()
    assert not any(client.id in content for client in POPULATION.clients)
    keys = set(re.findall(r'"(\w+)":', content))
    assert "curve" in keys and not keys & {"texts", "id", "passage", "clients_ids"}


def test_the_table_has_the_numbers_of_evaluation_json_to_the_last_bit(tmp_path: Path, plain: None) -> None:
    folder = compare(NAMES, tmp_path / "c", CONFIG, **QUIET).folder
    for line in lines(folder / "table.csv"):
        stored = evaluation(folder, line["algorithm"], 0)
        for side, summary in stored["summary"].items():
            for metric in (known for known in METRICS if known.always):
                for model in MODELS:
                    for average, suffix in (("client", ""), ("token", "_by_token")):
                        value = summary[f"{model}_{metric.infix}{average}"]
                        printed = line[f"{model}_{metric.infix}{side}{suffix}"]
                        assert printed == ("" if value is None else repr(value)), metric
            for share in ("helped", "hurt"):
                assert line[f"{share}_{side}"] == ("" if summary[share] is None else repr(summary[share]))
        rows = (folder / "runs" / f"{line['algorithm']}-seed0" / "metrics.jsonl").read_text().splitlines()
        assert float(line["total_flops"]) == sum(json.loads(row)["flops"] for row in rows) > 0
        personal = [client["flops"] for client in stored["clients"]]
        assert float(line["total_personal_flops"]) == sum(personal)
        assert float(line["personal_flops"]) == pytest.approx(sum(personal) / len(personal))


def test_the_worst_tenth_of_the_clients(whole: Path) -> None:
    """Seeds averaged within a client; of fewer than eleven clients it is the one with the lowest accuracy."""
    for line in lines(whole / "table.csv"):
        model = "global" if line["algorithm"] == "fedavg" else "personal"
        for side in ("seen", "unseen"):
            seeds = [
                {
                    client["client"]: int(client[f"{model}_correct"]) / int(client["tokens"])
                    for client in lines(whole / "kept" / f"{line['algorithm']}-seed{seed}.csv")
                    if client["side"] == side
                }
                for seed in (0, 1)
            ]
            both = seeds[0].keys() & seeds[1].keys()
            assert (2 <= len(both) < 7) if side == "seen" else len(both) == 5
            lowest = min((seeds[0][client] + seeds[1][client]) / 2 for client in both)
            assert float(line[f"worst_tenth_{side}"]) == pytest.approx(lowest, rel=1e-12)


def test_two_clients_with_one_hash_are_refused(tmp_path: Path, plain: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "HEX", 1)
    assert len({hashed(client.id)[0] for client in POPULATION.clients}) < len(POPULATION.clients)
    with pytest.raises(UserError, match=r"fedavg-seed0: two of its clients have ids whose SHA-256 begins alike, .*another id"):
        compare(["fedavg"], tmp_path / "c", TINY, **QUIET)


# ---- going on from them alone ----------------------------------------------------------------------------------------


def test_on_another_machine_nothing_is_trained(whole: Path, copied: Path, tmp_path: Path, untrained: None) -> None:
    shutil.rmtree(copied / "runs")
    calls: list[Callable[[], Comparison]] = [lambda: again(copied), lambda: compare(folder=copied, **GIVEN, **QUIET)]
    for call in calls:
        for name in ("table.csv", "table.txt", "paired.csv", "results.json", "comparison.html"):
            (copied / name).unlink()
        result = call()
        same_results(copied, whole)
        assert result.report.is_file() and not (copied / "runs").exists()


def test_tuning_goes_on_from_them_too(
    tmp_path: Path, plain: None, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    settings = {"ditto": {"lam": 1.9, "lr": 2.0}}  # the second choice is refused
    given: dict[str, Any] = {"algorithms": ["fedavg", "ditto"], "config": TINY, "tune": 2, "settings": settings}
    first = compare(folder=tmp_path / "c", **given, **QUIET)
    whole = results(first.folder)
    assert sorted(path.name for path in (first.folder / "kept" / "tuning").glob("*.csv")) == [
        "ditto-1.csv",
        "fedavg-1.csv",
        "fedavg-2.csv",
    ]
    for name in ("runs", "tuning"):
        shutil.rmtree(first.folder / name)
    request.getfixturevalue("untrained")
    again = resume_comparison(first.folder, **QUIET)
    assert results(first.folder) == whole and again.tried == first.tried and again.rows == first.rows


def test_a_run_that_diverged_is_not_tried_again(
    tmp_path: Path, plain: None, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    given: dict[str, Any] = {"config": TINY, "settings": {"fedavg": {"lr": 1e30, "clip": 0.0}}, "against": "ditto"}
    first = compare(["fedavg", "ditto"], tmp_path / "c", **given, **QUIET)
    about = json.loads((tmp_path / "c" / "kept" / "fedavg-seed0.json").read_text())
    assert str(tmp_path) not in json.dumps(about)
    assert "diverged in round" in about["diverged"] and not (tmp_path / "c" / "kept" / "fedavg-seed0.csv").exists()
    shutil.rmtree(tmp_path / "c" / "runs")
    request.getfixturevalue("untrained")
    assert compare(["fedavg", "ditto"], tmp_path / "c", **given, **QUIET).rows == first.rows
    assert first.tests == [] and "no other algorithm has a client and a seed in common with ditto" in first.text()


def test_a_comparison_of_an_older_build_gets_them_from_its_runs(whole: Path, copied: Path, untrained: None) -> None:
    shutil.rmtree(copied / "kept")
    again(copied)
    same_results(copied, whole)


def test_what_a_run_left_that_was_killed_at_its_very_end_is_removed(whole: Path, copied: Path, untrained: None) -> None:
    run, record = copied / "runs" / "fedavg-seed0", copied / "kept" / "fedavg-seed0.json"
    record.unlink()
    left = [run / ".lock", run / ".report.html.999999999.tmp"]
    for path in left:
        path.write_text("")
    again(copied)
    assert record.read_bytes() == (whole / "kept" / record.name).read_bytes()
    assert not any(path.exists() for path in left)


def test_results_without_a_loss_have_empty_cells_for_it(copied: Path, untrained: None) -> None:
    """Of a build that had none."""
    for name, seed in runs():
        path = copied / "runs" / f"{name}-seed{seed}" / "evaluation.json"
        content = json.loads(path.read_text())
        for client in content["clients"]:
            for key in [key for key in client if key.endswith("_nats")]:
                del client[key]
        for summary in content["summary"].values():
            for key in [key for key in summary if "_loss_" in key or "_perplexity_" in key]:
                del summary[key]
        del content["calibration"]
        path.write_text(json.dumps(files.with_checksum(content)))
    shutil.rmtree(copied / "kept")
    result = again(copied)
    assert all("nats" not in path.read_text() for path in (copied / "kept").glob("*.csv"))
    for line in lines(copied / "table.csv"):
        assert line["global_loss_seen"] == line["global_perplexity_unseen"] == "" != line["global_seen"]
    assert {test.metric for test in result.tests} == {"accuracy"} and len(result.tests) == 4
    calibrations = [json.loads(path.read_text())["calibration"] for path in (copied / "kept").glob("*.json")]
    assert calibrations == [{"seen": None, "unseen": None}] * 6


# ---- what is wrong with them -----------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def table(path: Path, change: Callable[[list[list[str]]], list[list[str]]]) -> None:
    """Change the cells of the CSV file, with right checksums in the JSON file."""
    cells = change([line.split(",") for line in path.with_suffix(".csv").read_text().splitlines()])
    content = "".join(",".join(line) + "\n" for line in cells).encode()
    path.with_suffix(".csv").write_bytes(content)
    edit(path, csv=hashlib.sha256(content).hexdigest())


def pipe(path: Path) -> None:
    """Put a pipe in the place of the CSV file."""
    path.with_suffix(".csv").unlink()
    os.mkfifo(path.with_suffix(".csv"))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "csv cut": lambda path: cut(path.with_suffix(".csv")),
    "csv changed": lambda path: path.with_suffix(".csv").write_text(
        path.with_suffix(".csv").read_text().replace("unseen", "seen")
    ),
    "csv gone": lambda path: path.with_suffix(".csv").unlink(),
    "json cut": cut,
    "json changed": lambda path: path.write_text(path.read_text().replace('"seed": 1', '"seed": 0')),
    "json without checksum": lambda path: path.write_text('{"algorithm": "ditto"}'),
    "json of another form": lambda path: path.write_text(json.dumps(files.with_checksum({"diverged": None}))),
    "json without totals": lambda path: edit(path, totals={}),
    "json with a total beyond all floats": lambda path: edit(
        path, totals=dict.fromkeys(kept.TOTALS, 0.5) | {"seconds": 10**400}
    ),
    "json with a word for a cost": lambda path: edit(path, client_state_bytes="many"),
    "json with a negative total": lambda path: edit(path, totals=dict.fromkeys(kept.TOTALS, -1)),
    "json with a number for a name": lambda path: edit(path, dataset=7),
    "json with a word for a summary": lambda path: edit(
        path, curve=[{"round": 1, "flops": 1, "bytes": 1, "sides": {"seen": {"tokens": "x"}, "unseen": {}}}]
    ),
    "json without costs of a client": lambda path: edit(path, drawn={"flops": "x", "bytes": None}),
    "json with a list for a reason": lambda path: edit(path, diverged=["x"]),
    "json with a word for rounds": lambda path: edit(path, rounds="3"),
    "csv with more tokens right than there are": lambda path: table(
        path, lambda lines: [lines[0], [*lines[1][:3], "1" + lines[1][2], *lines[1][4:]], *lines[2:]]
    ),
    "json without a curve": lambda path: edit(path, curve=[{"round": 1}]),
    "json a list": lambda path: path.write_text("[]"),
    "json not UTF-8": lambda path: path.write_bytes(b"\xff{}"),
    "json with an enormous number": lambda path: path.write_text('{"sha256": ' + "1" * 5000 + "}"),
    "csv a pipe": pipe,
    "csv with a client twice": lambda path: table(path, lambda lines: [*lines, lines[1]]),
    "csv with a column twice": lambda path: table(path, lambda lines: [[*line, line[-1]] for line in lines]),
    "csv without a cost": lambda path: table(path, lambda lines: [line[:-1] for line in lines]),
    "csv with a negative number": lambda path: table(
        path, lambda lines: [lines[0], [*lines[1][:3], "-1", *lines[1][4:]], *lines[2:]]
    ),
    "csv with NaN": lambda path: table(path, lambda lines: [lines[0], [*lines[1][:3], "nan", *lines[1][4:]], *lines[2:]]),
    "csv with a client without tokens": lambda path: table(
        path, lambda lines: [lines[0], [*lines[1][:2], "0", *lines[1][3:]], *lines[2:]]
    ),
    "csv with a field of 200,000 digits": lambda path: table(path, lambda lines: [*lines, ["1" * 200_000]]),
    "csv with an id": lambda path: table(path, lambda lines: [lines[0], ["zz", *lines[1][1:]], *lines[2:]]),
    "csv with a third side": lambda path: table(
        path, lambda lines: [lines[0], [lines[1][0], "other", *lines[1][2:]], *lines[2:]]
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_written_anew_from_the_run_or_refused(
    whole: Path, copied: Path, untrained: None, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    path = copied / "kept" / "ditto-seed1.json"
    DAMAGE[damage](path)
    again(copied)
    same_results(copied, whole)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1 and re.match(
        rf"flow: {copied}/kept/ditto-seed1\.(json|csv): .*; it is written anew from {copied}/runs", warnings[0]
    )

    DAMAGE[damage](path)
    shutil.rmtree(copied / "runs")
    before = tree(copied)
    with pytest.raises(
        UserError, match=r"kept/ditto-seed1\.(json|csv): .* back from a copy, or remove .*ditto-seed1\.json, and the"
    ):
        again(copied)
    assert tree(copied) == before


def test_removed_files_make_the_run_be_done_again_where_it_is_gone(whole: Path, copied: Path) -> None:
    """A CSV file alone does not count: the JSON file is written last."""
    shutil.rmtree(copied / "runs")
    (copied / "kept" / "ditto-seed1.json").unlink()
    (copied / "kept" / "ditto-seed1.csv").write_text("half")
    again(copied)
    assert (copied / "kept" / "ditto-seed1.csv").read_bytes() == (whole / "kept" / "ditto-seed1.csv").read_bytes()
    assert [path.name for path in (copied / "runs").iterdir()] == ["ditto-seed1"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("ditto-seed0", "seed is 0 there, 1 here"),
        ("fedavg-seed1", "algorithm.name is 'fedavg' there, 'ditto' here"),
        ({"population": "0" * 64}, "the data are others"),
        ({"config": {"rounds": 9}}, "rounds is 9 there, 3 here"),
    ],
    ids=["seed", "algorithm", "data", "rounds"],
)
def test_files_of_another_run_are_refused_and_left_alone(
    copied: Path, untrained: None, other: str | dict[str, Any], message: str
) -> None:
    """Also where the folder of the right run is there."""
    path = copied / "kept" / "ditto-seed1.json"
    if isinstance(other, str):
        for suffix in (".json", ".csv"):
            shutil.copy(copied / "kept" / (other + suffix), path.with_suffix(suffix))
    else:
        content = json.loads(path.read_text())
        edit(path, **{key: content[key] | value if isinstance(value, dict) else value for key, value in other.items()})
    before = tree(copied)
    with pytest.raises(
        UserError, match=rf"ditto-seed1\.json: is of another run than this comparison's \(.*{message}.*\); put the"
    ):
        again(copied)
    assert tree(copied) == before


def test_options_that_came_later_do_not_make_a_run_another_one(copied: Path, untrained: None) -> None:
    path = copied / "kept" / "ditto-seed1.json"
    config = json.loads(path.read_text())["config"]
    del config["late"], config["server"]["weiszfeld_steps"], config["algorithm"]["clip"]
    edit(path, config=config)
    assert [row.runs for row in again(copied).rows] == [2, 2, 2]


def test_results_whose_summary_is_not_that_of_their_clients_are_refused(copied: Path) -> None:
    path = copied / "runs" / "ditto-seed1" / "evaluation.json"
    content = json.loads(path.read_text())
    content["summary"]["unseen"]["personal_loss_client"] *= 1.001
    edit(path, summary=content["summary"])
    shutil.rmtree(copied / "kept")
    with pytest.raises(
        UserError, match=r"ditto-seed1: its files are damaged \(evaluation.summary.unseen.personal_loss_client is"
    ):
        again(copied)


def test_where_a_run_lies_and_where_it_is_kept(tmp_path: Path) -> None:
    assert kept.place(tmp_path / "c" / "runs" / "flow-seed3") == tmp_path / "c" / "kept" / "flow-seed3.json"
    assert kept.place(tmp_path / "c" / "tuning" / "flow-3") == tmp_path / "c" / "kept" / "tuning" / "flow-3.json"


def test_a_changed_configuration_beside_kept_files_is_refused(copied: Path) -> None:
    given = {**GIVEN, "config": dataclasses.replace(CONFIG, rounds=4)}
    shutil.rmtree(copied / "runs")
    with pytest.raises(UserError, match=r"config\.rounds is 3 there, 4 here"):
        compare(folder=copied, **given, **QUIET)
