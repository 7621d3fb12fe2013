"""The tables of docs/files.md, and the values of JSON that they describe."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "files.md"
WORDS = {
    "SIDE": "(seen|unseen)", "MODEL": "(global|local|personal|hard|soft)", "METRIC": "(loss|perplexity)",
    "GROUP": "(data|model|server|schedule|privacy)", "OPTION": r"[a-z]\w*", "QUANTILE": r"(p\d+|max)",
    "NAME": r"[A-Za-z][\w-]*", "MEASURE": r"\w+",
}  # fmt: skip
TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,), "number": (int, float), "string": (str,), "boolean": (bool,), "null": (type(None),), "object": (dict,),
}  # fmt: skip
Row = tuple[re.Pattern[str], str, tuple[type, ...]]


def rows(file: str, what: str = "fields") -> list[Row]:
    """The table of a file: a pattern for the path, the field as the page has it, and its types."""
    table = PAGE.read_text(encoding="utf-8").split(f"<!-- {what} of {file} -->")[1].split("<!-- end -->")[0]
    pairs = []
    for field, kinds in re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", table, re.MULTILINE):
        pattern = re.sub("|".join(WORDS), lambda word: WORDS[word[0]], re.escape(field))
        types = tuple(kind for name in re.split(", | or ", kinds.strip()) for kind in TYPES[name])
        pairs.append((re.compile(pattern), field, types))
    return pairs


def names(fields: list[str]) -> set[str]:
    """Fields with every name that their words stand for; OPTION, NAME and MEASURE stay as they are."""
    full = set()
    for field in fields:
        words = [word for word in ("SIDE", "MODEL", "METRIC") if word in field]
        for values in itertools.product(*(WORDS[word].strip("()").split("|") for word in words)):
            name = field
            for word, value in zip(words, values, strict=True):
                name = name.replace(word, value)
            full.add(name)
    return full


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
