"""Damaged and foreign files: resume goes back to what is whole and says so, or refuses and removes nothing."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checksums import plain, rewrite
from comparisons import (
    QUIET,
    TINY,
    plain_fixture,  # noqa: F401
    tree,
)
from optional import present
from run_cases import KEPT, POPULATION, run, timeless

from flow import UserError, compare, resume
from flow.reports.run_page import write_report
from flow.simulation import loop
from flow.simulation.loop import Result
from flow.storage import files, run_folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run of six rounds with checkpoints after 4 and 6; what clients keep is on disk."""
    return run(KEPT, tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture
def folder(whole: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(loop, "_write_report", lambda path: None)
    files.say.cache_clear()  # a line is printed once in a process, whichever test came first
    return shutil.copytree(present(whole.folder), tmp_path / "run")


def again(folder: Path) -> Result:
    return resume(folder, population=POPULATION, progress=False)


def same(result: Result, whole: Result) -> None:
    assert timeless(result.metrics) == timeless(whole.metrics) and result.evaluation == whole.evaluation
    assert all(torch.equal(tensor, result.state[name]) for name, tensor in whole.state.items())
    assert run_folder.rounds(present(result.folder) / "checkpoints") == [4, 6]
    again(present(result.folder))


def refused(folder: Path, message: str) -> None:
    """One sentence, and nothing in the folder is touched."""
    before = tree(folder)
    with pytest.raises(UserError, match=message) as error:
        again(folder)
    assert "\n" not in str(error.value) and tree(folder) == before


def edited(line: bytes, unsigned: bool = False, **changes: Any) -> bytes:
    row = json.loads(line) | changes
    if unsigned:
        del row["sha256"]
    return json.dumps({name: value for name, value in row.items() if value != "gone"}).encode()


DAMAGES = {
    "not UTF-8": (lambda line: line.replace(b'"loss"', b'"l\xffss"'), "not UTF-8"),
    "not JSON": (lambda line: line[:-20], "not JSON"),
    "empty": (lambda line: b"", "not JSON"),
    "a number changed": (lambda line: edited(line, loss=1.25), "its content does not have the SHA-256 stored with it"),
    "no loss": (lambda line: edited(line, unsigned=True, loss="gone"), "the row has no 'loss'"),
    "a wrong type": (lambda line: edited(line, unsigned=True, seconds="2"), "seconds of the row is '2'"),
    "true for a number": (lambda line: edited(line, unsigned=True, clients=True), "clients of the row is True"),
    "a list": (lambda line: b"[1]", "the row is no object"),
    "another round": (lambda line: edited(line, unsigned=True, round=9), "round 9 in the place of round "),
    "half an evaluation": (lambda line: edited(line, unsigned=True, evaluation={"seen": {}}), "evaluation has no 'unseen'"),
    "an empty evaluation": (
        lambda line: edited(line, unsigned=True, evaluation={"seen": {}, "unseen": {}}),
        "evaluation.seen has no 'clients'",
    ),
}


def damaged(folder: Path, number: int, damage: Callable[[bytes], bytes]) -> bytes:
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[number - 1] = damage(lines[number - 1])
    path.write_bytes(b"\n".join(lines))
    return path.read_bytes()


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_row_makes_a_run_go_back_to_the_checkpoint_before_it(
    name: str, whole: Result, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, what = DAMAGES[name]
    content = damaged(folder, 5, damage)
    same(again(folder), whole)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1 and warnings[0].startswith(
        f"flow: went back to round 4: line 5 of {folder / 'metrics.jsonl'} is damaged ("
    )
    assert what in warnings[0] and warnings[0].endswith("; kept as metrics.jsonl.damaged-1")
    assert (folder / "metrics.jsonl.damaged-1").read_bytes() == content


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_row_behind_all_checkpoints_is_named_and_nothing_is_lost(name: str, folder: Path) -> None:
    damage, what = DAMAGES[name]
    damaged(folder, 3, damage)
    message = (
        rf"metrics\.jsonl: does not hold rounds 1 to 6, .* line 3 of \S+ is damaged \({what}.*; put back the file, or start"
    )
    refused(folder, message.replace("[", r"\["))


@pytest.mark.parametrize(("lines", "end"), [(5, ""), (5, '{"round": 6, "lo'), (4, "")])
def test_rows_that_end_early_make_a_run_go_back(
    lines: int, end: str, whole: Result, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]) + end)
    same(again(folder), whole)
    what = "damaged (not JSON)" if end else "missing"
    assert capsys.readouterr().err == (
        f"flow: went back to round 4: line {lines + 1} of {path} is {what}; kept as metrics.jsonl.damaged-1\n"
    )


def test_a_last_row_without_its_line_end_is_whole(whole: Result, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    same(again(folder), whole)
    assert not capsys.readouterr().err


def test_damaged_files_are_numbered(whole: Result, folder: Path) -> None:
    for number in (1, 2):
        damaged(folder, 5, lambda line: b"{")
        same(again(folder), whole)
        assert (folder / f"metrics.jsonl.damaged-{number}").exists()


def test_missing_rows_are_refused_where_there_are_checkpoints_and_else_the_run_starts_again(
    whole: Result, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "metrics.jsonl").unlink()
    refused(folder, r"metrics\.jsonl: does not hold rounds 1 to 6.*: line 1 of \S+ is missing; put back the file")
    for path in run_folder.stored(folder / "checkpoints"):
        path.unlink()
    assert timeless(again(folder).metrics) == timeless(whole.metrics)
    assert not capsys.readouterr().err


# ---- what clients keep ----------------------------------------------------------------------------------------------


def newest(folder: Path) -> Path:
    """A client's file that only the checkpoint of round 6 counts on."""
    return sorted((folder / "clients").glob("*/*-00000[56].safetensors"))[0]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda path: path.unlink(), "missing"),
        (flip, "damaged, its content does not have the SHA-256 stored with it"),
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), "not a whole file of tensors"),
        (lambda path: path.write_bytes(b""), "not a whole file of tensors"),
    ],
    ids=["missing", "changed", "cut", "empty"],
)
def test_a_client_state_that_is_not_whole_makes_a_run_go_back(
    damage: Callable[[Path], object], what: str, whole: Result, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = newest(folder)
    damage(path)
    same(again(folder), whole)
    assert capsys.readouterr().err.startswith(f"flow: went back to round 4: {path}: {what}")
    assert not list(folder.glob("*.damaged*"))


def test_a_client_state_on_which_all_checkpoints_count_is_named(folder: Path) -> None:
    """The last two checkpoints know the same file of a client."""
    names = [path.stem.split("-") for path in sorted((folder / "clients").glob("*/*"))]
    rounds = {client: [int(round) for other, round in names if other == client] for client, _ in names}
    client, round = next((client, own[-1]) for client, own in rounds.items() if own[-1] <= 4)
    path = folder / "clients" / "0000" / f"{client}-{round:06d}.safetensors"
    flip(path)
    refused(folder, rf"{path.name}: damaged, .*; put the file back from a copy, or start a new run in another folder")


def copied_over(folder: Path) -> tuple[Path, str]:
    """The state of a client in the place of another client's."""
    path = newest(folder)
    other = next(state for state in sorted((folder / "clients").glob("*/*")) if state.name[:7] != path.name[:7])
    shutil.copy(other, path)
    return path, rf"holds the state of client {int(other.name[:7])} in round \d, not that of client {int(path.name[:7])} in"


def older_state(folder: Path) -> tuple[Path, str]:
    path = newest(folder)
    labels = files.read_labels(path, "")
    files.write_tensors(path, files.read_tensors(path, labels.run, str)[0], 3, labels.run, labels.client)
    return path, r"holds the state of client \d+ in round 3, not that of client \d+ in round [56] as its name says"


def of_another_run(folder: Path) -> tuple[Path, str]:
    path = newest(folder)
    tensors, labels = files.read_tensors(path, files.read_labels(path, "").run, str)
    files.write_tensors(path, tensors, labels.round, "another run", labels.client)
    return path, "was made with another configuration or other data"


def named(name: str) -> Callable[[Path], tuple[Path, str]]:
    def place(folder: Path) -> tuple[Path, str]:
        path = folder / "clients" / name
        path.parent.mkdir(exist_ok=True)
        shutil.copy(newest(folder), path)
        return path, "no file of what a client keeps has this name; move the file out of the run's folder"

    return place


def unknown(folder: Path) -> tuple[Path, str]:
    path = folder / "clients" / "0000" / "0000099-000002.safetensors"
    digest = files.read_labels(newest(folder), "").run
    files.write_tensors(path, {"a": torch.zeros(2)}, 2, digest, 99)
    return path, "unknown to the checkpoint of round 6; move the file out of the run's folder"


def later_of_another_client(folder: Path) -> tuple[Path, str]:
    """It would be removed as what came after the checkpoint."""
    path = folder / "clients" / "0000" / "0000001-000007.safetensors"
    shutil.copy(newest(folder), path)
    return path, "holds the state of client"


FOREIGN = {
    "another client's": copied_over, "another round's": older_state, "another run's": of_another_run,
    "a copy": named("0000/0000001-000006 (copy).safetensors"), "a word": named("0000/abc.safetensors"),
    "in another folder": named("backup/0000001-000006.safetensors"), "outside": named("abc.safetensors"),
    "another spelling": named("0000/1-6.safetensors"), "unknown": unknown, "later": later_of_another_client,
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_among_the_client_states_is_named_and_nothing_is_removed(name: str, folder: Path) -> None:
    path, what = FOREIGN[name](folder)
    refused(folder, rf"{path.name.replace('(', '.').replace(')', '.')}: {what}")


def test_hidden_files_of_the_system_are_passed_over(whole: Result, folder: Path) -> None:
    (folder / "clients" / ".DS_Store").touch()
    (folder / "clients" / "0000" / ".nfs0001").touch()
    same(again(folder), whole)


def test_states_of_an_older_build_are_read_unchecked_for_the_client(whole: Result, folder: Path) -> None:
    digest = files.read_labels(newest(folder), "").run
    for path in (folder / "clients").glob("*/*"):
        tensors, labels = files.read_tensors(path, digest, str)
        files.write_tensors(path, tensors, labels.round, digest)
        assert files.read_labels(path, "").client is None
    (folder / "checkpoints" / "round_000006.safetensors").unlink()
    same(again(folder), whole)


def test_the_label_of_the_client_is_covered_by_the_checksum(folder: Path) -> None:
    path = newest(folder)
    content = path.read_bytes()
    mark = f'"client":"{int(path.name[:7])}"'.encode()
    assert content.count(mark) == 1
    path.write_bytes(content.replace(mark, mark[:-2] + b'9"'))
    with pytest.raises(files.Damaged, match="does not have the SHA-256 stored with it"):
        files.read_tensors(path, "", str)


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.json"])
def test_a_full_disk_names_the_file(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"^\[Errno 28\] No space left on device: '{re.escape(str(folder / name))}'$"):
        run_folder.sync_metrics(folder) if name == "metrics.jsonl" else files.write_json(folder / name, {})


def test_the_same_tensors_leave_the_same_bytes(tmp_path: Path) -> None:
    tensors = {'b/"\u00e4\n': torch.arange(3.0), "a": torch.ones(2, 1, dtype=torch.float64), "none": torch.zeros(0, 4)}
    written = set()
    for _ in range(9):  # four labels in a random order would be alike once in 24 times
        files.write_tensors(tmp_path / "file", tensors, 5, "run", 7)
        written.add((tmp_path / "file").read_bytes())
    assert len(written) == 1
    stored, labels = files.read_tensors(tmp_path / "file", "run", str)
    assert labels == files.Labels(5, "run", 7) and stored.keys() == tensors.keys()
    assert all(torch.equal(stored[name], tensor) and stored[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_checkpoints_are_known_by_their_names(whole: Result, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "checkpoints" / "round_000006.safetensors"
    shutil.copy(path, path.with_name("round_000006 (copy).safetensors"))
    same(again(folder), whole)
    shutil.copy(path.with_name("round_000004.safetensors"), path)
    same(again(folder), whole)
    message = f"{path}: not the checkpoint of round 6, as its name says; kept as round_000006.safetensors.damaged\n"
    assert capsys.readouterr().err == f"flow: went back to round 4: {message}"


def test_rounds_that_no_checkpoint_holds_are_computed_again_and_that_is_said(
    whole: Result, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "checkpoints" / "round_000004.safetensors"
    shutil.copy(path, path.with_name("round_4.safetensors"))
    shutil.copy(path, path.with_name("round_9.safetensors"))
    for path in run_folder.stored(folder / "checkpoints"):
        path.unlink()
    same(again(folder), whole)
    assert capsys.readouterr().err == "flow: went back to the start: there is no checkpoint\n"


def test_fewer_rounds_in_the_configuration_than_were_done_are_refused(folder: Path) -> None:
    rewrite(folder / "config.json", plain((folder / "config.json").read_text()) | {"rounds": 5})
    refused(folder, r"rounds=5 is fewer than the 6 that the run in \S+ has done; give 6 or more")


def test_where_all_checkpoints_are_damaged_the_remedy_works(whole: Result, folder: Path) -> None:
    for path in run_folder.stored(folder / "checkpoints"):
        flip(path)
    before = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    refused(folder, r"round_000006\.safetensors: damaged, .*; put it back from a copy, or remove \S+checkpoints, and `flow run")
    assert {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()} == before
    shutil.rmtree(folder / "checkpoints")
    same(again(folder), whole)


# ---- rows and results of another run --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run with the same clients, and another seed."""
    return run(replace(KEPT, seed=KEPT.seed + 1), tmp_path_factory.mktemp("other") / "run")


def test_rows_of_another_run_are_refused_and_nothing_is_lost(other: Result, folder: Path) -> None:
    shutil.copy(present(other.folder) / "metrics.jsonl", folder / "metrics.jsonl")
    refused(
        folder, r"metrics\.jsonl: does not hold rounds 1 to 6, .* line 1 of \S+ is damaged \(a row of another run\); put back"
    )


def test_a_row_of_another_run_makes_a_run_go_back(
    other: Result, whole: Result, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = (present(other.folder) / "metrics.jsonl").read_bytes().split(b"\n")[4]
    damaged(folder, 5, lambda line: foreign)
    same(again(folder), whole)
    assert (
        "flow: went back to round 4: line 5 of" in (warning := capsys.readouterr().err) and "(a row of another run)" in warning
    )


def test_the_report_refuses_rows_and_results_of_another_run_or_of_fewer_rounds(other: Result, folder: Path) -> None:
    for name, where in (("metrics.jsonl", "line 1"), ("evaluation.json", "the file")):
        kept = (folder / name).read_bytes()
        shutil.copy(present(other.folder) / name, folder / name)
        with pytest.raises(ValueError, match=rf"{name}: {where} belongs to another run than config\.json\. .*--resume"):
            write_report(folder)
        (folder / name).write_bytes(kept)
    results = (folder / "evaluation.json").read_bytes()
    longer = resume(folder, rounds=8, population=POPULATION, progress=False)
    (folder / "evaluation.json").write_bytes(results)
    with pytest.raises(ValueError, match=r"evaluation\.json: the file was made after round 6 of a run that has 8"):
        write_report(folder)
    resume(folder, population=POPULATION, progress=False)
    assert plain((folder / "evaluation.json").read_text()) == longer.evaluation


# ---- checksums of JSON files ----------------------------------------------------------------------------------------


def test_every_json_file_of_a_run_carries_a_checksum(whole: Result, tmp_path: Path, plain: None) -> None:
    rows = [json.loads(line) for line in (present(whole.folder) / "metrics.jsonl").open()]
    contents = [json.loads((present(whole.folder) / f"{name}.json").read_text()) for name in ("config", "evaluation", "run")]
    compared = compare(["fedavg"], tmp_path / "c", TINY, **QUIET).folder
    contents += [json.loads((compared / f"{name}.json").read_text()) for name in ("comparison", "results")]
    assert all(files.has_checksum(content) and files.intact(content) for content in (*rows, *contents))
    assert not any(files.has_checksum(row) for row in whole.metrics)
    content = {"b": [1, None], "a": {"d": 0.5, "c": "\u00e4"}}
    spelled = b'{"a":{"c":"\\u00e4","d":0.5},"b":[1,null]}'
    assert files.with_checksum(content)["sha256"] == hashlib.sha256(spelled).hexdigest()


def test_a_changed_configuration_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"checkpoint_every": 2', '"checkpoint_every": 3'))
    refused(folder, r"config\.json: damaged or changed, its content .* SHA-256 stored with it; put back the file that the run")
    with pytest.raises(ValueError, match=r"config\.json: the file is damaged or changed, its content"):
        write_report(folder)


def test_a_changed_row_and_a_changed_evaluation_are_refused_by_a_report(folder: Path) -> None:
    path = folder / "evaluation.json"
    before = path.read_text()
    path.write_text(before.replace('"round": 6', '"round": 5'))
    with pytest.raises(ValueError, match=r"evaluation\.json: the file is damaged or changed, .*flow run --resume"):
        write_report(folder)
    path.write_text(before)
    damaged(folder, 3, lambda line: edited(line, loss=1.0))
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 3 is damaged or changed, .*flow run --resume"):
        write_report(folder)


def test_a_changed_comparison_is_refused(tmp_path: Path, plain: None) -> None:
    folder = compare(["fedavg"], tmp_path / "c", TINY, **QUIET).folder
    path = folder / "comparison.json"
    path.write_text(path.read_text().replace('"seeds": 1', '"seeds": 2'))
    with pytest.raises(UserError, match=r"comparison\.json: damaged or changed, .*; put back the file that the comparison was"):
        compare(["fedavg"], folder, TINY, **QUIET)


def test_the_digest_of_a_run_leaves_the_checksum_out(whole: Result) -> None:
    described = run_folder.read_config(present(whole.folder))
    assert run_folder.digest(described, POPULATION) == run_folder.digest(files.with_checksum(described), POPULATION)


def test_files_without_checksums_are_read_and_said_to_be_unchecked(
    whole: Result, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "evaluation.json"):
        (folder / name).write_text(json.dumps(plain((folder / name).read_text())))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([json.dumps(plain(line)) for line in lines[:4]] + lines[4:]) + "\n")
    write_report(folder)
    assert capsys.readouterr().err == (
        f"flow: {folder}: config.json, metrics.jsonl and evaluation.json have no checksums, as in older builds, and "
        "cannot be checked for changes\n"
    )
    same(again(folder), whole)
    assert capsys.readouterr().err == (
        f"flow: {folder}: config.json and metrics.jsonl have no checksums, as in older builds, and cannot be checked "
        "for changes\n"
    )


def test_a_rewritten_file_with_a_right_checksum_is_read(folder: Path) -> None:
    content = plain((folder / "config.json").read_text())
    rewrite(folder / "config.json", content)
    assert run_folder.read_config(folder) == content


@pytest.mark.parametrize("changes", [{"loss": 10**400}, {"seconds": float("inf")}, {"flops": -1}, {"seconds": 0}], ids=str)
def test_a_number_that_no_round_has_makes_a_run_go_back(
    changes: Mapping[str, Any], whole: Result, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:5], edited(lines[5], unsigned=True, **changes)]) + b"\n")
    same(again(folder), whole)
    assert "went back to round 4: line 6 of" in capsys.readouterr().err


def test_a_pipe_in_the_place_of_a_client_state_is_not_waited_for(whole: Result, folder: Path) -> None:
    path = max((folder / "clients").glob("*/*-000006.safetensors"))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="a pipe"):
        files.read_labels(path, "")
    same(again(folder), whole)


def test_a_configuration_whose_digested_options_are_none_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(plain_content(path) | {"digested": "x"}))
    refused(folder, r"config\.json: not the configuration of a run.*digested is 'x'")


def plain_content(path: Path) -> dict[str, Any]:
    return {name: value for name, value in json.loads(path.read_text()).items() if name != files.CHECKSUM}


@pytest.mark.parametrize("name", ["diverged.json", "config.json"])
def test_a_file_of_another_form_in_a_run_of_a_comparison_is_named(name: str, tmp_path: Path, plain: None) -> None:
    folder = tmp_path / "comparison"
    compare(["fedavg"], folder, TINY, **QUIET)
    shutil.rmtree(folder / "kept")
    (folder / "runs" / "fedavg-seed0" / name).write_text("[]")
    with pytest.raises(UserError, match=rf"fedavg-seed0/{name}: "):
        compare(["fedavg"], folder, TINY, **QUIET)


@pytest.mark.parametrize("value", [10**400, float("nan")], ids=["huge", "nan"])
def test_a_result_that_is_no_number_is_named_by_a_comparison(value: float, tmp_path: Path, plain: None) -> None:
    folder = tmp_path / "comparison"
    compare(["fedavg"], folder, TINY, **QUIET)
    path = folder / "runs" / "fedavg-seed0" / "evaluation.json"
    content = plain_content(path)
    content["summary"]["seen"]["global_token"] = value
    path.write_text(json.dumps(content))
    shutil.rmtree(folder / "kept")
    with pytest.raises(UserError, match="its files are damaged"):
        compare(["fedavg"], folder, TINY, **QUIET)
