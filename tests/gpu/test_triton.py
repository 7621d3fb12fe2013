"""The Triton backend on a machine without a GPU: its kernels in the interpreter and through the compiler, and the plain Python
around them. What needs Triton is skipped where it is not installed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from problems import make

import flow_kernels
from flow_kernels.backends.gpu import triton
from flow_kernels.backends.gpu.triton import graphs, tiles

HERE = Path(__file__).parent


@pytest.mark.long
@pytest.mark.triton
def test_kernels_in_the_interpreter() -> None:
    """All of test_triton_interpreter.py with TRITON_INTERPRET=1, which must be set before triton is first imported."""
    import numpy
    from triton import __version__ as version

    triton_is, numpy_is = (tuple(map(int, v.split(".")[:2])) for v in (version, numpy.__version__))
    if triton_is < (3, 7) and numpy_is >= (2, 4):
        pytest.skip("Triton 3.6 cannot interpret a loop over a number given at run time with numpy 2.4 or later")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    cases = str(HERE / "test_triton_interpreter.py")
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", cases]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 50 and "skipped" not in done.stdout


@pytest.mark.triton
@pytest.mark.parametrize("mode", ["step", "sequence"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_one_configuration_of_every_kernel_compiles_for_hopper(direction: str, mode: str) -> None:
    """All of the table: test_triton_table.py, which takes minutes."""
    from triton_aot import check

    if mode == "sequence":
        check(direction, "sequence", tiles.SEQUENCE[direction, "half"][32], "bf16", 90, hidden=32)
    else:
        check(direction, "step", tiles.STEP[direction, "half"][1], "bf16", 90, hidden=256)


def test_imports_and_says_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = "flow_kernels.backends.gpu.triton.forward"
    code = f"import sys, flow_kernels; flow_kernels.backends(); assert {kernels!r} not in sys.modules"
    assert forked.python(code).returncode == 0
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for spec, why in ((None, "triton is not installed"), (object(), "no GPU: torch.cuda.is_available() is False")):
        triton._why_missing.cache_clear()
        monkeypatch.setattr(importlib.util, "find_spec", lambda _, spec=spec: spec)
        assert why in flow_kernels.backends()["triton"] and why in triton.refusal(torch.float32, cuda)
    tensors = make(1, 2, 2, 3, 5).tensors
    with pytest.raises(
        RuntimeError, match="backend='triton' cannot run here: it runs on a CUDA device and the input is on cpu"
    ):
        flow_kernels.routed_gru(*(t.float() for t in tensors.values()), backend="triton")
    triton._why_missing.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert triton.refusal(torch.bfloat16, cuda) == "" and triton.status() == "available"
    assert "float64" in triton.refusal(torch.float64, cuda)
    triton._why_missing.cache_clear()


class _Graph:
    def __init__(self, launch: Any, log: list[str]) -> None:
        self.launch, self.log = launch, log

    def replay(self) -> None:
        self.log.append("replayed")
        self.launch()


def test_launches_are_recorded_when_they_repeat_and_graphs_do_not_pile_up() -> None:
    log: list[str] = []

    def record(launch: Any) -> _Graph:
        log.append("recorded")
        return _Graph(launch, log)

    recorder = graphs.Recorder(record, seen=2, kept=2)
    for key in ("a", "a", "a"):
        recorder.run(key, lambda: log.append("launched"))
    assert log == ["launched", "recorded", "replayed", "launched", "replayed", "launched"]
    log.clear()
    for key in ("b", "c", "d", "b", "c", "b"):  # two keys are remembered: b is forgotten when d comes, c when b does
        recorder.run(key, lambda: log.append("launched"))
    assert log == ["launched"] * 5 + ["recorded", "replayed", "launched"]
    log.clear()
    for key in ("c", "a", "c", "a"):  # two graphs are kept: c's takes the place of a's, which is recorded again
        recorder.run(key, lambda: log.append("launched"))
    assert log.count("recorded") == 2


def test_nothing_is_recorded_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Recorder:
        def run(self, key: Any, launch: Any) -> None:
            log.append("recorder")

    monkeypatch.setattr(graphs, "_recorder", Recorder())
    capturing = [False]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    cpu, cuda = torch.device("cpu"), torch.device("cuda")

    def run(launches: int, device: torch.device) -> str:
        graphs.run("key", launches, device, lambda: log.append("launched"))
        return log.pop()

    assert run(9, cuda) == "recorder" and run(1, cuda) == "launched" and run(9, cpu) == "launched"
    capturing[0] = True
    assert run(9, cuda) == "launched"
    capturing[0] = False
    monkeypatch.setenv("FLOW_GRAPHS", "0")
    assert run(9, cuda) == "launched"
