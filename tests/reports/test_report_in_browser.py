"""The report in headless Chromium: at the widths of a phone and a desk, in both colours, and what its controls do."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Page, page
from pages import WIDTHS, beyond, click, cut, middle, objections, point, press, saved, show
from report_folder import write_run_folder

from flow.reports.drawing import ticks
from flow.reports.run_page import write_report

pytestmark = pytest.mark.browser
TABLE, CHART = "document.querySelector('#all-clients table')", "document.querySelector('[data-chart*=\\'\"accuracy\"\\']')"


@pytest.fixture(scope="module", name="folder")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that scored 3000 clients."""
    folder = write_run_folder(tmp_path_factory.mktemp("browser") / "run", rounds=30, every=10, seen=2000, unseen=1000)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation["clients"][5]["personal_correct"] = None  # of one client nothing is known
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    write_report(folder)
    return folder


@pytest.fixture(scope="module", name="own")
def own_fixture() -> Iterator[Page]:
    """One browser for all tests."""
    with page() as own:
        yield own


@pytest.fixture(name="report")
def report_fixture(own: Page, folder: Path) -> Iterator[Page]:
    """The report at a desk; nothing of it may be complained of."""
    show(own, folder / "report.html")
    yield own
    assert own.problems() == []
    assert set(own.addresses()) <= {(folder / "report.html").as_uri()} | {
        url for url in own.addresses() if url.startswith("blob:")
    }


def first_column(own: Page, column: int = 0) -> list[str]:
    texts: list[str] = own.value(f"[...{TABLE}.tBodies[0].rows].map((row) => row.cells[{column}].textContent)")
    return texts


def by_gain(folder: Path) -> list[tuple[float, str, int, str]]:
    """(gain, id, tokens, group) of all clients of which it is known."""
    clients = json.loads((folder / "evaluation.json").read_text())["clients"]
    return [
        ((c["personal_correct"] - c["global_correct"]) / c["tokens"], c["id"], c["tokens"], c["group"])
        for c in clients
        if c["personal_correct"] is not None
    ]


@pytest.mark.parametrize(("width", "scheme"), list(itertools.product(WIDTHS, ("light", "dark"))))
def test_nothing_reaches_beyond_the_page(width: str, scheme: str, own: Page, folder: Path) -> None:
    show(own, folder / "report.html", width, scheme)
    assert beyond(own) == [] and own.problems() == []
    assert (
        own.value("getComputedStyle(document.body).backgroundColor")
        == {
            "light": "rgb(246, 245, 242)",
            "dark": "rgb(18, 21, 26)",
        }[scheme]
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_objects_to_nothing(scheme: str, own: Page, folder: Path) -> None:
    show(own, folder / "report.html", "phone", scheme)
    own.value("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    assert objections(own) == []


@pytest.mark.parametrize("storage", [True, False], ids=["with storage", "without storage"])
def test_colours_are_chosen_with_and_without_storage(storage: bool, own: Page, folder: Path) -> None:
    script = ""
    if not storage:
        script = "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } })"
    identifier = own.call("Page.addScriptToEvaluateOnNewDocument", source=script)["identifier"]
    show(own, folder / "report.html")
    toggle, colour = "document.querySelector('.theme')", "getComputedStyle(document.body).backgroundColor"
    assert own.value(f"{toggle}.textContent") == "Dark colours"
    click(own, toggle)
    assert own.value(colour) == "rgb(18, 21, 26)" and own.value(f"{toggle}.textContent") == "Light colours"
    assert cut(own, 718) == []
    assert own.value(colour) == "rgb(255, 255, 255)", "paper is light whatever was chosen"
    hidden = "[...document.querySelectorAll('button:not(th button), input, .tools')].every((e) => !e.offsetParent)"
    assert own.value(hidden) and own.value(
        "[...document.querySelectorAll('svg.chart')].every((e) => e.getBoundingClientRect().width > 100)"
    )
    show(own, folder / "report.html")
    assert own.value(colour) == ("rgb(18, 21, 26)" if storage else "rgb(246, 245, 242)")
    own.call("Page.removeScriptToEvaluateOnNewDocument", identifier=identifier)
    if storage:
        own.value("localStorage.clear()")
    assert own.problems() == []


def test_clients_are_sorted_and_searched(report: Page, folder: Path) -> None:
    known = by_gain(folder)
    titles = report.value(f"[...{TABLE}.tHead.rows[0].cells].map((cell) => cell.textContent)")
    assert titles == ["client", "side", "scored characters", "global, %", "personalized, %", "gain, points", "mean q"]
    head = f"{TABLE}.tHead.rows[0].cells[5]"
    click(report, f"{head}.querySelector('button')")
    assert report.value(f"{head}.getAttribute('aria-sort')") == "descending"
    gains = [float(text.replace("−", "-")) for text in first_column(report, 5)]
    assert gains == pytest.approx([100 * gain for gain, *_ in sorted(known, reverse=True)[:50]], abs=0.0051)
    press(report, "Enter")
    assert report.value(f"{head}.getAttribute('aria-sort')") == "ascending"
    assert first_column(report)[0] == min(known)[1], "numbers are compared as numbers, and what is missing is last"
    report.value("document.querySelector('#all-clients [name=search]').focus()")
    for letter in "role 19":
        press(report, letter)
    count = "document.querySelector('#all-clients .count').textContent"
    matching = {client for _, client, *_ in known if "ROLE 19" in client}
    assert report.value(count) == f"1 to 50 of {len(matching)} clients" and set(first_column(report)) <= matching
    click(report, "[...document.querySelectorAll('.pages button')].at(-1)")
    assert report.value(count).startswith("51 to 100 of ")
    fields = "document.querySelector('#all-clients form').elements"
    report.value(f"{fields}.least.focus()")
    for letter in "2000":
        press(report, letter)
    report.value(f"{fields}.low.focus()")
    press(report, "1")
    expected = {client for gain, client, tokens, _ in known if "ROLE 19" in client and tokens >= 2000 and 100 * gain >= 1}
    assert 0 < len(expected) < 50 and set(first_column(report)) == expected
    report.value(f"{fields}.search.focus()")
    press(report, "ß")
    assert report.value(count) == "No client fits." and first_column(report) == []


def test_charts_are_pointed_at_zoomed_and_saved(report: Page, folder: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rounds = {row["round"]: row["evaluation"] for row in rows if row["evaluation"] is not None}
    stage, tip = f"{CHART}.closest('.stage')", f"{CHART}.closest('.stage').querySelector('.tip')"
    x, y = middle(report, stage)
    point(report, x, y)
    expected = [
        f"{model}, {side}: {100 * rounds[20][side][f'{key}_token']:.2f}"
        for side in ("seen", "unseen")
        for key, model in (("global", "global"), ("personal", "personalized"))
    ]
    assert report.value(f"{tip}.textContent").split("\n") == ["round: 20", *expected]
    report.value(f"{stage}.focus()")
    press(report, "ArrowRight")
    assert report.value(f"{tip}.textContent").startswith("round: 30")
    before = report.value(f"[...{CHART}.querySelectorAll('.plot .line')].map((e) => e.getAttribute('d'))")
    ticks_before = report.value(f"{CHART}.querySelector('.ticks').textContent")
    press(report, "+")
    assert report.value(f"{CHART}.classList.contains('zoomed')")
    press(report, "Escape")
    point(report, x, y)
    for kind, dx in (("mousePressed", 0), ("mouseMoved", 60), ("mouseReleased", 60)):
        point(report, x + dx, y, kind, button="left", buttons=1, clickCount=1)
    changed = report.value(f"[...{CHART}.querySelectorAll('.plot .line')].map((e) => e.getAttribute('d'))")
    assert all(a != b for a, b in zip(before, changed, strict=True))
    assert report.value(f"{CHART}.querySelector('.ticks').textContent") != ticks_before
    button = f"[...{stage}.nextElementSibling.querySelectorAll('button')].find((e) => e.textContent === 'NAME')"
    click(report, button.replace("NAME", "Whole"))
    assert report.value(f"[...{CHART}.querySelectorAll('.plot .line')].map((e) => e.getAttribute('d'))") == before
    assert report.value(f"{CHART}.querySelector('.ticks').textContent") == ticks_before
    table = list(csv.reader(io.StringIO(saved(report, button.replace("NAME", "CSV"), tmp_path, "accuracy.csv"))))
    assert table[0] == ["series", "round", "% of tokens right"] and len(table) == 1 + 4 * len(rounds)
    for name, at, value in table[1:]:
        model, side = name.split(", ")
        key = "global_token" if model == "global" else "personal_token"
        assert float(value) == pytest.approx(100 * rounds[int(at)][side][key], rel=1e-5)
    drawing = saved(report, button.replace("NAME", "SVG"), tmp_path, "accuracy.svg")
    assert drawing.startswith("<svg") and 'xmlns="http://www.w3.org/2000/svg"' in drawing
    assert "class=" not in drawing and "var(" not in drawing and "rgb(33, 102, 172)" in drawing


def test_the_script_has_the_same_ticks(report: Page) -> None:
    for low, high, count, whole in [
        (0, 1, 5, False),
        (1.32, 3.51, 5, False),
        (-0.3, 0.7, 4, False),
        (-88, 3088, 6, True),
        (5, 3, 5, False),
    ]:
        values, digits = ticks(low, high, count, whole)
        own: list[list[Any]] = report.value(f"ticks({low}, {high}, {count}, {json.dumps(whole)})")
        assert [text.replace("−", "-") for _, text in own] == [f"{value:.{digits}f}" for value in values]


def test_texts_say_what_both_models_predict(report: Page, folder: Path) -> None:
    text = json.loads((folder / "evaluation.json").read_text())["texts"][0]
    passage = "document.querySelector('.passage')"
    tip = f"{passage}.querySelector('.tip').textContent"
    place = next(
        n
        for n, words in enumerate(text["personal_predicted"])
        if words != text["global_predicted"][n] and " " not in (words, text["global_predicted"][n])
    )
    point(report, *middle(report, f"{passage}.querySelectorAll('.t')[{place}]"))
    words_of_both = [
        f"{name} predicts “{text[f'{model}_predicted'][place]}”"
        for name, model in (("global", "global"), ("personalized", "personal"))
    ]
    assert report.value(tip).split("\n")[1:] == words_of_both
    report.value(f"{passage}.querySelector('.t').focus()")
    for _ in range(place):
        press(report, "ArrowRight")
    assert report.value(f"document.activeElement === {passage}.querySelectorAll('.t')[{place}]")
    assert report.value(tip).split("\n")[1:] == words_of_both
    assert report.value(f"[...{passage}.querySelectorAll('.t')].filter((e) => e.tabIndex === 0).length") == 1
    differing = [
        n + 1 for n, (a, b) in enumerate(zip(text["global_predicted"], text["personal_predicted"], strict=True)) if a != b
    ]
    places = report.value(f"[...{passage}.querySelectorAll('.differences tbody th')].map((e) => Number(e.textContent))")
    assert places == differing and report.value(f"{passage}.querySelector('summary').textContent").startswith(
        f"{len(differing)} of "
    )
