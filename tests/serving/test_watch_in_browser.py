"""The live page in headless Chromium: while a real run goes on, is killed, goes on and ends; and what it looks like."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import Page, page
from pages import WIDTHS, beyond, middle, objections, point, press
from report_folder import write_run_folder

from flow.reports.run_page import write_report

pytest.importorskip("starlette")
uvicorn = pytest.importorskip("uvicorn")
from flow.serving.watch.app import application  # noqa: E402 (needs Starlette)
from flow.serving.watch.folder import Watched  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.server]
FLOW = [sys.executable, "-m", "flow"]
SMALL = "--data synthetic --clients 30 --vocabulary-size 50 --embedding-dim 4 --hidden-size 4 --cohort 2 --checkpoint-every 10"
STATE = "document.getElementById('badge').textContent"
SENTENCE = "document.getElementById('sentence').textContent"


@pytest.fixture(scope="module", name="own")
def own_fixture() -> Iterator[Page]:
    """One browser for all tests."""
    with page() as own:
        yield own


def show(own: Page, address: str, width: str = "desk", scheme: str = "light") -> None:
    across, down = WIDTHS[width]
    own.call("Emulation.setDeviceMetricsOverride", width=across, height=down, deviceScaleFactor=1, mobile=width == "phone")
    own.call("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}])
    own.events.clear()
    own.call("Page.navigate", url=address)
    own.until(f"location.href === {json.dumps(address)} && document.readyState === 'complete' && {STATE} !== 'asking'")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The page of a folder, served by this process -> its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        options = uvicorn.Config(application(Watched(folder), port), log_level="error", lifespan="off", ws="none")
        server = uvicorn.Server(options)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.should_exit = True
            thread.join(timeout=60)


@contextmanager
def watched(folder: Path) -> Iterator[str]:
    """`flow watch` in a process of its own -> the address of the page."""
    process = subprocess.Popen([*FLOW, "watch", str(folder), "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        address = re.search(rb"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert address
        yield address[0].decode()
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors == b""


def curve(own: Page, title: str, series: int = 0) -> list[list[float]]:
    """The points of a line of the chart with this title."""
    path = (
        f"[...document.querySelectorAll('figure')].find((e) => e.querySelector('h3').textContent === {json.dumps(title)})"
        f".querySelectorAll('.plot .series')[{series}].querySelector('.line')"
    )
    text, drawn = own.value(f"(() => {{ const e = {path}; return [e.dataset.p, e.getAttribute('d')]; }})()")
    points = [[float(value) for value in pair.split(",")] for pair in re.split("[ ;]", text) if pair]
    assert len(points) == len(re.findall("[ML]", drawn)), "what is known is drawn"
    return points


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def test_a_run_is_watched_while_it_goes_on_is_killed_goes_on_and_ends(own: Page, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = [*SMALL.split(), "--evaluate-every", "5", "--evaluate-clients", "6", "--final-clients", "6"]
    environment = {**os.environ, "FLOW_CACHE": str(tmp_path / "cache")}
    with watched(folder) as address:
        show(own, address)
        assert own.value(STATE) == "waiting"
        command = [*FLOW, "run", "flow", "--folder", str(folder), "--rounds", "100000", *options]
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        try:
            own.until(f"{STATE} === 'running' && document.querySelectorAll('figure').length >= 5")
            first = curve(own, "Training loss")
            own.until(f"Number({SENTENCE}.match(/ound (\\d+) of/)[1]) > {len(first) + 25}")
            second = curve(own, "Training loss")
            assert len(second) > len(first) and second[: len(first)] == first, "the curve has grown"
            assert len(curve(own, "Accuracy on held-out text", 3)) >= 2
        finally:
            run.kill()
            run.wait()
        with (folder / "metrics.jsonl").open("ab") as file:
            file.write(b'{"round": 77, "loss": 1.')  # half written
        own.until(f"{STATE} === 'stopped'")
        assert "as one that was killed" in own.value(SENTENCE) and f"flow run --resume {folder}" in own.value(SENTENCE)
        before = len(rows(folder))
        own.until(f"document.querySelector('#facts dd').textContent.startsWith('{before} of')")
        command = [*FLOW, "run", "--resume", str(folder), "--rounds", str(before + 10)]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, env=environment)
        own.until(f"{STATE} === 'ended'")
        expected = [[row["round"], pytest.approx(row["loss"], rel=1e-5)] for row in rows(folder)]
        assert len(expected) == before + 10
        assert curve(own, "Training loss") == expected
        for series, (side, model) in enumerate(itertools.product(("seen", "unseen"), ("global", "personal"))):
            evaluated = [row for row in rows(folder) if row["evaluation"] is not None]
            values = [
                [row["round"], pytest.approx(100 * row["evaluation"][side][f"{model}_token"], rel=1e-5)] for row in evaluated
            ]
            assert curve(own, "Accuracy on held-out text", series) == values
        own.until("!document.getElementById('links').hidden")
        report = own.value("document.querySelector('#links a').href")
        assert own.problems() == []
        assert all(asked.startswith(address) for asked in own.addresses()), "nothing comes from elsewhere"
        own.events.clear()
        own.call("Page.navigate", url=report)
        own.until("document.readyState === 'complete' && document.querySelectorAll('.stage svg.chart').length > 3")
        assert own.value("self.origin") == "null", "the report is in a sandbox"
        assert own.problems() == []


@pytest.fixture(scope="module", name="runs")
def runs_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that have ended, and nine that were stopped."""
    folder = tmp_path_factory.mktemp("runs")
    for number, name in enumerate(("flow", "fedavg")):
        write_report(write_run_folder(folder / name, algorithm=name, rounds=50, every=10, seen=30, unseen=20, seed=number))
    content = (folder / "flow" / "metrics.jsonl").read_text().splitlines(keepends=True)
    for number in range(1, 10):
        (folder / f"stopped-{number}").mkdir()
        (folder / f"stopped-{number}" / "config.json").write_bytes((folder / "flow" / "config.json").read_bytes())
        (folder / f"stopped-{number}" / "metrics.jsonl").write_text("".join(content[: 4 * number]))
    return folder


@pytest.mark.parametrize(("name", "width", "scheme"), list(itertools.product(("", "flow"), WIDTHS, ("light", "dark"))))
def test_the_page_fits_and_axe_objects_to_nothing(name: str, width: str, scheme: str, own: Page, runs: Path) -> None:
    with served(runs / name) as address:
        show(own, address, width, scheme)
        own.until("document.querySelectorAll('.stage svg.chart').length > 4")
        assert beyond(own) == [] and objections(own) == [] and own.problems() == []
        ground = "rgb(246, 245, 242)" if scheme == "light" else "rgb(18, 21, 26)"
        assert own.value("getComputedStyle(document.body).backgroundColor") == ground


def test_several_runs_lie_over_each_other(own: Page, runs: Path) -> None:
    with served(runs) as address:
        show(own, address)
        own.until("document.querySelectorAll('.stage svg.chart').length > 4")
        table = own.value("[...document.querySelectorAll('#runs tbody tr')].map((e) => [...e.cells].map((c) => c.textContent))")
        assert [line[:3] for line in table[:3]] == [
            ["fedavg", "ended", "50 of 50"],
            ["flow", "ended", "50 of 50"],
            ["stopped-1", "stopped", "4 of 50"],
        ]
        assert [len(curve(own, "Training loss", series)) for series in range(11)] == [50, 50, *range(4, 40, 4)]
        links = own.value("[...document.querySelectorAll('#runs a')].map((e) => e.textContent)")
        assert links == ["fedavg", "flow"]


def test_what_is_zoomed_stays_while_the_curve_grows(own: Page, runs: Path) -> None:
    folder = runs / "stopped-9"
    stage = "document.querySelector('figure .stage')"
    with served(folder) as address:
        show(own, address)
        own.until(f"{stage} !== null")
        point(own, *middle(own, stage))
        told = own.value(f"{stage}.querySelector('.tip').textContent")
        assert re.fullmatch(r"round: \d+\ntraining loss: \d\.\d{4}", told)
        own.value(f"{stage}.focus()")
        press(own, "+")
        ticks = own.value(f"{stage}.querySelector('.ticks').textContent")
        count = len(rows(folder))
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({**rows(folder)[-1], "round": count + 1}) + "\n")
        own.until(f"document.querySelector('#facts dd').textContent.startsWith('{count + 1} of')")
        assert len(curve(own, "Training loss")) == count + 1
        assert own.value(f"{stage}.querySelector('.ticks').textContent") == ticks
        press(own, "Escape")
        assert own.value(f"{stage}.querySelector('.ticks').textContent") != ticks
        assert own.problems() == []


def test_a_page_whose_server_ends_says_so_and_goes_on_with_the_next(own: Page, runs: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    command = [*FLOW, "watch", str(runs / "flow"), "--port", str(port)]
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None and b"watching" in process.stdout.readline()
            if not own.value("location.href").endswith(f":{port}/"):
                show(own, f"http://127.0.0.1:{port}/")
            own.until(f"{STATE} === 'ended' && document.querySelectorAll('.stage svg.chart').length > 4")
        finally:
            process.kill()
            process.wait()
        own.until(f"{STATE} === 'no answer'")
        assert len(curve(own, "Training loss")) == 50
