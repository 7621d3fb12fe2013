"""The whole examination: every check in its turn, and the lines that are printed of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from flow.doctor import benchmark, devices, load, machine, packages, ranges, storage
from flow.doctor.findings import Check, Finding, guarded

COLOURS = {"ok": "32", "absent": "2", "warning": "33", "broken": "31"}


def examined(measure: bool) -> Iterator[Finding]:
    """All findings, each as soon as it is known.

    Args:
        measure: whether to take the ten seconds that the benchmark needs.
    """
    checks: list[tuple[str, Check]] = [
        ("packages", packages.check),
        ("kernels", devices.check_extensions),
        ("processor", machine.check_processor),
        ("threads", machine.check_threads),
        ("memory", machine.check_memory),
        ("folders", storage.check),
        ("gpu", devices.check_gpu),
    ]
    if measure:
        checks.append(("speed", speed))
    for area, check in checks:
        yield from guarded(area, check)


def speed() -> Iterator[Finding]:
    """The benchmark, held against what is stored for this kind of machine."""
    import torch

    import flow_kernels

    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    before = load.now()
    measures = benchmark.measured(threads)
    meanwhile = load.between(before, load.now(), cores)
    used = next((name for name, state in flow_kernels.instruction_sets().items() if state == "in use"), "")
    setting = ranges.Setting(machine.processor(), used, threads, usable, torch.__version__, meanwhile)
    yield from ranges.judged(measures, setting, ranges.stored())


def is_well(findings: Sequence[Finding]) -> bool:
    """Whether nothing is broken that every run needs."""
    return all(finding.verdict != "broken" for finding in findings)


def lines_of(finding: Finding, coloured: bool) -> list[str]:
    """A finding for the terminal, the remedy in a line of its own."""
    mark = f"{finding.verdict:<7}"
    if coloured:
        mark = f"\x1b[{COLOURS[finding.verdict]}m{mark}\x1b[0m"
    lines = [f"  {mark}  {finding.name}: {finding.text}"]
    return [*lines, f"           {finding.remedy}"] if finding.remedy else lines


def conclusion(findings: Sequence[Finding]) -> str:
    """The last line."""
    broken = [finding.name for finding in findings if finding.verdict == "broken"]
    number = sum(finding.verdict == "warning" for finding in findings)
    warnings = f"{number} warning{'' if number == 1 else 's'}"
    if broken:
        return f"flow is not well: {', '.join(broken)} broken; {warnings}"
    return f"flow is well; {warnings}"


def content(findings: Sequence[Finding]) -> dict[str, Any]:
    """The examination for programs."""
    return {"well": is_well(findings), "findings": [finding._asdict() for finding in findings]}
