"""The folder of a Flower app: what the server and all nodes of a run must agree on, written by `flow deploy`.

    config.json       the configuration of the run, as in a run folder
    vocabulary.json   the tokens by id, the classes, and how a text is cut
    tokenizer.json    where the tokens are those of such a file
    pyproject.toml    what Flower wants to know, and the options of the deployment
    server_app.py, client_app.py   three lines each, which call flow.deploy

Flower carries the folder to every node, and both sides name its digest in their messages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from flow.algorithms import Algorithm, algorithm_of, code_of
from flow.config import Config, TorchModel, checked, read_config
from flow.data import Client, Population, Vocabulary, load
from flow.data import tokenizer as tokenizers
from flow.deploy.options import Deployment
from flow.errors import UserError
from flow.personal import folder as folders
from flow.personal.texts import FILE, Cutting, NoTexts, cutting_of
from flow.server import aggregators
from flow.storage import files, run_folder

CONFIG, VOCABULARY, TOKENIZER, PROJECT = "config.json", "vocabulary.json", "tokenizer.json", "pyproject.toml"
REMEDY = "write the app again with `flow deploy`"
MODULES = {"server_app.py": "server_app", "client_app.py": "client_app"}
SIMULATED = ("async_buffer", "clock", "compress", "dropout", "stragglers")
"""Options that stand for something which real devices do by themselves, or which Flower does not carry."""
_MODULE = '''"""Written by `flow deploy`."""

from pathlib import Path

from flow.deploy import {name}

app = {name}(Path(__file__).parent)
'''
_PROJECT = """\
# Written by `flow deploy`. The options under tool.flwr.app.config can be changed for one run by `flwr run --run-config`.
[project]
name = {name}
version = "1.0.0"
description = {about}
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "flow"

[tool.flwr.app.components]
serverapp = "server_app:app"
clientapp = "client_app:app"

[tool.flwr.app.config]
"""


class Application(NamedTuple):
    """An app as server and nodes read it."""

    config: Config[Any]
    algorithm: Algorithm[Any]
    vocabulary: Vocabulary
    classes: tuple[str, ...]
    sequence_length: int
    cutting: Cutting | None
    """How texts become windows; None where the data are numbers."""
    name: str
    """Of the data."""
    about: str
    fingerprint: str
    """Of these data, see :attr:`flow.data.Population.fingerprint`."""
    digest: str
    """SHA-256 of the configuration and the vocabulary."""


def allowed(config: Config[Any], deployment: Deployment) -> None:
    """Raise UserError for a configuration that cannot run on real devices.

    config: checked.
    """
    algorithm, server = algorithm_of(config.algorithm), config.server
    if not algorithm.averages:
        raise UserError(
            f"algorithm={algorithm.name!r} averages no uploads, and a deployment does nothing else with them; take one that "
            "does, such as flow or fedavg"
        )
    if code_of(algorithm) is not None or isinstance(config.model, TorchModel):
        what = "model" if isinstance(config.model, TorchModel) else f"algorithm={algorithm.name!r}"
        raise UserError(
            f"{what} is of a file of your own, which no app carries to the nodes; take the built-in model and an algorithm of "
            "flow or of an installed package"
        )
    for name in SIMULATED:
        if getattr(config, name):
            raise UserError(
                f"{name}={getattr(config, name)!r} is for simulations, and real devices are late, lost or slow by themselves; "
                "leave it out"
            )
    if config.privacy.on:
        raise UserError(
            f"{config.privacy.given} is for simulations: no node of this version clips its upload, and no server of it adds "
            "noise; leave it out"
        )
    if deployment.secagg and not algorithm.takes_the_mean:
        raise UserError(
            f"secagg=True shows the server the sum of the uploads alone, and {algorithm.name} does more with every single one; "
            "leave secagg out, or take another algorithm, such as flow or fedavg"
        )
    if deployment.secagg and aggregators.one_by_one(server):
        raise UserError(
            f"secagg=True shows the server the sum of the uploads alone, and aggregator={server.aggregator!r} compares single "
            "ones; leave either out"
        )


def write(folder: Path, config: Config[Any], deployment: Deployment) -> Application:
    """Write a new app folder; returns what it holds.

    Args:
        folder: does not exist yet.
        config: of the run. Its data give the vocabulary and say how texts are cut; no text goes into the folder.
        deployment: the options of the deployment.

    Raises:
        UserError: the configuration cannot run on real devices, the data cannot be read, or the folder cannot be made.
    """
    config = checked(replace(config, evaluate_every=0))
    allowed(config, deployment)
    folders.check_new(folder, "app")  # before anything is read: a large file takes a while
    population = load(config.data)
    try:
        cutting = cutting_of(population, config.data, given=False)
    except NoTexts:
        cutting = None
    vocabulary = {
        **asdict(population.vocabulary),
        "classes": population.classes,
        "sequence_length": population.sequence_length,
        "cutting": None if cutting is None else cutting.described(),
        "name": population.name,
        "about": population.about,
        "fingerprint": population.fingerprint,
    }
    algorithm = algorithm_of(config.algorithm)
    described = run_folder.describe(config, algorithm.name, population)
    project = _PROJECT.format(name=json.dumps(f"flow-{algorithm.name.replace('_', '-')}"), about=json.dumps(algorithm.about))
    options = "".join(f"{name} = {json.dumps(value)}\n" for name, value in asdict(deployment).items())
    with folders.new(folder, "app") as partial:
        files.write_json(partial / CONFIG, files.with_checksum(described))
        files.write_json(partial / VOCABULARY, files.with_checksum(json.loads(json.dumps(vocabulary))))
        if cutting is not None and cutting.tokenizer == FILE:
            files.write(partial / TOKENIZER, Path(str(config.data.tokenizer)).read_bytes())
        for name, function in MODULES.items():
            files.write(partial / name, _MODULE.format(name=function).encode())
        files.write(partial / PROJECT, (project + options).encode())
    return read(folder)


def read(folder: Path) -> Application:
    """An app from its folder.

    Raises:
        UserError: a file is missing, damaged or of another version of flow.
    """
    for name in (CONFIG, VOCABULARY):
        if not (folder / name).is_file():
            raise UserError(f"app={str(folder)!r} has no {name}; {REMEDY}")
    config = read_config(folder)
    content = files.read_json(folder / VOCABULARY, REMEDY)
    try:
        vocabulary = Vocabulary(tuple(content["tokens"]), content["unit"], content["oov_buckets"])
        classes, cutting = tuple(content["classes"]), None
        if content["cutting"] is not None:
            from_file = tokenizers.read(folder / TOKENIZER) if content["cutting"]["tokenizer"] == FILE else None
            cutting = Cutting(vocabulary, classes=classes, from_file=from_file, **content["cutting"])
        length, fingerprint = content["sequence_length"], content["fingerprint"]
        name, about = content["name"], content["about"]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{folder / VOCABULARY}: not what `flow deploy` of this version writes ({error!r}); {REMEDY}"
        ) from error
    digest = hashlib.sha256(b"".join((folder / file).read_bytes() for file in (CONFIG, VOCABULARY))).hexdigest()
    algorithm = algorithm_of(config.algorithm)
    return Application(config, algorithm, vocabulary, classes, length, cutting, name, about, fingerprint, digest)


def population_of(application: Application, clients: Sequence[Client]) -> Population:
    """Clients, sorted by their ids, as a population of this app."""
    return Population(
        application.name,
        clients,
        application.vocabulary,
        application.sequence_length,
        application.about,
        classes=application.classes,
    )
