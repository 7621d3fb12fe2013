"""``flow doctor``."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from flow.cli.command import Command, Form, parsed
from flow.cli.json_output import Json, answering
from flow.doctor import examination
from flow.doctor.findings import Finding
from flow.errors import one_line
from flow.parallel.processes import Ranks
from flow.terminal.looks import is_coloured


@dataclass(frozen=True)
class Doctor(Json):
    """Say whether this machine and this installation are well: versions and optional packages, kernels and instruction sets,
    threads, memory, folders and GPU, and a benchmark of ten seconds against what was measured on machines of the same kind. The
    exit code is 1 where something is broken that every run needs."""

    benchmark: bool = True
    """Take the ten seconds of the benchmark."""


def _doctor(arguments: list[str], ranks: Ranks) -> int:
    chosen: Doctor = parsed(FORM, arguments)
    with answering("doctor", chosen.json) as answer:
        findings = []
        area = ""
        for finding in examination.examined(chosen.benchmark):
            findings.append(finding)
            if finding.area != area:
                area = finding.area
                print(area, flush=True)
            _print(finding)
        print(examination.conclusion(findings))
        answer(examination.content(findings))
    return 0 if examination.is_well(findings) else 1


def _print(finding: Finding) -> None:
    for line in examination.lines_of(finding._replace(text=one_line(finding.text)), is_coloured(sys.stdout)):
        print(line, flush=True)


FORM = Form(Doctor, "flow doctor")
USAGE = "  doctor              say whether this machine and this installation are well, and as fast as their kind\n"
COMMAND = Command("doctor", USAGE, _doctor, lambda: {"": FORM})
