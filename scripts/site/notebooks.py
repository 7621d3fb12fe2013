"""A notebook as a page: its text, its code, and what it printed and drew when it was stored."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

FIGURE = "image/png"


def page(notebook: Path, name: str, linked: Callable[[str], str] = str) -> tuple[str, dict[str, bytes]]:
    """The Markdown of a notebook, and its pictures by the names under which the page looks for them.

    Args:
        notebook: the stored .ipynb file, with its outputs.
        name: the page's name without its ending, with which the names of the pictures begin.
        linked: makes the links of a cell of text those of the site.

    Raises:
        ValueError: a cell ended in an error, or has an output of a kind that no page can show.
    """
    content = json.loads(notebook.read_text(encoding="utf-8"))
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in content["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(linked(source))
            continue
        parts.append(fenced(source, "python"))
        for output in cell["outputs"]:
            text, picture = shown_as(output, notebook)
            if picture is not None:
                file = f"{name}-{len(pictures) + 1}.png"
                pictures[file] = picture
                text = f"![{text}]({file})"
            parts.append(text)
    download = f"[This page is a notebook]({notebook.name}); what stands under a cell is what the cell printed and drew."
    heading, _, rest = "\n\n".join(part for part in parts if part).partition("\n")
    return f"{heading}\n\n{download}\n{rest}\n", pictures


def shown_as(output: dict[str, Any], notebook: Path) -> tuple[str, bytes | None]:
    """One output as Markdown; for a picture what it shows, and its bytes.

    Raises:
        ValueError: see :func:`page`.
    """
    kind = output["output_type"]
    if kind == "stream":
        return fenced(settled("".join(output["text"])), "text"), None
    if kind not in ("display_data", "execute_result"):
        raise ValueError(
            f"{notebook}: a cell's output is {kind!r}, which no page can show; run the notebook again and store it"
        )
    data = {name: "".join(value) for name, value in output["data"].items() if isinstance(value, (str, list))}
    if FIGURE in data:
        return output["metadata"].get("alt", "A figure drawn by the cell above"), base64.b64decode(data[FIGURE])
    if "text/html" in data:
        return f'<div class="notebook-table">\n{table(data["text/html"])}\n</div>', None
    if "text/plain" in data:
        return fenced(data["text/plain"], "text"), None
    raise ValueError(f"{notebook}: a cell's output has only {', '.join(output['data'])}, which no page can show; print it")


def table(html: str) -> str:
    """The table of a DataFrame without the style of its own, which knows no dark theme; without blank lines, which end HTML."""
    html = re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL)
    html = re.sub(r' (border|class|style)="[^"]*"', "", html)
    return "\n".join(line.strip() for line in html.splitlines() if line.strip())


def settled(text: str) -> str:
    """What a terminal shows in the end: of a line that was written over with carriage returns, the last state."""
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")).rstrip("\n")


def fenced(text: str, language: str) -> str:
    """A fenced block, of as many backquotes as the text needs."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    mark = "`" * (longest + 1)
    return f"{mark}{language}\n{text.rstrip()}\n{mark}" if text.strip() else ""
