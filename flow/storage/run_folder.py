"""The run folder: configuration, metrics and checkpoints, each written whole or not at all and checked when read.

A checkpoint is the state of one round in one safetensors file: the server's under its own names, the moments of its optimiser
under "moments:", what clients keep under "clients:" (see flow/storage/client_states.py).
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flow.errors import UserError
from flow.model.parameters import Tensors
from flow.storage.files import read_tensors, write, write_json, write_tensors

if TYPE_CHECKING:
    from flow.data import Population

KEEP = 2
BESIDE = ("versions", "population", "digested")
"""Keys of config.json beside the options: versions of libraries; the SHA-256 of the data, which older builds lack; in a
folder of an older build, the options that its files are tied to though they were changed."""


def save(folder: Path, state: Tensors, round: int, digest: str) -> Path:
    """Write ``round_000012.safetensors`` and remove all but the last two; digest is the run's, see :func:`digest`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"round_{round:06d}.safetensors"
    write_tensors(path, state, round, digest)
    for old in stored(folder)[:-KEEP]:
        old.unlink()
    return path


def stored(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(folder.glob("round_*.safetensors"))


def rounds(folder: Path) -> list[int]:
    """After which rounds they were made."""
    return [int(path.stem.removeprefix("round_")) for path in stored(folder)]


def load(path: Path, digest: str, device: torch.device | str = "cpu") -> tuple[Tensors, int]:
    """Read a checkpoint of the run with this digest -> state, round.

    Raises:
        UserError: the file is cut, changed or of another run; the message names it and what to do.
    """
    tensors, round = read_tensors(path, digest, lambda: _remedy(path))
    return {name: tensor.to(device, copy=True) for name, tensor in tensors.items()}, round


def describe(config: Any, algorithm: str, population: Population) -> dict[str, Any]:
    """The content of config.json: a configuration as nested dictionaries, the algorithm's name, and :data:`BESIDE`."""
    content = asdict(config)
    content["algorithm"] = {"name": algorithm, **content["algorithm"]}
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    return {**content, "versions": versions, "population": digest({}, population)}


def options(described: dict[str, Any]) -> dict[str, Any]:
    """The options among the content of config.json."""
    return {name: value for name, value in described.items() if name not in BESIDE}


def digest(described: dict[str, Any], population: Population) -> str:
    """SHA-256 of a configuration together with the data, which ties the files of a run to both.

    It leaves out the number of rounds and where the data lie, which may change. A folder of an older build, whose config.json
    does not name its population, has both in its digest: as they are, or as they were when they were changed.
    """
    content = options(described) | described.get("digested", {})
    if "population" in described:
        content |= {"rounds": None, "data": content["data"] | {"data": None}}
    return hashlib.sha256(
        json.dumps([content, population.vocabulary.tokens, population.fingerprint], sort_keys=True).encode()
    ).hexdigest()


def new_folder(folder: Path | str) -> Path:
    """The path of a folder that a run may create.

    Raises:
        UserError: it has no name, or is there already.
    """
    if not str(folder).strip():
        raise UserError(f"folder={str(folder)!r} is empty; give the name of a folder that does not exist yet, or leave it out")
    folder = Path(folder)
    try:
        there, run = folder.exists(), (folder / "config.json").is_file()
    except OSError as error:  # a name too long, or a parent that may not be looked into
        raise _not_created(folder, error) from error
    if there:
        then = f"continue that run with `flow run --resume {folder}`, or give" if run else "give"
        raise UserError(f"folder={str(folder)!r} exists already and is left as it is; {then} another folder")
    return folder


def create(folder: Path, described: dict[str, Any]) -> None:
    """Start a run folder with its config.json and an empty metrics.jsonl, or leave nothing.

    Raises:
        UserError: the folder cannot be created or written to.
    """
    made: list[Path] = []
    try:
        for path in (*reversed(folder.parents), folder):
            if path == folder or not path.exists():
                path.mkdir(exist_ok=path != folder)  # a parent may have come from another run that starts now
                made.append(path)
        write_json(folder / "config.json", described)
        (folder / "metrics.jsonl").touch()
    except OSError as error:
        if folder in made:
            (folder / "config.json").unlink(missing_ok=True)
        for path in reversed(made):
            if not any(path.iterdir()):
                path.rmdir()
        raise _not_created(folder, error) from error


def _not_created(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"folder={str(folder)!r} cannot be created ({error}); give a folder whose parent is a folder that you may write to"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json.

    Raises:
        UserError: there is no such file, or it is not JSON.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: not the folder of a run, there is no config.json; give the folder that a run printed")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); put back the file that the run was started with") from error
    return content


def append_metrics(folder: Path, row: dict[str, Any]) -> None:
    """Add a round to metrics.jsonl."""
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def cut_metrics(folder: Path, rounds: int, write_back: bool = True) -> list[dict[str, Any]]:
    """Cut metrics.jsonl back to the first rounds and return them; what came after the checkpoint will be done again.

    write_back: False leaves the file as it is.

    Raises:
        UserError: those rounds are not all there.
    """
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()[:rounds] if path.is_file() else []
    try:
        rows = [json.loads(line) for line in lines]
        whole = [row["round"] for row in rows] == list(range(1, rounds + 1))
    except (ValueError, RecursionError, KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(
            f"{path}: does not hold rounds 1 to {rounds}, which the checkpoint has behind it; put back the file, or "
            "start a new run in another folder"
        )
    if write_back:
        write(path, "".join(line + "\n" for line in lines).encode())
    return rows


def _remedy(path: Path) -> str:
    earlier = [other.name for other in stored(path.parent) if other < path]
    then = f"goes on after {earlier[-1]}" if earlier else "starts again at round 1"
    return f"delete it, and `flow run --resume {path.parents[1]}` {then}"
