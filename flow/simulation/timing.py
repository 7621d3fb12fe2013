"""Where the time of a run went, and its peak of memory: the content of run.json, and the last lines on the terminal."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flow.errors import plural

if TYPE_CHECKING:
    from flow.parallel.processes import Ranks

PARTS = ("data", "training", "aggregation", "evaluation")


def run_summary(ranks: Ranks, metrics: list[dict[str, Any]], evaluation: float, workers: int, slow: str = "") -> dict[str, Any]:
    """The content of run.json: where the time of all rounds and of the final evaluation went, and memory.

    evaluation: seconds of the final one. workers: of one process. slow: why clients do not train by the kernels, if so.
    """
    summary: dict[str, Any] = {"local_training": slow or "kernels"}
    summary |= {f"{part}_seconds": sum(row[f"{part}_seconds"] for row in metrics) for part in PARTS}
    summary["evaluation_seconds"] += evaluation
    rounds, sequences = sum(row["seconds"] for row in metrics), sum(row["sequences"] for row in metrics)
    summary["rounds_seconds"], summary["sequences"] = rounds, sequences
    summary["sequences_per_second"] = sequences / rounds
    summary["processes"], summary["workers"] = ranks.size, ranks.size * workers
    summary["peak_memory_bytes"] = [int(text) for text in ranks.texts(str(peak_memory()))]
    on_device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    summary["peak_device_memory_bytes"] = [int(text) for text in ranks.texts(str(on_device))]
    return summary


def timing_lines(summary: dict[str, Any]) -> str:
    """The same in two lines for the terminal; a third one says why clients do not train by the kernels, if so."""
    parts = ", ".join(f"{part} {summary[f'{part}_seconds']:.1f}" for part in PARTS)
    memory = " + ".join(f"{peak / 2**20:.0f}" for peak in summary["peak_memory_bytes"])
    workers = f"{summary['workers']} {plural(summary['workers'], 'worker')}"
    return (
        f"seconds: {parts}; rounds {summary['rounds_seconds']:.1f} in all ({workers})\n"
        f"{summary['sequences_per_second']:.0f} client-sequences a second; peak memory {memory} MB"
        + ("" if summary["local_training"] == "kernels" else f"\nclients trained by autograd: {summary['local_training']}")
    )


def on_the_clock(metrics: list[dict[str, Any]], target: float) -> dict[str, Any]:
    """What run.json has more with a clock: how long the rounds took, and when the target accuracy was reached first."""
    first = next((row["virtual_seconds"] for row in metrics if target and (reached(row) or 0.0) >= target), None)
    return {"virtual_seconds": metrics[-1]["virtual_seconds"] if metrics else 0.0, "target": target, "target_seconds": first}


def reached(row: dict[str, Any]) -> float | None:
    """Mean accuracy over seen clients of the model that they predict with, in the evaluation of a round; None without one."""
    seen = (row["evaluation"] or {}).get("seen", {})
    value: float | None = seen.get("personal_client") if seen.get("personal_client") is not None else seen.get("global_client")
    return value


def peak_memory() -> int:
    """Bytes of memory that this process had at most."""
    status = Path("/proc/self/status")
    if status.exists():  # without what the process that started this one had, which getrusage may count in
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
