"""docs/files.md lists every field of the files that runs and comparisons write, with its type: held against such files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import pytest
from comparisons import TINY

from flow import compare, simulate
from flow.algorithms import REGISTRY

PAGE = Path(__file__).parents[2] / "docs" / "files.md"
WORDS = {
    "SIDE": "(seen|unseen)", "MODEL": "(global|local|personal|hard|soft)", "METRIC": "(loss|perplexity)",
    "GROUP": "(data|model|server)", "OPTION": r"[a-z]\w*", "NAME": r"[A-Za-z][\w-]*", "MEASURE": r"\w+",
}  # fmt: skip
TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,), "number": (int, float), "string": (str,), "boolean": (bool,), "null": (type(None),),
}  # fmt: skip
Row = tuple[re.Pattern[str], str, tuple[type, ...]]


def rows(file: str) -> list[Row]:
    """The table of a file: a pattern for the path, the field as the page has it, and its types."""
    table = PAGE.read_text(encoding="utf-8").split(f"<!-- fields of {file} -->")[1].split("<!-- end -->")[0]
    pairs = []
    for field, kinds in re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", table, re.MULTILINE):
        pattern = re.sub("|".join(WORDS), lambda word: WORDS[word[0]], re.escape(field))
        types = tuple(kind for name in re.split(", | or ", kinds.strip()) for kind in TYPES[name])
        pairs.append((re.compile(pattern), field, types))
    return pairs


def leaves(content: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is neither an object nor a list, with its path."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    elif isinstance(content, list):
        for value in content:
            yield from leaves(value, f"{path}[]")
    else:
        yield path, content


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """By the name of a file, everything of that name that two runs and two comparisons leave behind."""
    folder = tmp_path_factory.mktemp("files")
    tiny = replace(TINY, evaluate_every=1, min_texts=0)
    quiet: dict[str, Any] = {"population": harness.POPULATION, "progress": False}
    for name in ("flow", "fedavg"):
        simulate(replace(tiny, algorithm=REGISTRY[name].options()), folder / name, **quiet)
    settings = {"twin": {"algorithm": "fedavgft", "personal_lr": 0.1}}
    compare(["fedavg", "flow", "twin"], folder / "both", tiny, settings=settings, seeds=2, tune=2, against="fedavg", **quiet)
    compare(["fedavg"], folder / "alone", tiny, **quiet)
    values: dict[str, list[Any]] = {}
    for path in sorted(folder.rglob("*.json*")):
        if "kept" not in path.parts:
            text = path.read_text(encoding="utf-8")
            values.setdefault(path.name, []).extend(
                map(json.loads, text.splitlines()) if path.suffix == ".jsonl" else [json.loads(text)]
            )
    return values


NEVER_HERE = ("algorithms[].each[]",)  # none of these runs diverges
FILES = ("config.json", "metrics.jsonl", "evaluation.json", "run.json", "comparison.json", "results.json")


@pytest.mark.parametrize("file", FILES)
def test_the_page_has_every_field_with_its_type_and_no_other(file: str, written: dict[str, list[Any]]) -> None:
    table, used = rows(file), set()
    for path, value in (leaf for content in written[file] for leaf in leaves(content)):
        exact = [row for row in table if row[1] == path]
        fits = exact or [row for row in table if row[0].fullmatch(path)]
        assert fits, f"{file}: {path} is not on the page"
        typed = [row for row in fits if type(value) in row[2]]
        assert typed, (
            f"{file}: {path} is {value!r}, which is not {' or '.join(kind.__name__ for row in fits for kind in row[2])}"
        )
        used |= {row[1] for row in typed}
    missing = [field for _, field, _ in table if field not in used and field not in NEVER_HERE]
    assert not missing, f"{file}: no run writes {missing}"


def test_a_field_that_the_page_lacks_or_has_with_another_type_is_found() -> None:
    table = rows("run.json")
    assert [row[1] for row in table if row[0].fullmatch("peak_memory_bytes[]")] == ["peak_memory_bytes[]"]
    assert not [row for row in table if row[0].fullmatch("peak_memory")]
    assert list(leaves({"a": [{"b": 1}, {"b": None}], "c": []})) == [("a[].b", 1), ("a[].b", None)]
