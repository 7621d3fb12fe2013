"""The run folder: configuration, metrics and checkpoints, each written whole or not at all and checked when read.

A checkpoint is the state of one round in one safetensors file. The server's tensors have their own names, the moments of its
optimiser begin with "moments:", and the states of clients with "clients:" (see flow/storage/client_states.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flow.errors import UserError
from flow.model.parameters import Tensors
from flow.storage import files, lock, metrics, user_files

if TYPE_CHECKING:
    from flow.data import Population

KEEP = 2
BESIDE = ("versions", "population", "devices", "noise", "code", "digested", files.CHECKSUM)
"""Keys of config.json beside the options. They are the versions of libraries, the SHA-256 of the data, which older builds lack,
the noise of a private run, the user's files that take part (flow/storage/user_files.py), and the file's checksum. A folder of
an older build also has the options that its files are tied to though they were changed."""
DIVERGED = "diverged.json"
"""Why a run whose training diverged has no result: {"reason": TEXT}. It goes where the run goes on."""
CHECKPOINT = re.compile(r"round_(\d+)\.safetensors")


def save(folder: Path, state: Tensors, round: int, digest: str) -> Path:
    """Write ``round_000012.safetensors`` and remove all but the last two; digest is the run's, see :func:`digest`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = _checkpoint(folder, round)
    files.write_tensors(path, state, round, digest)
    for old in stored(folder)[:-KEEP]:
        old.unlink()
    return path


def stored(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    named = (path for path in folder.glob("round_*.safetensors") if CHECKPOINT.fullmatch(path.name))
    return sorted((path for path in named if path == _checkpoint(folder, round_of(path))), key=round_of)


def _checkpoint(folder: Path, round: int) -> Path:
    return folder / f"round_{round:06d}.safetensors"


def rounds(folder: Path) -> list[int]:
    """After which rounds they were made."""
    return [round_of(path) for path in stored(folder)]


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint to ``round_000012.safetensors.damaged``, which nothing reads; returns that path."""
    return path.replace(path.with_name(f"{path.name}.damaged"))


def remove_later(folder: Path, round: int) -> None:
    """Remove the checkpoints that were made after a later round than this one."""
    for path in stored(folder):
        if round_of(path) > round:
            path.unlink()


def round_of(path: Path) -> int:
    """After which round a checkpoint was made, by its name."""
    return int(path.stem.removeprefix("round_"))


def load(path: Path, digest: str, device: torch.device | str = "cpu") -> tuple[Tensors, int]:
    """Read a checkpoint of the run with this digest -> state, round.

    Raises:
        Damaged: the file is missing, cut, changed or of another round; the message names it and what to do.
        UserError: it is of another run.
    """
    folder = path.parent
    remedy = f"put it back from a copy, or remove {folder}, and `flow run --resume {folder.parent}` starts again at round 1"
    tensors, labels = files.read_tensors(path, digest, lambda: remedy)
    if labels.round != round_of(path) or labels.client is not None:
        raise files.Damaged(f"{path}: not the checkpoint of round {round_of(path)}, as its name says", remedy)
    return {name: tensor.to(device, copy=True) for name, tensor in tensors.items()}, labels.round


def describe(
    config: Any, algorithm: str, population: Population, code: Mapping[user_files.Key, user_files.Source | None] | None = None
) -> dict[str, Any]:
    """The content of config.json: a configuration as nested dictionaries, the algorithm's name, and :data:`BESIDE`.

    Args:
        code: by part of the configuration, the user's file that it is from, see flow/storage/user_files.py; None where there is
            none.
    """
    content = asdict(replace(config, model=None))
    content["model"] = config.model.described()
    content["algorithm"] = {"name": algorithm, **content["algorithm"]}
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    own = user_files.described(code or {})
    return {**content, "versions": versions, "population": digest({}, population), **({"code": own} if own else {})}


def options(described: dict[str, Any]) -> dict[str, Any]:
    """The options among the content of config.json."""
    return {name: value for name, value in described.items() if name not in BESIDE}


def _lasting(described: dict[str, Any]) -> dict[str, Any]:
    """The options among the content of config.json, without the number of rounds and where the data lie."""
    content = options(described)
    return content | {"rounds": None, "data": content["data"] | {"data": None}}


def digest(described: dict[str, Any], population: Population) -> str:
    """SHA-256 of a configuration together with the data, which ties the files of a run to both.

    It leaves out the number of rounds and where the data lie, which may change. A folder of an older build, whose config.json
    does not name its population, has both in its digest: as they are, or as they were when they were changed.
    """
    content = described | described.get("digested", {})
    content = _lasting(content) if "population" in described else options(content)
    return hashlib.sha256(
        json.dumps([content, population.vocabulary.tokens, population.fingerprint], sort_keys=True).encode()
    ).hexdigest()


def identity(described: dict[str, Any]) -> str | None:
    """SHA-256 of the content of config.json, by which rows and results say of which run they are.

    It leaves out what :func:`digest` leaves out. None for a run of an older build, whose config.json does not name its
    population: its rows and results say nothing.
    """
    if "population" not in described:
        return None
    content = _lasting(described) | {"population": described["population"]}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def new_folder(folder: Path | str) -> Path:
    """The path of a folder that a run may create, or that a process left which was killed before it wrote anything.

    Raises:
        UserError: it has no name, is there already, or is in use by another process.
    """
    if not str(folder).strip():
        raise UserError(f"folder={str(folder)!r} is empty; give the name of a folder that does not exist yet, or leave it out")
    folder = Path(folder)
    try:
        usable = not folder.exists() or lock.abandoned(folder)
    except OSError as error:  # a name too long, or a parent that may not be looked into
        raise _not_created(folder, error) from error
    if not usable:
        raise _exists(folder)
    return folder


@contextmanager
def started(folder: Path | str) -> Iterator[Path]:
    """Make the folder of a new run and hold its lock; where nothing is written to it, it is removed in the end.

    Raises:
        UserError: as :func:`new_folder`; the folder cannot be made.
    """
    folder = new_folder(folder)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock.made(folder))
        except FileExistsError as error:
            raise _exists(folder) from error
        except OSError as error:
            raise _not_created(folder, error) from error
        yield folder


@contextmanager
def reopened(folder: Path) -> Iterator[None]:
    """Hold the lock of a run that goes on, and remove what its last process did not finish writing.

    Raises:
        UserError: there is no run in the folder, another process has the lock, or something else has the name of one of its
            folders.
    """
    _config_path(folder)
    for path in (folder / "checkpoints", folder / "clients", folder / "residuals"):
        if os.path.lexists(path) and not path.is_dir():
            raise UserError(f"{path}: not a folder; move it away, and put the run's own back from a copy if it had one")
    with lock.held(folder) as alone:
        if alone:
            kept = [path for name in ("clients", "residuals") for path in (folder / name).glob("*/")]
            files.remove_unfinished(folder, folder / "checkpoints", *kept)
        (folder / DIVERGED).unlink(missing_ok=True)
        yield


def create(folder: Path, described: dict[str, Any]) -> None:
    """Write config.json and an empty metrics.jsonl into the folder of a new run, or neither.

    Raises:
        UserError: the folder cannot be written to.
    """
    try:
        files.write_json(folder / "config.json", files.with_checksum(described))
        (folder / metrics.NAME).touch()
    except OSError as error:
        (folder / "config.json").unlink(missing_ok=True)
        raise _not_created(folder, error) from error


def _exists(folder: Path) -> UserError:
    run = (folder / "config.json").is_file()
    then = f"continue that run with `flow run --resume {folder}`, or give" if run else "give"
    return UserError(f"folder={str(folder)!r} exists already and is left as it is; {then} another folder")


def _not_created(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"folder={str(folder)!r} cannot be created ({error}); give a folder whose parent is a folder that you may write to"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json, without its checksum.

    Raises:
        UserError: there is no such file, it is not JSON, or it was changed.
    """
    content: dict[str, Any] = files.read_json(_config_path(folder), "put back the file that the run was started with")
    if files.has_checksum(content):
        del content[files.CHECKSUM]
    return content


def append_metrics(folder: Path, row: dict[str, Any]) -> None:
    """Add a round to metrics.jsonl; the row is on the disk for certain after :func:`sync_metrics`."""
    path = folder / metrics.NAME
    with files.naming(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(files.with_checksum(row), allow_nan=False) + "\n")


def sync_metrics(folder: Path) -> None:
    """Have all rows of metrics.jsonl on the disk, before a checkpoint that counts on them."""
    path = folder / metrics.NAME
    with files.naming(path), path.open("ab") as file:
        os.fsync(file.fileno())


def say_unchecked(folder: Path, known: metrics.Metrics) -> None:
    """Name those of config.json and metrics.jsonl that were written without checksums."""
    config = json.loads(_config_path(folder).read_text(encoding="utf-8"))
    files.say_unchecked(folder, {"config.json": [config], metrics.NAME: known.rows})


def _config_path(folder: Path) -> Path:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: not the folder of a run, there is no config.json; give the folder that a run printed")
    return path
