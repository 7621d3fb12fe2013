"""Progress in the cell of a notebook: one line that is drawn over, among what is printed and not among errors."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.site.notebooks import settled

WORK = """
import time
from flow.terminal.progress import Progress
with Progress(what="runs/mine", unit="round", total=40) as bar:
    for number in range(40):
        time.sleep(0.03)
        bar.say({"loss": "1.234"})
        bar.update()
print("done")
"""


def outputs(source: str) -> list[dict[str, Any]]:
    """What a cell leaves below it."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbclient.NotebookClient(notebook, timeout=300).execute()
    return [dict(output) for output in notebook.cells[0].outputs]


def test_a_cell_has_one_line_of_progress() -> None:
    printed = outputs(WORK)
    assert {output["name"] for output in printed} == {"stdout"}, "what is on stderr is shown as an error"
    text = "".join(output["text"] for output in printed)
    assert 2 <= text.count("\r") < 15, "it is drawn over now and then"
    bar, last = settled(text).splitlines()
    assert bar.startswith("runs/mine: 100%") and "40/40" in bar and "loss=1.234" in bar and len(bar) <= 90
    assert last == "done"
