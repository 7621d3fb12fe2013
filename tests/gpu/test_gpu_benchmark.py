"""The benchmark of the GPU kernels as far as it runs without a GPU: rivals, what it refuses to time, builds, tables."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.common.compiler import Missing
from benchmarks.gpu import cases, device, draw, federated, latencies, measure, rivals, small, suite, tables
from benchmarks.gpu.problem import Problem
from flow_kernels.backends import load
from flow_kernels.backends.gpu import cuda
from flow_kernels.plan import Plan

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "NAME", "cpu")


def test_the_cases_are_those_of_the_goals_and_the_whole_grid() -> None:
    (cohort, against), (again, compiled) = cases.goal("cohort", True)
    assert (cohort.clients, cohort.batch, cohort.steps, cohort.hidden, cohort.dtype) == (32, 16, 20, 256, "bfloat16")
    assert {"loop", "stacked", "GRU"} <= set(against) and again == cohort and compiled == ("compiled graph",)
    ((alone, _),) = cases.goal("alone", True)
    assert (alone.clients, alone.batch, alone.steps, alone.hidden) == (1, 64, 80, 512)
    listed = [case for case, _ in cases.sweep(True)]
    assert len(listed) == len(set(listed)) == 2 * 5 * 4 * 3 and all(case.hidden in (64, 128, 256, 512, 1024) for case in listed)
    assert {case.clients for case in listed[:10]} == {1, 8, 32, 128}


def test_every_rival_has_the_numbers_of_the_reference() -> None:
    """In float64, so that nothing hides in rounding."""
    for clients in (1, 3):
        problem = Problem(replace(cases.TINY, clients=clients, dtype="float64", mode="training"), CPU)
        measured = measure.row("cohort", problem, ("loop", "stacked", "GRU"), measure.STAND_IN)
        assert len(measured["contenders"]) == 4 and not measured["wrong"]
        assert all(error < 1e-13 for errors in measured["errors"].values() for error in errors.values()), measured["errors"]
        assert all(len(errors) == 3 for errors in measured["errors"].values())


def test_the_stacked_form_compiles() -> None:
    """What is compiled on a GPU, by the part of the compiler that needs none."""
    problem = Problem(replace(cases.TINY, mode="training", dtype="float64"), CPU)
    stacked = rivals.StackedLoop(problem.weights)
    torch._dynamo.reset()
    compiled = torch.compile(stacked, fullgraph=True, dynamic=False, backend="aot_eager")
    out = compiled(problem.x)
    grads = torch.autograd.grad(out, list(stacked.parameters()), problem.grad)
    torch.testing.assert_close(out, problem.exact()["output"])
    assert len(grads) == 10


def test_a_rival_that_computes_something_else_is_timed_and_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = rivals.StackedLoop.forward
    monkeypatch.setattr(rivals.StackedLoop, "forward", lambda self, x: forward(self, x) * 1.01)
    file = tmp_path / "results.json"
    todo = [(replace(cases.TINY, clients=2), ("loop", "stacked", "compiled graph"))]
    assert measure.measure("cohort", todo, measure.STAND_IN, file, 60.0) == 0
    report = json.loads(file.read_text())
    for row in report["rows"]:
        assert list(row["contenders"]) == ["ours", "eager loop over clients", "stacked eager"]
        assert "the output is off by" in row["wrong_rivals"]["stacked eager"] and not row["wrong"]
        assert row["errors"]["stacked eager"]["output"] == pytest.approx(0.01, rel=1e-3)
        assert row["missing"]["torch.compile of stacked, CUDA graph"] == "not compiled in a stand-in run"
        text = "\n".join(tables.contenders(row, {}))
        assert "| stacked eager (wrong numbers) |" in text and "| eager loop over clients |" in text
        assert "- stacked eager: K2" in text
    assert not report["failed"]


def test_cases_of_an_earlier_call_are_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, measured = tmp_path / "results.json", list[str]()
    row = measure.row

    def noted(group: str, problem: Problem, *rest: Any) -> dict[str, Any]:
        measured.append(f"{problem.case.clients} {problem.case.mode}")
        return row(group, problem, *rest)

    monkeypatch.setattr(measure, "row", noted)
    todo = [(replace(cases.TINY, clients=k), ("stacked",)) for k in (1, 2, 3)]
    assert measure.measure("sweep", todo[:1], measure.STAND_IN, file, 60.0) == 0
    before = json.loads(file.read_text())
    before["rows"] += [row | {"case": row["case"] | {"clients": 2}} for row in before["rows"][:1]]  # stopped in the middle
    file.write_text(json.dumps(before))
    measured.clear()
    assert measure.measure("sweep", todo, measure.STAND_IN, file, 60.0) == 0
    assert measured == ["2 training", "2 forward", "3 training", "3 forward"]
    report = json.loads(file.read_text())
    assert [row["case"]["clients"] for row in report["rows"]] == [1, 1, 2, 2, 3, 3] and report["done"] == 3
    assert report["rows"][:2] == before["rows"][:2]


def test_ours_being_wrong_fails_the_step_and_not_the_other_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Problem.ours

    def spoilt(self: Problem, backend: str) -> Any:
        call = ours(self, backend)
        return (lambda: [t * 2 for t in call()]) if self.case.clients == 1 else call

    monkeypatch.setattr(Problem, "ours", spoilt)
    todo = [(replace(cases.TINY, clients=k), ("stacked",)) for k in (1, 2)]
    assert measure.measure("sweep", todo, measure.STAND_IN, tmp_path / "results.json", 60.0) == 1
    report = json.loads((tmp_path / "results.json").read_text())
    assert [row["case"]["clients"] for row in report["rows"]] == [2, 2] and "ours: the output is off" in report["failed"][0]


def test_the_division_is_what_the_device_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(replace(cases.TINY, dtype="bfloat16", mode="training"), CPU)
    assert measure.division(problem) is None  # not the CUDA kernels
    problem.case = replace(problem.case, clients=32, batch=16, hidden=256)
    monkeypatch.setattr(Problem, "explain", lambda self: Plan("cuda", "told to"))
    asked = []

    def division(*arguments: Any) -> cuda.Division:
        asked.append(arguments)
        return cuda.Division(32, 4, 16, 31)

    monkeypatch.setattr(cuda, "division", division)
    assert measure.division(problem) == {"clusters": 32, "blocks": 4, "tile": 16, "at_once": 31, "waves": 2}
    assert asked == [(32, 16, 256, torch.bfloat16, True, CPU)]


def test_no_kernel_is_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the reference runs, it is not timed under the kernels' name."""
    monkeypatch.setattr(device, "BACKEND", "reference")
    assert measure.measure("cohort", cases.goal("cohort", False), measure.STAND_IN, tmp_path / "results.json", 60.0) == 1
    report = json.loads((tmp_path / "results.json").read_text())
    assert not report["rows"] and "no kernel runs" in report["failed"][0]
    assert federated.main(tmp_path / "federated.json", 60.0) == 1
    report = json.loads((tmp_path / "federated.json").read_text())
    assert "no kernel runs" in report["failed"][0] and "ours" not in report["algorithms"]["fedavg"]


def test_a_sample_lies_between_two_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GPU whose clock is moved on by the call, 2 ms each time, and by the wait for everything before."""
    now, waits = [0.0], []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = now[0]

        def synchronize(self) -> None:
            waits.append("event")

        def elapsed_time(self, end: Event) -> float:
            return end.at - self.at

    def synchronize() -> None:
        waits.append("all")
        now[0] += 50

    def call() -> None:
        now[0] += 2

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    contender = device.OnDevice("ours", call, torch.device("cuda"))
    assert contender.sample(0.01).seconds == pytest.approx(2e-3)
    assert now[0] == 2 * 50 + 2 * (1 + 5) and waits == ["all", "event"] * 2
    assert contender.sample(0.001).seconds == pytest.approx(2e-3) and len(waits) == 6  # one call fills the time


def test_a_graph_is_not_pretended() -> None:
    with pytest.raises(Missing, match="needs a GPU"):
        device.captured(lambda: None, CPU)


def test_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "NAME", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="FLOW_GPU_DEVICE=cpu"):
        device.device()


def test_the_loops_train_as_the_simulation_does(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    assert federated.main(file, 60.0) == 0
    report = json.loads(file.read_text())
    for ways in report["algorithms"].values():
        assert len(ways) == 3 and all(len(way["losses"]) == 2 and way["sequences_per_second"] > 0 for way in ways.values())
        for way in ways.values():
            assert way["losses"] == pytest.approx(ways["ours"]["losses"], rel=1e-5)
    del report["algorithms"]["fedavg"]["PyTorch loop"]
    report["algorithms"]["flow"]["ours"]["seconds"] = ["kept"]
    file.write_text(json.dumps(report))
    assert federated.main(file, 60.0) == 0  # goes on: what is there is not measured again
    again = json.loads(file.read_text())["algorithms"]
    assert again["flow"] == report["algorithms"]["flow"] and "PyTorch loop" in again["fedavg"]
    other = {"ours": {"losses": [3.0, 2.0]}, "PyTorch loop": {"losses": [3.0, 2.1]}}
    assert federated.disagreements("fedavg", other) == ["fedavg, PyTorch loop: in round 2 the loss is 2.1, ours 2.0"]


def test_small_cases_and_what_they_notice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert small.main() == 0 and "cpu, torch.bfloat16, (2, 3, 5, 9, 33), local: error" in capsys.readouterr().out
    monkeypatch.setattr(small, "AGREE", {"float32": 0.0, "bfloat16": 0.0})
    assert small.main() == 1
    monkeypatch.setattr(small, "AGREE", {"float32": 1.0, "bfloat16": 1.0})

    def broken(*_: Any) -> float:
        raise ValueError("no such size")

    with monkeypatch.context() as patch:
        patch.setattr(small, "run", broken)
        assert small.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.endswith("local: ValueError: no such size") for line in lines) == 2  # each dtype is tried all the same
    monkeypatch.setattr(load("cpu"), "refusal", lambda dtype, where: "it is away")
    monkeypatch.setattr(load("cpu"), "status", lambda: "it is away")
    assert small.main() == 1 and "cpu: it is away" in capsys.readouterr().out


def test_small_cases_side_by_side_are_the_same_cases(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLOW_GPU_DEVICE", "cpu")  # for the other processes
    assert small.main() == 0
    alone = capsys.readouterr().out
    assert small.main(2) == 0 and capsys.readouterr().out == alone and alone.count("error") == 4


def test_probes_are_compiled_run_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that copies: the sources are shell scripts."""
    nvcc = tmp_path / "nvcc"
    broken = 'grep -q broken "$3" && { echo no good; exit 1; }'
    nvcc.write_text(f'#!/bin/sh\n[ "$1" = -arch=sm_90a ] || exit 9\n{broken}\ncp "$3" "$5"\nchmod +x "$5"\n')
    nvcc.chmod(0o755)
    sources = {
        "good": """echo '{"gap_us": 1.5}'; echo; echo '{"gap_us": 2}'""",
        "bad": "echo gap 1.5",
        "dead": "echo oh >&2; exit 4",
        "slow": "sleep 60",
        "broken": "echo broken",
    }
    for name, text in sources.items():
        (tmp_path / f"{name}.cu").write_text(f"#!/bin/sh\n{text}\n")
    monkeypatch.setattr(latencies, "SECONDS", 1)
    results = latencies.run([tmp_path / f"{name}.cu" for name in sources], str(nvcc), tmp_path)
    assert results.pop("good") == {"lines": [{"gap_us": 1.5}, {"gap_us": 2}]}
    why = {name: result["failed"] for name, result in results.items()}
    assert "JSON lines" in why["bad"] and why["dead"] == "exit status 4: oh" and why["slow"] == "no end within 1 s"
    assert why["broken"] == "nvcc: exit status 1: no good"


def test_the_suite_leaves_out_by_name_what_needs_more(tmp_path: Path) -> None:
    (tmp_path / "tests" / "cli").mkdir(parents=True)
    (tmp_path / "tests" / "cli" / "test_a.py").write_text("from flow.cli import main\n")
    (tmp_path / "tests" / "test_b.py").write_text("import flow\n")
    assert suite.left_out(tmp_path / "tests", lambda name: name != "tyro") == {"tests/cli/test_a.py": "tyro is not installed"}
    assert suite.left_out(tmp_path / "tests", lambda name: True) == {}
    (tmp_path / "tests" / "test_c.py").write_text("import os\nimport h5py\n")
    assert suite.left_out(tmp_path / "tests", lambda name: name != "h5py") == {"tests/test_c.py": "h5py is not installed"}


def report_of_a_gpu() -> dict[str, Any]:
    """What a GPU machine might leave: rows measured here, under other sizes."""
    rows = []
    for hidden, clients in ((64, 32), (128, 32), (64, 8), (128, 8)):
        problem = Problem(replace(cases.TINY, dtype="bfloat16", mode="training"), CPU)
        row = measure.row("sweep", problem, ("loop", "stacked"), measure.STAND_IN)
        row["case"] |= {"hidden": hidden, "clients": clients, "batch": 16}
        row["kernels"] = {"routed_forward": {"us": 3.25, "launches": 1.0}}
        rows.append(row)
    gpu = {"name": "A GPU", "multiprocessors": 100}
    backends = {
        "date": "2026-01-01",
        "stand_in": False,
        "processor": "a processor",
        "versions": {"torch": "2", "triton": "3"},
        "gpu": gpu,
        "nvidia_smi": {"driver_version": "580", "clocks.max.sm": "1000 MHz"},
        "clusters": [{"hidden": 256, "way": "forward", "tile": 16, "blocks": 4, "at_once": 31}],
    }
    machine = {"bf16_flops_per_second": 1e12}
    checked = {"passed": ["a", "b"], "failed": {"tests/gpu/test_c.py::d": "why\nE   assert 1 == 2"}, "skipped": {}}
    part = {"rows": rows, "cases": 5, "done": 4, "failed": ["K1: why"], "too_large": ["K9: memory"]}
    names = {
        "device": "cuda",
        "date": "2026-01-01",
        "minutes": 1.0,
        "steps": [
            {"step": "sweep", "seconds": 1.0, "status": "passed"},
            {"step": "small", "seconds": 1.0, "status": "failed (exit status 1)", "text": "cuda: error 0.5, more than 1e-05"},
        ],
        "backends": backends,
        "cuda tests": checked,
    }
    names["federated"] = {"algorithms": {"fedavg": {"ours": {"sequences_per_second": 9.0, "plan": "triton"}}}, "failed": []}
    return names | {"machine": machine, "sweep": part, "cohort": part, "probes": {"gap": {"lines": [{"us": 1.5}]}}}


def test_tables_and_pictures(tmp_path: Path) -> None:
    report = report_of_a_gpu()
    (tmp_path / "gpu.json").write_text(json.dumps(report))
    assert draw.main([tmp_path / "gpu.json"], tmp_path) == 0
    text = (tmp_path / "tables.md").read_text()
    loop = report["cohort"]["rows"][0]["contenders"]["eager loop over clients"]["ratio"]["median"]
    met = "met" if loop >= 200 else "missed"
    assert f"| 32 clients, training: times the eager loop over clients | at least 200 | {loop:.2f} | {met} |" in text
    assert "| - times torch.compile of it, both as CUDA graphs | at least 3 | - | not measured |" in text
    assert (
        "A GPU, driver 580" in text
        and "1 of 5 cases were left out" in text
        and "- K1: why" in text
        and "- K9: memory" in text
        and "- gap: us 1.5" in text
    )
    assert "| cuda tests | 2 | 1 | 0 |" in text and "- tests/gpu/test_c.py::d: E   assert 1 == 2" in text
    assert "| 256 | forward | 4 | 16 | 31 |" in text and "cuda: error 0.5, more than 1e-05" in text
    assert "| `routed_forward` | 3.2 | 1 |" in text and "| fedavg | 9 |" in text and "- fedavg, ours: triton" in text
    if importlib.util.find_spec("matplotlib"):
        assert (tmp_path / "gpu-time.png").stat().st_size > 10_000 and (tmp_path / "gpu-speedup.png").stat().st_size > 10_000


def test_runs_on_one_machine_become_one(tmp_path: Path) -> None:
    machine = {"gpu": "A", "versions": {}, "stand_in": False}
    run: dict[str, Any] = {"device": "cuda", "date": "2026-01-01", "minutes": 1.0, "backends": machine}
    first = run | {"steps": [{"step": "sweep", "status": "out of time"}, {"step": "build"}], "sweep": 1, "probes": 2}
    second = run | {"steps": [{"step": "sweep", "status": "passed"}], "sweep": 3}
    merged = draw.merged([first, second])
    assert (merged["sweep"], merged["probes"], merged["minutes"]) == (3, 2, 2.0)
    assert [(s["step"], s.get("status")) for s in merged["steps"]] == [("sweep", "passed"), ("build", None)]
    for other in (second | {"backends": machine | {"gpu": "B"}}, {k: v for k, v in second.items() if k != "backends"}):
        with pytest.raises(SystemExit, match="the runs differ in gpu: A and"):
            draw.merged([first, other])


def test_the_bounds_are_the_arithmetic_of_the_step() -> None:
    report = report_of_a_gpu()
    row = report["cohort"]["rows"][0]
    row["case"] |= {"hidden": 256, "clients": 32, "batch": 16, "steps": 20}
    row["division"] = {"clusters": 32, "blocks": 4, "tile": 16, "at_once": 25, "waves": 2}
    bounds = tables.bounds(row, report)
    assert bounds["shared memory as divided"] == pytest.approx(20 * 2 * (6 * 256 * 256 / 4) * 2 / (128 * 1e9))
    weights = 32 * 2 * 3 * 256 * 256
    assert bounds["shared memory of the whole chip"] == pytest.approx(20 * weights * 2 / (100 * 128 * 1e9))
    assert bounds["tensor cores"] == pytest.approx(20 * weights * 2 * 16 / 1e12)
