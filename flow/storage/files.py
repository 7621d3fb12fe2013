"""Files written whole or not at all; tensors with what proves that they are whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from flow.errors import UserError
from flow.model.parameters import Tensors


def write_tensors(path: Path, tensors: Tensors, round: int, digest: str) -> None:
    """Write tensors whole or not at all, with what :func:`read_tensors` checks."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"round": str(round), "run": digest, "sha256": fingerprint(tensors, str(round), digest)}
    write(path, to_bytes(tensors, metadata))


def read_tensors(path: Path, digest: str, remedy: Callable[[], str]) -> tuple[Tensors, int]:
    """Map the tensors of a file of the run with this digest into memory -> tensors, round.

    Raises:
        UserError: the file is cut, changed or of another run; the message names it and ends with the remedy.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole file of tensors ({error}); {remedy()}") from error
    round, run = metadata.get("round", ""), metadata.get("run", "")
    if metadata.get("sha256") != fingerprint(tensors, round, run):
        raise UserError(f"{path}: damaged, its content does not have the SHA-256 stored with it; {remedy()}")
    if run != digest:
        raise UserError(
            f"{path}: was made with another configuration or other data than the run has now; put back the config.json "
            "and the data that it was started with, or start a new run in another folder"
        )
    return tensors, int(round)


def fingerprint(tensors: Tensors, *labels: str) -> str:
    """SHA-256 over the labels and every tensor's name, dtype, shape and bytes, in the order of the names."""
    sha = hashlib.sha256("\n".join(labels).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all; NaN is refused."""
    write(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: under another name, on the disk, and only then under its own."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
