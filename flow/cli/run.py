"""``flow run``. Options are fields of the configuration's classes."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from flow.algorithms import DEFAULT, NAMES, algorithm_of
from flow.cli.command import Command, default_folder, named_folder, say_other_unit, sized
from flow.config import Config, read_config
from flow.errors import UserError
from flow.parallel.processes import Ranks
from flow.presets import Name as Preset
from flow.simulation.loop import Result, resume, simulate

Options = TypeVar("Options")


@dataclass(frozen=True)
class Run(Config[Options], Generic[Options]):
    """The options of `flow run`: a configuration and where the run is kept."""

    preset: Preset | None = None
    """Sizes of a published model: "stackoverflow" (embedding 96, 670 units, projection 96, 10,000 words), "shakespeare"
    (embedding 8, 2 layers of 256 units) or "reddit" (embedding 256, 2 layers of 256 units, 10 words in a sequence). Other
    options take precedence."""

    # Strings, not paths: Path("") is the working directory.
    folder: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """New folder for everything the run writes. None: runs/ALGORITHM-DATA-DATE-TIME, with -2, -3, ... after a name that is
    taken."""

    resume: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Go on with the run in this folder, with the configuration it was started with. Two other options may stand beside it:
    --rounds, the number of rounds that the run has from now on, and --data, the path to which its file moved."""


def _run(arguments: list[str], ranks: Ranks) -> None:
    named = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    name = DEFAULT if named is None else named
    if name not in NAMES:
        raise UserError(f"there is no algorithm {name!r}; the algorithms are {', '.join(NAMES)}")
    run = _parsed(name, arguments)
    if named is not None and run.resume is not None:
        _check_name(named, named_folder("resume", run.resume))
    if ranks.first:
        say_other_unit(run.preset, run.data)
    with _folder(run, name, ranks) as folder:
        result = _result(run, folder, _given(arguments), ranks)
    if ranks.first:
        print(f"report: {result.report}")


def _result(run: Run[Any], folder: Path, given: set[str], ranks: Ranks) -> Result:
    try:
        if run.resume is None:
            return simulate(Config(**{field.name: getattr(run, field.name) for field in fields(Config)}), folder)
        return resume(folder, data=run.data.data if "data" in given else None, rounds=run.rounds if "rounds" in given else None)
    except KeyboardInterrupt:
        if ranks.first and (folder / "config.json").exists():
            print(f"\nflow: stopped; go on with `flow run --resume {folder}`", file=sys.stderr)
        raise
    except OSError as error:  # the run's own files: a full disk, a folder that may not be read or written
        raise UserError(f"{error}; put that right, then go on with `flow run --resume {folder}`") from error


def _check_name(name: str, folder: Path) -> None:
    """Refuse to go on with a run under the name of an algorithm that is not the run's."""
    stored = algorithm_of(read_config(folder).algorithm).name
    if stored != NAMES[name].algorithm.name:
        raise UserError(f"--resume {folder} is a run of {stored}, not of {name}; leave the name out, or start a new run")


def _given(arguments: list[str]) -> set[str]:
    """The names of the options among the arguments."""
    return {argument[2:].partition("=")[0] for argument in arguments if argument.startswith("--")}


def _parsed(name: str, arguments: list[str]) -> Run[Any]:
    algorithm = NAMES[name].algorithm
    run: Run[Any] = tyro.cli(
        Run[algorithm.options],  # type: ignore[name-defined]
        default=Run(algorithm=algorithm.options(), server=NAMES[name].server, **sized(arguments)),
        prog=f"flow run {name}",
        description=_describe(name),
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    if run.resume is not None and not _given(arguments) <= {"resume", "rounds", "data"}:
        raise UserError(
            f"--resume {run.resume} takes its configuration from that folder; leave the other options out but --rounds and "
            "--data, or start a new run"
        )
    return run


def _folder(run: Run[Any], name: str, ranks: Ranks) -> AbstractContextManager[Path]:
    if run.resume is not None:
        return nullcontext(named_folder("resume", run.resume))
    if run.folder is not None:
        return nullcontext(named_folder("folder", run.folder))
    return default_folder(name, run.data.data, ranks)


def _describe(name: str) -> str:
    others = "\n".join(f"  {other}: {known.about}" for other, known in NAMES.items())
    return (
        f"Train with {name}, evaluate on held-out text and write a report.\n\n"
        f"flow run [ALGORITHM] [OPTIONS], options in any order. Algorithms:\n{others}"
    )


USAGE = """\
  run [ALGORITHM]     train, evaluate and write a report; `flow run --help` lists algorithms and options
  run --resume FOLDER go on with a run that was stopped, or with --rounds N lengthen one; --data FILE: its file moved
"""
COMMAND = Command("run", USAGE, _run, distributed=True)
