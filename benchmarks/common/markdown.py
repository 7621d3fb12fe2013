"""What the benchmarks' reports in Markdown share: the caption with the machine, and aligned tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def caption(report: dict[str, Any]) -> str:
    """Machine, versions, date."""
    machine, versions = report["machine"], report["versions"]
    cores = f"{machine['cores']} core{'s' * (machine['cores'] != 1)}"
    jax = f", jax {versions['jax']}" if versions["jax"][0].isdigit() else ""
    kernel = machine["backends"]["cpu"].removeprefix("available ")
    quick = "; QUICK RUN, not to be quoted" if report["quick"] else ""
    return f"{machine['processor']}, {cores}; flow_kernels {kernel}; torch {versions['torch']}{jax}; {report['date']}{quick}"


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Aligned, so that it can be read as it is."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *body, strict=True)]

    def line(cells: Sequence[str], align: Callable[[int, str, int], str]) -> str:
        return (
            "| " + " | ".join(align(n, cell, width) for n, (cell, width) in enumerate(zip(cells, widths, strict=True))) + " |"
        )

    rule = line([""] * len(head), lambda n, _, width: "-" * width if n == 0 else "-" * (width - 1) + ":")
    return [
        line(head, lambda n, cell, width: cell.ljust(width) if n == 0 else cell.rjust(width)),
        rule,
        *(line(cells, lambda n, cell, width: cell.ljust(width) if n == 0 else cell.rjust(width)) for cells in body),
    ]
