"""Kind 3: files that are whole, with a right checksum, and not this run's; and what is no such file in their place.

They are refused before anything in the folder is touched, or passed over with the numbers of an unbroken run.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import small
import torch
from apart import command, judged_refusal
from counts import Counts
from torch import Tensor

from flow.storage import files

Tensors = dict[str, Tensor]
Change = Callable[[Tensors], Tensors]
Put = Callable[[Path], object]
"""Puts a forgery into a folder."""
Make = Callable[[Path, Path], object]
"""(path, a file of the run) -> something that is no file of a run, at this path"""


def campaign(servers: tuple[str, ...] = ("average", "adam"), share: float = 1.0, seed: int = 0) -> Counts:
    """Put every forgery into a copy of a finished run, and go on with it.

    Args:
        servers: optimisers of the runs; of all but the first only what is particular to their checkpoints is forged.
        share: of all forgeries that are tried, drawn at random.
        seed: of that choice.
    """
    counts, draw = Counts("forged and foreign files"), random.Random(seed)
    with small.workplace() as place:
        small.warm()
        for server in servers:
            for memory in ("0", "64") if server == servers[0] else ("64",):
                name = f"{server}, client_memory {memory}"
                whole = place / "run"
                ended = command(
                    "run",
                    small.ALGORITHM,
                    "--data",
                    "mine.jsonl",
                    "--folder",
                    str(whole),
                    *small.RUN,
                    "--server",
                    server,
                    "--client-memory",
                    memory,
                )
                if ended.code:
                    raise AssertionError(ended.err)
                expected = small.numbers(whole)
                for what, put in _forgeries(whole, foreign=server == servers[0]):
                    if draw.random() >= share:
                        continue
                    folder = Path(shutil.copytree(whole, place / "forged", symlinks=True))
                    put(folder)
                    before = _listed(folder)
                    ended = command("run", "--resume", str(folder), seconds=10)
                    if ended.code == 0:
                        numbers = small.numbers(folder)
                        wrong = [key for key in expected if numbers[key] != expected[key]]
                        verdict = f"other {wrong}" if wrong else "accepted"
                    else:
                        verdict = judged_refusal(ended)
                        if verdict == "refused" and _listed(folder) != before:
                            verdict = "refused, but files were touched"
                    counts.add(verdict, f"{name}: {what}")
                    shutil.rmtree(folder)
                shutil.rmtree(whole)
    return counts


def _listed(folder: Path) -> dict[str, object]:
    """Kind and content of everything in a folder."""
    listed: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file" if path.is_file() else "other"
        listed[str(path.relative_to(folder))] = (kind, path.read_bytes() if kind == "file" else None)
    return listed


def _forgeries(whole: Path, foreign: bool) -> Iterator[tuple[str, Put]]:
    checkpoint = str(max((whole / "checkpoints").iterdir()).relative_to(whole))
    tensors, _ = _read(whole / checkpoint)
    for name, change in _changes(tensors, True):
        yield f"checkpoint: {name}", _rewriting(checkpoint, change)
    for client in sorted((whole / "clients").glob("*/*"))[-1:]:
        own = str(client.relative_to(whole))
        for name, change in _changes(_read(client)[0], False):
            yield f"client's state: {name}", _rewriting(own, change)
    if foreign:
        for round in (-1, 0, 10**30):
            yield f"checkpoint: its label says round {round}", _labelled(checkpoint, round=round)
        yield "checkpoint: a client's label", _labelled(checkpoint, client=1)
        for round in (4, 999_999, 10**12):
            yield (
                f"checkpoint of round {round}",
                _labelled(checkpoint, f"checkpoints/round_{round:06d}.safetensors", round=round),
            )
        yield "checkpoint: of another run", _labelled(checkpoint, run="0" * 64)
        yield from _foreign(checkpoint, [str(path.relative_to(whole)) for path in (whole / "clients").glob("*/*")][:1])


def _changes(tensors: Tensors, of_server: bool) -> Iterator[tuple[str, Change]]:
    """Ways in which tensors are not those of the run."""
    yield "nothing in it", lambda own: {}
    yield "an extra tensor", lambda own: own | {"extra": torch.zeros(2)}
    yield "an extra moment", lambda own: own | {"moments:m/extra": torch.zeros(2)}
    yield "an extra moment without a state", lambda own: own | {"moments:v/": torch.zeros(2, dtype=torch.float64)}
    yield "another algorithm's names", lambda own: {f"other/{name}": tensor for name, tensor in own.items()}
    yield "transposed and cut", lambda own: {name: tensor.reshape(-1)[:-1] for name, tensor in own.items()}
    for name, tensor in tensors.items():
        whole = not tensor.is_floating_point()
        for kind in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool):
            if kind != tensor.dtype:
                yield f"{name} as {kind}", _changed(name, partial(Tensor.to, dtype=kind))
        yield f"without {name}", _without(name)
        yield f"{name} without dimensions", _changed(name, lambda t: t.reshape(-1)[0].clone())
        yield f"{name} with a dimension more", _changed(name, lambda t: t[None])
        yield f"{name} empty", _changed(name, lambda t: t.reshape(-1)[:0])
        yield f"{name} longer", _changed(name, lambda t: torch.cat([t.reshape(-1)] * 2))
        if whole:
            for value in (-1, -(2**63), 2**63 - 1, 10**7, 4):
                yield f"{name} of {value}", _changed(name, partial(torch.full_like, fill_value=value))
            if tensor.dim() and len(tensor) > 1:
                yield f"{name} the other way round", _changed(name, lambda t: t.flip(0))
        elif of_server and not name.startswith(("moments:", "clients:")):  # what clients keep may have diverged
            for special in (float("nan"), float("inf")):
                yield f"{name} of {special}", _changed(name, partial(torch.full_like, fill_value=special))


def _changed(name: str, change: Callable[[Tensor], Tensor]) -> Change:
    """The tensors with another of this name."""
    return lambda own: own | {name: change(own[name])}


def _without(name: str) -> Change:
    """The tensors without that of this name."""
    return lambda own: {other: tensor for other, tensor in own.items() if other != name}


def _read(path: Path) -> tuple[Tensors, files.Labels]:
    labels = files.read_labels(path, "")
    tensors, labels = files.read_tensors(path, labels.run, str)
    return {name: tensor.clone() for name, tensor in tensors.items()}, labels


def _rewriting(name: str, change: Change) -> Put:
    """Writes a file of tensors anew, with a right checksum."""

    def put(folder: Path) -> None:
        tensors, labels = _read(folder / name)
        files.write_tensors(folder / name, change(tensors), labels.round, labels.run, labels.client)

    return put


def _labelled(name: str, place: str | None = None, **labels: Any) -> Put:
    """Writes a file of tensors with other labels, and perhaps under another name."""

    def put(folder: Path) -> None:
        tensors, own = _read(folder / name)
        own = own._replace(**labels)
        files.write_tensors(folder / (place or name), tensors, own.round, own.run, own.client)

    return put


def _foreign(checkpoint: str, clients: list[str]) -> Iterator[tuple[str, Put]]:
    """Things that are no files of a run, beside or in the place of its own."""
    for own in (checkpoint, *clients):
        place = Path(own)
        names = [
            "copy.safetensors",
            f"{place.stem} (copy).safetensors",
            f"{place.name}.bak",
            "\u0661.safetensors",
            "a\nb",
            "x" * 255,
        ]
        names += [
            "round_-00001.safetensors",
            "round_٣.safetensors",
            "round_" + "9" * 200 + ".safetensors",
            f"{place.stem}.SAFETENSORS",
        ]
        names += ["0000001--00001.safetensors", "9" * 100 + "-000001.safetensors", "-1-1.safetensors"]
        for name in names:
            yield f"a copy of {own} named {name[:40]!r}", _copying(own, name)
        for kind, make in MADE.items():
            yield f"{kind} beside {own}", _making(make, str(place.with_name("foreign")), own)
            yield f"{kind} in the place of {own}", _replacing(make, own, own)
    for folder in ["checkpoints", *(["clients"] if clients else [])]:
        for kind, make in MADE.items():
            yield f"{kind} in {folder}", _making(make, f"{folder}/foreign", checkpoint)
            yield f"{kind} in the place of {folder}", _replacing(make, folder, checkpoint)


def _copying(own: str, name: str) -> Put:
    """Copies a file to another name beside it."""
    return lambda folder: shutil.copy(folder / own, (folder / own).with_name(name))


def _making(make: Make, path: str, own: str) -> Put:
    """Makes something where nothing is."""
    return lambda folder: make(folder / path, folder / own)


def _replacing(make: Make, path: str, own: str) -> Put:
    """Makes something in the place of what is there."""
    return lambda folder: make(_freed(folder / path), folder / own)


MADE: dict[str, Make] = {
    "a folder": lambda path, own: path.mkdir(),
    "a pipe": lambda path, own: os.mkfifo(path),
    "a link to itself": lambda path, own: path.symlink_to(path.name),
    "a link to nothing": lambda path, own: path.symlink_to("nothing"),
    "a link to a device": lambda path, own: path.symlink_to("/dev/zero"),
    "an empty file": lambda path, own: path.touch(),
}


def _freed(path: Path) -> Path:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return path
