"""Every snippet of docs/routed-gru.md runs, in order, and prints exactly what the page shows."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "routed-gru.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_snippet_prints_what_the_page_shows() -> None:
    page = PAGE.read_text(encoding="utf-8")
    blocks = [(m[1], m[2], page.count("\n", 0, m.start()) + 2) for m in BLOCK.finditer(page)]
    assert {kind for kind, _, _ in blocks} == {"python", "text"}
    namespace: dict[str, Any] = {"__name__": "__main__"}
    ran = 0
    for n, (kind, code, line) in enumerate(blocks):
        if kind == "text":
            assert blocks[n - 1][0] == "python", f"line {line}: output without a snippet before it"
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * (line - 1) + code, str(PAGE), "exec"), namespace)
        shown = blocks[n + 1][1] if n + 1 < len(blocks) and blocks[n + 1][0] == "text" else ""
        assert printed.getvalue() == shown, f"line {line}: the snippet prints something else than the page shows"
        ran += 1
    assert ran >= 8
