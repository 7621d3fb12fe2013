"""What the command line knows of a command."""

from __future__ import annotations

import errno
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from flow.checks import check_text
from flow.data import DataOptions
from flow.data.dirichlet import NAME as DIRICHLET
from flow.data.registry import source_of
from flow.data.source import BY_FILE
from flow.errors import UserError, say
from flow.parallel.processes import Ranks
from flow.presets import PRESETS, preset
from flow.terminal.looks import is_coloured

RUNS = Path("runs")


class Form(NamedTuple):
    """The options of a command, as the parser takes them."""

    kind: Any
    """A dataclass."""
    prog: str
    """Of the first line of its help."""
    default: Any = None
    """An instance with the defaults; None: those of the class."""
    description: str | None = None
    """At the top of its help; None: the docstring of the class."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the parser takes beside the class."""
        own = {} if self.default is None else {"default": self.default}
        return {"prog": self.prog, "description": self.description, "config": (tyro.conf.OmitArgPrefixes,), **own}


def parsed(form: Form, arguments: list[str]) -> Any:
    """The options that the arguments give, an instance of `form.kind`.

    Raises:
        SystemExit: they ask for help, or cannot be parsed.
    """
    tyro._experimental_options["ansi_codes"] = is_coloured(sys.stdout) and is_coloured(sys.stderr)
    return tyro.cli(form.kind, args=arguments, **form.settings)


class Command(NamedTuple):
    """A command of `flow`."""

    name: str
    usage: str
    """Its lines in the output of `flow --help`."""
    call: Callable[[list[str], Ranks], int | None]
    """Runs it with the arguments after its name; returns the exit code, None for 0. Raises UserError for a mistake of the
    user."""
    forms: Callable[[], dict[str, Form]]
    """Its options by what stands before them: of `flow run` the algorithm, else nothing."""
    distributed: bool = False
    """Whether it may run in several processes at once, under torchrun."""


def named_folder(option: str, folder: str) -> Path:
    """A folder as given on the command line.

    Raises:
        UserError: the name is empty, not text, or longer than the file system allows.
    """
    if not folder.strip():
        raise UserError(f"{option}={folder!r} is empty; give the name of a folder")
    check_text(option, folder)
    path = Path(folder)
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{option}={folder!r} is longer than the file system allows; give a shorter name") from error
    return path


def sized(arguments: Sequence[str]) -> dict[str, Any]:
    """The parts of a configuration that ``--preset`` among the arguments sets, by field; options beside it take precedence.

    A value that is no preset's name changes nothing; the parser of options refuses it.
    """
    name = None
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        flag, _, value = argument.partition("=")
        if flag == "--preset":
            name = value if "=" in argument else following
    if name not in PRESETS:
        return {}
    config = preset(name)
    return {"model": config.model, "data": config.data}


def say_other_unit(name: str | None, data: DataOptions) -> None:
    """Say so where a preset for characters is given with data that are cut into words, or the other way round.

    Raises:
        UserError: no source has such data.
    """
    if name is None:
        return
    published = PRESETS[name]
    own = data.tokenizer or source_of(data.data).tokenizer
    unit = {"characters": "characters", "words": "words", "spaces": "words", BY_FILE: published.unit}.get(own, "tokens")
    if own and unit != published.unit:
        say(
            f"preset={name!r} was published for {published.unit}, and data={data.data!r} is cut into {unit}; it sets "
            f"{' and '.join(f'{field}={value}' for field, value in published.data.items())} and the sizes of the model all the "
            f"same, where no other option does; give --tokenizer {published.unit}, or leave the preset out"
        )


@contextmanager
def default_folder(kind: str, data: str, ranks: Ranks) -> Iterator[Path]:
    """A new folder's path, runs/KIND-DATA-DATE-TIME, or with the next free of -2, -3, ... after it.

    The processes of a run get the path that the first of them chose. No other command gets it while the block runs.
    """
    if not ranks.first:
        yield Path(ranks.texts("")[0])
        return
    source = data.split(":", 3)[-1] if data.startswith(f"{DIRICHLET}:") else data  # ALPHA has a point, which ends no name
    word = Path(source).name.split(".")[0].replace(":", "-")  # file names have no colon on some systems
    with _claimed(f"{kind}-{word}-{time.strftime('%Y%m%d-%H%M%S')}") as folder:
        ranks.texts(str(folder))
        yield folder


@contextmanager
def _claimed(name: str) -> Iterator[Path]:
    """A path below runs/ that is free; an empty hidden folder beside it, made by mkdir, keeps it for this process."""
    was_there = RUNS.exists()
    folder, claim = _claim(name)
    try:
        yield folder
    finally:
        for path in (claim, *([] if was_there else [RUNS])):
            with suppress(OSError, ValueError):  # never made, or in use by others
                path.rmdir()


def _claim(name: str) -> tuple[Path, Path]:
    """The first free path, and the folder that claims it. Where none can be made, the run says why it cannot have its own."""
    suffixes = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    while True:
        folder = RUNS / f"{name}{next(suffixes)}"
        claim = folder.with_name(f".{folder.name}.claim")
        try:
            claim.mkdir(parents=True)
        except FileExistsError:
            continue
        except (OSError, ValueError):
            return folder, claim
        if not folder.exists():
            return folder, claim
        claim.rmdir()
