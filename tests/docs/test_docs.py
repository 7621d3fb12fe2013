"""Every Python snippet of the pages runs, in order, and prints exactly what the page shows under it."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
from comparisons import plain_fixture  # noqa: F401

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("ignore:RoutedGRU. the checkpoint")
@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("docs/routed-gru.md", 8),
        ("docs/gru.md", 6),
        ("docs/callbacks.md", 2),
        ("docs/compare.md", 1),
        ("docs/data.md", 2),
        ("docs/files.md", 4),
        ("docs/gpu-afternoon.md", 1),
        ("docs/gpu-kernels.md", 2),
        ("docs/from-run-to-use.md", 4),
        ("docs/own-algorithm.md", 2),
        ("docs/own-model.md", 0),
        ("docs/tasks.md", 2),
        ("README.md", 1),
    ],
)
def test_every_snippet_prints_what_the_page_shows(
    name: str, least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "docs/files.md":
        pytest.importorskip("pandas")
    if name == "docs/from-run-to-use.md":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    page = (ROOT / name).read_text(encoding="utf-8")
    blocks = [(m[1], m[2], page.count("\n", 0, m.start()) + 2) for m in BLOCK.finditer(page)]
    namespace: dict[str, Any] = {"__name__": "__main__"}
    ran = 0
    for n, (kind, code, line) in enumerate(blocks):
        if kind != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * (line - 1) + code, name, "exec"), namespace)
        output = blocks[n + 1][1] if n + 1 < len(blocks) and blocks[n + 1][0] == "text" else ""
        assert printed.getvalue() == output, f"line {line}: the snippet prints something else than the page shows"
        ran += 1
    assert ran >= least


def test_every_page_with_snippets_is_among_them() -> None:
    """What is marked as a command's output or as TOML is not run: commands take minutes on real data."""
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
    marks = vars(test_every_snippet_prints_what_the_page_shows)["pytestmark"]
    run = {name for mark in marks if mark.name == "parametrize" for name, _ in mark.args[1]}
    assert {name for name in pages if "\n```python\n" in (ROOT / name).read_text(encoding="utf-8")} == run


PAPERS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")


@pytest.mark.parametrize("page", [*PAPERS, "benchmarks/README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_what_a_page_links_to_is_there_and_what_is_filled_in_is_full(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert link.startswith("https://") or (ROOT / page).parent.joinpath(link).exists(), link
    for name, content in re.findall(r"<!-- (\w+) -->\n(.*?)<!-- /\1 -->", text, re.DOTALL):
        assert content.strip(), f"nothing between the marks of {name}"


def test_the_files_that_a_contributor_is_sent_to_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    places = re.findall(r"`((?:flow|flow_kernels|tests|benchmarks|docs|csrc)/[\w./]*)`", text)
    assert len(places) > 20
    own = ["flow/algorithms/NAME.py", "flow/data/readers/NAME.py"]
    assert [place for place in places if not (ROOT / place).exists()] == own
    for command in re.findall(r"`make ([\w-]+)", text):
        assert f"\n{command}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
