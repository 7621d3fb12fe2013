"""What a run says of itself: a row of metrics.jsonl, the progress bar, and the lines at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from flow.errors import plural
from flow.evaluation.select import SIDES, nobody
from flow.reports.format import HYPHEN, number
from flow.reports.terminal import summary_table
from flow.server.uploads import Uploads
from flow.simulation import private

if TYPE_CHECKING:
    from flow.engine.task import Task


class Counts(NamedTuple):
    """Clients of a round whose uploads did not come."""

    skipped: int
    """They had too few sequences."""
    dropped: int
    """Their upload was lost."""
    late: int
    """It came too late."""


def row(round: int, uploads: Uploads, counts: Counts, kept: int, seconds: float, workers: int) -> dict[str, Any]:
    """A line of metrics.jsonl.

    kept: bytes that all clients keep. seconds: of the round without its evaluation. workers: how many there are in all
    processes. data and training are seconds of one of them, on average, so that the two add up to the round at most.
    """
    return {
        "round": round,
        "loss": uploads.nats / uploads.tokens if uploads.tokens else None,
        "clients": uploads.clients,
        "skipped": counts.skipped,
        "dropped": counts.dropped,
        "late": counts.late,
        "sequences": uploads.sequences,
        "seconds": seconds,
        "sequences_per_second": uploads.sequences / seconds,
        "data_seconds": uploads.data_seconds / workers,
        "training_seconds": uploads.training_seconds / workers,
        "aggregation_seconds": uploads.aggregation_seconds,
        "evaluation_seconds": 0.0,
        "upload_bytes": uploads.upload_bytes,
        "download_bytes": uploads.download_bytes,
        "flops": uploads.flops,
        "client_state_bytes": kept,
        "evaluation": None,
    }


def progress_fields(row: dict[str, Any]) -> dict[str, str]:
    """What the progress bar says beside the round and the time left."""
    return {"loss": number(row["loss"], 3, missing=HYPHEN), "sequences/s": number(row["sequences_per_second"], 0)}


def final_lines(task: Task, metrics: list[dict[str, Any]], evaluation: dict[str, Any]) -> list[str]:
    """What a run prints at its end: the table of its final evaluation, and what is missing from it and why."""
    summary = evaluation["summary"]
    lines = []
    if any(side["clients"] for side in summary.values()):
        lines.append(summary_table(summary, evaluation["calibration"], evaluation["classes"]))
    aside = evaluation["validation_clients"]
    if aside:
        share = task.config.validation_share
        who = f"{aside} validation {plural(aside, 'client')}"
        lines.append(f"{who} neither trained nor {'was' if aside == 1 else 'were'} tested (validation_share={share})")
    for side in SIDES:
        if not summary[side]["clients"]:
            lines.append(nobody(task.population, side, task.config.min_texts, task.minimum))
    rounds = f"{len(metrics)} {plural(len(metrics), 'round')}"
    idle = sum(row["skipped"] == task.config.cohort for row in metrics)
    if idle:
        lines.append(
            f"{idle} of {rounds} trained nobody: every client that was drawn has fewer than the {task.minimum} "
            f"training sequences that {task.algorithm.name} needs; raise cohort={task.config.cohort}, or give clients more text"
        )
    lost = sum(not row["clients"] for row in metrics) - idle
    if task.privacy is not None:
        lines.append(private.line(task.privacy, metrics))
    elif lost:
        lines.append(
            f"{lost} of {rounds} changed nothing: every upload was lost (dropout={task.config.dropout}, "
            f"stragglers={task.config.stragglers}); lower these, or raise cohort={task.config.cohort}"
        )
    return lines
