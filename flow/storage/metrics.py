"""metrics.jsonl: one JSON object for each round, with its checksum; read row by row, as far as the rows are good."""

from __future__ import annotations

import json
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from flow.storage import files

NAME = "metrics.jsonl"
LARGEST = 1e100  # more than any run counts; sums of rows are numbers still
_INTEGER, _NUMBER, _MAYBE = (int,), (int, float), (int, float, NoneType)
# What the summary at the end of a run, the report and the comparison read of a row.
ROW: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("round", "clients", "skipped", "dropped", "late", "sequences"), _INTEGER),
    **dict.fromkeys(("seconds", "data_seconds", "training_seconds", "aggregation_seconds", "evaluation_seconds"), _NUMBER),
    **dict.fromkeys(("upload_bytes", "download_bytes", "flops", "client_state_bytes"), _NUMBER),
    **dict.fromkeys(("loss", "sequences_per_second"), _MAYBE),
    "evaluation": (dict, NoneType),
}
RATES = dict.fromkeys(("lr", "server_lr"), _NUMBER)
"""What a row has beside that where a schedule changes the rate."""
PRIVACY: dict[str, tuple[type, ...]] = {"epsilon": _MAYBE, "clip": _NUMBER}
"""What a row of a private run has beside that."""
# Of a row of a run with a clock, and with asynchronous aggregation.
CLOCK: dict[str, tuple[type, ...]] = {"virtual_seconds": _NUMBER, "available": _INTEGER, "staleness": _MAYBE}

# And of each of the two sides of its evaluation.
SIDES = ("seen", "unseen")
SUMMARY: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("clients", "skipped", "tokens"), _INTEGER),
    **{f"{model}_{average}": _MAYBE for model in ("global", "personal", "soft") for average in ("token", "client")},
    **dict.fromkeys(("helped", "hurt"), _MAYBE),
}


class Metrics(NamedTuple):
    """What metrics.jsonl holds, up to the first row that is missing or not good."""

    path: Path
    lines: list[bytes]
    """Of the file, one for each good row."""
    rows: list[dict[str, Any]]
    """Of rounds 1, 2, ...; with their checksums, where they have any."""
    damage: str
    """What is wrong with the next line; empty where there is none."""

    def end(self) -> str:
        """Why the rows do not go on."""
        line = f"line {len(self.rows) + 1} of {self.path}"
        return f"{line} is damaged ({self.damage})" if self.damage else f"{line} is missing"

    def until(self, round: int) -> list[dict[str, Any]]:
        """The rows of rounds 1 to this one, without their checksums and their run."""
        return [
            {name: value for name, value in row.items() if name not in (files.CHECKSUM, files.RUN)} for row in self.rows[:round]
        ]


def read(folder: Path, run: str | None) -> Metrics:
    """Read the rows and check each; a file that is missing has none.

    run: of which run they must be, see :func:`flow.storage.run_folder.identity`.
    """
    path = folder / NAME
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    if lines and not lines[-1]:
        lines.pop()
    rows: list[dict[str, Any]] = []
    for line in lines:
        row, damage = _checked(line, len(rows) + 1, run)
        if damage:
            return Metrics(path, lines[: len(rows)], rows, damage)
        rows.append(row)
    return Metrics(path, lines, rows, "")


def cut(metrics: Metrics, round: int) -> None:
    """Leave the rows of rounds 1 to this one in the file."""
    files.write(metrics.path, b"".join(line + b"\n" for line in metrics.lines[:round]))


def keep_damaged(metrics: Metrics) -> Path:
    """Copy the file as it is to the next free of metrics.jsonl.damaged-1, -2, ...; returns the copy."""
    number = 1
    while (copy := metrics.path.with_name(f"{NAME}.damaged-{number}")).exists():
        number += 1
    files.write(copy, metrics.path.read_bytes())
    return copy


def _checked(line: bytes, round: int, run: str | None) -> tuple[Any, str]:
    """A line read, and what is wrong with it; the latter is empty for the good row of this round."""
    try:
        row = json.loads(line.decode("utf-8"))
        if not files.intact(row):
            return row, files.WRONG_CHECKSUM
    except UnicodeDecodeError:
        return None, "not UTF-8"
    except (ValueError, RecursionError):
        return None, "not JSON"
    damage = _mistyped(row, ROW, "the row")
    damage = damage or _mistyped(
        row, {name: kinds for name, kinds in (RATES | PRIVACY | CLOCK).items() if name in row}, "the row"
    )
    if not damage and not row["seconds"]:
        damage = "seconds of the row is 0"
    if not damage and row["evaluation"] is not None:
        damage = _mistyped(row["evaluation"], dict.fromkeys(SIDES, (dict,)), "evaluation")
        for side in SIDES if not damage else ():
            where = f"evaluation.{side}"
            damage = damage or _mistyped(row["evaluation"][side], SUMMARY, where)
            damage = damage or _mistyped(row["evaluation"][side], _further(row["evaluation"][side]), where, -LARGEST)
    if not damage and row["round"] != round:
        damage = f"round {row['round']} in the place of round {round}"
    if not damage and row.get(files.RUN, run) != run:
        damage = "a row of another run"
    return row, damage


def _further(summary: dict[str, Any]) -> dict[str, tuple[type, ...]]:
    """The types of what a summary has beyond SUMMARY, which are metrics all. One of the user's may be below 0."""
    return dict.fromkeys(summary.keys() - SUMMARY.keys(), _MAYBE)


def _mistyped(content: Any, types: dict[str, tuple[type, ...]], where: str, least: float = 0) -> str:
    """The first key that is missing, of another type, or a number below the least; empty where all are right."""
    if not isinstance(content, dict):
        return f"{where} is no object"
    for name, kinds in types.items():
        if name not in content:
            return f"{where} has no {name!r}"
        if not isinstance(content[name], kinds) or isinstance(content[name], bool):
            return f"{name} of {where} is {content[name]!r}"
        if (
            isinstance(content[name], int | float) and not least <= content[name] <= LARGEST
        ):  # not a number, infinite, too large
            return f"{name} of {where} is {'too large' if content[name] > LARGEST else content[name]}"
    return ""
