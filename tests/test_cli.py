"""The command line from end to end, on a small file of its own."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import oracles  # noqa: F401 (one thread)
import pytest

from flow import checkpoint
from flow.cli import main

TINY = ["--embedding-dim", "4", "--hidden-size", "5", "--cohort", "3", "--rounds", "2", "--min-texts", "5"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory with a data set of 9 clients, 2 of them held out, one with a single short text."""
    words = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "every", "child", "sleeps")
    lines = []
    for n in range(9):
        texts = [" ".join(words[(n + i + j * (n + 1)) % len(words)] for j in range(6 + i % 3)) for i in range(5 + n)]
        lines.append(
            {
                "id": f"c{n}",
                "split": "heldout" if n > 6 else "train",
                "group": "g",
                "texts": texts,
                "ts": list(range(5 + n)),
            }
        )
    lines[0].update(texts=["fox"], ts=[0])
    with gzip.open(tmp_path / "mine.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fails(arguments, capsys):
    """Run what must fail; returns what was said on stderr."""
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main(arguments))
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.strip()
    return said


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--data", "mine.jsonl.gz", *TINY],
        ["run", "flow", *TINY, "--variant", "workshop", "--data", "mine.jsonl.gz"],
        ["run", "fedavg", "--lr", "0.3", "--data", "mine.jsonl.gz", *TINY, "--dtype", "float64"],
    ],
    ids=["flow", "workshop", "fedavg"],
)
def test_a_run_from_the_command_to_the_report(here, capsys, arguments):
    assert main(arguments) == 0
    (folder,) = (here / "runs").iterdir()
    shown = capsys.readouterr().out.strip().splitlines()
    assert "seen clients" in shown[0]
    assert shown[-1] == f"report: {(folder / 'report.html').relative_to(here)}"
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


def tensors(safetensors: bytes) -> bytes:
    """The file without its header, whose entries come in no fixed order."""
    return safetensors[8 + int.from_bytes(safetensors[:8], "little") :]


def test_an_interrupted_run_says_how_to_go_on(here, capsys, monkeypatch):
    def interrupted(folder, row):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "append_metrics", interrupted)
        assert main(["run", "--data", "mine.jsonl.gz", *TINY, "--folder", "mine"]) == 130
    assert "flow: stopped; go on with `flow run --resume mine`" in capsys.readouterr().err
    assert main(["run", "--resume", "mine"]) == 0


def test_resume_from_the_command(here, capsys):
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
    assert "leave the other options out" in fails(["run", "--resume", "mine", "--rounds", "9"], capsys)
    assert "leave the other options out" in fails(["run", "--lr", "0.1", "--resume", "mine"], capsys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fly"], "there is no command 'fly'; the commands are run, report"),
        (["run", "magic"], "there is no algorithm 'magic'; the algorithms are flow, fedavg"),
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
    ],
)
def test_mistakes_give_one_message_and_exit_code_2(here, capsys, arguments, said):
    assert said in fails(arguments, capsys)
    assert sorted(p.name for p in here.iterdir()) == ["mine.jsonl.gz"]


def test_the_message_of_a_user_error_is_one_line(here, capsys):
    said = fails(["run", "--data", "mine.jsonl.gz", "--cohort", "99"], capsys)
    assert said.startswith("flow: cohort=99")
    assert said.count("\n") == 1


def test_help(capsys):
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
        shown = capsys.readouterr().out
        assert all(text in shown for text in expected), shown
    assert "--gamma" not in shown


def test_every_option_has_a_help_text_and_a_default(capsys):
    for name in ("flow", "fedavg"):
        with pytest.raises(SystemExit):
            main(["run", name, "--help"])
        shown = " ".join(re.sub("[^\\x20-\\x7e]", " ", capsys.readouterr().out).split())
        options = re.findall(r" (--[a-z][a-z-]*) (?:[A-Z]+|{[^ ]+) (.*?)(?= --[a-z][a-z-]* (?:[A-Z]|{)|$)", shown)
        assert len(options) > 20
        for option, text in options:
            assert re.match(r".{20,}\(default: .+\)", text), f"{option}: {text!r}"


def test_python_m_flow_is_the_same_command(here):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    ran = subprocess.run(
        [sys.executable, "-m", "flow", "run", "--data", "mine.jsonl.gz", "--cohort", "99"],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stderr.startswith("flow: cohort=99 is more than")
    assert not ran.stdout


def test_a_slice_of_shakespeare(tmp_path, monkeypatch, capsys):
    """The main job, small: the real data, all defaults but the sizes."""
    monkeypatch.chdir(tmp_path)
    sizes = ["--max-clients", "60", "--rounds", "2", "--cohort", "4", "--hidden-size", "16", "--evaluate-every", "0"]
    assert main(["run", *sizes, "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    report = Path(re.search(r"^report: (.+)$", out, re.MULTILINE)[1])
    page = report.read_text(encoding="utf-8")
    assert "global, over tokens" in out and "<svg" in page and "shakespeare" in page
    evaluation = json.loads((report.parent / "evaluation.json").read_text())
    seen = [client["id"] for client in evaluation["clients"] if client["seen"]]
    assert len(seen) > 5 and all(name in page for name in {text["client"] for text in evaluation["texts"]})
