"""``flow compare``."""

from __future__ import annotations

import json
import sys
import tomllib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from flow.algorithms.registry import named, names
from flow.cli.command import Command, Form, default_folder, named_folder, parsed, say_other_unit, sized
from flow.cli.configured import Configured
from flow.cli.json_output import answering
from flow.cli.logged import Logged, logging_again
from flow.cli.own_code import again, check_counted, given_options, references, with_own_model
from flow.comparison.plan import read_plan
from flow.comparison.run import RECORD, Comparison, SharedOptions, compare, listing, resume_comparison
from flow.comparison.tuning import MOST
from flow.config import Config
from flow.data import paths
from flow.errors import UserError
from flow.evaluation.metrics import METRICS
from flow.evaluation.registry import named_metrics
from flow.parallel.processes import Ranks
from flow.terminal.looks import clean_line
from flow.user_code import is_reference

_BESIDE_RESUME = {"resume", "against", "data", "model", "metric", "changed-file", "log", "json"}
DECIDES = f"With --tune: the metric that decides: {', '.join(metric.name for metric in METRICS)} or one of your own."


@dataclass(frozen=True)
class Compare(Logged, Configured[SharedOptions]):
    """The options of `flow compare`: what the runs share, and how they are tuned and kept."""

    algorithm: SharedOptions = field(default_factory=SharedOptions)

    show_list: Annotated[bool, tyro.conf.arg(name="list"), tyro.conf.FlagCreatePairsOff] = False
    """Print all algorithms by name, a line each, and run nothing. Takes no other option but --json."""

    seeds: int = 1
    """Runs of every algorithm, with the seeds --seed, --seed + 1, ..."""

    settings: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """TOML file with a table of options for every algorithm that is to have its own. None: there are none."""

    tune: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Choose every algorithm's learning rates, those of fine-tuning and server among them, and its one or two decisive
    parameters, by validation texts of training clients and by validation clients. It looks at their data, which costs epsilon
    that is not counted."""

    trials: int = 7
    """With --tune: choices that every algorithm tries, however many parameters it has; at most 1000."""

    tune_rounds: int = 0
    """With --tune: rounds of a run that tries one; 0: as many as the final ones have."""

    tune_by: Annotated[str, tyro.conf.arg(metavar="METRIC", help=DECIDES)] = "accuracy"

    tuner: Literal["steps", "optuna"] = "steps"
    """With --tune: what says which choices are tried. "steps" goes on from the best so far, one parameter after the other;
    "optuna" takes what the TPE sampler of Optuna proposes (pip install 'flow-fl[optuna]'). All algorithms have --trials tries
    with either."""

    against: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """One of the algorithms: all others are tested against it, client by client. It decides only what is shown, and may be
    another one when the comparison goes on. None: the one that it had last, if any."""

    folder: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """New folder for everything, or that of the same comparison, which then goes on. None: runs/compare-DATA-DATE-TIME, with
    -2, -3, ... after a name that is taken."""

    resume: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Go on with the comparison in this folder, with its configuration. Takes no other options but --against, --data
    where the file moved, --changed-file, --log and --json. Algorithms of files are named again, as FILE.py:NAME behind the
    options, a model or a metric of a file by its option."""

    changed_file: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """With --resume: go on although a file of an algorithm, model or metric was changed. Finished runs keep their results, and
    comparison.json records the change."""


def _compare(arguments: list[str], ranks: Ranks) -> None:
    if "--list" in arguments:
        _list(arguments)
        return
    named_here = []
    while arguments and not arguments[0].startswith("-"):
        named_here.append(arguments.pop(0))
    named_here += references(arguments)
    own = [name for name in named_here if is_reference(name)]
    every = [named(name) if name in own else name for name in named_here]
    going_on = "resume" in given_options(arguments) and len(own) == len(every)
    chosen = _parsed([] if going_on else every, arguments)
    with answering("compare", chosen.json) as answer:
        say_other_unit(chosen.preset, chosen.data)
        code = again(own, chosen.torch_model, chosen.metric) + logging_again(chosen.log)
        with _folder(chosen, ranks) as folder:
            result = _result(every, chosen, folder, arguments, code)
        print(f"report: {result.report}")
        results = json.loads((result.folder / "results.json").read_text(encoding="utf-8"))
        results.pop("sha256")
        answer({"folder": result.folder, "report": result.report, **results})


def _list(arguments: list[str]) -> None:
    if not set(arguments) <= {"--list", "--json"}:
        raise UserError("--list takes no other option but --json; write `flow compare --list`")
    with answering("compare --list", "--json" in arguments) as answer:
        print(listing())
        answer(
            {
                "algorithms": [
                    {
                        "name": name,
                        "about": known.about,
                        "algorithm": known.algorithm.name,
                        "personalizes": known.algorithm.personalize is not None,
                        "stateful": known.algorithm.fresh is not None,
                        "server": known.server.server,
                        "options": asdict(known.algorithm.options()),
                    }
                    for name, known in names().items()
                ]
            }
        )


def _result(every: list[str], chosen: Compare, folder: Path, arguments: list[str], code: str) -> Comparison:
    """The comparison, started or continued.

    Args:
        every: the names of the algorithms.
        arguments: the options as they were given; --data beside --resume says where the file is now.
        code: what stands behind `flow compare --resume FOLDER` to go on with this comparison.
    """
    config: Config[Any] = Config(**{field.name: getattr(chosen, field.name) for field in fields(Config)})
    config, log = replace(config, metric=named_metrics(chosen.metric)), tuple(dict.fromkeys(chosen.log))
    try:
        if chosen.resume is None:
            config = with_own_model(chosen, config, arguments)
        if chosen.resume is not None:
            with_own_model(chosen, Config(), ())  # so that this process knows the factory
            if config.metric and (folder / RECORD).is_file():
                check_counted(folder, config.metric, read_plan(folder / RECORD).config.metric)
            data = chosen.data.data if "data" in given_options(arguments) else None
            return resume_comparison(folder, data=data, against=chosen.against, changed_file=chosen.changed_file, callbacks=log)
        return compare(
            every,
            folder,
            config,
            seeds=chosen.seeds,
            settings=_settings(chosen.settings),
            tune=chosen.trials if chosen.tune else 0,
            tune_rounds=chosen.tune_rounds,
            tune_by=chosen.tune_by,
            tuner=chosen.tuner,
            against=chosen.against,
            callbacks=log,
        )
    except KeyboardInterrupt:
        if (folder / RECORD).exists():
            clean_line()
            print(f"flow: stopped; go on with `flow compare --resume {folder}{code}`", file=sys.stderr)
        raise
    except OSError as error:
        raise UserError(f"{error}; put that right, then go on with `flow compare --resume {folder}{code}`") from error


def form_of(arguments: list[str]) -> Form:
    """The options of a comparison."""
    return Form(
        Compare,
        "flow compare",
        default=Compare(**sized(arguments)),
        description="Run several algorithms on the same clients and write one table.\n\n"
        "flow compare [ALGORITHM ...] [OPTIONS], names first; FILE.py:NAME is an algorithm of your own "
        "(docs/own-algorithm.md); none means all of these:\n" + "\n".join(f"  {line}" for line in listing().splitlines()),
    )


def _parsed(every: list[str], arguments: list[str]) -> Compare:
    chosen: Compare = parsed(form_of(arguments), arguments)
    if chosen.resume is not None and (every or not given_options(arguments) <= _BESIDE_RESUME):
        raise UserError(
            f"--resume {chosen.resume} takes its configuration from that folder; leave names and all options but --against, "
            "--data, --model, --metric, --changed-file, --log and --json out, or start a new comparison"
        )
    if chosen.resume is None and chosen.changed_file:
        raise UserError("--changed-file does nothing without --resume; add --resume FOLDER, or leave it out")
    if not chosen.tune:
        for name in ("trials", "tune_rounds", "tune_by", "tuner"):
            if getattr(chosen, name) != getattr(Compare, name):
                raise UserError(f"{name}={getattr(chosen, name)!r} does nothing without --tune; add --tune, or leave it out")
    if not 1 <= chosen.trials <= MOST:
        rule = "at least 1" if chosen.trials < 1 else f"at most {MOST}"
        raise UserError(f"trials must be {rule}, got {chosen.trials}; leave it out for the default, or leave --tune out")
    return chosen


def _folder(chosen: Compare, ranks: Ranks) -> AbstractContextManager[Path]:
    given = chosen.resume if chosen.resume is not None else chosen.folder
    return default_folder("compare", chosen.data.data, ranks) if given is None else nullcontext(named_folder("folder", given))


def _settings(path: str | None) -> dict[str, Any] | None:
    """The content of the TOML file."""
    if path is None:
        return None
    wanted = "a TOML file with a table for every algorithm"
    paths.check_file(Path(path), "settings", wanted)  # a device has no end, and a pipe may have no writer
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))  # with a byte order mark or without
    except (OSError, ValueError, RecursionError) as error:  # the last: nested too deep
        raise UserError(f"settings={path!r} cannot be read ({error}); give {wanted}") from error


USAGE = "  compare [ALGORITHM ...]  run several side by side and write one table; `flow compare --list` names them all\n"
COMMAND = Command("compare", USAGE, _compare, lambda: {"": form_of([])})
