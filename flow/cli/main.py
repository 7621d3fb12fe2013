"""The command line: ``flow run``, ``report``, ``compare``, ``prepare``. Options are fields of the configuration's classes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Generic, TypeVar

import tyro

from flow.algorithms import DEFAULT, NAMES
from flow.checks import check_text, typed
from flow.config import Config
from flow.data import DataOptions, load, prepared_folder
from flow.errors import UserError
from flow.parallel.processes import Lost, Ranks, joined, leave
from flow.simulation.loop import resume, simulate

Options = TypeVar("Options")

USAGE = """\
usage: flow COMMAND [OPTIONS]

Federated learning with per-instance routing between a global and a local expert.

commands:
  run [ALGORITHM]     train, evaluate and write a report; `flow run --help` lists algorithms and options
  run --resume FOLDER go on with a run that was stopped
  report FOLDER       write the report of a run again
  compare [ALGORITHM ...]  run several side by side and write one table; `flow compare --list` names them all
  prepare             read data and keep them prepared, which `flow run` otherwise does when it first meets them

examples:
  flow run                                          Flow on Shakespeare, all defaults
  flow run fedavg --rounds 50                       the baseline, shorter
  flow run --rounds 3 --max-clients 60              a first look that takes seconds
  flow run flow --variant workshop --data mine.jsonl.gz
  flow run fedavg --data synthetic --clients 300000 --final-clients 1000
  torchrun --nproc-per-node 4 -m flow run fedavg    on four processes: the same numbers, sooner
"""


@dataclass(frozen=True)
class Run(Config[Options], Generic[Options]):
    """The options of `flow run`: a configuration and where the run is kept."""

    # Strings, not paths: Path("") is the working directory.
    folder: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """New folder for everything the run writes. None: runs/ALGORITHM-DATA-DATE-TIME."""

    resume: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Go on with the run in this folder, with the configuration it was started with. Takes no other option."""


@dataclass(frozen=True)
class Report:
    """Write the report of a run again."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """The run's folder."""


@dataclass(frozen=True)
class Prepare(DataOptions):
    """Read a data set, cut it, and keep it prepared in the folder FLOW_CACHE of the environment, by default ~/.cache/flow.
    `flow run` with the same options opens it from there, and prepares it itself where it is not there yet."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for a mistake of the user, 130 when interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    commands = {"run": _run, "report": _report, "compare": _compare, "prepare": _prepare}
    ranks = Ranks()
    try:
        ranks = joined()
        if arguments[0] not in commands:
            raise UserError(f"there is no command {arguments[0]!r}; the commands are {', '.join(commands)}")
        if ranks.size > 1 and arguments[0] != "run":
            raise UserError(f"`flow {arguments[0]}` runs in one process, not in {ranks.size}; start it without torchrun")
        commands[arguments[0]](arguments[1:], ranks)
    except UserError as error:
        if error.speaks if isinstance(error, Lost) else ranks.first:
            print(f"flow: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        leave()
    return 0


def _run(arguments: list[str], ranks: Ranks) -> None:
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else DEFAULT
    if name not in NAMES:
        raise UserError(f"there is no algorithm {name!r}; the algorithms are {', '.join(NAMES)}")
    algorithm = NAMES[name].algorithm
    run = tyro.cli(
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
    config = Config(**{field.name: getattr(run, field.name) for field in fields(Config)})
    if run.resume is not None:
        folder = _named("resume", run.resume)
    elif run.folder is not None:
        folder = _named("folder", run.folder)
    else:  # named after the time, which every process reads a moment later
        folder = Path(ranks.texts(str(_new_folder(name, run.data.data)))[0])
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


def _named(option: str, folder: str) -> Path:
    """A folder as given on the command line."""
    if not folder.strip():
        raise UserError(f"{option}={folder!r} is empty; give the name of a folder")
    check_text(option, folder)
    return Path(folder)


def _describe(name: str) -> str:
    others = "\n".join(f"  {other}: {known.about}" for other, known in NAMES.items())
    return (
        f"Train with {name}, evaluate on held-out text and write a report.\n\n"
        f"flow run [ALGORITHM] [OPTIONS], options in any order. Algorithms:\n{others}"
    )


def _new_folder(algorithm: str, data: str) -> Path:
    return Path("runs") / f"{algorithm}-{Path(data).name.split('.')[0]}-{time.strftime('%Y%m%d-%H%M%S')}"


def _report(arguments: list[str], ranks: Ranks) -> None:
    chosen = tyro.cli(Report, prog="flow report", args=arguments)
    from flow.reports.run_page import write_report  # draws with matplotlib, which nothing else here needs

    try:
        print(f"report: {write_report(_named('folder', chosen.folder))}")
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


def _prepare(arguments: list[str], ranks: Ranks) -> None:
    chosen = tyro.cli(Prepare, prog="flow prepare", args=arguments)
    options = typed(DataOptions(**{field.name: getattr(chosen, field.name) for field in fields(DataOptions)}))
    try:
        population, folder = load(options, progress=True), prepared_folder(options)
    except (ValueError, OSError, ModuleNotFoundError, RuntimeError) as error:
        raise UserError(str(error)) from error
    if folder is None:
        raise UserError("FLOW_CACHE='' keeps nothing prepared; give a folder, or leave the variable out")
    print(f"{len(population.clients)} clients, {len(population.training)} of them train: {folder}")


def _compare(arguments: list[str], ranks: Ranks) -> None:
    from flow.cli.compare import command  # only this command needs it

    command(arguments)
