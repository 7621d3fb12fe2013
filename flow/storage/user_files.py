"""The users' files that take part in a run or a comparison, as config.json and comparison.json record them under "code".

Every file is an object: its name under "file", its "sha256", and under "before" the SHA-256 of files in whose place it came. In
config.json they go by the part of the configuration that is from them, in comparison.json by the names of the algorithms. Those
of metrics are one object more, in which they go by the names of the metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flow.errors import UserError

Json = dict[str, Any]
Source = tuple[str, str]
"""A file's name without folders, and its SHA-256, see :func:`flow.user_code.source_of`."""
Key = tuple[str, ...]
"""Whose file it is: a part of the configuration or an algorithm's name; of a metric METRIC or METRICS, then its name."""
ALGORITHM: Key = ("algorithm",)
MODEL: Key = ("model",)
METRIC = "metric"
"""In config.json."""
METRICS = "--metric"
"""In comparison.json, where no algorithm has such a name."""


def described(sources: Mapping[Key, Source | None]) -> Json:
    """What is recorded under "code"; files that are None are not."""
    return _nested({key: _entry(source) for key, source in sources.items() if source is not None})


def recorded(content: Json, metrics: str) -> dict[Key, Json]:
    """The users' files that config.json or comparison.json has.

    Args:
        content: of the file; without "code" in it there are none.
        metrics: METRIC or METRICS.

    Raises:
        TypeError: something else stands there.
    """
    parts = content.get("code", {})
    wrong = TypeError(f"code is {parts!r}")
    if not isinstance(parts, dict) or not isinstance(parts.get(metrics, {}), dict):
        raise wrong
    known: dict[Key, Json] = {(part,): entry for part, entry in parts.items() if part != metrics}
    known |= {(metrics, name): entry for name, entry in parts.get(metrics, {}).items()}
    for entry in known.values():
        if not isinstance(entry, dict) or not isinstance(entry.get("before", []), list):
            raise wrong
        if not all(isinstance(text, str) for text in (entry.get("file"), entry.get("sha256"), *entry.get("before", []))):
            raise wrong
    return known


def renewed(
    known: Mapping[Key, Json], sources: Mapping[Key, Source | None], changed_file: bool, what: Callable[[Key], str]
) -> Json:
    """What is recorded under "code" from now on.

    Args:
        known: the files that are recorded, see :func:`recorded`. Others than these are not recorded later.
        sources: the files of what would run now; None, or missing: nothing is known of one, and its SHA-256 is "unknown".
        changed_file: whether the user said that files may be others.
        what: the folder and whose file it is; messages begin with it.

    Raises:
        UserError: one is another one, and the user did not say so.
    """
    return _nested({key: _renewed(entry, sources.get(key), changed_file, what(key)) for key, entry in known.items()})


def _renewed(stored: Json, source: Source | None, changed_file: bool, what: str) -> Json:
    if source is not None and source[1] == stored["sha256"]:
        return stored
    if not changed_file:
        now = "code whose file is not known" if source is None else f"{source[0]} with SHA-256 {source[1][:12]}..."
        raise UserError(
            f"{what} is recorded as {stored['file']} with SHA-256 {stored['sha256'][:12]}..., but here it is {now}; put the "
            "recorded file back, or go on with the changed one by --changed-file (in Python: changed_file=True)"
        )
    before = [*stored.get("before", []), stored["sha256"]]
    return {**_entry((stored["file"], "unknown") if source is None else source), "before": before}


def again(algorithms: Iterable[str], factory: str | None, metrics: Iterable[str]) -> str:
    """What stands behind `--resume FOLDER` on the command line, so that users' files are known.

    Args:
        algorithms: names of files.
        factory: FILE.py:NAME of a module in place of the built-in model; None: there is none.
        metrics: names of files.
    """
    named = ",".join(f"{file}:NAME" for file in metrics)
    flags = [*(f" {file}:NAME" for file in algorithms), *([] if factory is None else [f" --model {factory}"])]
    return "".join([*flags, *([f" --metric {named}"] if named else [])])


def _entry(source: Source) -> Json:
    return {"file": source[0], "sha256": source[1]}


def _nested(entries: Mapping[Key, Json]) -> Json:
    content: Json = {}
    for (part, *name), entry in entries.items():
        if name:
            content.setdefault(part, {})[name[0]] = entry
        else:
            content[part] = entry
    return content
