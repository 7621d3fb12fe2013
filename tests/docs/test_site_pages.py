"""The tutorials of the site: their files are written, their commands run in order, and they print what the page shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from flow.cli.main import main

ROOT = Path(__file__).parents[2]
SAVED = re.compile(r"Save this as `([\w.-]+)`:\s*\n\s*\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIME = re.compile(r"\d[\d.,]* (?:ms|s|min|h)\b")
NUMBER = re.compile(r"-?\d[\d,]*\.\d+")
SHARE, PLACES = 0.01, 0.02
"""By how much a number with a point may differ: relatively, or in its own unit. Other instruction sets round otherwise."""


class Command(NamedTuple):
    """A command of a page, with what the page shows that it prints."""

    arguments: list[str]
    output: str


def commands(page: str) -> list[Command]:
    """The commands behind `$` in the fences `console`, in order."""
    read: list[Command] = []
    for block in CONSOLE.finditer(page):
        for part in re.split(r"^\$ ", block[1], flags=re.MULTILINE)[1:]:
            line, _, output = part.partition("\n")
            program, *arguments = shlex.split(line)
            assert program == "flow", line
            read.append(Command(arguments, output))
    return read


def alike(printed: str, expected: str) -> bool:
    """Whether two outputs have the same words, and numbers that differ by rounding alone; how long it took is left out."""
    printed, expected = TIME.sub("TIME", printed), TIME.sub("TIME", expected)
    if NUMBER.sub("#", printed).split() != NUMBER.sub("#", expected).split():
        return False
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(expected), strict=True)
    values = [(float(ours.replace(",", "")), float(theirs.replace(",", ""))) for ours, theirs in pairs]
    return all(abs(ours - theirs) <= max(PLACES, SHARE * abs(theirs)) for ours, theirs in values)


@pytest.mark.long
@pytest.mark.parametrize(("name", "least"), [("first-run.md", 3), ("own-data.md", 4)])
def test_every_command_prints_what_the_page_shows(
    name: str, least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    for file, content in SAVED.findall(page):
        Path(file).write_text(content, encoding="utf-8")
    ran = commands(page)
    assert len(ran) >= least
    for command in ran:
        capsys.readouterr()
        code = main(command.arguments)
        printed = capsys.readouterr()
        assert code == 0, printed.err
        assert alike(printed.out, command.output), f"flow {shlex.join(command.arguments)} printed\n{printed.out}"


def test_outputs_are_told_apart() -> None:
    expected = "loss  1.50 of 3 clients\n"
    assert alike("loss 1.51 of 3 clients", expected)
    assert not alike("loss 1.60 of 3 clients", expected)
    assert not alike("loss 1.50 of 4 clients", expected)
    assert not alike("gain 1.50 of 3 clients", expected)
    assert [command.arguments for command in commands("```console\n$ flow run 'a b'\nx\n$ flow data\n```\n")] == [
        ["run", "a b"],
        ["data"],
    ]


def test_the_commands_for_a_gpu_run_on_a_cpu_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sizes are made small; that they are options of `flow run` and fit each other is what can be tried here."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "gpu-afternoon.md").read_text(encoding="utf-8")
    lines = re.findall(r"^flow (run .*)$", page, re.MULTILINE)
    assert len(lines) == 3
    small = ["--rounds", "1", "--max-clients", "40", "--cohort", "4", "--hidden-size", "8", "--evaluate-every", "0"]
    for line in lines:
        arguments = shlex.split(line.replace("--device cuda", "--device cpu").replace("--dtype bfloat16", "--dtype float32"))
        assert main([*arguments, *small]) == 0, line


def test_a_layer_on_a_gpu_is_tried_on_a_cpu_in_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "gpu-afternoon.md").read_text(encoding="utf-8")
    program = page.split('python -c "\n')[1].split('\n"\n')[0]
    assert program.count("'cuda'") == 2
    exec(compile(program.replace("'cuda'", "'cpu'"), "gpu-afternoon.md", "exec"), {})
    error = float(capsys.readouterr().out.removeprefix("tensor(").split(",")[0].rstrip(")\n"))
    assert 0 < error < 0.05
