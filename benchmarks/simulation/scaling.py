"""How a round's time and memory grow with the cohort and with the population, each point in a fresh process:
`python -m benchmarks.simulation.scaling --cohort 10 --threads 1 --rounds 3 --source memory` prints one as JSON."""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common.worker import ROOT
from benchmarks.simulation import workload
from benchmarks.simulation.workload import FULL, TINY, Sizes

STATUS = Path("/proc/self/status")
SIZES = {"full": FULL, "tiny": TINY}
NOBODY = 2**31  # texts that nobody has: nobody is scored, and a run ends with its last round


def point(sizes: str, cohort: int, threads: int, rounds: int, source: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Measure one; see `measure`.

    Raises:
        RuntimeError: the process failed; the message has its last words."""
    given = {"sizes": sizes, "cohort": cohort, "threads": threads, "rounds": rounds, "source": source}
    options = [str(part) for name, value in given.items() for part in (f"--{name}", value)]
    command = [sys.executable, "-m", "benchmarks.simulation.scaling", *options]
    settings = os.environ | {"OMP_NUM_THREADS": str(threads)} | (env or {})
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(f"{' '.join(options)}: {words[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return given | result


def measure(sizes: Sizes, cohort: int, threads: int, rounds: int, source: str) -> dict[str, Any]:
    """A run of FedAvg by flow.simulate after a small one that warms up.

    source: "memory", equal clients as in the races; "synthetic:N", N clients on disk, prepared before."""
    import flow
    from benchmarks.simulation import ours
    from flow.data import load

    many = replace(sizes, clients=max(cohort, sizes.clients), cohort=cohort)
    if source == "memory":
        clients = ours.population(many, workload.tokens(many))
    else:
        clients = load(synthetic(sizes, int(source.partition(":")[2])))
    small = ours.config(replace(many, cohort=1), "fedavg", 1, threads, min_texts=NOBODY)
    flow.simulate(small, population=clients, progress=False)
    chosen = ours.config(many, "fedavg", rounds, threads, min_texts=NOBODY)
    rows = flow.simulate(chosen, population=clients, progress=False).metrics
    seconds = [row["seconds"] for row in rows]
    return {
        "seconds": statistics.median(seconds),
        "sequences_per_second": sum(row["sequences"] for row in rows) / sum(seconds),
        "sequences": [row["sequences"] for row in rows],
        "peak_bytes": highest(),
    }


def synthetic(sizes: Sizes, clients: int) -> Any:
    """The options of a synthetic population of the race's vocabulary, its clients a quarter as large."""
    from flow.data import DataOptions
    from flow.data.tokens import SPECIALS

    words = sizes.vocabulary - len(SPECIALS)
    return DataOptions(
        data="synthetic", clients=clients, sequences=sizes.sequences // 4, sequence_length=sizes.steps, vocabulary_size=words
    )


def highest() -> int:
    """Bytes of the highest resident memory of this process, mapped files included."""
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def prepare(sizes: str, clients: int) -> None:
    """Have a synthetic population on disk, in a process of its own.

    Raises:
        RuntimeError: it failed; the message has its last words."""
    point(sizes, 1, 1, 1, f"synthetic:{clients}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", choices=sorted(SIZES), default="full")
    parser.add_argument("--cohort", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--source", default="memory", help="memory, or synthetic:N for N clients on disk")
    given = parser.parse_args()
    print(json.dumps(measure(SIZES[given.sizes], given.cohort, given.threads, given.rounds, given.source)))


if __name__ == "__main__":
    main()
