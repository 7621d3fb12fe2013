"""An extension of Griffe, which mkdocstrings reads the code with: every docstring goes through scripts/site/docstrings.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import griffe

from scripts.site.docstrings import markdown


class Roles(griffe.Extension):
    """Rewrites the docstring of every object that is loaded."""

    def __init__(self, documented: str) -> None:
        """documented: a JSON file with the path of every object that has a place in the reference, by its name."""
        self._documented: dict[str, str] = json.loads(Path(documented).read_text(encoding="utf-8"))

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value, obj.path, self._documented)
