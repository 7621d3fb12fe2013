"""JSON files of a run, which carry a checksum over the rest of their content: read without it, and changed with a right one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flow.storage import files


def plain(text: str) -> dict[str, Any]:
    """The content of a JSON text, without its checksum and the run that it says it is of."""
    content = json.loads(text)
    assert files.has_checksum(content) and files.intact(content)
    return {name: value for name, value in content.items() if name not in (files.CHECKSUM, files.RUN)}


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, likewise."""
    return [plain(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def rewrite(path: Path, content: Mapping[str, Any]) -> None:
    """Write other content into a JSON file, as a build would that has it so from the start."""
    path.write_text(json.dumps(files.with_checksum(content)), encoding="utf-8")


def unlabelled(folder: Path) -> None:
    """Write rows and results of a run anew, without a word on the run that they are of."""
    lines = [json.dumps(files.with_checksum(row)) for row in rows(folder)]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, ""]), encoding="utf-8")
    for path in (folder / "evaluation.json", folder / "run.json"):
        rewrite(path, plain(path.read_text(encoding="utf-8")))
