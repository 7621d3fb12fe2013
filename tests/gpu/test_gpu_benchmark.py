"""The benchmark of the GPU kernels as far as it runs without a GPU: steps, rivals, what it refuses to time, tables."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.common.compiler import Missing
from benchmarks.gpu import cases, device, draw, federated, latencies, measure, rivals, runner, small, steps, suite, tables
from benchmarks.gpu.problem import Problem
from benchmarks.gpu.runner import Step
from flow_kernels.backends import load

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "NAME", "cpu")


def python(code: str) -> tuple[str, ...]:
    return (PYTHON, "-c", code)


def alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


HANGS = """
import json, pathlib, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path("{file}").write_text(json.dumps(child.pid))
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""


def test_a_step_that_fails_or_hangs_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GRACE", 0.5)
    child = tmp_path / "child"
    writes = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('[1]'); sys.exit(int(sys.argv[2]))"
    planted = [
        [Step("fails", "", python("print('why it failed'); raise SystemExit(3)"), 30)],
        [Step("hangs", "", python(HANGS.format(file=child)), 1.5), Step("beside", "", python("print('beside')"), 30)],
        [Step("absent", "", ("no-such-program-here",), 30), Step("idle", "", (), 30, left_out="it has no GPU")],
        [Step("half", "", (*python(writes), "{part}", "1"), 30)],
        [Step("whole", "", (*python(writes), "{part}", "0"), 30)],
    ]
    assert steps.run(tmp_path / "out", "cpu", planted, 60.0) == 1
    report = json.loads((tmp_path / "out" / "gpu.json").read_text())
    ended = {step["step"]: step["status"] for step in report["steps"]}
    assert ended == {
        "fails": "failed (exit status 3)",
        "hangs": "out of time (2 s)",
        "beside": "passed",
        "absent": "failed (cannot be started)",
        "idle": "left out: it has no GPU",
        "half": "failed (exit status 1)",
        "whole": "passed",
        "draw": "passed",
    }
    assert report["half"] == report["whole"] == [1]
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "why it failed" in log and "cannot be started" in log
    assert (tmp_path / "out" / "summary.txt").read_text().endswith("3 passed, 1 left out, 4 bad: fails, hangs, absent, half\n")
    assert not alive(json.loads(child.read_text()))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"gpu.json", "log.txt", "summary.txt", "tables.md"}


def test_the_clock_is_for_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LEAST", 1.0)
    planted = [[Step(f"step {n}", "", python("import time; time.sleep(600)"), 600)] for n in range(3)]
    started, reports = time.monotonic(), []
    run = runner.Run(tmp_path, ROOT, runner.LEAST + 0.4, lambda outcomes, parts, log: reports.append(len(outcomes)))
    run.stages(planted)
    assert time.monotonic() - started < runner.LEAST + 0.5 + runner.GRACE + 3
    assert [o.status for o in run.outcomes] == ["out of time (1 s)", *["not started: no time left"] * 2]
    assert reports == [1, 2, 3]  # what was found is written as it comes


def test_nothing_outlives_a_run_that_is_stopped(tmp_path: Path) -> None:
    child = tmp_path / "child"
    code = f"""
import signal, sys
from pathlib import Path
from benchmarks.gpu.runner import Run, Step
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
Run(Path({str(tmp_path)!r}), Path("."), 600, lambda *_: None).stages(
    [[Step("hangs", "", (sys.executable, "-c", {HANGS.format(file=child)!r}), 600)]])
"""
    process = subprocess.Popen([PYTHON, "-c", code], cwd=ROOT)
    while not (child.exists() and child.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert not alive(json.loads(child.read_text()))


def script(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHON": PYTHON} | env
    return subprocess.run([ROOT / "benchmarks" / "gpu.sh", *arguments], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        ((), {}, "usage"),
        (("out", "swep"), {}, "no step is called 'swep'; the steps are build, machine"),
        (("out",), {"FLOW_GPU_DEVICE": "tpu"}, "FLOW_GPU_DEVICE='tpu'"),
        (("out",), {"FLOW_GPU_SECONDS": "soon"}, "FLOW_GPU_SECONDS='soon'"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, arguments: tuple[str, ...], env: dict[str, str], message: str) -> None:
    done = script(*(str(tmp_path / a) if a == "out" else a for a in arguments), **env)
    assert done.returncode and message in done.stderr and not (tmp_path / "out").exists()


def test_one_step_from_the_shell(tmp_path: Path) -> None:
    done = script(str(tmp_path / "out"), "machine", FLOW_GPU_DEVICE="cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert report["machine"]["stand_in"] and "STAND-IN RUN ON THE CPU" in (tmp_path / "out" / "tables.md").read_text()


def test_steps_come_in_the_order_of_their_weight() -> None:
    listed = [step for stage in steps.stages("cuda") for step in stage]
    names = [step.name for step in listed]
    order = ["build", "machine", "small", "cohort", "alone", "tests", "probes", "federated", "sweep"]
    assert [name for name in names if name in order] == order
    assert not any(step.left_out for step in listed) and steps.SECONDS + steps.DRAWING < 540
    timed = {"cohort", "alone", "probes", "federated", "sweep"}
    assert all(len(stage) == 1 for stage in steps.stages("cuda") for step in stage if step.name in timed)
    for step in listed:
        for word in step.command:
            if word.startswith("benchmarks.gpu."):
                assert importlib.util.find_spec(word), word
    assert [[s.name for s in stage] for stage in steps.chosen(steps.stages("cuda"), ["sweep", "build"])] == [
        ["build"],
        ["sweep"],
    ]


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


def test_what_computes_something_else_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = rivals.StackedLoop.forward
    monkeypatch.setattr(rivals.StackedLoop, "forward", lambda self, x: forward(self, x) * 1.01)
    file = tmp_path / "found.json"
    todo = [(replace(cases.TINY, clients=2), ("loop", "stacked", "compiled graph"))]
    assert measure.measure("cohort", todo, measure.STAND_IN, file, 60.0) == 1
    report = json.loads(file.read_text())
    for row in report["rows"]:
        assert list(row["contenders"]) == ["ours", "eager loop over clients"]
        assert "the output is off by" in row["wrong"]["stacked eager"]
        assert row["missing"]["torch.compile of stacked, CUDA graph"] == "not compiled in a stand-in run"
    assert len(report["failed"]) == 2


def test_ours_being_wrong_fails_the_step_and_not_the_other_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Problem.ours

    def spoilt(self: Problem, backend: str) -> Any:
        call = ours(self, backend)
        return (lambda: [t * 2 for t in call()]) if self.case.clients == 1 else call

    monkeypatch.setattr(Problem, "ours", spoilt)
    todo = [(replace(cases.TINY, clients=k), ("stacked",)) for k in (1, 2)]
    assert measure.measure("sweep", todo, measure.STAND_IN, tmp_path / "found.json", 60.0) == 1
    report = json.loads((tmp_path / "found.json").read_text())
    assert [row["case"]["clients"] for row in report["rows"]] == [2, 2] and "ours: the output is off" in report["failed"][0]


def test_no_kernel_is_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the reference runs, it is not timed under the kernels' name."""
    monkeypatch.setattr(device, "BACKEND", "reference")
    assert measure.measure("cohort", cases.goal("cohort", False), measure.STAND_IN, tmp_path / "found.json", 60.0) == 1
    report = json.loads((tmp_path / "found.json").read_text())
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
    file = tmp_path / "found.json"
    assert federated.main(file, 60.0) == 0
    report = json.loads(file.read_text())
    for ways in report["algorithms"].values():
        assert len(ways) == 3 and all(len(way["losses"]) == 2 and way["sequences_per_second"] > 0 for way in ways.values())
        for way in ways.values():
            assert way["losses"] == pytest.approx(ways["ours"]["losses"], rel=1e-5)
    other = {"ours": {"losses": [3.0, 2.0]}, "PyTorch loop": {"losses": [3.0, 2.1]}}
    assert federated.disagreements("fedavg", other) == ["fedavg, PyTorch loop: in round 2 the loss is 2.1, ours 2.0"]


def test_small_cases_and_what_they_notice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert small.main() == 0 and "cpu, torch.bfloat16, (2, 3, 5, 9, 33), local: error" in capsys.readouterr().out
    monkeypatch.setattr(small, "AGREE", {"float32": 0.0, "bfloat16": 0.0})
    assert small.main() == 1
    monkeypatch.setattr(load("cpu"), "refusal", lambda dtype, where: "it is away")
    monkeypatch.setattr(load("cpu"), "status", lambda: "it is away")
    assert small.main() == 1 and "cpu: it is away" in capsys.readouterr().out


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


@pytest.mark.parametrize("cuda_builds", [True, False])
def test_without_the_cuda_part_the_rest_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda_builds: bool) -> None:
    """With a CMake that only notes what it is told."""
    pytest.importorskip("pybind11")
    from benchmarks.gpu import build

    noted, works = tmp_path / "noted", "exit 0" if cuda_builds else "exit 7"
    for tool in ("cmake", "ninja"):
        (tmp_path / tool).write_text(f'#!/bin/sh\necho "$@" >> {noted}\ncase "$*" in *FLOW_CUDA=1*) {works};; esac\n')
        (tmp_path / tool).chmod(0o755)
    (tmp_path / "flow_kernels.py").write_text("backends = lambda: {}")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "FOLDER", tmp_path / "build")
    assert build.main() == (0 if cuda_builds else 7)
    told = noted.read_text().splitlines()
    assert [word for line in told for word in line.split() if "FLOW_CUDA" in word or word == "--build"] == (
        ["-DFLOW_CUDA=1", "--build"] if cuda_builds else ["-DFLOW_CUDA=1", "-DFLOW_CUDA=0", "--build"]
    )
    assert all(f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={tmp_path}/flow_kernels" in line for line in told if "-DFLOW_CUDA" in line)


def test_the_suite_leaves_out_by_name_what_needs_more(tmp_path: Path) -> None:
    (tmp_path / "tests" / "cli").mkdir(parents=True)
    (tmp_path / "tests" / "cli" / "test_a.py").write_text("from flow.cli import main\n")
    (tmp_path / "tests" / "test_b.py").write_text("import flow\n")
    assert suite.left_out(tmp_path / "tests", lambda name: name != "tyro") == {"tests/cli/test_a.py": "tyro is not installed"}
    assert suite.left_out(tmp_path / "tests", lambda name: True) == {}


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
    machine = {
        "date": "2026-01-01",
        "stand_in": False,
        "processor": "a processor",
        "versions": {"torch": "2", "triton": "3"},
        "gpu": gpu,
        "nvidia_smi": {"driver_version": "580", "clocks.max.sm": "1000 MHz"},
        "bf16_flops_per_second": 1e12,
    }
    part = {"rows": rows, "cases": 5, "done": 4, "failed": ["K1: why"], "too_large": ["K9: memory"]}
    names = {
        "device": "cuda",
        "date": "2026-01-01",
        "minutes": 1.0,
        "steps": [{"step": "sweep", "seconds": 1.0, "status": "passed"}],
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
    assert "| `routed_forward` | 3.2 | 1 |" in text and "| fedavg | 9 |" in text and "- fedavg, ours: triton" in text
    if importlib.util.find_spec("matplotlib"):
        assert (tmp_path / "gpu-time.png").stat().st_size > 10_000 and (tmp_path / "gpu-speedup.png").stat().st_size > 10_000


def test_runs_on_one_machine_become_one(tmp_path: Path) -> None:
    machine = {"gpu": "A", "versions": {}, "stand_in": False}
    run: dict[str, Any] = {"device": "cuda", "date": "2026-01-01", "minutes": 1.0, "machine": machine}
    first = run | {"steps": [{"step": "sweep", "status": "out of time"}, {"step": "build"}], "sweep": 1, "probes": 2}
    second = run | {"steps": [{"step": "sweep", "status": "passed"}], "sweep": 3}
    merged = draw.merged([first, second])
    assert (merged["sweep"], merged["probes"], merged["minutes"]) == (3, 2, 2.0)
    assert [(s["step"], s.get("status")) for s in merged["steps"]] == [("sweep", "passed"), ("build", None)]
    for other in (second | {"machine": machine | {"gpu": "B"}}, {k: v for k, v in second.items() if k != "machine"}):
        with pytest.raises(SystemExit, match="the runs differ in gpu: A and"):
            draw.merged([first, other])


def test_the_bounds_are_the_arithmetic_of_the_step() -> None:
    report = report_of_a_gpu()
    row = report["cohort"]["rows"][0]
    row["case"] |= {"hidden": 256, "clients": 32, "batch": 16, "steps": 20}
    row["division"] = {"clusters": 32, "blocks": 4, "tile": 16}  # 128 blocks on 100 multiprocessors: two waves
    bounds = tables.bounds(row, report)
    assert bounds["shared memory as divided"] == pytest.approx(20 * 2 * (6 * 256 * 256 / 4) * 2 / (128 * 1e9))
    weights = 32 * 2 * 3 * 256 * 256
    assert bounds["shared memory of the whole chip"] == pytest.approx(20 * weights * 2 / (100 * 128 * 1e9))
    assert bounds["tensor cores"] == pytest.approx(20 * weights * 2 * 16 / 1e12)
