"""What bash completes, by the script that `flow completion bash` prints."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from terminals import Terminal

from flow.algorithms import NAMES
from flow.cli.completing import FLAG, SHELLS, options_of, scripts, stored
from flow.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]
FLOW = f"{sys.executable} -m flow"


def test_the_scripts_are_those_of_these_commands() -> None:
    """Otherwise write them anew: python scripts/write_completions.py"""
    assert scripts(COMMANDS) == {shell: stored(shell) for shell in SHELLS}


def completed(line: str, folder: Path) -> list[str]:
    """What bash offers for the last word of a line; words are split at '=' as bash does."""
    words = line.replace("=", " = ").split(" ")
    script = (
        f"source {ROOT / 'flow/cli/completions/flow.bash'}; COMP_WORDS=({' '.join(repr(word) for word in words)}); "
        f"COMP_CWORD={len(words) - 1}; _flow; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    ended = subprocess.run(["bash", "--norc", "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    assert not ended.stderr
    return ended.stdout.split("\n")[:-1] if ended.stdout != "\n" else []


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "my posts.csv").write_text("text\na\n")
    return tmp_path


def test_commands_and_algorithms(place: Path) -> None:
    assert completed("flow ", place) == list(COMMANDS)
    assert completed("flow comp", place) == ["compare", "completion"]
    assert completed("flow run ", place) == list(NAMES)
    assert completed("flow run fedav", place) == ["fedavg", "fedavgft"]
    assert completed("flow compare fedavg dit", place) == ["ditto"]
    assert completed("flow completion ", place) == list(SHELLS)


def test_options_are_those_of_the_algorithm(place: Path) -> None:
    options = options_of(COMMANDS["run"])
    for name in ("flow", "ditto", "knnper"):
        assert set(completed(f"flow run {name} --", place)) == {*options.shared, *options.own[name]}
    assert completed("flow run ditto --lam", place) and not completed("flow run fedavg --lam", place)
    assert set(completed("flow run --rounds 3 --", place)) == {*options.shared, *options.own["flow"]}
    assert {"--json", "--rounds", "--help"} <= set(options.shared)
    assert options.shared["--json"] == options.shared["--help"] == (FLAG,)


def test_values(place: Path) -> None:
    assert completed("flow run --server ", place) == ["adagrad", "adam", "average", "yogi"]
    assert completed("flow run --server=yo", place) == ["yogi"]
    assert completed("flow compare --against fedprox", place) == ["fedprox"]
    assert completed("flow run --backend tri", place) == ["triton"]
    assert completed("flow run --rounds ", place) == []
    assert completed("flow export me --format ", place) == ["onnx", "torch"]


def test_files_and_folders(place: Path) -> None:
    assert completed("flow report ru", place) == ["runs"]
    assert completed("flow run --resume runs/", place) == ["runs/mine"]
    assert completed("flow data my", place) == ["my posts.csv"]
    assert completed("flow run --data sh", place) == ["shakespeare"]
    assert completed("flow adapt runs/mine --texts my", place) == ["my posts.csv"]


def test_a_key_in_a_real_bash(place: Path) -> None:
    with Terminal(["bash", "--norc", "--noprofile", "-i"], place, 200, {"PS1": "$ ", "PYTHONPATH": str(ROOT)}) as shell:
        shell.type(f"source <({FLOW} completion bash); echo rea''dy\n")
        shell.until("ready")
        shell.type("flow run fedb\t--aggreg\tmed\t")
        assert "flow run fedbabu --aggregator median" in shell.until("median ").replace("\a", "").replace("\r", "")
        shell.type("\x15flow report ru\t\n")
        assert "flow report runs/" in shell.until("runs/")


def test_the_script_is_printed_without_loading_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['flow', 'completion', 'bash']\nfrom flow.cli.start import start\n"
        "try:\n    start()\nfinally:\n    assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    started = time.perf_counter()
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (ended.returncode, ended.stderr) == (0, "") and ended.stdout == stored("bash")
    assert time.perf_counter() - started < 5  # 0.1 on a quiet machine


def test_other_shells(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in SHELLS:
        assert main(["completion", shell]) == 0
        assert capsys.readouterr().out == stored(shell)
    with pytest.raises(SystemExit):
        main(["completion", "tcsh"])


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.fail(f"{shell} is not installed: apt-get install {shell}")


@pytest.mark.shells
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_script_of_another_shell_is_read_without_an_error(shell: str, tmp_path: Path) -> None:
    needs(shell)
    path = tmp_path / "script"
    path.write_text(stored(shell))
    ended = subprocess.run([shell, "-c", f"source {path}"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.shells
def test_fish_offers_what_bash_offers(place: Path) -> None:
    needs("fish")
    (place / "script").write_text(stored("fish"))
    for line in (
        "flow ", "flow comp", "flow run ", "flow run fedav", "flow compare fedavg dit", "flow run ditto --",
        "flow run fedavg --lr-s", "flow run --server ", "flow export me --format ", "flow completion ",
    ):  # fmt: skip
        script = f"source {place / 'script'}; complete -C '{line}'"
        ended = subprocess.run(["fish", "--no-config", "-c", script], cwd=place, capture_output=True, text=True, check=True)
        offered = {offer.split("\t")[0] for offer in ended.stdout.splitlines()}
        assert offered == set(completed(line, place)), line


@pytest.mark.shells
def test_a_key_in_a_real_zsh(place: Path) -> None:
    needs("zsh")
    with Terminal(["zsh", "-f", "-i"], place, 200, {"PS1": "$ ", "PYTHONPATH": str(ROOT), "TERM": "dumb"}) as shell:
        shell.type(f"source <({FLOW} completion zsh); echo rea''dy\n")
        shell.until("ready")
        shell.type("flow run fedb\t--aggreg\tmed\t")
        written = shell.until("median ").replace(" \b", "")  # zsh goes back over a space that it may yet take away
        assert "flow run fedbabu --aggregator median" in written.replace("\a", "").replace("\r", "")
