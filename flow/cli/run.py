"""``flow run``. Options are fields of the configuration's classes."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from flow.algorithms import DEFAULT, NAMES
from flow.cli.command import Command, named_folder
from flow.config import Config
from flow.errors import UserError
from flow.parallel.processes import Ranks
from flow.simulation.loop import resume, simulate

Options = TypeVar("Options")


@dataclass(frozen=True)
class Run(Config[Options], Generic[Options]):
    """The options of `flow run`: a configuration and where the run is kept."""

    # Strings, not paths: Path("") is the working directory.
    folder: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """New folder for everything the run writes. None: runs/ALGORITHM-DATA-DATE-TIME."""

    resume: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Go on with the run in this folder, with the configuration it was started with. Takes no other option."""


def _run(arguments: list[str], ranks: Ranks) -> None:
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else DEFAULT
    if name not in NAMES:
        raise UserError(f"there is no algorithm {name!r}; the algorithms are {', '.join(NAMES)}")
    run = _parsed(name, arguments)
    config = Config(**{field.name: getattr(run, field.name) for field in fields(Config)})
    folder = _folder(run, name, ranks)
    try:
        result = simulate(config, folder) if run.resume is None else resume(folder)
    except KeyboardInterrupt:
        if ranks.first and (folder / "config.json").exists():
            print(f"\nflow: stopped; go on with `flow run --resume {folder}`", file=sys.stderr)
        raise
    except OSError as error:  # the run's own files: a full disk, a folder that may not be read or written
        raise UserError(f"{error}; put that right, then go on with `flow run --resume {folder}`") from error
    if ranks.first:
        print(f"report: {result.report}")


def _parsed(name: str, arguments: list[str]) -> Run[Any]:
    algorithm = NAMES[name].algorithm
    run: Run[Any] = tyro.cli(
        Run[algorithm.options],  # type: ignore[name-defined]
        default=Run(algorithm=algorithm.options(), server=NAMES[name].server),
        prog=f"flow run {name}",
        description=_describe(name),
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    if run.resume is not None and len(arguments) != (1 if arguments[0].startswith("--resume=") else 2):
        raise UserError(
            f"--resume {run.resume} takes its configuration from that folder; leave the other options out, or start a new run"
        )
    return run


def _folder(run: Run[Any], name: str, ranks: Ranks) -> Path:
    if run.resume is not None:
        return named_folder("resume", run.resume)
    if run.folder is not None:
        return named_folder("folder", run.folder)
    # A new folder is named after the time, which every process reads a moment later: the first one's name counts.
    return Path(ranks.texts(str(_new_folder(name, run.data.data)))[0])


def _describe(name: str) -> str:
    others = "\n".join(f"  {other}: {known.about}" for other, known in NAMES.items())
    return (
        f"Train with {name}, evaluate on held-out text and write a report.\n\n"
        f"flow run [ALGORITHM] [OPTIONS], options in any order. Algorithms:\n{others}"
    )


def _new_folder(algorithm: str, data: str) -> Path:
    return Path("runs") / f"{algorithm}-{Path(data).name.split('.')[0]}-{time.strftime('%Y%m%d-%H%M%S')}"


USAGE = """\
  run [ALGORITHM]     train, evaluate and write a report; `flow run --help` lists algorithms and options
  run --resume FOLDER go on with a run that was stopped
"""
COMMAND = Command("run", USAGE, _run, distributed=True)
