"""Work on all cores: a function of many jobs in processes, with few of the results in hand at a time."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from flow.terminal.progress import Progress

MOST_PROCESSES = 16
AHEAD = 2  # jobs in hand for every process
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
FORKS = "fork" in multiprocessing.get_all_start_methods()

_shared: Any = None
"""What all calls of a process have in common: it is inherited, and not sent with every call."""


def mapped(function: Callable[[Any, Any], Any], jobs: Iterable[Any], shared: Any, processes: int) -> Iterator[Any]:
    """``function(job, shared)`` of every job, in their order; few of them are in hand at a time."""
    if processes < 2:
        for job in jobs:
            yield function(job, shared)
        return
    with warnings.catch_warnings():  # of threads at a fork: what is called there uses none of torch's
        warnings.simplefilter("ignore", DeprecationWarning)
        pool = ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), _begin, (shared,))
        waiting: deque[Future[Any]] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(_call, function, job))
                if len(waiting) > AHEAD * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise MemoryError("a process that prepares data was killed, as the system does where memory is short") from error
        except BaseException:  # who is asked to end does not wait for a job of which nobody wants the result
            for process in list(pool._processes.values()):
                process.kill()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def most_processes(worth: bool) -> int:
    """How many processes share work: as many as there are cores, or one where more are not worth their start."""
    return min(MOST_PROCESSES, cores()) if worth and FORKS else 1


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin(shared: Any) -> None:
    global _shared
    _shared = shared
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # or it would wait for ever for one that was killed
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one is asked to end, and ends it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _call(function: Callable[[Any, Any], Any], job: Any) -> Any:
    return function(job, _shared)


def bar(what: str, total: int, progress: bool, unit: str) -> Progress[None]:
    """Progress on stderr with the time that is left, shown after a second of work; ``total`` 0: not known."""
    return Progress(what=what, unit=unit, total=total or None, delay=1, visible=progress)
