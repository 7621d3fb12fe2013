"""Files written whole or not at all, each with the SHA-256 of its content; and the one line that a run says of them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from flow.errors import UserError
from flow.errors import say as say
from flow.model.parameters import Tensors

CHECKSUM = "sha256"
RUN = "run"
"""The key under which rows and results say of which run they are, see :func:`flow.storage.run_folder.identity`."""
WRONG_CHECKSUM = "its content does not have the SHA-256 stored with it"
UNFINISHED = re.compile(r"\..+\.(\d+)\.tmp")  # what write() was writing when its process ended; the number is the process's


class Damaged(UserError):
    """A file is missing or not what was written.

    reason: the file and what is wrong with it, without the remedy.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason


class Labels(NamedTuple):
    """To what the tensors of a file belong."""

    round: int
    run: str
    """The run's digest, see :func:`flow.storage.run_folder.digest`."""
    client: int | None = None
    """Whose state it is, by number; None for a checkpoint, and in files of older builds."""


def write_tensors(path: Path, tensors: Tensors, round: int, digest: str, client: int | None = None) -> None:
    """Write tensors whole or not at all, with what :func:`read_tensors` checks.

    client: whose state it is, by number; None for a checkpoint.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    labels = {"round": str(round), "run": digest} | ({} if client is None else {"client": str(client)})
    write(path, _ordered(to_bytes(tensors, {**labels, CHECKSUM: fingerprint(tensors, *labels.values())})))


def _ordered(content: bytes) -> bytes:
    """A safetensors file with its labels in the order of their names. The library writes them in a random order, by which the
    same tensors would not have the same bytes."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def read_tensors(path: Path, digest: str, remedy: Callable[[], str]) -> tuple[Tensors, Labels]:
    """Map the tensors of a file of the run with this digest into memory -> tensors, labels.

    Raises:
        Damaged: the file is missing, cut or changed; the message names it and ends with the remedy.
        UserError: it is of another run.
    """
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error, remedy()) from error
    stored = [metadata[name] for name in ("round", "run", "client") if name in metadata]
    if metadata.get(CHECKSUM) != fingerprint(tensors, *stored):
        raise Damaged(f"{path}: damaged, {WRONG_CHECKSUM}", remedy())
    labels = _labels(path, metadata, remedy())
    check_run(path, labels, digest)
    return tensors, labels


def read_labels(path: Path, remedy: str) -> Labels:
    """What a file of tensors says of itself; its content is not read.

    Raises:
        Damaged: the file is missing or cut, or says nothing of the kind.
    """
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            return _labels(path, file.metadata() or {}, remedy)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error, remedy) from error


def unlike(tensors: Tensors, expected: Tensors) -> str:
    """The first difference in names, shapes and dtypes from the tensors that are expected; empty where there is none."""
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            return f"it has no {name!r}"
        if name not in expected:
            return f"it has {name!r}, which is unknown"
        given, right = (
            f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}" for tensor in (tensors[name], expected[name])
        )
        if given != right:
            return f"its {name!r} is {given}, not {right}"
    return ""


def check_regular(path: Path) -> None:
    """Raise OSError for what is no file: opening a pipe would wait for ever."""
    if path.exists() and not path.is_file():
        raise OSError("it is a folder, a pipe or a device")


def check_run(path: Path, labels: Labels, digest: str) -> None:
    """Raise UserError unless a file belongs to the run with this digest."""
    if labels.run != digest:
        raise UserError(
            f"{path}: was made with another configuration or other data than the run has now; put back the config.json "
            "and the data that it was started with, or start a new run in another folder"
        )


def _labels(path: Path, metadata: Mapping[str, str], remedy: str) -> Labels:
    try:
        client = int(metadata["client"]) if "client" in metadata else None
        return Labels(int(metadata["round"]), metadata["run"], client)
    except (KeyError, ValueError) as error:
        raise Damaged(f"{path}: damaged, it does not say of which run and round it is", remedy) from error


def _unreadable(path: Path, error: Exception, remedy: str) -> Damaged:
    return Damaged(f"{path}: not a whole file of tensors ({error})", remedy)


def fingerprint(tensors: Tensors, *labels: str) -> str:
    """SHA-256 over the labels and every tensor's name, dtype, shape and bytes, in the order of the names."""
    sha = hashlib.sha256("\n".join(labels).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 over a JSON object without its own checksum, in the one form with sorted keys and no spaces."""
    rest = {name: value for name, value in content.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its checksum as its last key."""
    return {**content, CHECKSUM: checksum(content)}


def intact(content: Any) -> bool:
    """Whether what was read from JSON has the checksum that it carries; what carries none, as in older builds, passes."""
    return not has_checksum(content) or content[CHECKSUM] == checksum(content)


def has_checksum(content: Any) -> bool:
    """Whether what was read from JSON is an object that carries a checksum."""
    return isinstance(content, dict) and CHECKSUM in content


def read_json(path: Path, remedy: str) -> Any:
    """The content of a JSON file, its checksum included.

    Raises:
        UserError: the file is not JSON, or was changed after it was written; the message ends with the remedy.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        whole = intact(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); {remedy}") from error
    if not whole:
        raise UserError(f"{path}: damaged or changed, {WRONG_CHECKSUM}; {remedy}")
    return content


def say_unchecked(folder: Path, contents: Mapping[str, Iterable[Any]]) -> None:
    """Name the files in a folder whose objects do not all carry a checksum.

    contents: by file name, the objects that were read from it.
    """
    names = [name for name, objects in contents.items() if not all(map(has_checksum, objects))]
    if names:
        listed = " and ".join(", ".join(names).rsplit(", ", 1))
        have = "has no checksum" if len(names) == 1 else "have no checksums"
        say(f"{folder}: {listed} {have}, as in older builds, and cannot be checked for changes")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all; NaN is refused."""
    write(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: under another name, on the disk, and only then under its own."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in an OSError that names none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def unfinished(folder: Path) -> Iterator[Path]:
    """Files right in a folder that :func:`write` did not finish."""
    return (path for path in sorted(folder.glob(".*.tmp")) if UNFINISHED.fullmatch(path.name))


def remove_unfinished(*folders: Path) -> None:
    """Remove what processes that are gone did not finish writing; for a process that nobody else writes beside."""
    for folder in folders:
        for path in unfinished(folder):
            process = UNFINISHED.fullmatch(path.name)
            if process is not None and not is_alive(int(process[1])):
                path.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Whether another process of this machine has this number."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
