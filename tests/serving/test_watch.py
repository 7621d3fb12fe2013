"""The application of flow watch: what it tells of runs in every state, how little, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from report_folder import write_run_folder

from flow.cli.main import main
from flow.reports.run_page import write_report
from flow.storage import files, lock, run_folder

testclient = pytest.importorskip("starlette.testclient")
pytest.importorskip("uvicorn")
app = pytest.importorskip("flow.serving.watch.app")
from flow.serving.watch import folder as watching  # noqa: E402 (needs Starlette as well)
from flow.serving.watch import rows  # noqa: E402

pytestmark = pytest.mark.server
PORT = 8766
HOST = f"127.0.0.1:{PORT}"
SINCE = "2026-01-01 10:00:00+00:00"


class Page:
    """A page of the application, which asks for what is new and keeps the rest."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        watched = watching.Watched(folder, monotonic=lambda: self.now)
        self.client = testclient.TestClient(app.application(watched, PORT), base_url=f"http://{HOST}")
        self.epoch, self.version, self.bytes = "", 0, 0
        self.status: dict[str, Any] = {}
        self.curves: dict[str, list[list[float | None]]] = {}
        self.charts = -1

    def ask(self) -> dict[str, Any]:
        """Ask until there is nothing left to read; returns the status."""
        while True:
            self.now += 1
            answer = self.client.get("/news", params={"epoch": self.epoch, "version": self.version})
            self.bytes = len(answer.content)
            news = answer.json()
            if news["whole"]:
                self.curves = {}
            for run, curves in news["curves"].items():
                for name, (start, points) in curves.items():
                    self.curves.setdefault(f"{run}/{name}", [])[start:] = points
            self.epoch, self.version, self.charts = news["epoch"], news["version"], news["charts"]
            self.status = news["status"] or self.status
            if not news["behind"]:
                return self.status


def append(folder: Path, *lines: dict[str, Any]) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in lines)


def row(round: int, **values: Any) -> dict[str, Any]:
    return {"round": round, "loss": 3.0 / round, "seconds": 2.0, "sequences_per_second": 100.0, "evaluation": None, **values}


def begun(folder: Path, rounds: int = 10, **config: Any) -> Path:
    """The folder of a run that has written its configuration."""
    folder.mkdir(parents=True)
    content = {"algorithm": {"name": "flow"}, "data": {"data": "shakespeare"}, "rounds": rounds, **config}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "metrics.jsonl").touch()
    return folder


def left(folder: Path) -> None:
    """The lock of a process that was killed."""
    content = {"process": 10**15, "host": socket.gethostname(), "since": SINCE}
    (folder / lock.NAME).write_text(json.dumps(content))


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_a_run_from_before_its_start_to_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    page = Page(folder)
    assert page.ask()["state"] == "waiting" and "There is no folder" in page.status["sentence"]
    folder.mkdir()
    assert page.ask()["state"] == "waiting" and "holds no run yet" in page.status["sentence"]
    with lock.held(folder):
        assert page.ask()["state"] == "starting"
        run_folder.create(folder, {"algorithm": {"name": "flow"}, "data": {"data": "shakespeare"}, "rounds": 3})
        assert page.ask()["state"] == "starting" and page.charts > 0
        append(folder, row(1), row(2, loss=None))
        assert page.ask()["state"] == "running"
        (run,) = page.status["runs"]
        assert (run["round"], run["rounds"], run["loss"], run["speed"], run["left"]) == (2, 3, "–", "100", 2.0)
        assert run["written"] == pytest.approx((folder / "metrics.jsonl").stat().st_mtime)
        assert page.curves["0/loss"] == [[1.0, 3.0], [2.0, None]] and page.curves["0/left"][0] == [1.0, pytest.approx(4 / 60)]
        append(folder, row(3))
        assert page.ask()["state"] == "evaluating" and "final evaluation" in page.status["sentence"]
        files.write_json(folder / "evaluation.json", {})
        assert page.ask()["state"] == "evaluating"
    assert page.ask()["state"] == "ended" and not page.status["runs"][0]["report"]
    assert page.client.get("/report/0").status_code == 404
    (folder / "report.html").write_text("<p>the report")
    assert page.ask()["runs"][0]["report"] and "the report" in page.client.get("/report/0").text
    shutil.rmtree(folder)
    assert page.ask()["state"] == "gone" and len(page.curves["0/loss"]) == 3, "what was drawn stays"
    assert page.client.get("/report/0").status_code == 404


def test_a_run_that_was_killed_and_goes_on(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    page = Page(folder)
    append(folder, *map(row, range(1, 6)))
    (folder / "metrics.jsonl").open("ab").write(b'{"round": 6, "lo')
    left(folder)
    assert page.ask()["state"] == "stopped" and page.status["runs"][0]["left"] is None
    assert f"process {10**15}, which began {SINCE}, ended without giving up its lock" in page.status["sentence"]
    assert f"Go on with `flow run --resume {folder}`." in page.status["sentence"] and page.status["runs"][0]["damaged"] == 0
    (folder / lock.NAME).unlink()
    with lock.held(folder):  # it goes on after round 3, and round 4 is another one now
        files.write(folder / "metrics.jsonl", b"".join(json.dumps(row(n)).encode() + b"\n" for n in range(1, 4)))
        assert page.ask()["state"] == "running" and page.status["runs"][0]["round"] == 3
        assert [x for x, _ in page.curves["0/loss"]] == [1, 2, 3]
        append(folder, row(4, loss=7.0))
        page.ask()
        assert page.curves["0/loss"][3:] == [[4.0, 7.0]] and page.bytes < 1500
    assert page.ask()["state"] == "stopped" and "no process works on it" in page.status["sentence"]


def test_a_run_that_gets_more_rounds_has_more_time_left(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run", rounds=2)
    page = Page(folder)
    append(folder, row(1), row(2))
    with lock.held(folder):
        page.ask()
        assert page.curves["0/left"][-1] == [2.0, 0.0]
        files.write_json(folder / "config.json", {"algorithm": {"name": "flow"}, "rounds": 32})
        assert page.ask()["state"] == "running"
        assert page.curves["0/left"][-1] == [2.0, 1.0] and len(page.curves["0/loss"]) == 2


def test_a_run_without_locks_runs_as_long_as_it_writes(tmp_path: Path) -> None:
    """As on a file system that has none; a run that has a lock and gives it up is not taken for one."""
    folder = begun(tmp_path / "run")
    page = Page(folder)
    append(folder, row(1))
    assert page.ask()["state"] == "stopped"
    append(folder, row(2))
    assert page.ask()["state"] == "running"
    with lock.held(folder):
        append(folder, row(3))
        assert page.ask()["state"] == "running"
    other = begun(tmp_path / "other")
    page = Page(other)
    with lock.held(other):
        append(other, row(1))
        assert page.ask()["state"] == "running"
        append(other, row(2))
    assert page.ask()["state"] == "stopped"


def test_a_run_that_diverged_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    small = "--data synthetic --clients 20 --vocabulary-size 40 --hidden-size 4 --embedding-dim 4 --cohort 2 --evaluate-every 0"
    small += " --rounds 3 --lr 1e38 --clip 0"
    assert main(["run", "fedavg", "--folder", str(folder), *small.split()]) == 2
    assert "training diverged" in capsys.readouterr().err
    assert Page(folder).ask()["state"] == "diverged"
    assert "the loss or a parameter is no longer finite" in Page(folder).ask()["sentence"]
    assert main(["run", "--resume", str(folder)]) == 2, "it diverges again"
    with run_folder.reopened(folder):
        assert not (folder / run_folder.DIVERGED).exists()


def test_another_machine_cannot_be_asked(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    (folder / lock.NAME).write_text(json.dumps({"process": 1, "host": "other.example", "since": SINCE}))
    assert Page(folder).ask()["state"] == "starting"
    append(folder, row(1))
    assert Page(folder).ask()["state"] == "running" and "process 1 on other.example" in Page(folder).ask()["sentence"]


def test_values_that_are_no_numbers_are_gaps(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run", data={"data": None}, algorithm="flow")
    page = Page(folder)
    summary = {"personal_token": float("nan"), "global_token": 0.25, "hard_token": "x"}
    (folder / "metrics.jsonl").write_text(
        '{"round": 1, "loss": NaN, "seconds": Infinity, "sequences_per_second": -1e999, '
        '"evaluation": {"seen": 3, "unseen": []}}\n'
        + json.dumps(row(2, loss="x", seconds=None, evaluation={"seen": summary, "unseen": None}, lr=True))
        + "\nnot JSON\n\n"
        + json.dumps(row(3, loss=10**400, evaluation="x"))
        + "\n"
    )
    (run,) = page.ask()["runs"]
    assert run["damaged"] == 2 and run["round"] == 3 and run["loss"] == "–"
    assert page.curves["0/loss"] == [[1.0, None], [2.0, None], [3.0, None]]
    assert page.curves["0/accuracy-global-seen"] == [[2.0, 25.0]] and "0/accuracy-personal-seen" not in page.curves
    (folder / "config.json").write_text("[" * 99999)
    (folder / "diverged.json").write_text("[]")
    assert page.ask()["runs"][0]["round"] == 3
    assert [chart["title"] for chart in page.client.get("/charts").json()][:2] == ["Training loss", "Accuracy on held-out text"]


@pytest.mark.skipif(sys.platform == "win32", reason="names of folders are text there")
def test_what_no_encoding_has_does_not_take_the_page_from_the_other_runs(tmp_path: Path) -> None:
    """A folder whose name is not UTF-8, and an algorithm whose name is half of a pair."""
    begun(tmp_path / "good", rounds=2)
    begun(tmp_path / os.fsdecode(b"\xff"), rounds=2)
    begun(tmp_path / "half", rounds=2, algorithm={"name": "\ud800"})
    runs = Page(tmp_path).ask()["runs"]
    assert [run["name"] for run in runs] == ["good", "half", "\udcff"]
    assert runs[1]["algorithm"] == "\ud800"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    begun(tmp_path / "run", rounds=True)
    os.mkfifo(tmp_path / "run" / "evaluation.json")
    page = Page(tmp_path / "run")
    assert page.ask()["runs"][0]["rounds"] == 0
    assert page.client.get("/charts").json() == []


def test_the_curves_of_a_run_are_those_of_its_files(tmp_path: Path) -> None:
    folder = write_run_folder(tmp_path / "run", rounds=40, every=10, seen=30, unseen=20)
    write_report(folder)
    before = snapshot(tmp_path)
    page = Page(folder)
    assert page.ask()["state"] == "ended"
    content = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert page.curves["0/loss"] == [[row["round"], pytest.approx(row["loss"], rel=1e-5)] for row in content]
    evaluated = [row for row in content if row["evaluation"] is not None]
    for side in ("seen", "unseen"):
        for model in ("global", "personal", "soft"):
            expected = [[r["round"], pytest.approx(100 * r["evaluation"][side][f"{model}_token"], rel=1e-5)] for r in evaluated]
            assert page.curves[f"0/accuracy-{model}-{side}"] == expected
    charts = page.client.get("/charts").json()
    assert [chart["title"] for chart in charts] == [
        "Training loss",
        "Accuracy on held-out text",
        "Router: accuracy by what it may choose",
        "Client-sequences per second",
        "Time left, estimated at every round",
        "Router at the end: where in a sequence",
        "Router at the end: weight of the local expert",
    ]
    assert len(charts[1]["lines"]) == 4 and charts[1]["svg"].count('class="series') == 4
    assert snapshot(tmp_path) == before, "watching changes nothing"


def test_hundred_thousand_rounds_are_read_once_and_sent_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, count = begun(tmp_path / "run", rounds=200_000), 100_000
    append(folder, *map(row, range(1, count + 1)))
    read = [0]

    class Counted:
        def __init__(self, file: Any) -> None:
            self._file = file

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def read(self, size: int) -> bytes:
            content: bytes = self._file.read(size)
            read[0] += len(content)
            return content

    original = open
    monkeypatch.setattr(rows, "open", lambda *args, **options: Counted(original(*args, **options)), raising=False)
    page = Page(folder)
    with lock.held(folder):
        page.ask()
        size = (folder / "metrics.jsonl").stat().st_size
        assert page.status["runs"][0]["round"] == count and read[0] <= size + 1000 and page.bytes < 120_000
        assert all(len(curve) <= 600 for curve in page.curves.values()) and page.status["runs"][0]["each"] == 256
        for extra in range(1, 4):
            read[0] = 0
            append(folder, row(count + extra))
            page.ask()
            assert page.status["runs"][0]["round"] == count + extra
            assert read[0] < 1000 and page.bytes < 1500, "neither read nor sent again"
        read[0] = 0
        page.ask()
        assert read[0] < 200 and page.bytes < 200, "nothing is new"


def test_two_pages_do_not_take_each_other_s_news(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    append(folder, row(1))
    first = Page(folder)
    first.ask()
    second = Page(folder)
    second.client = first.client
    append(folder, row(2))
    first.now += 5
    second.ask()
    first.ask()
    assert first.curves == second.curves and len(first.curves["0/loss"]) == 2
    restarted = Page(folder)
    restarted.epoch, restarted.version = first.epoch, first.version  # of a process that has ended
    restarted.ask()
    assert restarted.curves == first.curves


def test_several_runs_have_a_curve_each(tmp_path: Path) -> None:
    page = Page(tmp_path)
    assert page.ask()["kind"] == "nothing"
    for number, name in enumerate(("b", "a")):
        append(begun(tmp_path / name), row(1), row(2, loss=number))
    (tmp_path / "other").mkdir()
    (tmp_path / "file").write_text("")
    status = page.ask()
    assert status["kind"] == "runs" and [run["name"] for run in status["runs"]] == ["a", "b"]
    assert status["sentence"] == "2 runs: 2 stopped." and status["state"] == "ended"
    (loss, *_) = page.client.get("/charts").json()
    assert [page.curves[f"{line['run']}/{line['curve']}"][-1][1] for line in loss["lines"]] == [1, 0]
    assert ">a</text>" in loss["svg"] and ">b</text>" in loss["svg"]
    charts = page.charts
    with lock.held(begun(tmp_path / "c")):
        append(tmp_path / "c", row(1))
        assert page.ask()["sentence"] == "3 runs: 2 stopped, 1 running." and page.charts > charts
    shutil.rmtree(tmp_path / "a")
    assert page.ask()["sentence"] == "3 runs: 1 gone, 2 stopped."


def test_more_runs_than_can_be_told_apart_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MOST_RUNS", 3)
    for number in range(5):
        append(begun(tmp_path / f"r{number}"), row(1))
    page = Page(tmp_path)
    assert page.ask()["left_out"] == 2 and len(page.status["runs"]) == 3


def test_a_comparison_is_its_runs(tmp_path: Path) -> None:
    folder = tmp_path / "compared"
    folder.mkdir()
    (folder / "comparison.json").write_text(json.dumps({"algorithms": ["flow", "fedavg"], "seeds": 2}))
    page = Page(folder)
    with lock.held(folder):
        begun(folder / "tuning" / "flow-1")
        assert page.ask()["state"] == "running" and page.status["sentence"] == "It is tuning, with 1 tries so far."
        own = write_run_folder(folder / "runs" / "flow-seed0", rounds=20, every=10, seen=9, unseen=6)
        append(begun(folder / "runs" / "fedavg-seed0"), row(1))
        assert page.ask()["sentence"] == "2 of 4 runs have begun: 1 stopped, 1 ended."
    assert page.ask()["state"] == "stopped" and f"Go on with `flow compare --resume {folder}`." in page.status["sentence"]
    write_report(own)
    (folder / "comparison.html").write_text("<p>the comparison")
    assert (
        page.ask()["state"] == "ended"
        and page.status["report"]
        and "the comparison" in page.client.get("/report/comparison").text
    )
    titles = [chart["title"] for chart in page.client.get("/charts").json()]
    assert titles[:3] == ["Training loss", "Accuracy, unseen clients", "Accuracy, seen clients"]
    numbers = {run["name"]: run["number"] for run in page.status["runs"]}
    assert page.client.get(f"/report/{numbers['flow-seed0']}").status_code == 200
    assert page.client.get(f"/report/{numbers['fedavg-seed0']}").status_code == 404


@pytest.mark.parametrize("path", ["/", "/watch.js", "/watch.css", "/page.js", "/style.css", "/news", "/charts", "/none"])
def test_every_answer_has_the_policy(path: str, tmp_path: Path) -> None:
    answer = Page(tmp_path).client.get(path)
    assert (answer.status_code == 404) == (path == "/none")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'" and policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in str(policy) and "http" not in str(policy)
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"


def test_a_report_is_in_a_sandbox(tmp_path: Path) -> None:
    """Its own script may run; it is of no origin and may ask for nothing."""
    folder = begun(tmp_path / "run")
    (folder / "report.html").write_text("<p>")
    page = Page(folder)
    page.ask()
    policy = page.client.get("/report/0").headers.get_list("content-security-policy")
    assert policy == [app.REPORT_POLICY] and "allow-same-origin" not in policy[0] and "connect-src" not in policy[0]
    assert page.client.get("/report/..%2Fconfig.json").status_code == 404 and page.client.get("/report/1").status_code == 404


def test_the_page_loads_nothing_from_elsewhere() -> None:
    for name in app.TYPES:
        text = (app.STATIC / name).read_text(encoding="utf-8")
        assert not re.search(r"https?:|//[a-z]|innerHTML|eval\(|style=", text), name


@pytest.mark.parametrize("host", ["evil.example:8766", "127.0.0.1", "127.0.0.1:80", f"{HOST}.evil.example", "[::1]:8766", ""])
@pytest.mark.parametrize("path", ["/", "/news", "/charts", "/report/0"])
def test_another_host_and_another_origin_are_refused(host: str, path: str, tmp_path: Path) -> None:
    client = Page(tmp_path).client
    assert client.get(path, headers={"host": host}).status_code == 403
    assert client.get(path, headers={"origin": "http://evil.example"}).status_code == 403


def test_what_is_asked_wrongly_is_refused(tmp_path: Path) -> None:
    page = Page(begun(tmp_path / "run"))
    page.ask()
    for version in ("-1", "x", "1.5", "9" * 400, "\u0663"):
        assert page.client.get("/news", params={"version": version}).status_code == 400
    assert page.client.get("/news", params={"epoch": page.epoch, "version": "999"}).json()["whole"], "a version to come"
    assert page.client.post("/news").status_code == 405


def started(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flow", "watch", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


def test_the_command_serves_opens_and_ends_without_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.part\nmv {opened}.part {opened}\n')
    browser.chmod(0o755)
    process = started(str(tmp_path / "none"), "--port", "0", "--open", BROWSER=str(browser))
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.fullmatch(r"watching .*/none: (http://127\.0\.0\.1:(\d+)/) \(Ctrl-C ends it\)\n", line)
        assert address, line
        with socket.create_connection(("127.0.0.1", int(address[2])), timeout=20) as own:
            own.sendall(f"GET /news HTTP/1.1\r\nHost: 127.0.0.1:{address[2]}\r\nConnection: close\r\n\r\n".encode())
            answer = own.makefile("rb").read()
        assert b"200 OK" in answer and b"waiting" in answer
        assert main(["watch", str(tmp_path), "--port", address[2]]) == 2
        error = capsys.readouterr().err
        assert re.fullmatch(r"flow: port=\d+ cannot be had \(.*\); give --port 0 for a free one, or another\n", error)
        for _ in range(200):
            if opened.exists():
                break
            process.poll()
            signal.sigtimedwait([], 0.05)
        assert opened.read_text().strip() == address[1]
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors == ""


def test_the_command_refuses_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", ""]) == 2 and "folder='' is empty" in capsys.readouterr().err
    assert main(["watch", str(tmp_path), "--port", "70000"]) == 2 and "port=70000 must be" in capsys.readouterr().err
    monkeypatch.setattr("flow.serving.server.PACKAGES", ("a_package_that_there_is_not",))
    assert main(["watch", str(tmp_path)]) == 2 and "watch needs the package" in capsys.readouterr().err
