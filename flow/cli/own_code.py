"""Code of the user's own on the command line: algorithms as FILE.py:NAME, ``--model``, ``--head`` and ``--metric``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from flow.algorithms.registry import named
from flow.cli.command import named_folder
from flow.config import Config, ModelOptions, TorchModel
from flow.errors import UserError
from flow.personal.model import PersonalModel
from flow.personal.model import load as load_personal
from flow.user_code import is_reference, load


@dataclass(frozen=True)
class OwnModel:
    """The options of a command by which a module of the user's own is named."""

    torch_model: Annotated[str | None, tyro.conf.arg(name="model", metavar="FILE.py:NAME")] = None
    """A module of your own in place of the built-in model: NAME(vocabulary_size) gives a torch.nn.Module that takes int64
    tokens [B, T] and gives logits [B, T, V] (docs/own-model.md). --dtype and --device hold for it too. None: the built-in
    model."""

    head: str | None = None
    """With --model: the name of the submodule that is the output layer, for algorithms that need a body and a head."""


def references(arguments: list[str]) -> list[str]:
    """Take algorithms of the form FILE.py:NAME out of the arguments, where they stand between the options or behind them."""
    places = [
        place
        for place, argument in enumerate(arguments)
        if is_reference(argument) and not (place and _waits(arguments[place - 1]))
    ]
    taken = [arguments[place] for place in places]
    arguments[:] = [argument for place, argument in enumerate(arguments) if place not in places]
    return taken


FLAGS = {"--changed-file", "--changed_file", "--json", "--tune", "--list"}
"""Options of commands that take no value."""


def given_options(arguments: Sequence[str]) -> set[str]:
    """The names of the options among the arguments, with hyphens and without those before them."""
    return {argument[2:].partition("=")[0].replace("_", "-") for argument in arguments if argument.startswith("--")}


def _waits(argument: str) -> bool:
    """Whether an argument is an option that takes the next argument as its value."""
    return argument.startswith("--") and "=" not in argument and argument not in FLAGS


def again(algorithms: Sequence[str], model: str | None, metric: str) -> str:
    """What stands behind ``--resume FOLDER``, so that all code of the user's own is known there.

    Args:
        algorithms: FILE.py:NAME each.
        model: of ``--model``.
        metric: of ``--metric``.
    """
    files = ",".join(name.strip() for name in metric.split(",") if is_reference(name.strip()))
    flags = [*algorithms, *([] if model is None else ["--model", model]), *(["--metric", files] if files else [])]
    return "".join(f" {shlex.quote(flag)}" for flag in flags)


def with_own_model(own: OwnModel, config: Config[Any], arguments: Sequence[str]) -> Config[Any]:
    """A configuration with the module of the user's own that ``--model FILE.py:NAME`` names, if it does.

    Raises:
        UserError: the file or what it gives is wrong, or an option of the built-in model stands beside it.
    """
    if own.torch_model is None:
        if own.head is not None:
            raise UserError(f"head={own.head!r} does nothing without --model FILE.py:NAME; add it, or leave head out")
        return config
    given = {name.replace("-", "_") for name in given_options(arguments)}
    built_in = {field.name for field in fields(ModelOptions)} - {field.name for field in fields(TorchModel)}
    for name in sorted(given & (built_in | {"preset"})):
        raise UserError(
            f"--{name.replace('_', '-')} is of the built-in model and does nothing beside --model; leave either out"
        )
    factory = load(own.torch_model, "model").value
    if not callable(factory):
        raise UserError(
            f"model={own.torch_model!r} is a {type(factory).__name__}, and must be a function or a class that makes a module"
        )
    return replace(config, model=TorchModel(factory, own.head or "", config.model.dtype, config.model.device))


def check_counted(folder: Path, given: str, counted: str) -> None:
    """Refuse metrics beside ``--resume`` that the run or comparison in the folder does not count.

    Args:
        given: names, separated by commas, likewise `counted`.

    Raises:
        UserError: there is such a metric.
    """
    own = [name.strip() for name in counted.split(",")]
    for name in given.split(","):
        if name and name not in own:
            raise UserError(
                f"metric={name!r} is not counted in {folder}, which was started with metric={counted!r}; leave it out, or "
                "start anew in another folder"
            )


@dataclass(frozen=True, kw_only=True)
class Loaded(OwnModel):
    """The options of a command that uses an adapted folder."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """The folder that `flow adapt` made."""

    algorithm: Annotated[str | None, tyro.conf.arg(metavar="FILE.py:NAME")] = None
    """Where an algorithm of your own predicts in a way of its own: the algorithm."""


def loaded(chosen: Loaded) -> PersonalModel:
    """The model of an adapted folder.

    Raises:
        UserError: it is none, or code of the user's own is missing or another one.
    """
    if chosen.algorithm is not None:
        named(chosen.algorithm)
    config = with_own_model(chosen, Config(), ())
    return load_personal(named_folder("folder", chosen.folder), config.model if isinstance(config.model, TorchModel) else None)
