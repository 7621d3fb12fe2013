"""What a comparison refuses, and that nothing is lost by it."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import checksums
import harness
import pytest
from comparisons import (
    ARGUMENTS,
    QUIET,
    TINY,
    plain_fixture,  # noqa: F401
    tree,
)

from flow import Config, SharedOptions, UserError, compare
from flow.algorithms import NAMES
from flow.algorithms.fedavg import FedAvgOptions
from flow.cli.main import main
from flow.storage import run_folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithms": ["fedavg"]}, r"algorithms is \['fedavg', 'ditto'\] there, \['fedavg'\] here"),
        (
            {"config": dataclasses.replace(TINY, rounds=3, cohort=3)},
            "config.rounds is 2 there, 3 here; config.cohort is 4 there, 3 here",
        ),
        ({"seeds": 2}, "seeds is 1 there, 2 here"),
        ({"settings": {"ditto": {"lam": 0.2}}}, "settings.ditto is 'missing' there, {'lam': 0.2} here"),
        ({"tune": 2}, "tune is 0 there, 2 here"),
        (
            {"population": dataclasses.replace(harness.POPULATION, clients=harness.POPULATION.clients[1:])},
            "the data are others",
        ),
    ],
    ids=["algorithms", "config", "seeds", "settings", "tune", "data"],
)
def test_another_configuration_is_refused_and_nothing_is_touched(
    tmp_path: Path, plain: None, change: Mapping[str, Any], message: str
) -> None:
    start = {"algorithms": ["fedavg", "ditto"], "config": TINY, **QUIET}
    compare(folder=tmp_path / "c", **start)
    before = tree(tmp_path)
    with pytest.raises(
        UserError, match=f"holds a comparison with another configuration .{message}.*compare --resume .*or give another"
    ):
        compare(folder=tmp_path / "c", **{**start, **change})
    assert tree(tmp_path) == before


def test_a_run_folder_that_was_changed_is_refused(tmp_path: Path, plain: None) -> None:
    compare(["fedavg"], tmp_path / "c", TINY, **QUIET)
    config = tmp_path / "c" / "runs" / "fedavg-seed0" / "config.json"
    content = checksums.plain(config.read_text())
    checksums.rewrite(config, content | {"rounds": 1})
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"is not the one that this comparison wrote .rounds is 1 there, 2 here"):
        compare(["fedavg"], tmp_path / "c", TINY, **QUIET)
    shutil.rmtree(tmp_path / "c" / "kept")
    before = tree(tmp_path)
    config.rename(config.with_name("other.json"))
    with pytest.raises(UserError, match=r"fedavg-seed0: not the folder of a run, there is no config.json; move it away"):
        compare(["fedavg"], tmp_path / "c", TINY, **QUIET)
    config.with_name("other.json").rename(config)
    assert tree(tmp_path) == before
    checksums.rewrite(config, content)
    (config.parent / "evaluation.json").write_text("{}")
    with pytest.raises(UserError, match=r"fedavg-seed0: its files are damaged .*remove the folder, and the run is done again"):
        compare(["fedavg"], tmp_path / "c", TINY, **QUIET)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["magic"], "there is no algorithm 'magic'; the algorithms are flow, local, "),
        (["magic"], "another name needs a table [magic] of settings in which algorithm is one of them"),
        (
            ["fedavg", "mine", "--settings", "alias.toml"],
            "settings: mine has algorithm='magic', which is not one of flow, local",
        ),
        (["six", "--settings", "alias.toml"], "settings: six has algorithm=[6], which is not one of flow, local, "),
        (
            ["1x", "--settings", "alias.toml"],
            "settings: [1x] with algorithm='fedavg' must have a name that is no algorithm's, a letter",
        ),
        (["ditto", "--settings", "alias.toml"], "settings: [ditto] with algorithm='fedavg' must have a name that is no alg"),
        (
            ["a/b", "--settings", "alias.toml"],
            "settings: [a/b] with algorithm='fedavg' must have a name that is no algorithm's",
        ),
        (["flow", "flow"], "'flow' is named 2 times; name it once"),
        (["flow", "--seeds", "0"], "seeds must be an integer of at least 1, got 0"),
        (["flow", "--seeds", "1000000000"], "seeds must be at most 1000 runs of every algorithm, got 1000000000; give fewer"),
        (["flow", "--seed", str(2**63 - 1), "--seeds", "2"], "goes beyond 9223372036854775807"),
        (["flow", "--cohort", "99"], "flow: cohort=99 is more than the 7 clients"),
        (["fedavg", "fedprox", "--lr", "2000"], "fedprox: mu=0.001 times lr=2000.0 must be at most 1"),
        (["flow", "--lr", "0"], "flow: lr must be"),
        (["flow", "--data", "other.jsonl"], "other.jsonl"),
        (["flow", "--trials", "5"], "trials=5 does nothing without --tune"),
        (["flow", "--tune-rounds", "3"], "tune_rounds=3 does nothing without --tune"),
        (["flow", "--tune-by", "loss"], "tune_by='loss' does nothing without --tune"),
        (["flow", "--tune", "--trials", "0"], "trials must be at least 1, got 0"),
        (["flow", "--tune", "--trials", "1001"], "trials must be at most 1000, got 1001"),
        (
            ["flow", "--tune", "--tune-rounds", str(2**63)],
            "tune_rounds must be at most 9223372036854775807, got 9223372036854775808",
        ),
        (["flow", "--tune", "--tune-by", "magic"], "tune_by='magic' must be the name of a metric, accuracy"),
        (["flow", "--validation-share", "1"], "flow: validation_share must be at least 0 and below 1, got 1.0"),
        (
            ["fedavg", "fedyogi", "--tune", "--lr", "1", "--settings", "rated.toml"],
            "tune=7 has nothing to choose: every parameter of fedavg, fedyogi is given",
        ),
        (["fedavg", "--settings", "own.toml"], "settings: 'flow' is not among the algorithms compared, fedavg"),
        (["flow", "--settings", "odd.toml"], "settings: flow has no option 'speed'; its options are variant, lr, "),
        (["flow", "--settings", "flat.toml"], "settings: 'flow' must hold options by name, got 3; write a table [flow]"),
        (["flow", "--settings", "mine.jsonl.gz"], "settings='mine.jsonl.gz' cannot be read"),
        (["flow", "--settings", "marked.toml"], "settings: flow has no option 'speed'; its options are variant, lr, "),
        (["flow", "--settings", "deep.toml"], "settings='deep.toml' cannot be read"),
        (["flow", "--settings", "none.toml"], "settings='none.toml': there is no such file; give the path of a TOML file with"),
        (["flow", "--settings", "/dev/zero"], "settings='/dev/zero' is a device, which holds no data; give the path of a TOML"),
        (["flow", "--folder", "."], "folder='.' exists already and is left as it is; give another folder"),
        (["flow", "--folder", ""], "folder='' is empty"),
        (["flow", "--folder", "mine.jsonl.gz/a"], "folder='mine.jsonl.gz/a' cannot be created"),
        (["--resume", "."], "not the folder of a comparison, there is no comparison.json"),
        (
            ["flow", "--resume", "."],
            "leave names and all options but --against, --data, --model, --metric, --changed-file, --log and --json out",
        ),
        (
            ["--resume", ".", "--rounds", "3"],
            "leave names and all options but --against, --data, --model, --metric, --changed-file, --log and --json out",
        ),
        (["--resume", ".", "--against", "flow"], "not the folder of a comparison, there is no comparison.json"),
        (["flow", "local", "--against", "ditto"], "against='ditto' is not among the algorithms compared, flow, local; name"),
        (["flow", "--against", "flow"], "against='flow' is the only algorithm compared; name another algorithm, or leave"),
        (["flow", "local", "--against"], "--against"),
        (["--list", "--rounds", "3"], "--list takes no other option"),
        (["flow", "--tempo", "3"], "--tempo"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_mistakes_give_one_message_and_lose_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (here / "own.toml").write_text("[flow]\nlr = 0.3\n")
    (here / "odd.toml").write_text("[flow]\nspeed = 0.3\n")
    (here / "marked.toml").write_text("[flow]\nspeed = 0.3\n", encoding="utf-8-sig")  # with a byte order mark
    (here / "deep.toml").write_text("flow = " + "[" * 5000 + "]" * 5000)
    (here / "flat.toml").write_text("flow = 3\n")
    named = {"mine": '"magic"', "six": "[6]", **dict.fromkeys(("ditto", '"a/b"', "1x"), '"fedavg"')}
    alias = "".join(f"[{name}]\nalgorithm = {value}\n" for name, value in named.items())
    (here / "alias.toml").write_text(alias)
    (here / "rated.toml").write_text("[fedyogi]\nserver_lr = 0.3\n")
    names = [word for n, word in enumerate(arguments) if not any(other.startswith("-") for other in arguments[: n + 1])]
    shared = [] if {"--resume", "--list"} & {*arguments} else ARGUMENTS
    before, given = tree(here), [*names, *shared, *arguments[len(names) :]]
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main(["compare", *given]))
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert tree(here) == before


def test_a_stopped_comparison_says_how_to_go_on(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["compare", "fedavg", "local", *ARGUMENTS, "--folder", "mine"]

    def interrupted(folder: Path, row: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    def full(folder: Path, row: Mapping[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    for failure, code, message in (
        (interrupted, 130, "flow: stopped; go on with `flow compare --resume mine`"),
        (full, 2, "No space left on device; put that right, then go on with `flow compare --resume mine`"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(run_folder, "append_metrics", failure)
            assert main(arguments) == code
        assert message in capsys.readouterr().err
    assert main(["compare", "--resume", "mine"]) == 0


def test_list_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(NAMES)
    assert all(line.endswith(known.about) for line, known in zip(lines, NAMES.values(), strict=True))
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert all(
        option in printed
        for option in (
            "--seeds",
            "--tune",
            "--tune-by",
            "--validation-share",
            "--trials",
            "--settings",
            "--rounds",
            "--hidden-size",
            "fedyogi",
        )
    )


def test_the_python_interface(tmp_path: Path, plain: None) -> None:
    result = compare(["fedavg", "ditto"], tmp_path / "c", dataclasses.replace(TINY, algorithm=Config().algorithm), **QUIET)
    assert [row.name for row in result.rows] == ["fedavg", "ditto"] and result.report == tmp_path / "c" / "comparison.html"
    assert "ditto" in result.text() and result.tried == {}
    for options, message in (
        (
            {"config": dataclasses.replace(TINY, algorithm=FedAvgOptions())},
            "config.algorithm must be left out or a flow.SharedOptions",
        ),
        ({"algorithms": "flow"}, r"algorithms='flow' must be several names; write \['flow'\]"),
        ({"config": 3}, "config must be a flow.Config, got 3"),
        ({"tune": "1"}, "tune must be an integer of at least 0, got '1'"),
        ({"settings": {"fedavg": {"epochs": 1.5}}}, "fedavg: epochs must be an integer, got 1.5"),
        ({"config": dataclasses.replace(TINY, algorithm=SharedOptions(lr=cast(Any, "1")))}, "lr must be a number, got '1'"),
    ):
        with pytest.raises(UserError, match=message):
            compare(**{"algorithms": ["fedavg"], "folder": tmp_path / "d", "config": TINY, **QUIET, **options})
    assert not (tmp_path / "d").exists()


def test_a_comparison_unlabelled_goes_on(tmp_path: Path, plain: None) -> None:
    """Its files lack options that came later; runs that are finished are kept."""
    folder = tmp_path / "compared"
    first = compare(["fedavg"], folder, TINY, population=harness.POPULATION, progress=False)
    report = folder / "runs" / "fedavg-seed0" / "report.html"
    before = report.stat().st_mtime_ns
    for path, part in ((folder / "comparison.json", "config"), (folder / "runs" / "fedavg-seed0" / "config.json", None)):
        content = checksums.plain(path.read_text())
        inner = content if part is None else content[part]
        del inner["late"], inner["server"]["weiszfeld_steps"], inner["algorithm"]["clip"]
        path.write_text(json.dumps(content))
    checksums.unlabelled(folder / "runs" / "fedavg-seed0")
    again = compare(["fedavg"], folder, TINY, population=harness.POPULATION, progress=False)
    assert again.rows == first.rows and report.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"another configuration \(config.rounds is 2 there, 3 here\)"):
        compare(["fedavg"], folder, dataclasses.replace(TINY, rounds=3), population=harness.POPULATION, progress=False)
