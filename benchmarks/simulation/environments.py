"""Environments of their own for the frameworks that the simulation is compared with, below build/rivals: made once with
these versions, then reused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common.worker import ROOT

FOLDER = ROOT / "build" / "rivals"
TORCH = ("torch==2.13.0",)
PINS: dict[str, tuple[tuple[str, ...], ...]] = {
    "pfl": (TORCH, ("pfl[pytorch]==0.6.0",)),
    "fedjax": (("fedjax==0.0.17", "jax==0.4.38"),),
    "flwr": (TORCH, ("flwr[simulation]==1.41.0", "ray==2.55.1")),
}
"""What each environment holds, by the package that is compared: calls of pip in their order. torch goes first, since what
asks for torch without a version would take another."""
RECORD = "installed.txt"
"""In an environment that is complete: what was asked for."""
Command = Sequence[str]
Execute = Callable[[Command], str]
"""Run a command; returns "", or what it said last where it failed."""


@dataclass(frozen=True)
class Plan:
    """What to do before a run."""

    pythons: dict[str, str]
    """Interpreters, by package, that there are or will be."""
    commands: dict[str, list[list[str]]] = field(default_factory=dict)
    """What makes an environment, by package."""
    missing: dict[str, str] = field(default_factory=dict)
    """Why a package has no environment."""


def record(name: str) -> str:
    """What stands in the record of a complete environment."""
    return "".join(f"{' '.join(pins)}\n" for pins in PINS[name])


def python_of(folder: Path, name: str) -> Path:
    return folder / name / "bin" / "python"


def records(folder: Path) -> dict[str, str]:
    """The records in this folder, by package; of an environment that was not completed there is none."""
    paths = {name: folder / name / RECORD for name in PINS}
    return {name: path.read_text() for name, path in paths.items() if path.is_file()}


def plan(folder: Path, complete: Mapping[str, str], given: Mapping[str, str], make: bool, base: str = sys.executable) -> Plan:
    """Decide without a look at the disk.

    Args:
        complete: records of the environments in the folder, see `records`.
        given: interpreters that the user names, by package; they go first.
        make: whether to make what is absent or holds other versions.
        base: the interpreter that new environments get.
    """
    made = Plan(dict(given))
    for name in PINS:
        if name in given:
            continue
        current = complete.get(name) == record(name)
        if current or make:
            made.pythons[name] = str(python_of(folder, name))
        if make and not current:
            install = [made.pythons[name], "-m", "pip", "install", "--quiet"]
            made.commands[name] = [[base, "-m", "venv", str(folder / name)], *([*install, *pins] for pins in PINS[name])]
        elif name in complete and not current:
            made.missing[name] = f"{folder / name} holds other versions; --rivals makes it anew"
    return made


def execute(command: Command) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.returncode:
        return ""
    lines = done.stderr.strip().splitlines()
    errors = [line for line in lines if line.startswith("ERROR")]  # pip's own; hints of other kinds may follow
    return (errors or lines or [f"exit status {done.returncode}"])[-1]


def prepare(folder: Path, plan: Plan, say: Callable[[str], None], run: Execute = execute) -> Plan:
    """Carry the plan out. A package that cannot be installed leaves no environment, and the reason in `missing`."""
    pythons, missing = dict(plan.pythons), dict(plan.missing)
    for name, commands in plan.commands.items():
        say(f"making {folder / name}: {', '.join(record(name).split())}")
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        for command in commands:
            if words := run(command):
                what = " ".join(command[command.index("--quiet") + 1 :]) if "--quiet" in command else "the environment"
                missing[name] = f"{what} could not be installed: {words}"
                say(f"  {name}: {missing[name]}")
                del pythons[name]
                shutil.rmtree(folder / name, ignore_errors=True)
                break
        else:
            (folder / name / RECORD).write_text(record(name))
    return Plan(pythons, missing=missing)


def find(given: Mapping[str, str], make: bool, say: Callable[[str], None], folder: Path = FOLDER) -> Plan:
    """The interpreters to use, and why some are missing; makes environments where asked to."""
    return prepare(folder, plan(folder, records(folder), given, make), say)
