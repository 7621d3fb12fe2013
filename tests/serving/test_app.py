"""The application of flow serve: what it answers, and what it refuses; then in a process of its own, and in a browser."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from adapted_cases import CLIENTS, LABELS, config, simulated, texts_of, write_jsonl
from browser import page
from comparisons import plain_fixture  # noqa: F401

import flow
from flow.cli.main import main
from flow.errors import UserError
from flow.serving import server

testclient = pytest.importorskip("starlette.testclient")
pytest.importorskip("uvicorn")
app = pytest.importorskip("flow.serving.app")
pytestmark = [pytest.mark.server, pytest.mark.usefixtures("plain")]
PORT, TEXT = 8765, "the quick brown"
HOST = f"127.0.0.1:{PORT}"


@pytest.fixture(scope="module", name="me")
def me_fixture(tmp_path_factory: pytest.TempPathFactory) -> flow.PersonalModel:
    place = tmp_path_factory.mktemp("served")
    path = write_jsonl(place / "posts.jsonl", CLIENTS)
    simulated(place / "run", config(path, "flow"))
    return flow.adapt(place / "run", place / "me", texts=texts_of(3, 30), progress=False)


def client(model: flow.PersonalModel, **options: Any) -> Any:
    return testclient.TestClient(app.application(model, PORT, **options), base_url=f"http://{HOST}")


def asked(client: Any, text: str, **headers: str) -> Any:
    return client.post("/answer", json={"text": text}, headers=headers)


def test_a_text_is_answered_as_predict_and_complete_answer_it(me: flow.PersonalModel) -> None:
    answer = asked(client(me), TEXT).json()
    (prediction,) = me.predict(TEXT, top=6)
    completion = me.complete(TEXT, 12)
    assert [token["text"] for token in answer["read"]] == TEXT.split()
    assert TEXT + answer["joined"] == completion.text
    for told, tokens in ((answer["following"], prediction.following), (answer["completion"], completion.tokens)):
        assert [token["text"] for token in told] == [token.text for token in tokens]
        for token, expected in zip(told, tokens, strict=True):
            assert token["probability"] == pytest.approx(expected.probability, abs=2e-5)
            assert token["local_weight"] == pytest.approx(expected.local_weight, abs=2e-4)
    about = client(me).get("/about").json()
    assert about["private"] == me.settings["private"] and about["routed"] and not about["classes"]


def test_a_classifier_is_answered_with_classes(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "posts.jsonl", CLIENTS, LABELS)
    simulated(tmp_path / "run", config(path, "fedavgft", label_column="mood"))
    me = flow.adapt(tmp_path / "run", tmp_path / "me", client="c03", progress=False)
    answer = asked(client(me), TEXT).json()
    assert {token["text"] for token in answer["following"]} == {"glad", "sad"}
    assert answer["completion"] == [] and answer["joined"] == "" and answer["following"][0]["local_weight"] is None
    assert asked(client(me), " ").json()["following"] == []


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/about", "/none", "/answer"])
def test_every_answer_has_the_policy(path: str, me: flow.PersonalModel) -> None:
    answer = client(me).get(path)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'" and policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in str(policy) and "http" not in str(policy)
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"


def test_the_page_loads_nothing_from_elsewhere() -> None:
    for name in app.TYPES:
        text = (app.STATIC / name).read_text(encoding="utf-8")
        assert not re.search(r"https?:|//[a-z]|innerHTML|eval\(|style=", text), name


@pytest.mark.parametrize(
    "host", ["evil.example:8765", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:8765.evil.example", "[::1]:8765", ""]
)
@pytest.mark.parametrize("path", ["/", "/answer"])
def test_another_host_is_refused(host: str, path: str, me: flow.PersonalModel) -> None:
    """As of a page whose name was made to lead to this machine."""
    answer = client(me).request("POST" if path == "/answer" else "GET", path, json={"text": TEXT}, headers={"host": host})
    assert answer.status_code == 403 and "answers as" in answer.text


def test_another_origin_is_refused(me: flow.PersonalModel) -> None:
    for origin in ("http://evil.example", "null", f"https://{HOST}", f"http://localhost:{PORT}", f"http://{HOST}.evil.example"):
        assert asked(client(me), TEXT, origin=origin).status_code == 403
    assert asked(client(me), TEXT, origin=f"http://{HOST}").status_code == 200
    local = {"host": f"localhost:{PORT}", "origin": f"http://localhost:{PORT}"}
    assert asked(client(me), TEXT, **local).status_code == 200


def test_bodies_are_bounded_and_checked(me: flow.PersonalModel) -> None:
    own = client(me)
    assert asked(own, "a" * 2000).status_code == 200
    assert asked(own, "a" * 2001).status_code == 413
    assert own.post("/answer", content=b"x" * 20000, headers={"content-type": "application/json"}).status_code == 413
    assert own.post("/answer", data={"text": TEXT}).status_code == 415
    for body in (b"", b"{", b"[]", b'{"text": 3}', b'{"text": null}', b'{"text": "\\ud800"}', b"\xff", b"[" * 9000):
        assert own.post("/answer", content=body, headers={"content-type": "application/json"}).status_code == 400, body
    assert own.get("/answer").status_code == 405 and own.get("/../settings.json").status_code == 404


def test_requests_are_bounded(me: flow.PersonalModel) -> None:
    now = [0.0]
    own = client(me, clock=lambda: now[0])
    codes = [asked(own, "the").status_code for _ in range(42)]
    assert codes == [200] * 40 + [429] * 2
    now[0] = 0.1  # in which two more are allowed
    assert [asked(own, "the").status_code for _ in range(3)] == [200, 200, 429]


def test_a_missing_package_and_a_taken_port_are_named(me: flow.PersonalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match=r"port=\d+ cannot be had .*; give --port 0 for a free one, or another"):
            server.serve(me, taken.getsockname()[1], lambda address: None)
    with pytest.raises(UserError, match="port=70000 must be from 0 to 65535"):
        server.serve(me, 70000, lambda address: None)
    monkeypatch.setattr(server, "PACKAGES", ("a_package_that_there_is_not",))
    assert main(["serve", str(me.folder)]) == 2


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """flow serve in a process of its own -> the address of the page."""
    command = [sys.executable, "-m", "flow", "serve", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "private to its client" in process.stdout.readline()
        line = process.stdout.readline()
        address = re.fullmatch(r"serving: (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)\n", line)
        assert address, (line, process.stderr)
        yield address[1]
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode in (0, 130) and errors == ""


@pytest.mark.browser
def test_a_page_goes_on_with_what_one_types(me: flow.PersonalModel) -> None:
    """In a browser: letters are typed, the page shows what complete gives, in the colours of the experts; Tab takes it."""
    with served(me.folder) as address, page() as own:
        port = int(address.rsplit(":", 1)[1].strip("/"))
        with (
            pytest.raises(OSError, match=r"refused|timed out|unreachable"),
            socket.create_connection((_other_address(), port), timeout=2),
        ):
            pass
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "evil.example"}))
        own.call("Page.navigate", url=address)
        own.until("document.readyState === 'complete' && document.querySelectorAll('#following li').length")
        for letter in TEXT:
            own.call("Input.dispatchKeyEvent", type="keyDown", text=letter)
            own.call("Input.dispatchKeyEvent", type="keyUp")
        completion = me.complete(TEXT, 12)
        text = "document.getElementById('whole').textContent"
        own.until(f"{text} === {json.dumps(completion.text)}")
        assert own.value("document.getElementById('text').value") == TEXT
        pieces = own.value("[...document.querySelectorAll('#whole .offered')].map((e) => [e.textContent, e.className])")
        expected = [
            [token.text, f"route-{min(6, int(7 * round(token.local_weight or 0.0, 4)))} offered"] for token in completion.tokens
        ]
        assert pieces == expected
        following = own.value("[...document.querySelectorAll('#following li')].map((e) => e.firstChild.textContent)")
        assert following == [token.text for token in me.predict(TEXT, 6)[0].following]
        colour = "getComputedStyle(document.querySelector('#whole [class^=route]')).color"
        assert own.value(colour) not in ("", "rgb(0, 0, 0)")
        own.call("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        own.until(f"document.getElementById('text').value === {json.dumps(completion.text)}")
        assert own.problems() == []
        assert {url for url in own.addresses() if not url.startswith(address)} <= {"about:blank"}


def _other_address() -> str:
    """An address of this machine beside that of loopback, or one of a loopback that is not served."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        try:
            own.connect(("192.0.2.1", 9))  # sends nothing
            return str(own.getsockname()[0])
        except OSError:
            return "127.0.0.2"


def test_the_process_has_no_more_files_open_than_before(me: flow.PersonalModel) -> None:
    """A request leaves nothing behind."""
    own, folder = client(me), "/proc/self/fd"
    if not os.path.isdir(folder):
        pytest.skip("no /proc/self/fd on this system")
    asked(own, TEXT)
    before = len(os.listdir(folder))
    for _ in range(20):
        asked(own, TEXT)
    assert len(os.listdir(folder)) <= before
