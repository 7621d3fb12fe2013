"""Reports of small runs, and how they are read back."""

import json
import pathlib
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from markupsafe import Markup
from report_folder import write_run_folder

from flow.reports.run_page import write_report

VOID = {"meta", "br", "link", "img", "input"}
SMALL: dict[str, Any] = {"rounds": 6, "every": 2, "seen": 12, "unseen": 5}
SECTIONS = ["run", "result", "learning", "clients", "routing", "texts", "reproduce"]


class Page(HTMLParser):
    """A parsed report: `text[id]` is what an element with an id shows, `tags` every element with its attributes."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = source
        self.text: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.spans: list[tuple[str, str, str]] = []  # (classes, tooltip, shown text) of the tokens
        self._open: list[tuple[str, str | None]] = []
        self.feed(source)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        if tag not in VOID:
            self._open.append((tag, values.get("id")))
        if values.get("data-tip"):
            self.spans.append((values["class"] or "", values["data-tip"] or "", ""))
        if values.get("id"):
            assert values["id"] not in self.text, f"id {values['id']} is unique"
            self.text[values["id"] or ""] = ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        hidden = bool(self._open) and self._open[-1][0] in ("script", "style")
        for place, (_, identity) in enumerate(self._open, start=1):
            if identity is not None and (place == len(self._open) or not hidden):
                self.text[identity] += data
        if self._open and self._open[-1][0] == "span" and self.spans and self.spans[-1][2] == "":
            self.spans[-1] = (*self.spans[-1][:2], data)

    def text_of(self, identity: str) -> str:
        return " ".join(self.text[identity].split())


def charts(page: Page) -> int:
    """How many charts a page has."""
    return sum(values.get("class") == "chart" for tag, values in page.tags if tag == "svg")


def report(folder: pathlib.Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def change(folder: pathlib.Path, edit: Callable[[dict[str, Any]], None], name: str = "evaluation.json") -> None:
    content = json.loads((folder / name).read_text())
    edit(content)
    (folder / name).write_text(json.dumps(content))


@pytest.fixture(name="flow_folder", scope="module")
def flow_folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_run_folder(tmp_path_factory.mktemp("flow") / "run")


@pytest.fixture(name="flow_page", scope="module")
def flow_page_fixture(flow_folder: pathlib.Path) -> Page:
    return report(flow_folder)


@pytest.fixture(name="folder")
def folder_fixture(tmp_path: pathlib.Path) -> pathlib.Path:
    return write_run_folder(tmp_path / "run", **SMALL)


@pytest.fixture(name="undrawn")
def undrawn_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the charts out, for tests of the words alone."""
    monkeypatch.setattr("flow.reports.drawing.Chart.svg", lambda _: Markup("<svg></svg>"))
