"""What was measured on machines of known kinds, and how a measurement is held against it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flow.doctor import load
from flow.doctor.findings import Finding
from flow.doctor.machine import Processor

FILE = Path(__file__).with_name("ranges.json")
SLACK = 0.85
"""A measure below this share of the lowest one that was stored is slow."""
AREA = "speed"
UNITS = {"gflop_per_second": "GFLOP/s", "copied_gb_per_second": "GB/s", "sequences_per_second": "client sequences/s"}
WORDS = {
    "gflop_per_second": "product of torch, float32",
    "copied_gb_per_second": "memory, copied",
    "layer_float32_share": "layer, training step in float32",
    "layer_bfloat16_share": "layer, training step in bfloat16",
    "head_share": "output layer with its loss and gradients",
    "training_round_share": "round of training",
    "sequences_per_second": "round of training",
}


class Range(NamedTuple):
    """Of one measure, over several runs on a quiet machine."""

    low: float
    median: float
    high: float


class Kind(NamedTuple):
    """A kind of machine, and what was measured on one."""

    title: str
    vendor: str
    family: int
    model: int
    instruction_set: str
    threads: int
    torch: str
    date: str
    runs: int
    measures: Mapping[str, Range]

    def is_of(self, processor: Processor) -> bool:
        """Whether a processor is of this kind."""
        return (self.vendor, self.family, self.model) == (processor.vendor, processor.family, processor.model)


def stored(path: Path = FILE) -> list[Kind]:
    """All kinds of the file."""
    kinds = json.loads(path.read_text(encoding="utf-8"))["kinds"]
    return [Kind(**{**kind, "measures": {name: Range(**own) for name, own in kind["measures"].items()}}) for kind in kinds]


def write(kinds: list[Kind], path: Path = FILE) -> None:
    """Write the file."""
    described = [{**kind._asdict(), "measures": {name: own._asdict() for name, own in kind.measures.items()}} for kind in kinds]
    path.write_text(json.dumps({"format": 1, "kinds": described}, indent=1) + "\n", encoding="utf-8")


class Setting(NamedTuple):
    """Under what a measurement was made."""

    processor: Processor
    instruction_set: str
    threads: int
    cores: int
    """That this process may use."""
    torch: str
    meanwhile: load.Meanwhile


def judged(measures: Mapping[str, float], setting: Setting, kinds: list[Kind]) -> Iterator[Finding]:
    """A line for every measure, and one that says whether the machine is as fast as its kind."""
    kind = next((known for known in kinds if known.is_of(setting.processor)), None)
    ranges: Mapping[str, Range] = {} if kind is None else kind.measures
    slow = []
    for name, value in measures.items():
        known = ranges.get(name)
        facts = {"measure": name, "value": value, **({} if known is None else known._asdict())}
        is_slow = known is not None and value < SLACK * known.low
        remedy = "the last line of this part says why" if is_slow else ""
        yield Finding(AREA, *_words(name, value, known), "warning" if is_slow else "ok", remedy, facts)
        if is_slow:
            slow.append(name)
    yield verdict(setting, kind, slow)


def verdict(setting: Setting, kind: Kind | None, slow: list[str]) -> Finding:
    """Whether the machine is as fast as its kind, and if not why.

    Args:
        slow: the measures that are below their range.
    """
    name = "against its kind"
    if kind is None:
        text = f"nothing is stored for {setting.processor.title}, so nobody knows how fast it should be"
        return Finding(AREA, name, text, "absent", facts={"kind": None, "slow": []})
    facts: dict[str, Any] = {"kind": kind.title, "date": kind.date, "slow": slow}
    measured = f"{kind.title} as measured on {kind.date} with {kind.threads} threads and torch {kind.torch}"
    if not slow:
        return Finding(AREA, name, f"as fast as {measured}", facts=facts)
    causes = [*_of_setting(setting, kind), *load.reasons(setting.meanwhile), *_of_pattern(slow)]
    text = f"this machine is slower than {measured}, because {'; '.join(why for why, _ in causes)}"
    facts["reasons"] = [why for why, _ in causes]
    if not causes:
        text = f"this machine is slower than {measured}, and nothing that can be looked at says why"
        causes = [("", "run it again on a quiet machine; virtual machines differ in what their host gives them")]
    return Finding(AREA, name, text, "warning", "; ".join(dict.fromkeys(remedy for _, remedy in causes)), facts)


def _of_setting(setting: Setting, kind: Kind) -> Iterator[tuple[str, str]]:
    if setting.instruction_set != kind.instruction_set:
        why = f"the kernels use {setting.instruction_set or 'no instruction set'} and not {kind.instruction_set}"
        yield why, "unset FLOW_CPU_ISA, or build the kernels with a newer compiler"
    if setting.threads < setting.cores:
        computing = "1 thread computes" if setting.threads == 1 else f"{setting.threads} threads compute"
        yield f"{computing} on {setting.cores} cores", "unset OMP_NUM_THREADS"
    if setting.threads > setting.cores:
        yield f"{setting.threads} threads share {setting.cores} cores", f"set OMP_NUM_THREADS={setting.cores}"
    if setting.torch.split(".")[:2] != kind.torch.split(".")[:2]:
        yield f"torch is {setting.torch} and not {kind.torch}", "compare with that version"


def _of_pattern(slow: list[str]) -> Iterator[tuple[str, str]]:
    """What the slow measures have in common."""
    if any(name.startswith("copied_gb") for name in slow):
        yield "its memory is slower, which other programs or machines may be using", "run it again on a quiet machine"
    if any(name.startswith("gflop") for name in slow):
        yield "torch's own product is slower too, so the kernels are not the cause", "run it again on a quiet machine"


def _words(name: str, value: float, known: Range | None) -> tuple[str, str]:
    """The name of a measure and its value, for a line."""
    measure, _, threads = name.rpartition("_")
    if measure.endswith("_share"):
        number, stored = (
            f"{100 * value:.0f} % of torch's product",
            known and f"{100 * known.low:.0f} to {100 * known.high:.0f} %",
        )
    else:
        number, stored = f"{value:,.0f} {UNITS[measure]}", known and f"{known.low:,.0f} to {known.high:,.0f}"
    title = f"{WORDS[measure]}, {threads} thread{'s' if threads != '1' else ''}"
    return title, number + (f" (its kind: {stored})" if stored else "")
