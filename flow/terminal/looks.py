"""Whether a stream is drawn over and coloured: by what it leads to, and by what the environment asks for."""

from __future__ import annotations

import os
import sys
from typing import TextIO

NO = ("", "0", "false", "no")
"""Values of a variable of the environment that ask for nothing."""
ERASED = "\r\x1b[K"
"""What takes a terminal back to the beginning of an empty line."""


def is_drawn_over(stream: TextIO) -> bool:
    """Whether lines of a stream may be drawn over: it leads to a terminal that can (TERM), outside of continuous integration
    (CI)."""
    return stream.isatty() and os.environ.get("TERM") not in ("", "dumb") and not _is_asked("CI")


def in_notebook() -> bool:
    """Whether what is printed goes to the cell of a notebook."""
    return type(sys.stdout).__module__ == "ipykernel.iostream"


def aside() -> TextIO:
    """Where progress goes and what is printed beside results: stderr; in a notebook, which shows that as errors, stdout."""
    return sys.stdout if in_notebook() else sys.stderr


def is_coloured(stream: TextIO) -> bool:
    """Whether a stream gets colours. NO_COLOR forbids them; FORCE_COLOR and CLICOLOR_FORCE ask for them even in a pipe;
    CLICOLOR=0 forbids them in a terminal, which otherwise gets them."""
    if os.environ.get("NO_COLOR"):
        return False
    if _is_asked("FORCE_COLOR") or _is_asked("CLICOLOR_FORCE"):
        return True
    return os.environ.get("CLICOLOR") != "0" and is_drawn_over(stream)


def _is_asked(variable: str) -> bool:
    return os.environ.get(variable, "").lower() not in NO


def clean_line() -> None:
    """Have the next line on stderr begin at the left of a terminal, where an interrupt from the keyboard left "^C"."""
    if is_drawn_over(sys.stderr):
        print(ERASED, end="", file=sys.stderr, flush=True)
