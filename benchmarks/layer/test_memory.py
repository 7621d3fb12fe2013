"""Peak memory of one training step, each in a fresh process. Runs first, while torch.compile is at work beside it."""

from __future__ import annotations

import statistics

import pytest

from benchmarks.layer import memory
from benchmarks.layer.lab import Lab

THREADS = 2


@pytest.mark.parametrize("sizes", [(64, 80, 128, 256), (64, 80, 128, 512)], ids=lambda s: "B{} T{} I{} H{}".format(*s))
def test_memory(sizes: tuple[int, int, int, int], lab: Lab) -> None:
    if lab.quick and sizes[3] > 256:
        pytest.skip("quick: too long")
    peaks: dict[str, float] = {}
    norms: dict[str, float] = {}
    for what in ("ours", "ours, recompute", "eager", "hoisted", "GRU"):
        samples = [memory.measure(what, sizes, THREADS) for _ in range(1 if lab.quick else 3)]
        peaks[what] = statistics.median(f["bytes"] for f in samples)
        norms[what] = samples[0]["output"]
    for what in ("eager", "hoisted"):
        assert norms[what] == pytest.approx(norms["ours"], rel=1e-5), f"{what} computes something else"
    b, t, i, h = sizes
    lab.memory.append({"shape": f"B{b} T{t} I{i} H{h}", "dtype": "float32", "threads": THREADS, "bytes": peaks})
