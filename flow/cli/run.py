"""``flow run``. Options are fields of the configuration's classes."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Generic

import tyro

from flow.algorithms import DEFAULT, algorithm_of
from flow.algorithms.registry import GROUP, named, names
from flow.cli.command import Command, Form, default_folder, named_folder, parsed, say_other_unit, sized
from flow.cli.configured import Configured, Options, answer_of
from flow.cli.json_output import answering
from flow.cli.logged import Logged, logging_again
from flow.cli.own_code import again, check_counted, given_options, references, with_own_model
from flow.config import Config, read_config
from flow.errors import UserError
from flow.evaluation.registry import named_metrics
from flow.parallel.processes import Ranks
from flow.simulation.loop import Result, resume, simulate
from flow.terminal.looks import clean_line

_BESIDE_RESUME = {"resume", "rounds", "data", "model", "metric", "changed-file", "log", "json"}


@dataclass(frozen=True)
class Run(Logged, Configured[Options], Generic[Options]):
    """The options of `flow run`: a configuration and where the run is kept."""

    # Strings, not paths: Path("") is the working directory.
    folder: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """New folder for everything the run writes. None: runs/ALGORITHM-DATA-DATE-TIME, with -2, -3, ... after a name that is
    taken."""

    resume: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Go on with the run in this folder, with the configuration it was started with. Other options may stand beside it:
    --rounds, the number of rounds that the run has from now on, --data, the path to which its file moved, --changed-file, --log
    and --json. An algorithm of a file is named again, as FILE.py:NAME behind the options, a model or a metric of a file by its
    option."""

    changed_file: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """With --resume: go on although a file of the run's algorithm, model or metric was changed. config.json records the
    change."""


def _run(arguments: list[str], ranks: Ranks) -> None:
    given = [arguments.pop(0)] if arguments and not arguments[0].startswith("-") else []
    given += references(arguments)
    if len(given) > 1:
        raise UserError(
            f"one algorithm runs at a time, got {' and '.join(given)}; name one, or write `flow compare {' '.join(given)}`"
        )
    name = named(given[0]) if given else DEFAULT
    run = _parsed(name, arguments)
    with answering("run", run.json and ranks.first) as answer:
        if run.resume is not None:
            with_own_model(run, Config(), ())  # so that this process knows the factory when it reads config.json
        if given and run.resume is not None:
            _check_name(name, named_folder("resume", run.resume))
        if ranks.first:
            say_other_unit(run.preset, run.data)
        code = again(given if given and given[0] != name else [], run.torch_model, run.metric) + logging_again(run.log)
        with _folder(run, name, ranks) as folder:
            result = _result(run, folder, arguments, ranks, code)
        if ranks.first:
            print(f"report: {result.report}")
            answer(answer_of(folder, result.report, result.evaluation, result.run))


def _result(run: Run[Any], folder: Path, arguments: list[str], ranks: Ranks, code: str) -> Result:
    """code: what stands behind `flow run --resume FOLDER` to go on with this run."""
    given, metrics, log = given_options(arguments), named_metrics(run.metric), tuple(dict.fromkeys(run.log))
    try:
        if run.resume is None:
            config: Config[Any] = Config(**{field.name: getattr(run, field.name) for field in fields(Config)})
            config = replace(config, metric=metrics)
            return simulate(with_own_model(run, config, arguments), folder, callbacks=log)
        if metrics:
            check_counted(folder, metrics, read_config(folder).metric)
        data, rounds = run.data.data if "data" in given else None, run.rounds if "rounds" in given else None
        return resume(folder, data=data, rounds=rounds, changed_file=run.changed_file, callbacks=log)
    except KeyboardInterrupt:
        if ranks.first and (folder / "config.json").exists():
            clean_line()
            print(f"flow: stopped; go on with `flow run --resume {folder}{code}`", file=sys.stderr)
        raise
    except OSError as error:  # the run's own files: a full disk, a folder that may not be read or written
        raise UserError(f"{error}; put that right, then go on with `flow run --resume {folder}{code}`") from error


def _check_name(name: str, folder: Path) -> None:
    """Refuse to go on with a run under the name of an algorithm that is not the run's."""
    stored = algorithm_of(read_config(folder).algorithm).name
    if stored != names()[name].algorithm.name:
        raise UserError(f"--resume {folder} is a run of {stored}, not of {name}; leave the name out, or start a new run")


def form_of(name: str, arguments: list[str]) -> Form:
    """The options of a run of this algorithm."""
    algorithm, server = names()[name].algorithm, names()[name].server
    return Form(
        Run[algorithm.options],  # type: ignore[name-defined]
        f"flow run {name}",
        default=Run(algorithm=algorithm.options(), server=server, **sized(arguments)),
        description=_describe(name),
    )


def _parsed(name: str, arguments: list[str]) -> Run[Any]:
    run: Run[Any] = parsed(form_of(name, arguments), arguments)
    if run.resume is not None and not given_options(arguments) <= _BESIDE_RESUME:
        raise UserError(
            f"--resume {run.resume} takes its configuration from that folder; leave the other options out but --rounds, "
            "--data, --model, --metric, --changed-file, --log and --json, or start a new run"
        )
    if run.resume is None and run.changed_file:
        raise UserError("--changed-file does nothing without --resume; add --resume FOLDER, or leave it out")
    return run


def _folder(run: Run[Any], name: str, ranks: Ranks) -> AbstractContextManager[Path]:
    if run.resume is not None:
        return nullcontext(named_folder("resume", run.resume))
    if run.folder is not None:
        return nullcontext(named_folder("folder", run.folder))
    return default_folder(name, run.data.data, ranks)


def _describe(name: str) -> str:
    others = "\n".join(f"  {other}: {known.about}" for other, known in names().items())
    return (
        f"Train with {name}, evaluate on held-out text and write a report.\n\n"
        "flow run [ALGORITHM] [OPTIONS], options in any order. An ALGORITHM of your own is FILE.py:NAME, see "
        f"docs/own-algorithm.md, or an entry point {GROUP} of an installed package. Algorithms:\n{others}"
    )


def forms() -> dict[str, Form]:
    """The options by the name of the algorithm before them."""
    return {name: form_of(name, []) for name in names()}


USAGE = """\
  run [ALGORITHM]     train, evaluate and write a report; `flow run --help` lists algorithms and options
  run FILE.py:NAME    the same with an algorithm of your own file; it is named again beside --resume
  run --resume FOLDER go on with a run that was stopped, or with --rounds N lengthen one; --data FILE: its file moved
"""
COMMAND = Command("run", USAGE, _run, forms, distributed=True)
