"""The command line from end to end, on a small file of its own."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import oracles  # noqa: F401 (one thread)
import pytest
import torch
from comparisons import plain_fixture, tree  # noqa: F401
from optional import present

import flow
import flow_kernels
from flow.algorithms import NAMES
from flow.cli.main import COMMANDS, main
from flow.simulation import loop
from flow.storage import run_folder

MINE = ["--data", "mine.jsonl.gz"]
TINY = ["--embedding-dim", "4", "--hidden-size", "5", "--cohort", "3", "--rounds", "2", "--min-texts", "5"]


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_that_of_the_distribution(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([option]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"flow {flow.__version__}" == f"flow {flow_kernels.__version__}" == f"flow {version('flow-fl')}"
    assert torch.__version__ in lines[1] and "cpu: available" in lines[2]
    citation = (Path(__file__).parents[2] / "CITATION.cff").read_text()
    assert f"\nversion: {flow.__version__}\n" in citation


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run what must fail; returns what was said on stderr."""
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main(arguments))
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert message.strip()
    return message


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--data", "mine.jsonl.gz", *TINY],
        ["run", "flow", *TINY, "--variant", "workshop", "--data", "mine.jsonl.gz"],
        ["run", "fedavg", "--lr", "0.3", "--data", "mine.jsonl.gz", *TINY, "--dtype", "float64"],
    ],
    ids=["flow", "workshop", "fedavg"],
)
def test_a_run_from_the_command_to_the_report(here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == 0
    (folder,) = (here / "runs").iterdir()
    lines = capsys.readouterr().out.strip().splitlines()
    assert "seen clients" in lines[0]
    assert lines[-1] == f"report: {(folder / 'report.html').relative_to(here)}"
    assert (folder / "report.html").stat().st_size > 10_000
    config = json.loads((folder / "config.json").read_text())
    assert folder.name.startswith(f"{config['algorithm']['name']}-mine-")
    assert config["algorithm"]["name"] == ("fedavg" if "fedavg" in arguments else "flow")
    assert (config["rounds"], config["cohort"], config["model"]["hidden_size"]) == (2, 3, 5)
    assert config["algorithm"].get("temperature", 1.0) == (0.75 if "workshop" in arguments else 1.0)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["unit"] == "word"
    assert evaluation["summary"]["unseen"]["clients"] == 2
    (folder / "report.html").unlink()
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.html").exists()
    assert capsys.readouterr().out.strip() == f"report: {folder / 'report.html'}"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("flow", "fedavg")])
def test_every_algorithm_runs_from_the_command_to_the_report(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert main(["run", name, *MINE, *TINY, "--folder", "mine", "--evaluate-every", "1", "--client-memory", "0"]) == 0
    output = capsys.readouterr().out
    algorithm = NAMES[name].algorithm
    assert "seen clients" in output
    config = json.loads((here / "mine" / "config.json").read_text())
    assert config["algorithm"]["name"] == algorithm.name
    assert config["server"]["server"] == NAMES[name].server.server
    rows = [json.loads(line) for line in (here / "mine" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["flops"] > 0 for row in rows)
    assert bool(rows[-1]["client_state_bytes"]) == (algorithm.fresh is not None) == (here / "mine" / "clients").exists()
    evaluation = json.loads((here / "mine" / "evaluation.json").read_text())
    page = (here / "mine" / "report.html").read_text(encoding="utf-8")
    if evaluation["summary"]["seen"]["global_token"] is None:
        assert "global, over tokens" not in output and "personal, over tokens" in output
        assert f"There is no gain to show: {algorithm.name} has no global model." in page
    before = tree(here / "mine")
    monkeypatch.setattr(loop, "_write_report", lambda folder: folder / "report.html")  # a second one of the same files
    assert main(["run", "--resume", "mine"]) == 0
    assert capsys.readouterr().out == output
    assert tree(here / "mine") | {"run.json": before["run.json"]} == before  # but for memory and time


def tensors(safetensors: bytes) -> bytes:
    """The file without its header, whose entries come in no fixed order."""
    return safetensors[8 + int.from_bytes(safetensors[:8], "little") :]


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    """As `flow run --help | head`."""
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run([sys.executable, "-m", "flow", "run", "--help"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (ran.returncode, ran.stderr) == (141, "")


@pytest.mark.usefixtures("plain")
def test_an_interrupted_run_says_how_to_go_on(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder: Path, row: dict[str, Any]) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "append_metrics", interrupted)
        assert main(["run", "--data", "mine.jsonl.gz", *TINY, "--folder", "mine"]) == 130
    assert "flow: stopped; go on with `flow run --resume mine`" in capsys.readouterr().err
    assert main(["run", "--resume", "mine"]) == 0


@pytest.mark.usefixtures("plain")
def test_resume_from_the_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--data", "mine.jsonl.gz", *TINY, "--folder", "mine", "--checkpoint-every", "1"]) == 0
    whole = capsys.readouterr().out
    before = (here / "mine" / "evaluation.json").read_text()
    last = here / "mine" / "checkpoints" / "round_000002.safetensors"
    state = last.read_bytes()
    last.unlink()
    assert main(["run", "--resume", "mine"]) == 0
    assert capsys.readouterr().out == whole
    assert (here / "mine" / "evaluation.json").read_text() == before
    assert tensors(last.read_bytes()) == tensors(state)
    assert main(["run", "flow", "--resume=mine"]) == 0
    assert "mine is a run of flow, not of ditto; leave the name out" in fails(["run", "ditto", "--resume", "mine"], capsys)
    assert "leave the other options out" in fails(["run", "--resume", "mine", "--cohort", "9"], capsys)
    assert "leave the other options out" in fails(["run", "--resume", "mine", "--rounds", "9", "--lr=0.1"], capsys)
    assert "leave the other options out" in fails(["run", "--lr", "0.1", "--resume", "mine"], capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "there is no command 'fly'; the commands are run, report"),
        (["run", "", "--rounds", "1"], "there is no algorithm ''; the algorithms are flow, local, fedavg, "),
        (["run", "", "--resume", "gone"], "there is no algorithm ''; the algorithms are flow, local, fedavg, "),
        (["run", "magic"], "there is no algorithm 'magic'; the algorithms are flow, local, fedavg, "),
        (["run", "--data", "mine.jsonl.gz", "--cohort", "99"], "cohort=99 is more than the 7 clients"),
        (["run", "--data", "mine.jsonl.gz", "--lr", "0"], "lr must be"),
        (["run", "--data", "other.jsonl.gz"], "other.jsonl.gz"),
        (["run", "--data", "moon"], "moon"),
        (["run", "--folder", "."], "exists already"),
        (["run", "--resume", "nothing"], "not the folder of a run"),
        (["report", "nothing"], "nothing"),
        (["run", "--rounds", "many"], "rounds"),
        (["run", "--tempo", "3"], "--tempo"),
        (["run", "fedavg", "--gamma", "3"], "--gamma"),
        (["report"], "flow report --help"),
        (["report", ""], "folder='' is empty; give the name of a folder"),
        (["run", "--resume", ""], "resume='' is empty; give the name of a folder"),
        (["run", "--resume="], "resume='' is empty"),
        (["run", "--resume", "x" * 5000], "is longer than the file system allows; give a shorter name"),
        (["run", *MINE, "--folder", "a\0b"], "folder='a\\x00b' has a NUL character; leave it out"),
        (["run", *MINE, "--epochs", "1" + "0" * 400], "epochs must be at most 9223372036854775807, got 10000"),
        (["run", *MINE, "--max-clients", "2"], "the 1 client that may train; lower cohort, or raise max_clients=2"),
        (["run", *MINE, "--folder", ""], "folder='' is empty; give the name of a folder"),
        (
            ["run", *MINE, "--cohort", "3", "--folder", "mine.jsonl.gz/run"],
            "folder='mine.jsonl.gz/run' cannot be created ([Errno 20]",
        ),
        (["run", *MINE, "--cohort", "3", "--folder", "a/b/" + "x" * 300], "cannot be created ([Errno 36]"),
        (["run", *MINE, "--folder", "run\udcff"], "folder='run\\udcff' is not text that UTF-8 can hold; rename"),
        (["run", "--data", "\udcff.jsonl"], "data='\\udcff.jsonl' is not text that UTF-8 can hold; rename"),
        (["run", *MINE, "--seed", "9" * 23], "seed must be at most 9223372036854775807, got 99999999999999999999999;"),
        (["run", *MINE, "--seed", str(2**63)], "seed must be at most 9223372036854775807"),
        (["run", *MINE, "--hidden-size", "9" * 23], "hidden_size must be at most 9223372036854775807"),
        (["run", *MINE, "--cohort", "3", "--hidden-size", "9" * 13], "hidden_size=9999999999999, "),
        (
            ["run", *MINE, "--sequence-length", "9" * 23],
            "sequence_length must be at most 9223372036854775807, got 99999999999999999999999; leave it out for the default, 0",
        ),
        (["run", *MINE, "--device", "meta"], "device='meta' must be one on which torch can compute here, 'cpu'"),
        (["run", *MINE, "--device", "foo"], "leave it out for 'cpu' (torch says: Expected one of cpu"),
        (["run", *MINE, "--device", "fpga"], "device='fpga' must be one on which torch can compute here"),
        (
            ["run", *MINE, "--backend", "fast"],
            "backend='fast' must be 'auto', the fastest that runs here, or one of 'reference'",
        ),
        (["run", *MINE, "--temperature", "1e-60"], "temperature must be a finite number of at least 0.001, got 1e-60"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_mistakes_give_one_message_and_exit_code_2(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert message in fails(arguments, capsys)
    assert sorted(p.name for p in here.iterdir()) == ["mine.jsonl.gz"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(["run", *MINE, "--device", "cuda"], capsys)
    assert message.startswith("flow: device='cuda' must be one on which torch can compute here") and message.count("\n") == 1
    assert sorted(p.name for p in here.iterdir()) == ["mine.jsonl.gz"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_a_backend_that_cannot_run_here_is_refused_in_one_sentence(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = fails(["run", *MINE, *TINY, "--backend", name], capsys)
    assert message.startswith(f"flow: backend='{name}' cannot run here: ")
    assert message.endswith("; leave it out for the fastest that runs here\n") and len(message) < 300
    assert "sizes" not in message and "embedding_dim" not in message


def test_a_folder_that_may_not_be_written_to_is_named(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a refusal put into mkdir: permissions do not bind the superuser, who may run this."""

    def refused(path: str | os.PathLike[str], *arguments: Any, mkdir: Callable[..., None] = os.mkdir) -> None:
        if str(path).endswith("new"):
            raise PermissionError(13, "Permission denied", str(path))
        mkdir(path, *arguments)

    monkeypatch.setattr(os, "mkdir", refused)
    message = fails(["run", *MINE, *TINY, "--folder", "parent/new"], capsys)
    assert message.startswith(
        "flow: folder='parent/new' cannot be created ([Errno 13] Permission denied: 'parent/new'); give a"
    )
    assert sorted(p.name for p in here.iterdir()) == ["mine.jsonl.gz"]


def test_a_disk_that_is_full_at_the_start_leaves_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "[Errno 28] No space left" in fails(["run", *MINE, *TINY, "--folder", "parent/new"], capsys)
    assert sorted(p.name for p in here.iterdir()) == ["mine.jsonl.gz"]


@pytest.mark.usefixtures("plain")
def test_a_disk_that_fills_up_later_leaves_a_run_to_go_on_with(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, row: dict[str, Any]) -> NoReturn:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "append_metrics", full)
        message = fails(["run", *MINE, *TINY, "--folder", "mine"], capsys)
    assert "No space left on device; put that right, then go on with `flow run --resume mine`" in message
    assert main(["run", "--resume", "mine"]) == 0


@pytest.mark.usefixtures("plain")
def test_an_existing_run_and_any_other_folder_get_their_own_advice(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "give another folder" in (message := fails(["run", *MINE, "--folder", "."], capsys)) and "--resume" not in message
    assert main(["run", *MINE, *TINY, "--folder", "mine"]) == 0
    assert "continue that run with `flow run --resume mine`, or give" in fails(["run", *MINE, "--folder", "mine"], capsys)


def test_the_terminal_says_why_nobody_was_scored(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *MINE, *TINY, "--min-texts", "1000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        f"{kind} clients: no accuracy, none of the {count} could be scored ({count} with fewer than min_texts=1000 texts); "
        "lower min_texts, or give clients more text"
        for kind, count in (("seen", 7), ("unseen", 2))
    ]
    assert lines[2].startswith("report: ")
    assert main(["run", *MINE, *TINY, "--min-texts", "12", "--folder", "other"]) == 0
    output = capsys.readouterr().out
    assert "global, over tokens" in output and "seen clients: no accuracy, none of the 7" in output
    assert "unseen clients: " not in output


def test_the_message_of_a_user_error_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(["run", "--data", "mine.jsonl.gz", "--cohort", "99"], capsys)
    assert message.startswith("flow: cohort=99")
    assert message.count("\n") == 1


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main([]) == 0
    assert "flow run fedavg --rounds 50" in capsys.readouterr().out
    for arguments, expected in (
        (["run", "--help"], ["--rounds", "--variant", "--hidden-size", "--max-clients", "fedavg: ", "(default: 80)"]),
        (["run", "fedavg", "--help"], ["--lr", "flow run fedavg"]),
        (["report", "--help"], ["FOLDER"]),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 0
        output = capsys.readouterr().out
        assert all(text in output for text in expected), output
    assert "--gamma" not in output


def test_the_help_says_what_may_stand_beside_resume(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "or with --rounds N lengthen one; --data FILE: its file moved" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    output = " ".join(re.sub("[^\\x20-\\x7e]", " ", capsys.readouterr().out).split())
    assert (
        "--rounds, the number of rounds that the run has from now on, --data, the path to which its file moved, "
        "--changed-file, --log and --json." in output
    )
    assert "runs/ALGORITHM-DATA-DATE-TIME, with -2, -3, ... after a name that is taken." in output


def test_every_command_has_a_usage_line_and_a_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["run", "report", "compare", "prepare", "data", "adapt", "predict", "export", "serve"]
    names += ["watch", "deploy", "doctor", "completion"]
    assert list(COMMANDS) == names
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert command.name == name
        assert all(line.startswith(f"  {name} ") for line in command.usage.splitlines()) and f"\n{command.usage}" in output
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        assert f"usage: flow {name} " in capsys.readouterr().out


def test_every_option_has_a_help_text_and_a_default(capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        with pytest.raises(SystemExit):
            main(["run", name, "--help"])
        output = " ".join(re.sub("[^\\x20-\\x7e]", " ", capsys.readouterr().out).split())
        options = re.findall(r" (--[a-z][a-z-]*) (?:[A-Z]+|{[^ ]+) (.*?)(?= --[a-z][a-z-]* (?:[A-Z]|{)|$)", output)
        assert len(options) > 20
        for option, text in options:
            assert re.match(r".{20,}\((?:default: .+|repeatable)\)", text), f"{option}: {text!r}"


def test_python_m_flow_is_the_same_command(here: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(
        [sys.executable, "-m", "flow", "run", "--data", "mine.jsonl.gz", "--cohort", "99"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("flow: cohort=99 is more than")
    assert not ran.stdout


def test_a_slice_of_shakespeare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The main job, small: the real data, all defaults but the sizes."""
    monkeypatch.chdir(tmp_path)
    sizes = ["--max-clients", "60", "--rounds", "2", "--cohort", "4", "--hidden-size", "16", "--evaluate-every", "0"]
    assert main(["run", *sizes, "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    report = Path(present(re.search(r"^report: (.+)$", out, re.MULTILINE))[1])
    page = report.read_text(encoding="utf-8")
    assert "global, over tokens" in out and "<svg" in page and "shakespeare" in page
    evaluation = json.loads((report.parent / "evaluation.json").read_text())
    seen = [client["id"] for client in evaluation["clients"] if client["seen"]]
    assert len(seen) > 5 and all(name in page for name in {text["client"] for text in evaluation["texts"]})


@pytest.mark.usefixtures("plain")
def test_data_prepared_ahead_of_a_run_are_found_by_it(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOW_CACHE", str(here / "cache"))
    options = ["--data", "synthetic", "--clients", "30", "--sequences", "3", "--vocabulary-size", "20"]
    assert main(["prepare", *options]) == 0
    (folder,) = (here / "cache").iterdir()
    output = capsys.readouterr().out
    assert re.fullmatch(r"30 clients, 2\d of them not held out: .*\n", output) and output.endswith(f"{folder}\n")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert main(["run", "fedavg", *options, *TINY, "--folder", "mine"]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before and len(list((here / "cache").iterdir())) == 1
    (folder / "ids").write_bytes(b"x")
    assert f"delete the folder {folder}, and the data are prepared again" in fails(["prepare", *options], capsys)
    assert "clients=30 is an option of data='synthetic'" in fails(["prepare", "--clients", "30"], capsys)
    monkeypatch.setenv("FLOW_CACHE", "")
    assert "FLOW_CACHE='' keeps nothing prepared" in fails(["prepare", *options], capsys)


def test_an_environment_of_several_processes_without_a_launcher_is_named(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    message = fails(["report", "nowhere"], capsys)
    assert "WORLD_SIZE='4' is in the environment and RANK, MASTER_ADDR, MASTER_PORT is not; start several" in message


def test_a_request_to_end_leaves_a_run_that_goes_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(
        folder: Path, row: dict[str, Any], append: Callable[[Path, dict[str, Any]], None] = run_folder.append_metrics
    ) -> None:
        append(folder, row)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "append_metrics", asked)
        assert main(["run", "fedavg", *MINE, *TINY, "--folder", "asked"]) == 143
    assert capsys.readouterr().err == "flow: stopped; go on with `flow run --resume asked`\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    monkeypatch.setattr(loop, "_write_report", lambda folder: None)
    assert main(["run", "--resume", "asked"]) == 0


def test_a_name_that_breaks_the_line_leaves_one_sentence(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--resume", "a\nb\x1b"]) == 2
    assert capsys.readouterr().err.startswith("flow: a\\nb\\x1b: not the folder of a run, there is no config.json; ")


def test_a_terminal_of_one_column_shows_the_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "1")
    with pytest.raises(SystemExit) as stopped:
        main(["report", "--help"])
    assert stopped.value.code == 0 and "FOLDER" in capsys.readouterr().out
