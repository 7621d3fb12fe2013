"""What else took the processor while something was measured."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import NamedTuple

from flow.doctor.machine import ROOT, groups, text_of

TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
OTHERS = 0.15
"""Cores that other programs may take before it is told."""
STOLEN = 0.02
"""Share of the time that the host of a virtual machine may keep before it is told."""


class Moment(NamedTuple):
    """Counters at one moment; 0 where the system does not say."""

    seconds: float
    own: float
    """Processor seconds of this process."""
    busy: float
    """Processor seconds of everything on the machine, that of other virtual machines left out."""
    stolen: float
    """Processor seconds that the host of a virtual machine gave to others."""
    throttled: float
    """Seconds that the control group was held back since its time was used up."""


class Meanwhile(NamedTuple):
    """What happened between two moments."""

    others_cores: float
    """Cores that other programs took, on average."""
    stolen_share: float
    throttled_seconds: float


def now(root: Path = ROOT) -> Moment:
    """The counters of this moment."""
    cpu = [
        int(number) / TICKS for number in re.findall(r"\d+", text_of(root / "proc/stat").partition("\n")[0].partition(" ")[2])
    ]
    user, nice, system, _, _, irq, softirq, stolen = (*cpu, *[0.0] * 8)[:8]
    counted = [re.search(r"^throttled_usec (\d+)", text_of(group / "cpu.stat"), re.MULTILINE) for group in groups(root)]
    throttled = max((int(match[1]) / 1e6 for match in counted if match), default=0.0)
    return Moment(time.monotonic(), time.process_time(), user + nice + system + irq + softirq, stolen, throttled)


def between(before: Moment, after: Moment, cores: int) -> Meanwhile:
    """What happened between two moments on a machine with so many cores."""
    seconds = max(after.seconds - before.seconds, 1e-9)
    others = (after.busy - before.busy) - (after.own - before.own)
    stolen = (after.stolen - before.stolen) / seconds / cores
    return Meanwhile(max(0.0, others / seconds), max(0.0, stolen), after.throttled - before.throttled)


def reasons(meanwhile: Meanwhile) -> list[tuple[str, str]]:
    """Why a measurement may be slow, and what to do about it."""
    result = []
    if meanwhile.others_cores > OTHERS:
        text = f"other programs took {meanwhile.others_cores:.1f} cores meanwhile"
        result.append((text, "run it again when they have ended"))
    if meanwhile.stolen_share > STOLEN:
        text = f"the host of this virtual machine kept {100 * meanwhile.stolen_share:.0f} % of the time for others"
        result.append((text, "take a machine with processors of its own"))
    if meanwhile.throttled_seconds > 0:
        text = f"the control group was held back for {meanwhile.throttled_seconds:.1f} s, since its time was used up"
        result.append((text, "raise the limit of the container, or give it fewer threads"))
    return result
