"""What a run says of itself: a row of metrics.jsonl, the progress bar, and the summary at the end."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flow.evaluation import score as evaluate
from flow.evaluation.select import SIDES
from flow.server.uploads import Uploads

if TYPE_CHECKING:
    from flow.engine.participation import Turnout
    from flow.engine.task import Task
    from flow.parallel.processes import Ranks

PARTS = ("data", "training", "aggregation", "evaluation")


def row(round: int, uploads: Uploads, who: Turnout, kept: int, seconds: float, workers: int) -> dict[str, Any]:
    """A line of metrics.jsonl.

    kept: bytes that all clients keep. seconds: of the round without its evaluation. workers: how many there are in all
    processes; data and training are seconds of one of them, on average, so that the two add up to the round at most.
    """
    return {
        "round": round,
        "loss": uploads.nats / uploads.tokens if uploads.tokens else None,
        "clients": uploads.clients,
        "skipped": len(who.idle),
        "dropped": int(who.dropped.sum()),
        "late": int(who.late.sum()),
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


def shown(row: dict[str, Any]) -> dict[str, str]:
    """What the progress bar says beside the round and the time left."""
    loss = "-" if row["loss"] is None else f"{row['loss']:.3f}"
    return {"loss": loss, "sequences/s": f"{row['sequences_per_second']:.0f}"}


def said(task: Task, metrics: list[dict[str, Any]], summary: dict[str, dict[str, Any]]) -> list[str]:
    """What a run says at its end: the table of accuracies, and what is missing from it and why."""
    lines = [evaluate.table(summary)] if any(side["clients"] for side in summary.values()) else []
    for side, held_out in SIDES.items():
        if not summary[side]["clients"]:
            lines.append(evaluate.nobody(task.population, held_out, task.config.min_texts, task.minimum))
    idle = sum(row["skipped"] == task.config.cohort for row in metrics)
    if idle:
        lines.append(
            f"{idle} of {len(metrics)} rounds trained nobody: every client that was drawn has fewer than the {task.minimum} "
            f"training sequences that {task.algorithm.name} needs; raise cohort={task.config.cohort}, or give clients more text"
        )
    lost = sum(not row["clients"] for row in metrics) - idle
    if lost:
        lines.append(
            f"{lost} of {len(metrics)} rounds changed nothing: every upload was lost (dropout={task.config.dropout}, "
            f"stragglers={task.config.stragglers}); lower these, or raise cohort={task.config.cohort}"
        )
    return lines


def of_run(ranks: Ranks, metrics: list[dict[str, Any]], evaluation: float, workers: int, slow: str = "") -> dict[str, Any]:
    """The content of run.json: where the time of all rounds and of the final evaluation went, and memory.

    evaluation: seconds of the final one. workers: of one process. slow: why clients do not train by the kernels, if so.
    """
    found: dict[str, Any] = {"local_training": slow or "kernels"}
    found |= {f"{part}_seconds": sum(row[f"{part}_seconds"] for row in metrics) for part in PARTS}
    found["evaluation_seconds"] += evaluation
    rounds, sequences = sum(row["seconds"] for row in metrics), sum(row["sequences"] for row in metrics)
    found["rounds_seconds"], found["sequences"] = rounds, sequences
    found["sequences_per_second"] = sequences / rounds
    found["processes"], found["workers"] = ranks.size, ranks.size * workers
    found["peak_memory_bytes"] = [int(text) for text in ranks.texts(str(peak_memory()))]
    on_device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    found["peak_device_memory_bytes"] = [int(text) for text in ranks.texts(str(on_device))]
    return found


def in_words(found: dict[str, Any]) -> str:
    """The same in two lines for the terminal."""
    parts = ", ".join(f"{part} {found[f'{part}_seconds']:.1f}" for part in PARTS)
    memory = " + ".join(f"{peak / 2**20:.0f}" for peak in found["peak_memory_bytes"])
    return (
        f"seconds: {parts}; rounds {found['rounds_seconds']:.1f} in all ({found['workers']} workers)\n"
        f"{found['sequences_per_second']:.0f} client-sequences a second; peak memory {memory} MB"
        + ("" if found["local_training"] == "kernels" else f"\nclients trained by autograd: {found['local_training']}")
    )


def peak_memory() -> int:
    """Bytes of memory that this process had at most."""
    status = Path("/proc/self/status")
    if status.exists():  # without what the process that started this one had, which getrusage may count in
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
