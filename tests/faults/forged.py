"""Kind 3: files that are whole, with a right checksum, and not this run's; and what is no such file in their place.

They are refused before anything in the folder is touched, or passed over with the numbers of an unbroken run.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import small
import torch
from apart import command, judged_refusal
from counts import Counts

from flow.storage import files

Tensors = dict[str, torch.Tensor]
Change = Callable[[Tensors], Tensors]


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
                        found = small.numbers(folder)
                        wrong = [key for key in expected if found[key] != expected[key]]
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
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file" if path.is_file() else "other"
        found[str(path.relative_to(folder))] = (kind, path.read_bytes() if kind == "file" else None)
    return found


def _forgeries(whole: Path, foreign: bool) -> Iterator[tuple[str, Callable[[Path], object]]]:
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
                yield f"{name} as {kind}", lambda own, name=name, kind=kind: own | {name: own[name].to(kind)}
        yield f"without {name}", lambda own, name=name: {other: tensor for other, tensor in own.items() if other != name}
        yield f"{name} without dimensions", lambda own, name=name: own | {name: own[name].reshape(-1)[0].clone()}
        yield f"{name} with a dimension more", lambda own, name=name: own | {name: own[name][None]}
        yield f"{name} empty", lambda own, name=name: own | {name: own[name].reshape(-1)[:0]}
        yield f"{name} longer", lambda own, name=name: own | {name: torch.cat([own[name].reshape(-1)] * 2)}
        if whole:
            for value in (-1, -(2**63), 2**63 - 1, 10**7, 4):
                yield f"{name} of {value}", lambda own, name=name, v=value: own | {name: torch.full_like(own[name], v)}
            if tensor.dim() and len(tensor) > 1:
                yield f"{name} the other way round", lambda own, name=name: own | {name: own[name].flip(0)}
        elif of_server and not name.startswith(("moments:", "clients:")):  # what clients keep may have diverged
            for value in (float("nan"), float("inf")):
                yield f"{name} of {value}", lambda own, name=name, v=value: own | {name: torch.full_like(own[name], v)}


def _read(path: Path) -> tuple[Tensors, files.Labels]:
    labels = files.read_labels(path, "")
    tensors, labels = files.read_tensors(path, labels.run, str)
    return {name: tensor.clone() for name, tensor in tensors.items()}, labels


def _rewriting(name: str, change: Change) -> Callable[[Path], object]:
    """Writes a file of tensors anew, with a right checksum."""

    def put(folder: Path) -> None:
        tensors, labels = _read(folder / name)
        files.write_tensors(folder / name, change(tensors), labels.round, labels.run, labels.client)

    return put


def _labelled(name: str, place: str | None = None, **labels: object) -> Callable[[Path], object]:
    """Writes a file of tensors with other labels, and perhaps under another name."""

    def put(folder: Path) -> None:
        tensors, own = _read(folder / name)
        own = own._replace(**labels)
        files.write_tensors(folder / (place or name), tensors, own.round, own.run, own.client)

    return put


def _foreign(checkpoint: str, clients: list[str]) -> Iterator[tuple[str, Callable[[Path], object]]]:
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
            yield (
                f"a copy of {own} named {name[:40]!r}",
                lambda folder, own=own, name=name: shutil.copy(folder / own, (folder / own).with_name(name)),
            )
        for kind, make in MADE.items():
            yield (
                f"{kind} beside {own}",
                lambda folder, own=own, make=make: make((folder / own).with_name("foreign"), folder / own),
            )
            yield f"{kind} in the place of {own}", lambda folder, own=own, make=make: make(_freed(folder / own), folder / own)
    for folder in ["checkpoints", *(["clients"] if clients else [])]:
        for kind, make in MADE.items():
            yield (
                f"{kind} in {folder}",
                lambda place, folder=folder, make=make: make(place / folder / "foreign", place / checkpoint),
            )
            yield (
                f"{kind} in the place of {folder}",
                lambda place, folder=folder, make=make: make(_freed(place / folder), place / checkpoint),
            )


MADE: dict[str, Callable[[Path, Path], object]] = {
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
