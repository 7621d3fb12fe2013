"""The notebooks run from top to bottom, and what is stored with them is what the code prints now."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from scripts.site import store

pytestmark = pytest.mark.long

TIMED = re.compile(r"^.*(?:\d+%\|.*\]|seconds: data .*|a second; peak memory .*)\n", re.MULTILINE)
"""Lines that say how long something took."""
PATHS = sorted(store.NOTEBOOKS.glob("*.ipynb"))


def texts(cell: dict[str, Any]) -> list[str]:
    """What a cell printed on stdout and the values it ended in, without bars and seconds; nothing is on stderr."""
    assert all(output.get("name") != "stderr" for output in cell["outputs"]), "it is shown as an error"
    printed = [TIMED.sub("", "".join(output["text"])) for output in cell["outputs"] if output.get("name") == "stdout"]
    values = [output["data"] for output in cell["outputs"] if output["output_type"] == "execute_result"]
    return [*printed, *("".join(value["text/plain"]) for value in values)]


def pictures(cell: dict[str, Any]) -> list[bytes]:
    data = [output.get("data", {}) for output in cell["outputs"]]
    return [base64.b64decode("".join(value["image/png"])) for value in data if "image/png" in value]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_is_stored_is_what_the_code_prints(path: Path) -> None:
    """Where it is not, `python -m scripts.site.store` stores it anew."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("pandas")
    before, now = json.loads(path.read_text(encoding="utf-8"))["cells"], store.run(path)["cells"]
    assert len(before) == len(now)
    drawn = 0
    for old, new in zip(before, now, strict=True):
        if old["cell_type"] != "code":
            continue
        source = "".join(old["source"])
        assert texts(old) == texts(new), source
        assert len(pictures(old)) == len(pictures(new)), source
        assert all(picture.startswith(b"\x89PNG") for picture in pictures(old)), source
        drawn += len(pictures(old))
    assert drawn >= 1


def test_there_are_two_notebooks_and_they_are_stored_without_what_changes() -> None:
    assert len(PATHS) == 2
    for path in PATHS:
        content = json.loads(path.read_text(encoding="utf-8"))
        assert content["metadata"] == store.METADATA
        assert all(cell["metadata"] == {} for cell in content["cells"])
        assert str(Path.home()) not in path.read_text(encoding="utf-8")
