"""The processor's peak, measured: multiply-adds and reads a second (probe.cpp, compiled on the spot)."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

from benchmarks.common import compiler
from benchmarks.common.cases import BYTES, Case
from benchmarks.common.timing import Sample

DTYPES = tuple(BYTES)  # in the order of probe_flops
SECONDS = 0.02  # of one measurement beside others; long enough for the clock and the start of threads not to matter


class Probe:
    """Raises compiler.Missing where it cannot be built."""

    def __init__(self, folder: Path) -> None:
        path, self.flags = compiler.library("probe.cpp", folder)
        self._library = ctypes.CDLL(str(path))
        self._library.probe_flops.restype = self._library.probe_bandwidth.restype = ctypes.c_double
        self._library.probe_flops.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_double]
        self._library.probe_bandwidth.argtypes = [ctypes.c_int64, ctypes.c_int, ctypes.c_double]

    @property
    def vector_bytes(self) -> int:
        return int(self._library.probe_vector_bytes())

    def flops(self, dtype: str, threads: int, seconds: float = SECONDS) -> float | None:
        """Floating-point operations a second of so many threads together; None where this processor or build has no
        instruction for the dtype."""
        rate = float(self._library.probe_flops(DTYPES.index(dtype), threads, seconds))
        return None if rate < 0 else rate

    def bandwidth(self, size: int, threads: int, seconds: float = SECONDS) -> float:
        """Bytes a second read from an array of `size` bytes that is read again and again."""
        return float(self._library.probe_bandwidth(size, threads, seconds))

    def table(self, caches: dict[str, int], threads: list[int], seconds: float) -> dict[str, Any]:
        """Every dtype and a footprint in each level, {"flops": [..], "bandwidth": [..]}. The best of five: what the processor
        can do when nobody interrupts it."""
        level2, level3 = caches["L2"], caches["L3"]
        places = {"L2": level2 // 2, "L3": min(level3 // 2, 4 * level2), "memory": max(4 * level3, 1 << 28)}
        flops = [
            {"dtype": dtype, "threads": n, "per_second": max(rates)}
            for n in threads
            for dtype in DTYPES
            if all(rates := [self.flops(dtype, n, seconds) or 0.0 for _ in range(5)])
        ]
        bandwidth = [
            {"level": level, "bytes": size, "threads": n, "per_second": max(self.bandwidth(size, n, seconds) for _ in range(5))}
            for n in threads
            for level, size in places.items()
        ]
        return {"flops": flops, "bandwidth": bandwidth, "flags": self.flags, "vector_bytes": self.vector_bytes}


class AtPeak:
    """A contender that takes the time the case's arithmetic takes at the peak measured in that moment."""

    name = "at the FMA peak"

    def __init__(self, probe: Probe, case: Case) -> None:
        self._probe, self._case = probe, case

    def sample(self, seconds: float) -> Sample:
        cpu, start = time.process_time(), time.perf_counter()
        rate = self._probe.flops(self._case.dtype, self._case.threads)
        assert rate is not None
        cores = (time.process_time() - cpu) / (time.perf_counter() - start)
        return Sample(self._case.flops / rate, cores)


class AtBandwidth:
    """A contender that takes the time to read the weights that must be read, from wherever as many bytes of weights lie."""

    name = "at the read bandwidth"

    def __init__(self, probe: Probe, case: Case) -> None:
        self._probe, self._case = probe, case

    def sample(self, seconds: float) -> Sample:
        case = self._case
        return Sample(case.least_bytes / self._probe.bandwidth(case.weight_bytes, case.threads), float(case.threads))
