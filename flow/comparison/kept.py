"""What is kept of every finished run: two small files, from which all tables and pictures of a comparison are made.

``kept/NAME-seedN.csv`` has a line for every scored client, ``kept/NAME-seedN.json`` what belongs to the whole run; those of the
tuning lie in ``kept/tuning/``. A client is named by a hash of its id, and no text is kept. A comparison goes on from these
files where the folders of its runs are gone.

Damaged files are written anew where the folder of the finished run exists, and one line on stderr says so. Otherwise they are
refused. Files of another configuration or other data are always refused.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import math
import re
import sys
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flow.comparison.plan import differences
from flow.config import completed
from flow.errors import UserError
from flow.evaluation import metrics
from flow.evaluation.metrics import ACCURACY, Metric
from flow.evaluation.registry import all_metrics
from flow.evaluation.score import Cost
from flow.evaluation.select import SIDES
from flow.evaluation.summaries import averages, helped_and_hurt
from flow.reports import files as report_files
from flow.simulation.timing import on_the_clock
from flow.storage import files, run_folder

Json = dict[str, Any]
FOLDER = "kept"
HEX = 16  # digits of a client's hash
TOTALS = ("clients", "skipped", "dropped", "late", "upload_bytes", "download_bytes", "flops", "seconds")
"""Of the rows of metrics.jsonl, what is summed up over the rounds."""
COPIED = ("dataset", "about", "unit", "personalized", "validation_clients")
"""Of evaluation.json, what is the same for all clients."""
RESULTS = ("csv", *COPIED, "skipped", "totals", "client_state_bytes", "drawn", "curve")
"""Keys of the JSON file of a run that has a result."""


class Point(NamedTuple):
    """One evaluation along a run."""

    round: int
    flops: float
    """Operations of a client drawn, added up over the rounds so far."""
    bytes: float
    """What a client drawn sent and received, likewise."""
    sides: dict[str, Json]
    """The summary of either side, as metrics.jsonl has it, without what is null there."""


class Values(NamedTuple):
    """A number of every scored client of one side."""

    clients: npt.NDArray[np.uint64]
    """[C]: their hashes, ascending."""
    values: npt.NDArray[np.float64]
    """[C]"""


class Kept(NamedTuple):
    """What is kept of one finished run."""

    about: Json
    """The content of its JSON file."""
    columns: dict[str, list[Any]]
    """Those of its CSV file, by their names; none where the run diverged."""

    @property
    def diverged(self) -> str | None:
        """Why the run has no result; None where it has one."""
        reason = self.about["diverged"]
        return None if reason is None else str(reason)

    def check(self) -> None:
        """Raise KeyError, TypeError or ValueError where something is missing or of another form."""
        for name in ("algorithm", "seed", "rounds", *(() if self.diverged is not None else RESULTS)):
            if name not in self.about:
                raise KeyError(name)
        about = self.about
        good = isinstance(about["algorithm"], str) and _whole(about["seed"]) and _whole(about["rounds"])
        good = good and isinstance(about["diverged"], str | None)
        if self.diverged is None:
            good = good and all(isinstance(about[name], str) for name in ("dataset", "about", "unit"))
            good = good and isinstance(about["personalized"], bool) and _whole(about["validation_clients"])
            good = good and all(_whole(about["skipped"][side]) for side in SIDES)
            good = good and all(_measured(about["totals"][name]) for name in TOTALS)
            good = good and all(map(_measured, (about["client_state_bytes"], about["drawn"]["flops"], about["drawn"]["bytes"])))
            good = good and all(_is_point(point) for point in about["curve"])
            more = [*about.get("clock", {}).values(), *about.get("privacy", {}).values()]
            good = good and all(value is None or _measured(value) for value in more)
        if not good:
            raise ValueError("a value is of another type than a run writes")
        if self.diverged is None:
            self._check_table()
            self.curve()

    def _check_table(self) -> None:
        """That every line is a client of its own, with numbers that a run can count."""
        free = {metric.client_key(model) for metric in _of_users() for model in metrics.MODELS}
        for name, column in self.columns.items():
            for cell in column:
                if name == "client":
                    good = re.fullmatch(rf"[0-9a-f]{{{HEX}}}", cell) is not None
                elif name == "side":
                    good = cell in SIDES
                elif cell is None:
                    good = name not in ("tokens", *Cost._fields)
                else:
                    good = math.isfinite(cell) and (cell >= 0 or name in free)
                    good = good and (name != "tokens" or (isinstance(cell, int) and cell > 0))
                if not good:
                    raise ValueError(f"{name} of a client is {cell!r}")
        if len(set(self.columns["client"])) < len(self.columns["client"]):
            raise ValueError("a client is there twice")
        for name in Cost._fields:
            _ = self.columns[name]
        for model in metrics.MODELS:
            for right, tokens in zip(self._of(ACCURACY.client_key(model)) or [], self.columns["tokens"], strict=False):
                if right > tokens:
                    raise ValueError(f"{right} tokens of {tokens} are right")

    def summary(self, side: str) -> Json:
        """One side's metrics and shares, to the last bit those of evaluation.json."""
        rows = [row for row, own in enumerate(self.columns["side"]) if own == side]
        tokens = self._of("tokens", rows) or []
        summary: Json = {"clients": len(rows), "skipped": self.about["skipped"][side], "tokens": sum(tokens)}
        for metric, model in itertools.product(all_metrics(), metrics.MODELS):
            summary |= averages(metric, model, self._of(metric.client_key(model), rows) or [], tokens)
            if metric.of_classes:  # the clients' numbers do not say what the sum of their tables gives
                key = metric.summary_key(model, "token")
                summary[key] = self.about.get("of_classes", {}).get(side, {}).get(key)
        own, common = (self._of(ACCURACY.client_key(model), rows) for model in ("personal", "global"))
        known = own is not None and common is not None
        return summary | helped_and_hurt([a - b for a, b in zip(own or [], common or [], strict=True)] if known else [])

    @property
    def predicted(self) -> str:
        """With which model a client predicts in the end: "personal" where there is one, else "global"."""
        return "personal" if ACCURACY.client_key("personal") in self.columns else "global"

    def values(self, side: str, metric: Metric) -> Values | None:
        """What the clients of a side reach with the model that they predict with in the end; None: that is not known."""
        rows = [row for row, own in enumerate(self.columns["side"]) if own == side]
        counts, tokens = self._of(metric.client_key(self.predicted), rows), self._of("tokens", rows)
        if not counts or not tokens:
            return None
        numbers = [metric.summary("token", [count], [own]) for count, own in zip(counts, tokens, strict=True)]
        hashes = np.array([int(self.columns["client"][row], 16) for row in rows], dtype=np.uint64)
        order = np.argsort(hashes)
        return Values(hashes[order], np.array(numbers, dtype=np.float64)[order])

    def curve(self) -> list[Point]:
        """The evaluations along the run, of the clients drawn for them; the last point is the final one, of all."""
        rounds = self.about["rounds"]
        points = [Point(**point) for point in self.about["curve"] if point["round"] < rounds]
        drawn = self.about["drawn"]
        return [*points, Point(rounds, drawn["flops"], drawn["bytes"], {side: self.summary(side) for side in SIDES})]

    def _of(self, name: str, rows: Sequence[int] | None = None) -> list[Any] | None:
        """A column or those of its cells; None where it is missing, or where some client has nothing in it."""
        column = self.columns.get(name)
        cells = None if column is None else column if rows is None else [column[row] for row in rows]
        return None if cells is None or None in cells else cells


def _whole(value: object) -> bool:
    """Whether a value is a whole number of at least 0 that a run can count."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _measured(value: object) -> bool:
    """Whether a value is a finite number of at least 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


def _of_users() -> list[Metric]:
    """The metrics that are not of flow itself, which alone may be negative."""
    return [metric for metric in all_metrics() if metric not in metrics.METRICS]


def _is_point(point: Any) -> bool:
    """Whether a value is an evaluation along a run: its summaries hold numbers, or null where there is nothing to say."""
    summaries = [point["sides"][side] for side in SIDES]
    free = {key for metric in _of_users() for key in metric.summary_keys()}
    return (
        _whole(point["round"])
        and all(map(_measured, (point["flops"], point["bytes"])))
        and all(
            value is None or _measured(abs(value) if key in free else value)
            for summary in summaries
            for key, value in summary.items()
        )
    )


def place(folder: Path) -> Path:
    """The JSON file of the run in this folder, which is runs/NAME-seedN or tuning/NAME-N in that of a comparison."""
    comparison, kind = folder.parents[1], folder.parent.name
    return comparison.joinpath(FOLDER, *([] if kind == "runs" else [kind]), f"{folder.name}.json")


def folders(comparison: Path) -> list[Path]:
    """Where such files lie in the folder of a comparison."""
    return [comparison / FOLDER, comparison / FOLDER / "tuning", comparison / FOLDER / "proposals"]


def read(path: Path, expected: Json) -> Kept:
    """What is kept of a run.

    Args:
        path: see :func:`place`.
        expected: what :func:`flow.storage.run_folder.describe` says of the run.

    Raises:
        Damaged: a file is missing, or not what was written.
        UserError: it is of another run.
    """
    remedy = f"put it and the other file of the run back from a copy, or remove {path}, and the run is done again"
    try:
        files.check_regular(path)
        about = json.loads(path.read_text(encoding="utf-8"))
        if not files.has_checksum(about) or not files.intact(about):
            raise files.Damaged(f"{path}: damaged or changed, {files.WRONG_CHECKSUM}", remedy)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise files.Damaged(f"{path}: cannot be read ({error})", remedy) from error
    try:
        changed = differences(completed(about["config"]), json.loads(json.dumps(placeless(expected))))
        changed += differences({"data": about["population"]}, {"data": expected["population"]})
        kept = Kept(about, {} if about["diverged"] is not None else _table(path.with_suffix(".csv"), about["csv"], remedy))
        kept.check()
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, csv.Error) as error:
        if isinstance(error, UserError):
            raise
        raise files.Damaged(f"{path}: not what a comparison of this version keeps ({error!r})", remedy) from error
    if changed:
        raise UserError(
            f"{path}: is of another run than this comparison's ({'; '.join(changed)}); put the right file back, or move this "
            "one away, and the run is done again"
        )
    return kept


def write(path: Path, folder: Path, expected: Json, diverged: str | None) -> None:
    """Write what is kept of a finished run, the CSV file before the JSON file, which is there only when both are.

    Args:
        path: see :func:`place`.
        folder: of the run.
        expected: what :func:`flow.storage.run_folder.describe` says of the run.
        diverged: why it has no result; None where it has one.

    Raises:
        UserError: a file of the run is missing or damaged, or two of its clients cannot be told apart.
    """
    name, _, _ = folder.name.rpartition("-")
    about: Json = {"algorithm": name, "seed": expected["seed"], "rounds": expected["rounds"]}
    about["diverged"] = None if diverged is None else diverged.replace(f"{folder.parents[1]}/", "")  # it may name a checkpoint
    table = None
    if diverged is None:
        try:
            evaluation = report_files.read_evaluation(folder)
            rows = report_files.read_metrics(folder)
            about |= _about(evaluation, rows)
            if expected["clock"]:
                about["clock"] = on_the_clock(rows, expected["target"])
            if "noise" in (config := report_files.read_config(folder)):
                about["privacy"] = {"epsilon": rows[-1]["epsilon"], "noise_multiplier": config["noise"]["noise"]}
            table = _clients(evaluation)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise UserError(
                f"{folder}: its files are damaged ({error}); remove the folder, and the run is done again"
            ) from error
        if len(set(table["client"])) < len(table["client"]):
            raise UserError(
                f"{folder}: two of its clients have ids whose SHA-256 begins alike, so results cannot be paired by client; "
                "give one of them another id"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    if table is not None:
        content = _csv(table)
        about["csv"] = hashlib.sha256(content).hexdigest()
        files.write(path.with_suffix(".csv"), content)
    about |= {"config": placeless(expected), "population": expected["population"]}
    files.write_json(path, files.with_checksum(about))


def matched(runs: Sequence[Values]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float64]]:
    """Of at least one run: the hashes of the clients that all of them scored, ascending [C], and their numbers [S, C]."""
    clients = reduce(np.intersect1d, [run.clients for run in runs])
    return clients, np.stack([run.values[np.searchsorted(run.clients, clients)] for run in runs])


def placeless(described: Json) -> Json:
    """The configuration of a run, without where its data lie."""
    return run_folder.options(described) | {"data": described["data"] | {"data": None}}


def _about(evaluation: Json, rows: list[Json]) -> Json:
    """What evaluation.json and metrics.jsonl of a finished run say of all of it."""
    flops = moved = 0.0
    curve = []
    for row in rows:
        drawn = row["clients"] + row["skipped"] + row["dropped"] + row["late"]
        if drawn:
            flops += row["flops"] / drawn
            moved += (row["upload_bytes"] + row["download_bytes"]) / drawn
        if row["evaluation"] is not None:
            known = {side: _known(row["evaluation"][side]) for side in SIDES}
            curve.append(Point(row["round"], flops, moved, known)._asdict())
    labels = {key: evaluation[key] for key in (files.RUN, "calibration") if key in evaluation}
    keys = {m.summary_key(model, "token") for m in all_metrics() if m.of_classes for model in metrics.MODELS}
    pooled = {side: {k: v for k, v in evaluation["summary"][side].items() if k in keys and v is not None} for side in SIDES}
    if any(pooled.values()):
        labels["of_classes"] = pooled
    return {
        **labels,
        **{key: evaluation[key] for key in COPIED},
        "skipped": {side: evaluation["summary"][side]["skipped"] for side in SIDES},
        "totals": {key: sum(row[key] for row in rows) for key in TOTALS},
        "client_state_bytes": rows[-1]["client_state_bytes"],
        "drawn": {"flops": flops, "bytes": moved},
        "curve": curve,
    }


def _known(summary: Json) -> Json:
    return {key: value for key, value in summary.items() if value is not None}


def _clients(evaluation: Json) -> dict[str, list[Any]]:
    """The columns of the CSV file, with the clients in the order of evaluation.json.

    Raises:
        ValueError: the clients do not give the summaries beside them.
        KeyError, TypeError, OverflowError: something is missing, or no number.
    """
    clients = evaluation["clients"]
    columns: dict[str, list[Any]] = {
        "client": [hashlib.sha256(client["id"].encode("utf-8", "surrogatepass")).hexdigest()[:HEX] for client in clients],
        "side": ["seen" if client["seen"] else "unseen" for client in clients],
        "tokens": [client["tokens"] for client in clients],
    }
    for model, metric in itertools.product(metrics.MODELS, all_metrics()):  # two metrics may read the same counts
        key, first = metric.client_key(model), ACCURACY.client_key(model)
        if any(client.get(first) is not None and key in client for client in clients):  # also where no loss is finite
            columns[key] = [client.get(key) for client in clients]
    columns |= {name: [client[name] for client in clients] for name in Cost._fields}
    for name, column in columns.items():
        for value in column:
            if name not in ("client", "side") and value is not None and not math.isfinite(value):
                raise ValueError(f"{name} of a client is {value}")
    kept = Kept({"skipped": dict.fromkeys(SIDES)}, columns)
    for side in SIDES:
        stored, own = evaluation["summary"][side], kept.summary(side)
        for key in own.keys() - {"skipped"}:
            if None not in (own[key], stored.get(key)) and not math.isclose(stored[key], own[key], rel_tol=1e-9, abs_tol=1e-12):
                raise ValueError(f"evaluation.summary.{side}.{key} is {stored[key]}, its clients give {own[key]}")
    return columns


def _csv(columns: dict[str, list[Any]]) -> bytes:
    """Numbers as Python writes them, from which reading makes the same numbers again; nothing where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for cells in zip(*columns.values(), strict=True):
        writer.writerow(["" if cell is None else cell if isinstance(cell, str) else repr(cell) for cell in cells])
    return out.getvalue().encode()


def _table(path: Path, sha256: str, remedy: str) -> dict[str, list[Any]]:
    """The columns of a CSV file with this SHA-256."""
    try:
        files.check_regular(path)
        content = path.read_bytes()
    except OSError as error:
        raise files.Damaged(f"{path}: cannot be read ({error})", remedy) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise files.Damaged(f"{path}: damaged or changed, its SHA-256 is not the one in {path.stem}.json", remedy)
    names, *lines = csv.reader(io.StringIO(content.decode("utf-8")))
    if len(set(names)) < len(names):
        raise ValueError("two columns have one name")
    cells = zip(*lines, strict=True) if lines else ([] for _ in names)
    return {
        name: list(column) if name in ("client", "side") else [_number(cell) for cell in column]
        for name, column in zip(names, cells, strict=True)
    }


def _number(cell: str) -> float | None:
    """An integer stays one, so that sums are those of evaluation.json to the last bit."""
    if not cell:
        return None
    try:
        return int(cell)
    except ValueError:
        return float(cell)
