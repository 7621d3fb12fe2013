"""The documentation's site: what it is made of, and that what is wrong with it is noticed."""

from __future__ import annotations

import base64
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flow
import flow_kernels
from flow.cli.main import COMMANDS
from scripts.site import build, checked, notebooks, places, reference
from scripts.site.docstrings import markdown
from scripts.site.places import Sources, with_links

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Markdown of all pages; writing it fails where a link leads nowhere."""
    folder = tmp_path_factory.mktemp("site") / "pages"
    build.write(folder)
    return folder


def entries(nav: list[Any]) -> Iterator[str]:
    for item in nav:
        for value in item.values():
            yield from [value] if isinstance(value, str) else entries(value)


def test_the_navigation_has_every_page_once(pages: Path) -> None:
    """A page that is missing there is added to `nav` in zensical.toml. Source files are reached by links alone."""
    nav = list(entries(tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]))
    written = {path.relative_to(pages).as_posix() for path in pages.rglob("*.md")}
    assert len(nav) == len(set(nav))
    assert set(nav) == {page for page in written if not page.startswith("source/")}


def test_the_reference_has_every_public_name_once() -> None:
    for package, groups in ((flow, reference.FLOW), (flow_kernels, reference.KERNELS)):
        names = [name for group in groups.values() for name in group]
        assert sorted(names) == sorted(package.__all__), package.__name__
    blocks = reference.pages()["reference/building-blocks.md"]
    for name in flow.building_blocks.__all__:
        assert (f"::: flow.building_blocks.{name}\n" in blocks) != (name in flow.__all__), name


def test_the_reference_has_the_help_of_every_command() -> None:
    page = reference.pages()["reference/command-line.md"]
    assert COMMANDS and "\x1b" not in page
    for name in COMMANDS:
        text = page.split(f"## flow {name}\n")[1].split("\n## ")[0]
        assert f"usage: flow {name}" in text and "--" in text, name


def test_the_options_of_every_algorithm_are_in_the_reference() -> None:
    page = reference.pages()["reference/algorithms.md"]
    section = page.split("## flow\n")[1].split("\n## ")[0]
    assert "| `personal_lr` |" in section and "| `lr` |" in section
    assert [line for line in page.splitlines() if line.startswith("## ")] == [f"## {name}" for name in flow.algorithms.REGISTRY]


def test_links_become_those_of_the_site() -> None:
    sources = Sources()
    text = "[a](cell.md#backward) [b](../flow/checks.py) [c](../CONTRIBUTING.md) ![d](images/report.png)"
    moved = "[a](cell.md#backward) [b](source/flow/checks-py.md) [c](project/contributing.md) ![d](images/report.png)"
    assert (
        with_links(f"{text} [e](https://x.org) [f](#g)", "docs/data.md", "data.md", sources)
        == f"{moved} [e](https://x.org) [f](#g)"
    )
    assert sources.files == {"docs/images/report.png": "images/report.png"}
    assert sources.code == {"flow/checks.py": "source/flow/checks-py.md"}
    assert with_links("[a](docs/cell.md)", "CONTRIBUTING.md", "project/contributing.md", sources) == "[a](../cell.md)"
    assert (
        with_links("[a](../flow/cli)", "docs/data.md", "data.md", Sources("https://x.org/main"))
        == "[a](https://x.org/main/flow/cli)"
    )
    assert with_links("```\n[a](none.md)\n```\n", "docs/data.md", "data.md", sources) == "```\n[a](none.md)\n```\n"
    with pytest.raises(FileNotFoundError, match=r"docs/none\.md"):
        with_links("[a](none.md)", "docs/data.md", "data.md", sources)


def test_a_folder_that_is_linked_to_has_a_page_with_its_files() -> None:
    sources = Sources()
    assert sources.place("flow/cli") == "source/flow/cli/index.md"
    page = build.source_page("flow/cli", "source/flow/cli/index.md", sources)
    assert "* [flow/cli/run.py](run-py.md)" in page
    assert "def main(" in build.source_page("flow/cli/main.py", sources.place("flow/cli/main.py"), sources)


def test_a_section_is_included_with_its_links(tmp_path: Path) -> None:
    text = build.included("README.md", "what-it-beats-and-by-how-much", "index.md", Sources())
    assert text.startswith("**Speed.**") and "(simulation-speed.md)" in text and "## " not in text
    assert "**`flow_kernels`**" in build.included("README.md", None, "index.md", Sources())
    with pytest.raises(ValueError, match="no section #nothing"):
        build.included("README.md", "nothing", "index.md", Sources())


def test_docstrings_become_markdown() -> None:
    documented = {"Draw": "flow.building_blocks.Draw", "flow.Result.rounds": "flow.Result.rounds"}
    text = "See :class:`Draw`, :attr:`rounds` and :func:`_own`; i < j, ``<pad>``."
    linked = "See [`Draw`][flow.building_blocks.Draw], [`rounds`][flow.Result.rounds] and `_own`; i &lt; j, ``<pad>``."
    assert markdown(text, "flow.Result.clients", documented) == linked


PAGE = '<html><body><h1 id="top">A</h1><a href="b.html#low">b</a><a href="https://x.org/none">x</a></body></html>'


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("", ""),
        ('<a href="c.html">', "a.html: c.html leads to c.html, which is not there"),
        ('<a href="b.html#high">', "a.html: b.html#high leads to #high, and b.html has no such id"),
        ('<a href="#none">', "a.html: #none leads to #none, and a.html has no such id"),
        ('<a href="../a.html">', "a.html: ../a.html leads out of the site"),
        ('<img src="a.png">', "a.html: a.png leads to a.png, which is not there"),
        ('<p id="top">', "a.html: the id 'top' stands twice"),
        ('<script src="https://cdn.x.org/a.js">', "a.html: a browser would load https://cdn.x.org/a.js from elsewhere"),
        ('<link rel="stylesheet" href="//x.org/a.css">', "a.html: a browser would load //x.org/a.css from elsewhere"),
        ('<p style="background: url(https://x.org/a.png)">', "a.html: a browser would load https://x.org/a.png from elsewhere"),
    ],
)
def test_what_is_wrong_with_a_site_is_noticed(fault: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE.replace("</body>", f"{fault}</body>"), encoding="utf-8")
    (tmp_path / "b.html").write_text('<h2 id="low">B</h2><link rel="canonical" href="https://x.org/b">', encoding="utf-8")
    assert checked.problems(tmp_path) == ([reason] if reason else [])


def test_a_font_from_elsewhere_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<p>", encoding="utf-8")
    (tmp_path / "a.css").write_text("@font-face { src: url('https://fonts.x.org/a.woff2') }", encoding="utf-8")
    assert checked.problems(tmp_path) == ["a.css: loads https://fonts.x.org/a.woff2 from elsewhere"]


def stored(path: Path, outputs: list[dict[str, Any]]) -> Path:
    """A notebook of a heading and one cell of code with these outputs."""
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "Text."]},
        {"cell_type": "code", "source": ["print(1)"], "outputs": outputs},
    ]
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    return path


def test_a_notebook_becomes_a_page(tmp_path: Path) -> None:
    outputs: list[dict[str, Any]] = [
        {"output_type": "stream", "name": "stderr", "text": ["  0%\r 50%\r", "100%\n", "done\n"]},
        {"output_type": "display_data", "metadata": {}, "data": {"image/png": base64.b64encode(b"drawn").decode()}},
        {
            "output_type": "execute_result",
            "metadata": {},
            "data": {"text/html": ['<table border="1">\n\n<tr>'], "text/plain": "x"},
        },
        {"output_type": "execute_result", "metadata": {}, "data": {"text/plain": ["3"]}},
    ]
    text, pictures = notebooks.page(stored(tmp_path / "made.ipynb", outputs), "made")
    assert text.startswith("# Title\n\n[This page is a notebook](made.ipynb)")
    assert "\nText.\n\n```python\nprint(1)\n```\n\n```text\n100%\ndone\n```\n" in text
    assert '<div class="notebook-table">\n<table>\n<tr>\n</div>' in text and "```text\n3\n```" in text
    assert pictures == {"made-1.png": b"drawn"} and "](made-1.png)" in text


def test_a_notebook_that_was_stored_with_an_error_is_no_page(tmp_path: Path) -> None:
    error = {"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}
    with pytest.raises(ValueError, match="'error', which no page can show"):
        notebooks.page(stored(tmp_path / "made.ipynb", [error]), "made")


def test_files_outside_docs_have_places_of_their_own() -> None:
    assert all((ROOT / path).is_file() for path in places.PAGES)
    assert len(set(places.PAGES.values())) == len(places.PAGES)
