"""Docstrings as Markdown: Sphinx's roles become links of the reference, and a bare < no longer opens a tag."""

from __future__ import annotations

import re
from collections.abc import Mapping

CODE = re.compile(r"(`+)(?:(?!\1).)+?\1", re.DOTALL)
ROLE = re.compile(r":(?:class|func|meth|attr|data|exc|mod):`~?([\w.]+)`")


def markdown(text: str, path: str, documented: Mapping[str, str]) -> str:
    """A docstring with roles and bare angle brackets replaced.

    Args:
        text: the docstring.
        path: of the object that it belongs to.
        documented: by name, the path of every object that has a place in the reference.
    """

    def link(role: re.Match[str]) -> str:
        name = role[1]
        places = (name, f"{path.rpartition('.')[0]}.{name}", f"{path}.{name}")
        target = next((documented[place] for place in places if place in documented), None)
        return f"[`{name}`][{target}]" if target else f"`{name}`"

    text = ROLE.sub(link, text)
    parts, end = [], 0
    for code in CODE.finditer(text):
        parts += [text[end : code.start()].replace("<", "&lt;"), code[0]]
        end = code.end()
    return "".join((*parts, text[end:].replace("<", "&lt;")))
