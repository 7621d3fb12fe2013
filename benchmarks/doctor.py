"""Measure what `flow doctor` compares this kind of machine with: python -m benchmarks.doctor [RUNS].

Nothing else may run meanwhile. The ranges of this kind of machine in flow/doctor/ranges.json are replaced, those of other kinds
stay. With 15 runs, the default, it takes about two minutes.
"""

from __future__ import annotations

import os
import statistics
import sys

import torch

import flow_kernels
from benchmarks.common import machine as described
from flow.doctor import benchmark, load, machine, ranges

RUNS = 15


def main(runs: int) -> int:
    """Measure and write; returns 1 where something else ran meanwhile and nothing is written."""
    processor, threads = machine.processor(), torch.get_num_threads()
    used = next(name for name, state in flow_kernels.instruction_sets().items() if state == "in use")
    values: dict[str, list[float]] = {}
    benchmark.measured(threads)  # the first run touches memory and loads code
    for number in range(runs):
        before = load.now()
        measures = benchmark.measured(threads)
        meanwhile = load.between(before, load.now(), os.cpu_count() or 1)
        if why := load.reasons(meanwhile):
            print(f"run {number + 1} of {runs}: {why[0][0]}; nothing was written, {why[0][1]}", file=sys.stderr)
            return 1
        for name, value in measures.items():
            values.setdefault(name, []).append(value)
        print(f"run {number + 1} of {runs}", file=sys.stderr)
    kind = ranges.Kind(
        processor.title, processor.vendor, processor.family, processor.model, used, threads, torch.__version__,
        described.today(), runs,
        {name: ranges.Range(*(round(pick(own), 4) for pick in (min, statistics.median, max))) for name, own in values.items()},
    )  # fmt: skip
    ranges.write([*(known for known in ranges.stored() if not known.is_of(processor)), kind])
    for name, own in kind.measures.items():
        print(f"{name:32} {own.low:10.4g} {own.median:10.4g} {own.high:10.4g}")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS))
