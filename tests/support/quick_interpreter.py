"""Triton's interpreter made quicker: it patches its language anew at every call of a helper, which takes most of its time."""

from __future__ import annotations

import inspect
from typing import Any

import triton.language as tl
from triton.runtime import interpreter


class Scope:
    """What the interpreter restores at the end of a launch."""

    def __init__(self, scope: Any, patched: set[int]) -> None:
        self.scope, self.patched = scope, patched

    def restore(self) -> None:
        """Put the language back."""
        self.patched.clear()
        self.scope.restore()


def install() -> None:
    """Patch the language once a launch, and the module that Triton's own helpers see once for all: no one restores that."""
    patch = interpreter._patch_lang
    patched: set[int] = set()
    for_good: set[int] = set()

    def once(fn: Any) -> Any:
        languages = {id(v) for v in fn.__globals__.values() if inspect.ismodule(v) and (v is tl or v is tl.core)}
        if not patched:
            patched.update(languages)
            return Scope(patch(fn), patched)
        if not languages <= patched | for_good:
            patch(fn)
            for_good.update(languages - patched)
        return None

    if patch.__name__ != once.__name__:
        interpreter._patch_lang = once
