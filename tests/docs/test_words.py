"""What can be held of the words: the length of the pages' sentences, and names that say nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]
ITEM = re.compile(r"(?:[*-]|\d+\.) ")
ABBREVIATIONS = r"(?<!\bal\.)(?<!\bvs\.)(?<!\bEq\.)(?<!e\.g\.)(?<!i\.e\.)"
LEAST = 5  # sentences of a page, so that a page of which nothing is read does not pass


def paragraphs(page: str) -> Iterator[str]:
    """The running text of a page: no code, tables, headings, pictures, comments or indented formulas."""
    lines: list[str] = []
    fenced = False
    for line in [*page.split("\n"), ""]:
        fence = line.startswith("```")
        fenced ^= fence
        text = line.strip()
        formula = line.startswith("    ") and not lines
        if fence or fenced or formula or not text or text.startswith(("#", "|", "<!--", "![")) or ITEM.match(text):
            if lines:
                yield " ".join(lines)
            lines = []
        if ITEM.match(text) and not fenced and not formula:
            lines = [ITEM.sub("", text, count=1)]
        elif text and not (fence or fenced or formula or text.startswith(("#", "|", "<!--", "!["))):
            lines.append(text)


def sentences(page: str) -> list[str]:
    """The sentences of a page, with a word in the place of every piece of code and of every link."""
    parts: list[str] = []
    for paragraph in paragraphs(page):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]*`", "CODE", paragraph))
        parts += [part for part in re.split(rf"(?<=[.!?]){ABBREVIATIONS}[\"')*]*\s+", text) if part]
    return parts


def length(sentence: str) -> int:
    return sum(any(c.isalnum() for c in word) for word in sentence.split())


def test_sentences_are_told_apart() -> None:
    page = "# Not. This.\n\nOne two `three. four` five (six et al. seven). Eight!\n\n* Nine ten:\n\n      x = 1. y\n"
    page += "* Eleven\n  twelve.\n\n| 1. | 2. |\n\n```\nNo. No.\n```\n"
    assert [length(sentence) for sentence in sentences(page)] == [8, 1, 2, 2]


@pytest.mark.parametrize("page", PAGES)
def test_sentences_are_short(page: str) -> None:
    """Fewer than 25 words on average, and at most 40."""
    lengths = {sentence: length(sentence) for sentence in sentences((ROOT / page).read_text(encoding="utf-8"))}
    assert len(lengths) >= LEAST
    assert sum(lengths.values()) / len(lengths) < 25
    assert [sentence for sentence, words in lengths.items() if words > 40] == []


@pytest.mark.parametrize("page", PAGES)
def test_headings_have_words(page: str) -> None:
    text = re.sub(r"(?ms)^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"))
    assert not re.findall(r"(?m)^#+[ \t]*$", text)


def test_names_say_what_a_thing_is() -> None:
    """Variables, arguments, attributes and functions."""
    empty = {"found", "said", "shown", "fully", "picked", "there", "how", "one", "choose"}
    named = []
    folders = ("flow", "flow_kernels", "benchmarks", "scripts", "tests")
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(paths) > 100
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = next((getattr(node, field) for field in ("id", "arg", "attr", "name") if hasattr(node, field)), None)
            if name in empty:
                named.append((str(path.relative_to(ROOT)), getattr(node, "lineno", 0), name))
    assert named == []
