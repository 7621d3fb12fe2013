"""The page that describes a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flow.reports.page import document

NAME = "data.html"


def write_page(path: Path, name: str, lines: Sequence[tuple[str, str]], samples: Sequence[tuple[str, str]]) -> Path:
    """Write the page.

    Args:
        path: of the file.
        name: the data set's.
        lines: what, and how much of it.
        samples: texts with a heading each.

    Returns:
        The path.

    Raises:
        OSError: it cannot be written.
    """
    page = document("data", name=name, lines=lines, samples=samples)
    path.write_text(page, encoding="utf-8")
    return path
