"""The run of the GPU benchmark: time shared by the steps, on a clock that the tests move on; results that are written as they
come; calls that go on with what an earlier one left."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from benchmarks.gpu import runner, session, steps
from benchmarks.gpu import sources as digests
from benchmarks.gpu.runner import Outcome, Step, allotted

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable


class FakeClock(runner.Clock):
    """Moves on when somebody waits, and only then."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


@dataclass
class Behaviour:
    """Of a step's process: after how many seconds it ends and how; what it writes to its part at which second."""

    seconds: float = 1.0
    status: int = 0
    writes: dict[float, Any] = field(default_factory=dict)
    stubborn: bool = False  # takes no notice of a request to end
    prints: str = ""


class Machine:
    """Starts no processes: keeps a list of what was started when, and for how long it was given."""

    def __init__(self, clock: FakeClock, behaviours: dict[str, Behaviour]) -> None:
        self.clock, self.behaviours = clock, behaviours
        self.started: list[tuple[str, float]] = []
        self.given: dict[str, float] = {}
        self.parts_before: dict[str, Any] = {}

    def __call__(self, command: Sequence[str], root: Path, output: IO[bytes]) -> FakeProcess:
        name, seconds, part = command
        self.started.append((name, round(self.clock.at, 1)))
        self.given[name] = float(seconds)
        file = Path(part)
        self.parts_before[name] = json.loads(file.read_text()) if file.exists() else None
        behaviour = self.behaviours.get(name, Behaviour())
        output.write(behaviour.prints.encode())
        return FakeProcess(self.clock, behaviour, file)


class FakeProcess:
    def __init__(self, clock: FakeClock, behaviour: Behaviour, part: Path) -> None:
        self.clock, self.behaviour, self.part = clock, behaviour, part
        self.begun, self.killed = clock.at, False

    def poll(self) -> int | None:
        for at, content in self.behaviour.writes.items():
            if self.clock.at - self.begun >= at:
                self.part.write_text(json.dumps(content))
                os.utime(self.part, (at, at))
        if self.killed:
            return -9
        return self.behaviour.status if self.clock.at - self.begun >= self.behaviour.seconds else None

    def end(self, signal_number: signal.Signals) -> None:
        self.killed |= signal_number == signal.SIGKILL or not self.behaviour.stubborn

    def wait(self, seconds: float | None) -> None:
        assert self.killed or seconds is not None, "a wait that has no end"
        if not self.killed and seconds is not None:
            self.clock.sleep(seconds)


def step(name: str, share: float, **more: Any) -> Step:
    return Step(name, f"about {name}", (name, "{seconds}", "{part}"), share, **more)


def planned(*shares: float, **more: Any) -> list[list[Step]]:
    return [[step(f"step {n}", share, **more)] for n, share in enumerate(shares)]


def faked(tmp_path: Path, behaviours: dict[str, Behaviour], seconds: float) -> tuple[runner.Run, Machine, list[Any]]:
    clock, reports = FakeClock(), list[Any]()
    machine = Machine(clock, behaviours)

    def report(outcomes: list[Outcome], parts: dict[str, Any], log: str) -> None:
        reports.append((clock.at, [(o.step, o.status) for o in outcomes], json.loads(json.dumps(parts)), log))

    return runner.Run(tmp_path, ROOT, seconds, report, clock, machine), machine, reports


def test_shares_of_the_time_that_is_left() -> None:
    stages = planned(10, 30, 60)
    assert allotted(stages, 200.0) == 20.0 and allotted(stages[1:], 190.0) == pytest.approx(190 / 3)
    assert allotted(stages[2:], 55.0) == 55.0  # the last one has all that is left
    assert allotted(planned(10, 90, least=40.0), 100.0) == 40.0  # less is of no use to it
    assert allotted(planned(10, 90, least=40.0), 30.0) == 30.0
    together = [[step("a", 10), step("b", 30)], [step("c", 30)]]  # side by side: the larger share is that of both
    assert allotted(together, 60.0) == 30.0


def test_time_that_is_not_needed_goes_to_the_later_steps(tmp_path: Path) -> None:
    run, machine, _ = faked(tmp_path, {"step 0": Behaviour(2.0), "step 1": Behaviour(1000.0), "step 2": Behaviour(5.0)}, 120.0)
    run.stages(planned(20, 40, 40), reserve=20.0)
    assert machine.given["step 0"] == pytest.approx(20 - runner.GRACE, abs=1)
    assert machine.given["step 1"] == pytest.approx(49 - runner.GRACE, abs=1)  # half of the 98 seconds that are left
    assert machine.given["step 2"] == pytest.approx(49 - runner.GRACE, abs=2)
    assert [o.status for o in run.outcomes] == ["passed", "out of time (49 s)", "passed"]
    assert [name for name, _ in machine.started] == ["step 0", "step 1", "step 2"]


def test_no_step_starves_those_after_it(tmp_path: Path) -> None:
    """All of them hang, and take no notice of being asked to end."""
    hanging = {f"step {n}": Behaviour(1e9, stubborn=True) for n in range(5)}
    run, machine, _ = faked(tmp_path, hanging, 100.0)
    run.stages(planned(20, 20, 20, 20, 20))
    assert len(machine.started) == 5 and all(10 <= given <= 20 for given in machine.given.values()), machine.given
    assert machine.clock.at <= 100 + 5 * (runner.GRACE + 0.1)
    assert all(o.status.startswith("out of time") for o in run.outcomes)


def test_the_worthiest_come_first_where_there_is_little_time(tmp_path: Path) -> None:
    run, machine, _ = faked(tmp_path, {f"step {n}": Behaviour(9.0) for n in range(4)}, 31.0)
    run.stages([*planned(10, 10, least=10.0), [step("long", 10, least=60.0)], [step("short", 1, least=2.0)]])
    assert [o.status for o in run.outcomes] == ["passed", "passed", "not started: it needs 60 s, and 13 s are left", "passed"]
    assert machine.given["short"] == pytest.approx(13 - runner.GRACE, abs=1)


def test_steps_side_by_side_have_the_same_time(tmp_path: Path) -> None:
    run, machine, _ = faked(tmp_path, {"b": Behaviour(1e9), "c": Behaviour(3.0)}, 100.0)
    run.stages([[step("a", 10), step("b", 40), step("idle", 50, left_out="it has no GPU")], [step("c", 60)]])
    assert machine.given["a"] == machine.given["b"] == pytest.approx(40 - runner.GRACE, abs=1)
    assert machine.started[:2] == [("a", 0.0), ("b", 0.0)]
    ended = {o.step: o.status for o in run.outcomes}
    assert ended == {"idle": "left out: it has no GPU", "a": "passed", "b": "out of time (40 s)", "c": "passed"}


def test_results_are_reported_while_a_step_runs(tmp_path: Path) -> None:
    writes: dict[float, Any] = {5.0: {"rows": 1}, 27.0: {"rows": 2}, 41.0: {"rows": 3}}
    run, _, reports = faked(tmp_path, {"long": Behaviour(60.0, writes=writes, prints="what it printed\n")}, 100.0)
    run.stages([[step("long", 1)]])
    assert [(round(at, -1), parts["long"]["rows"]) for at, _, parts, _ in reports] == [(10, 1), (30, 2), (50, 3), (60, 3)]
    assert all(outcomes == [("long", "running")] for _, outcomes, _, _ in reports[:-1])
    assert reports[-1][1] == [("long", "passed")] and "what it printed" in reports[-1][3]


BACKENDS = {"gpu": {"name": "A"}, "versions": {"torch": "2"}, "stand_in": False}


def listed() -> list[list[Step]]:
    names = ("build", "backends", "first", "second", "third")
    return [[step(name, 10, always=name in ("build", "backends"))] for name in names]


class Session:
    """Calls of benchmarks/gpu.sh on one folder, on a machine that is not there."""

    def __init__(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out, self._patch = out, monkeypatch
        monkeypatch.setattr(session, "drawing", lambda report, folder: step("draw", 1, always=True))

    def call(
        self,
        behaviours: dict[str, Behaviour],
        named: Sequence[str] = (),
        backends: dict[str, Any] | None = None,
        sources: str = "abc",
        seconds: float = 300.0,
    ) -> Machine:
        self._patch.setattr(digests, "digest", lambda names: sources)
        clock = FakeClock()
        identity = Behaviour(writes={0.0: BACKENDS if backends is None else backends})
        machine = Machine(clock, {"backends": identity} | behaviours)
        kept = listed() if not named else steps.chosen(listed(), named)
        self.status = session.run(self.out, "cuda", kept, seconds, named, clock, machine)
        self.report = json.loads((self.out / "gpu.json").read_text())
        self.ended = {row["step"]: row["status"] for row in self.report["steps"]}
        return machine

    @staticmethod
    def names(machine: Machine) -> list[str]:
        return [name for name, _ in machine.started]


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    return Session(tmp_path / "out", monkeypatch)


def test_a_second_call_goes_on_where_the_first_one_ended(calls: Session) -> None:
    failing = Behaviour(status=1, writes={0.0: {"rows": [1]}}, prints="a\nAssertionError: 0.5\n")
    machine = calls.call({"first": Behaviour(writes={0.0: "1st"}), "second": failing, "third": Behaviour(1e9)})
    assert calls.status == 1
    assert calls.names(machine) == ["build", "backends", "first", "second", "third", "draw"]
    assert calls.ended["second"] == "failed (exit status 1)" and calls.ended["third"].startswith("out of time")
    rows = {row["step"]: row for row in calls.report["steps"]}
    assert "AssertionError: 0.5" in rows["second"]["text"] and "text" not in rows["first"]
    assert (calls.out / "summary.txt").read_text().endswith("4 passed, 0 left out, 2 bad: second, third\n")

    machine = calls.call({"second": Behaviour(writes={0.0: {"rows": [1, 2]}}), "third": Behaviour(writes={0.0: "3rd"})})
    assert calls.status == 0
    assert calls.names(machine) == ["build", "backends", "second", "third", "draw"]
    assert machine.parts_before["second"] == {"rows": [1]} and machine.parts_before["third"] is None
    assert (calls.report["first"], calls.report["second"], calls.report["third"]) == ("1st", {"rows": [1, 2]}, "3rd")
    assert set(calls.ended.values()) == {"passed"} and calls.report["calls"] == 2
    assert [row["step"] for row in calls.report["steps"]] == ["build", "backends", "first", "second", "third", "draw"]
    log = (calls.out / "log.txt").read_text()
    assert "AssertionError: 0.5" in log and log.index("second: failed") < log.index("second: passed")
    assert {path.name for path in calls.out.iterdir()} == {"gpu.json", "summary.txt", "log.txt"}

    machine = calls.call({}, named=["first"])  # asked for by name: again, though it has passed
    assert calls.names(machine) == ["backends", "first", "draw"] and calls.report["third"] == "3rd"


def test_a_machine_that_goes_away_leaves_what_it_had(calls: Session) -> None:
    class Gone(BaseException):
        pass

    def vanish() -> int | None:
        raise Gone

    class Vanishing(Behaviour):
        pass

    clock_of: list[FakeClock] = []

    class Last(Machine):
        def __call__(self, command: Sequence[str], root: Path, output: IO[bytes]) -> FakeProcess:
            process = super().__call__(command, root, output)
            clock_of[:] = [self.clock]
            if command[0] == "second":
                poll = process.poll

                def until() -> int | None:
                    return vanish() if self.clock.at - process.begun > 25 else poll()

                process.poll = until  # type: ignore[method-assign]
            return process

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "Machine", Last)
        long = Behaviour(1e9, writes={3.0: {"rows": [1]}})
        with pytest.raises(Gone):
            calls.call({"first": Behaviour(writes={0.0: "1st"}), "second": long})
    report = json.loads((calls.out / "gpu.json").read_text())
    assert report["first"] == "1st" and report["second"] == {"rows": [1]}
    assert report["steps"][-1] | {"seconds": 0} == {"step": "second", "status": "running", "seconds": 0}
    machine = calls.call({})
    assert calls.names(machine) == ["build", "backends", "second", "third", "draw"]
    assert machine.parts_before["second"] == {"rows": [1]}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (dict(backends=BACKENDS | {"gpu": {"name": "B"}}), "gpu"),
        (dict(backends=BACKENDS | {"versions": {"torch": "3"}}), "versions"),
        (dict(backends=BACKENDS | {"stand_in": True}), "stand_in"),
        (dict(sources="def"), "sources"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_results_of_something_else_are_put_aside(
    calls: Session, changed: dict[str, Any], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.call({"first": Behaviour(writes={0.0: "old"})})
    old = (calls.out / "gpu.json").read_text()
    machine = calls.call({"first": Behaviour(writes={0.0: "new"})}, **changed)
    assert calls.names(machine) == ["build", "backends", "first", "second", "third", "draw"]
    assert machine.parts_before["first"] is None and calls.report["first"] == "new" and calls.report["calls"] == 1
    assert (calls.out / "gpu-1.json").read_text() == old and "about" not in (calls.out / "log.txt").read_text()
    assert f"differ in {why}; they are now gpu-1.json and log-1.txt" in capsys.readouterr().out
    calls.call({}, backends=BACKENDS | {"gpu": {"name": "C"}})
    assert (calls.out / "gpu-2.json").exists() and (calls.out / "gpu-1.json").read_text() == old


def test_the_steps_of_a_rented_machine() -> None:
    stages = steps.stages("cuda")
    named = [step.name for stage in stages for step in stage]
    order = ["build", "backends", "probes", "cuda tests", "machine", "alone", "cohort", "small", "triton tests"]
    assert named == [*order, "products", "federated", "memcheck", "racecheck", "suite", "sweep"] and not any(
        s.left_out for stage in stages for s in stage
    )
    assert sum(stage[0].least for stage in stages[:4]) <= 170  # of a run of three minutes
    shares = [max(s.share for s in stage) for stage in stages]
    assert sum(shares) + steps.DRAWING == session.BUDGET == 840
    timed = {"probes", "machine", "alone", "cohort", "products", "federated", "sweep"}
    assert all(len(stage) == 1 for stage in stages for s in stage if s.name in timed)
    for s in (s for stage in stages for s in stage):
        assert 20 <= s.least <= 60  # importing torch alone takes seconds on a machine that has just started
        for word in s.command:
            if word.startswith("benchmarks.gpu."):
                assert importlib.util.find_spec(word), word
    by_name = {s.name: s for stage in stages for s in stage}
    tests = by_name["cuda tests"].command
    assert tests[tests.index("{part}") + 1] == str(os.cpu_count())  # as many processes as there are cores
    assert [[s.name for s in stage] for stage in steps.chosen(stages, ["sweep", "build"])] == [
        ["build"],
        ["backends"],
        ["sweep"],
    ]


def test_the_cuda_and_the_triton_tests_are_all_that_need_a_gpu() -> None:
    def collected(*selection: str) -> set[str]:
        command = [PYTHON, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", *selection]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        return {line for line in done.stdout.splitlines() if "::" in line}

    by_name = {s.name: s.command for stage in steps.stages("cuda") for s in stage}
    cuda, triton = (collected(*by_name[name][by_name[name].index("-m", 3) :]) for name in ("cuda tests", "triton tests"))
    assert cuda and triton and not cuda & triton and cuda | triton == collected("-m", "gpu", "tests/gpu")
    assert all("cuda" in name for name in cuda) and any("triton" in name for name in triton)


FILE = """
import pytest
@pytest.mark.parametrize("n", range(4))
def test_numbers(n): assert n != 2, f"not {n}"
def test_skipped(): pytest.skip("no reason")
@pytest.fixture
def broken():
    yield
    raise RuntimeError("afterwards")
def test_teardown(broken): pass
"""


def test_failures_are_noted_as_they_come_and_what_passed_is_not_run_again(tmp_path: Path) -> None:
    file, part = tmp_path / "test_file.py", tmp_path / "part.json"
    file.write_text(FILE)
    command = [PYTHON, "-m", "benchmarks.gpu.checks", str(part), "1", "-o", "addopts=", f"--rootdir={tmp_path}", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    noted = json.loads(part.read_text())
    assert [name.split("::")[1] for name in noted["passed"]] == [f"test_numbers[{n}]" for n in (0, 1, 3)]
    failed = {name.split("::")[1]: text for name, text in noted["failed"].items()}
    assert "AssertionError: not 2" in failed["test_numbers[2]"] and "RuntimeError: afterwards" in failed["test_teardown"]
    assert [text for text in noted["skipped"].values()] == ["Skipped: no reason"]
    assert done.stdout.index("AssertionError: not 2") < done.stdout.index("test_skipped SKIPPED")  # not at the end

    file.write_text(FILE.replace("n != 2", "n != 9").replace('raise RuntimeError("afterwards")', "pass"))  # mended
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_numbers[2] PASSED" in done.stdout and "test_numbers[1]" not in done.stdout
    noted = json.loads(part.read_text())
    assert len(noted["passed"]) == 5 and not noted["failed"]
    done = subprocess.run([*command, "-k", "numbers"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "4 tests" not in done.stdout and "5 tests have passed before" in done.stdout


def test_a_stopped_run_of_tests_has_its_failures(tmp_path: Path) -> None:
    file, part = tmp_path / "test_file.py", tmp_path / "part.json"
    file.write_text("import time\ndef test_wrong(): assert 1 == 2\ndef test_hangs(): time.sleep(600)\n")
    command = [PYTHON, "-m", "benchmarks.gpu.checks", str(part), "2", "-o", "addopts=", f"--rootdir={tmp_path}", str(file)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        until(lambda: part.exists() and bool(json.loads(part.read_text())["failed"]))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    ((name, text),) = json.loads(part.read_text())["failed"].items()
    assert name.endswith("test_file.py::test_wrong") and "assert 1 == 2" in text


def until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# From here on real processes and the machine's clock.


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
        [Step("hangs", "", python(HANGS.format(file=child)), 2, 1), Step("beside", "", python("print('beside')"), 1)],
        [Step("absent", "", ("no-such-program-here",), 30), Step("idle", "", (), 30, left_out="it has no GPU")],
        [Step("half", "", (*python(writes), "{part}", "1"), 30)],
        [Step("whole", "", (*python(writes), "{part}", "0"), 30)],
    ]
    assert session.run(tmp_path / "out", "cpu", planted, 110.0) == 1
    report = json.loads((tmp_path / "out" / "gpu.json").read_text())
    ended = {row["step"]: row["status"] for row in report["steps"]}
    assert ended.pop("hangs").startswith("out of time")
    assert ended == {
        "fails": "failed (exit status 3)",
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
    assert "why it failed" in (tmp_path / "out" / "tables.md").read_text()
    assert not alive(json.loads(child.read_text()))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"gpu.json", "log.txt", "summary.txt", "tables.md"}


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
    until(lambda: child.exists() and bool(child.read_text()))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert not alive(json.loads(child.read_text()))


def script(arguments: Sequence[str], env: dict[str, str], cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "benchmarks" / "gpu.sh"), *arguments]
    return subprocess.run(command, env=os.environ | {"PYTHON": PYTHON} | env, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        ((), {}, "usage: benchmarks/gpu.sh"),
        (("out", "swep"), {}, "no step is called 'swep'; the steps are 'build', 'backends'"),
        (("out",), {"FLOW_GPU_DEVICE": "tpu"}, "FLOW_GPU_DEVICE='tpu'"),
        (("out", "--budget", "soon"), {}, "'soon' must be a number of at least 30 seconds; leave it out for 840"),
        (("out", "--budget", "29"), {}, "'29' must be a number of at least 30 seconds"),
        (("out", "--budget", "inf"), {}, "'inf' must be"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, arguments: tuple[str, ...], env: dict[str, str], message: str) -> None:
    done = script([str(tmp_path / a) if a == "out" else a for a in arguments], env)
    assert done.returncode and message in done.stderr and not (tmp_path / "out").exists()


def test_one_step_from_the_shell(tmp_path: Path) -> None:
    done = script(["out", "machine", "--budget", "90"], {"FLOW_GPU_DEVICE": "cpu"}, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert report["backends"]["stand_in"] and report["machine"]["bf16_flops_per_second"] > 0
    assert "STAND-IN RUN ON THE CPU" in (tmp_path / "out" / "tables.md").read_text()
    assert [row["step"] for row in report["steps"]] == ["backends", "machine", "draw"]
