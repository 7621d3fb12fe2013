"""A run that goes on: with its configuration, or with more rounds, or with its data in another place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flow.algorithms import algorithm_of, code_of
from flow.config import Config, checked, code_of_model, files_again, read_config
from flow.data import Population, is_file, located
from flow.engine import private
from flow.engine.task import Task, prepare
from flow.errors import UserError
from flow.storage import files, run_folder, user_files

RESULTS = ("evaluation.json", "run.json", "report.html")


def reopened(
    folder: Path,
    data: str | None,
    rounds: int | None,
    population: Population | None,
    progress: bool,
    changed_file: bool = False,
    metrics: Mapping[str, user_files.Source | None] | None = None,
) -> tuple[Task, dict[str, Any]]:
    """The task of a run that goes on, and the content that its config.json must have from now on; nothing is written.

    Args:
        data: where the run's file lies now; None: where it was.
        rounds: of the run from now on; None: as many as before.
        population: clients to train on instead of loading the run's data.
        progress: whether to draw a bar on stderr while data are being prepared.
        changed_file: whether the users' files that take part may be others than before.
        metrics: by name, the files of the metrics in this process that are not of flow itself.

    Raises:
        UserError: the folder holds no run, an argument is wrong, the data are gone or others, or a user's file is
            another one or was not named.
    """
    config, content = read_config(folder), run_folder.read_config(folder)
    content = _same_code(folder, content, config, changed_file, metrics or {})
    if data is not None:
        if population is not None:
            raise UserError(f"data={data!r} does nothing beside population, which takes its place; leave either out")
        config, content = _moved(config, content, data)
    if rounds is not None:
        config, content = checked(replace(config, rounds=rounds)), _changed(content, "rounds", rounds)
    _check_rounds(folder, config.rounds)
    if population is None and is_file(config.data.data) and not os.path.exists(config.data.data):
        raise UserError(
            f"data={config.data.data!r}: there is no such file, which the run in {folder} was started with; put it back, or "
            f"say where it is now with `flow run --resume {folder} --data FILE`"
        )
    task = prepare(private.as_recorded(config, content, folder), population, progress)
    task = task._replace(config=replace(task.config, privacy=config.privacy))
    if data is not None or not run_folder.stored(folder / "checkpoints"):  # else the checkpoint tells, in older folders too
        _check_population(folder, content, task.population, "population" if population else f"data={config.data.data!r}")
    if task.devices is not None and content.get("devices") != task.devices.digest():
        raise UserError(
            f"clock={config.clock!r} gives clients other devices than when the run in {folder} was started; put back the file "
            "as it was, or start a new run in another folder"
        )
    return task, content


def record(folder: Path, content: dict[str, Any]) -> None:
    """Write config.json anew where its content changed; the results of a run with other rounds go before that.

    A crash in between leaves a run without results, which writes them when it goes on.
    """
    before = run_folder.read_config(folder)
    if content == before:
        return
    if content.get("rounds") != before.get("rounds"):
        for name in RESULTS:
            (folder / name).unlink(missing_ok=True)
    files.write_json(folder / "config.json", files.with_checksum(content))


def _same_code(
    folder: Path,
    content: dict[str, Any],
    config: Config[Any],
    changed_file: bool,
    metrics: Mapping[str, user_files.Source | None],
) -> dict[str, Any]:
    """The content of config.json with the users' files as they are now."""
    recorded = user_files.recorded(content, user_files.METRIC)
    algorithm = algorithm_of(config.algorithm)
    words = {user_files.ALGORITHM: f"algorithm {algorithm.name!r}", user_files.MODEL: "model"}
    words |= {key: f"metric {key[1]!r}" for key in recorded if key[0] == user_files.METRIC}
    sources = {user_files.ALGORITHM: code_of(algorithm), user_files.MODEL: code_of_model(config.model)}
    sources |= {(user_files.METRIC, name): source for name, source in metrics.items()}
    known = {key: entry for key, entry in recorded.items() if key in words}
    unknown = [f"{words[key]} is of the file {entry['file']}" for key, entry in known.items() if key not in sources]
    if unknown:
        raise UserError(
            f"{folder / 'config.json'}: the run's {' and its '.join(unknown)}, and a folder never runs code by itself; name "
            f"every file again (`flow run --resume {folder}{files_again(content)}`), or in Python call "
            "flow.register_metric before"
        )
    renewed = user_files.renewed(known, sources, changed_file, lambda key: f"{folder}: the file of the {words[key]}")
    return content | {"code": content["code"] | renewed} if renewed else content


def _moved(config: Config[Any], content: dict[str, Any], data: str) -> tuple[Config[Any], dict[str, Any]]:
    config = checked(replace(config, data=replace(config.data, data=data)))
    return config, _changed(content, "data", {**content["data"], "data": located(data)})


def _check_rounds(folder: Path, rounds: int) -> None:
    done = max(run_folder.rounds(folder / "checkpoints"), default=0)
    if rounds < done:
        raise UserError(
            f"rounds={rounds} is fewer than the {done} that the run in {folder} has done; give {done} or more, or start a new "
            "run in another folder"
        )


def _changed(content: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The content of config.json with another value; what an older build tied its files to is kept beside it."""
    if value == content.get(name):
        return content
    changed = {**content, name: value}
    if "population" not in content:
        changed["digested"] = {name: content.get(name), **content.get("digested", {})}
    return changed


def _check_population(folder: Path, content: dict[str, Any], population: Population, name: str) -> None:
    now = run_folder.digest({}, population)
    if content.get("population", now) != now:
        raise UserError(
            f"{name} holds other clients, texts or words than the run in {folder} was started with; give those, or start a new "
            "run in another folder"
        )
