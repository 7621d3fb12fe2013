"""A runner of the simulation benchmark that trains nothing: `python -m tests.support.idle_runner`."""

from __future__ import annotations

import sys

from benchmarks.common import worker
from benchmarks.simulation.runner import Turn, arguments, serve

if __name__ == "__main__":
    _, requests, replies = worker.start(sys.argv[1:])
    given = arguments(sys.argv[1:])
    serve(lambda rounds: Turn([1e-3] * rounds, given.plan.start(given.algorithm)), {}, requests, replies)
