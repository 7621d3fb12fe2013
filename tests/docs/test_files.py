"""docs/files.md lists every field and column of the files that runs and comparisons write: held against such files."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import pytest
from comparisons import TINY, write_plainly
from fields import leaves, names, rows

from flow import compare, simulate
from flow.algorithms import REGISTRY


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two runs and two comparisons leave behind; one run of the second comparison diverges."""
    folder = tmp_path_factory.mktemp("files")
    tiny = replace(TINY, evaluate_every=2, min_texts=0)
    quiet: dict[str, Any] = {"population": harness.POPULATION, "progress": False}
    settings = {"twin": {"algorithm": "fedavgft", "personal_lr": 0.1}}
    with pytest.MonkeyPatch.context() as patch:
        write_plainly(patch.setattr)
        for name in ("flow", "fedavg"):
            simulate(replace(tiny, algorithm=REGISTRY[name].options()), folder / name, **quiet)
        compare(
            ["fedavg", "flow", "twin"], folder / "both", tiny, settings=settings, seeds=2, tune=2, against="fedavg", **quiet
        )
        compare(["fedavg", "local"], folder / "alone", tiny, settings={"fedavg": {"lr": 1e30, "clip": 0.0}}, **quiet)
    return folder


@pytest.fixture(scope="module")
def written(folder: Path) -> dict[str, list[Any]]:
    """By the name of a file, the content of all of that name."""
    values: dict[str, list[Any]] = {}
    for path in sorted(folder.rglob("*.json*")):
        if "kept" not in path.parts:
            text = path.read_text(encoding="utf-8")
            values.setdefault(path.name, []).extend(
                map(json.loads, text.splitlines()) if path.suffix == ".jsonl" else [json.loads(text)]
            )
    return values


FILES = ("config.json", "metrics.jsonl", "evaluation.json", "run.json", "comparison.json", "results.json", "diverged.json")


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
    missing = [field for _, field, _ in table if field not in used]
    assert not missing, f"{file}: no run writes {missing}"


@pytest.mark.parametrize("run", ["flow", "both/runs/twin-seed0", "fedavg"])
@pytest.mark.parametrize("file", ["metrics.jsonl", "evaluation.json"])
def test_a_run_of_every_kind_writes_exactly_the_fields_of_the_page(file: str, run: str, folder: Path) -> None:
    """With a router, without one, and without personalization; where null is in the place of an object, its fields are not."""
    text = (folder / run / file).read_text(encoding="utf-8")
    contents = [json.loads(part) for part in (text.splitlines() if file.endswith("l") else [text])]
    for content in contents:
        written = {path for path, _ in leaves(content)}
        expected = names([field for _, field, _ in rows(file)])
        for group in names([field for _, field, types in rows(file) if types == (type(None),)]):
            inner = {path for path in expected if path.startswith((f"{group}.", f"{group}[]"))}
            expected -= inner if group in written else {group}
        assert written == expected
    assert any(evaluated.get("evaluation", True) for evaluated in contents)


def header(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file))


def test_csv_files_have_exactly_the_columns_of_the_page(folder: Path) -> None:
    marks = names([field for _, field, _ in rows("table.csv", "columns")])
    measures = names([field for _, field, _ in rows("table.csv", "measures")])
    spread = {f"{name}_std" for name in measures if not name.startswith("worst_tenth")}
    paired = names([field for _, field, _ in rows("paired.csv", "columns")])
    tests = [field.removeprefix("against.tests[].") for _, field, _ in rows("results.json") if "tests[]." in field]
    for comparison, lines in (("both", 3), ("alone", 2)):
        columns = header(folder / comparison / "table.csv")
        assert len(columns) == len(set(columns)) and set(columns) == marks | measures | spread
        results = json.loads((folder / comparison / "results.json").read_text(encoding="utf-8"))
        assert len(results["algorithms"]) == lines
        for row in results["algorithms"]:
            assert set(row["mean"]) == set(row["spread"]) == measures
            for run in row["each"]:
                assert run is None or set(run) == {name for name in measures if not name.startswith("worst_tenth")}
    columns = header(folder / "both" / "paired.csv")
    assert len(columns) == len(set(columns)) and set(columns) == paired
    assert {name for name in tests if not name.endswith("MEASURE")} < paired


@pytest.mark.parametrize(
    ("run", "models"),
    [("flow", ["global", "local", "personal", "hard", "soft"]), ("twin", ["global", "personal"]), ("fedavg", ["global"])],
)
def test_what_is_kept_of_a_run_has_the_columns_of_its_models(run: str, models: list[str], folder: Path) -> None:
    fields = [field for _, field, _ in rows("kept/NAME-seedN.csv", "columns")]
    plain = {field for field in fields if "MODEL" not in field}
    own = {field.replace("MODEL", model) for field in fields for model in models if "MODEL" in field}
    assert set(header(folder / "both" / "kept" / f"{run}-seed0.csv")) == plain | own


def test_a_field_that_the_page_lacks_or_has_with_another_type_is_found() -> None:
    table = rows("run.json")
    assert [row[1] for row in table if row[0].fullmatch("peak_memory_bytes[]")] == ["peak_memory_bytes[]"]
    assert not [row for row in table if row[0].fullmatch("peak_memory")]
    assert names(["a.SIDE", "b.OPTION"]) == {"a.seen", "a.unseen", "b.OPTION"}
    assert list(leaves({"a": [{"b": 1}, {"b": None}], "c": []})) == [("a[].b", 1), ("a[].b", None)]
