"""The notebooks run anew and stored with what they print: `python -m scripts.site.store`, after a change of the code."""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from scripts.site.notebooks import settled
from scripts.site.places import ROOT

NOTEBOOKS = ROOT / "docs" / "notebooks"
SECONDS = 600
"""For one cell."""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def run(path: Path) -> dict[str, Any]:
    """The content of a notebook after it ran from top to bottom, in an empty folder and in a process of its own.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell ended in an error.
    """
    nbformat, nbclient = importlib.import_module("nbformat"), importlib.import_module("nbclient")
    with tempfile.TemporaryDirectory() as folder:
        before = dict(os.environ)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), before.get("PYTHONPATH"))))
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # beside other work a thread that waits is to leave its core to it
        try:
            notebook = nbformat.read(path, as_version=4)
            nbclient.NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": folder}}).execute()
        finally:
            os.environ.clear()
            os.environ.update(before)
    content: dict[str, Any] = json.loads(nbformat.writes(notebook))
    content["metadata"] = METADATA
    for cell in content["cells"]:
        cell["metadata"] = {}
        if cell["cell_type"] == "code":
            cell["outputs"] = joined(cell["outputs"])
    return content


def joined(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outputs with every stream in one piece; of a line that was written over, such as a bar, the last state."""
    made: list[dict[str, Any]] = []
    for output in outputs:
        if output["output_type"] == "stream":
            output = {**output, "text": "".join(output["text"])}
            if made and made[-1].get("name") == output["name"]:
                made[-1]["text"] += output["text"]
                continue
        made.append(output)
    for output in made:
        if output["output_type"] == "stream":
            output["text"] = (settled(output["text"]) + "\n").splitlines(keepends=True)
    return made


def main() -> None:
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        path.write_text(json.dumps(run(path), indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
