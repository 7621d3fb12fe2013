"""``flow deploy``. Options are those of `flow run`, and those of the deployment."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Generic

import tyro

from flow.algorithms import DEFAULT
from flow.algorithms.registry import named, names
from flow.cli.command import Command, Form, named_folder, parsed, sized
from flow.cli.configured import Configured, Options
from flow.cli.json_output import answering
from flow.cli.own_code import references, with_own_model
from flow.config import Config
from flow.deploy import application
from flow.deploy.options import Deployment, check
from flow.errors import UserError
from flow.parallel.processes import Ranks


@dataclass(frozen=True)
class Deploy(Configured[Options], Generic[Options]):
    """The options of `flow deploy`: a configuration and how Flower carries it."""

    validation_share: float = 0.0
    """Share of the clients that are set aside, chosen by a hash of the id. They never train. At least 0 and below 1."""

    app: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = "flow-app"
    """New folder for the Flower app, which `flwr run FOLDER` starts. Its name has letters, digits and hyphens."""

    deployment: Deployment = field(default_factory=Deployment)


def _deploy(arguments: list[str], ranks: Ranks) -> None:
    given = [arguments.pop(0)] if arguments and not arguments[0].startswith("-") else []
    given += references(arguments)
    if len(given) > 1:
        raise UserError(f"one algorithm is deployed at a time, got {' and '.join(given)}; name one")
    name = named(given[0]) if given else DEFAULT
    chosen: Deploy[Any] = parsed(form_of(name, arguments), arguments)
    with answering("deploy", chosen.json) as answer:
        config: Config[Any] = Config(**{option.name: getattr(chosen, option.name) for option in fields(Config)})
        config = with_own_model(chosen, config, arguments)
        folder = named_folder("app", chosen.app)
        made = application.write(folder, config, check(chosen.deployment))
        print(f"app: {folder}, {name} for {config.rounds} rounds on {chosen.deployment.nodes} nodes")
        print(f"vocabulary: {len(made.vocabulary)} tokens of {made.name}; no text is in the app")
        print(f"start it with `flwr run {folder} CONNECTION`; docs/deploy.md has the commands of server and nodes")
        answer({"folder": Path(folder), "algorithm": name, "tokens": len(made.vocabulary), "digest": made.digest})


def form_of(name: str, arguments: list[str]) -> Form:
    """The options of a deployment of this algorithm."""
    algorithm, server = names()[name].algorithm, names()[name].server
    return Form(
        Deploy[algorithm.options],  # type: ignore[name-defined]
        f"flow deploy {name}",
        default=Deploy(algorithm=algorithm.options(), server=server, **sized(arguments)),
        description=(
            f"Write a Flower app that runs the rounds of {name} on real devices, each with its own data. Flower's SuperLink "
            "and SuperNodes carry them. --data gives the vocabulary and says how texts are cut; no text goes into the app."
        ),
    )


def forms() -> dict[str, Form]:
    """The options by the name of the algorithm before them."""
    return {name: form_of(name, []) for name in names()}


USAGE = """\
  deploy [ALGORITHM]  write a Flower app that runs the rounds on real devices, each with its own data (docs/deploy.md)
"""
COMMAND = Command("deploy", USAGE, _deploy, forms)
