"""A small run and a small comparison from the command line, what must be the same after any trouble, and their folders."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import checksums
from apart import Ended, command
from comparisons import results, tree, write_plainly

from flow.storage import run_folder

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "every", "child", "sleeps")
TINY = [
    "--embedding-dim", "3", "--hidden-size", "4", "--cohort", "3", "--min-texts", "5", "--threads", "1", "--batch-size", "4",
    "--sequence-length", "6", "--validation-share", "0", "--evaluate-clients", "2", "--checkpoint-every", "1", "--epochs", "1",
]  # fmt: skip
RUN = [*TINY, "--rounds", "3", "--evaluate-every", "2", "--client-memory", "0"]
"""What clients keep is on disk, and every round ends with a checkpoint."""
COMPARISON = [*TINY, "--rounds", "1", "--evaluate-every", "1"]
COMPARED = ["fedavg", "ditto"]
ALGORITHM = "ditto"


def data(folder: Path) -> Path:
    """A file of 8 clients, 2 of them held out."""
    path, lines = folder / "mine.jsonl", []
    for n in range(8):
        texts = [" ".join(WORDS[(n + i + j * (n + 1)) % len(WORDS)] for j in range(6 + i % 3)) for i in range(5 + n)]
        lines.append({"id": f"c{n}", "split": "heldout" if n > 5 else "train", "group": "g", "texts": texts})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@contextmanager
def workplace() -> Iterator[Path]:
    """A working directory of its own with the data, whose prepared form lies in it too."""
    before, cache = os.getcwd(), os.environ.get("FLOW_CACHE")
    with TemporaryDirectory() as name:
        folder = Path(name).resolve()
        data(folder)
        os.environ["FLOW_CACHE"] = str(folder / "cache")
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)
            if cache is None:
                del os.environ["FLOW_CACHE"]
            else:
                os.environ["FLOW_CACHE"] = cache


def warm() -> None:
    """Import all that a command needs, so that children do not each do it; leave pictures out, which are slow."""
    import codecs

    import torch

    import flow.cli.main
    import flow.comparison.page
    import flow.reports.run_page  # noqa: F401

    codecs.lookup("unicode-escape")  # templates need it, and a child that gave up its rights may not read the library
    torch.set_num_threads(1)
    write_plainly(setattr)


def start(folder: Path, **limits: Any) -> Ended:
    """The run, or what goes on of it."""
    return command("run", ALGORITHM, "--data", "mine.jsonl", "--folder", str(folder), *RUN, **limits)


def go_on(folder: Path, **limits: Any) -> Ended:
    """Its continuation; where it left nothing but an empty place, its start."""
    if (folder / "config.json").exists() or not folder.exists():
        return command("run", "--resume", str(folder), **limits) if folder.exists() else start(folder, **limits)
    return start(folder, **limits)


def compare(folder: Path, **limits: Any) -> Ended:
    """The comparison, or its continuation, which is the same command."""
    return command("compare", *COMPARED, "--data", "mine.jsonl", "--folder", str(folder), *COMPARISON, **limits)


def numbers(folder: Path) -> dict[str, Any]:
    """What must be the same to the bit in a finished run, whatever happened on the way; the clock's readings are left out."""
    rows = [{key: value for key, value in row.items() if "second" not in key} for row in checksums.rows(folder)]
    newest = {path.name.split("-")[0]: path for path in sorted((folder / "clients").glob("*/*.safetensors"))}
    last = [run_folder.stored(folder / "checkpoints")[-1], *newest.values()]
    return {
        "rows": rows,
        "evaluation": checksums.plain((folder / "evaluation.json").read_text(encoding="utf-8")),
        "config": checksums.plain((folder / "config.json").read_text(encoding="utf-8")),
        "last": {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in last},
        "run": sorted(checksums.plain((folder / "run.json").read_text(encoding="utf-8"))),
        "report": (folder / "report.html").is_file(),
    }


def compared_numbers(folder: Path) -> dict[str, Any]:
    """Likewise of a finished comparison."""
    kept: dict[str, Any] = {}
    for path in sorted((folder / "kept").glob("*")):
        if path.suffix == ".csv":
            kept[path.name] = path.read_text(encoding="utf-8")
        else:
            about = checksums.plain(path.read_text(encoding="utf-8"))
            kept[path.name] = about | {"totals": about["totals"] | {"seconds": None}}
    page = (folder / "comparison.html").is_file() and (folder / "table.txt").is_file() and (folder / "table.csv").is_file()
    return {"kept": kept, "results": results(folder), "page": page}


def contents(folder: Path) -> dict[str, str]:
    """The content of every file below a folder, for what must not have changed."""
    return {name: sha for name, sha in tree(folder).items() if sha != "folder"}
