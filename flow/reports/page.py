"""Templates of the pages. Each is one file that asks for nothing else, and its policy lets nothing else in.

A page has one style sheet and at most one script, both made here of what comes with this package. Its policy names them by
their SHA-256, so a browser obeys no other style or script, even where text of the data were taken for one.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from flow.evaluation.summaries import BINS
from flow.reports.format import capitalized


def document(page: str, /, filters: dict[str, Callable[..., Any]] | None = None, **values: Any) -> str:
    """A page as HTML.

    Args:
        page: name of the template PAGE.html.j2 and of its style sheet PAGE.css.j2.
        filters: of the template.
        values: whatever the template names has to be given.
    """
    environment = _environment(page)
    environment.filters.update(filters or {})
    return environment.get_template(f"{page}.html.j2").render(**_own_parts(page), **values)


@cache
def _environment(page: str) -> jinja2.Environment:
    """Where the templates of a page are, compiled once."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flow.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["capitalize"] = capitalized
    return environment


@cache
def _own_parts(page: str) -> dict[str, str]:
    """The style sheet and the script of a page, and its policy."""
    style, script = (_environment(page).get_template(name).render(bins=BINS) for name in (f"{page}.css.j2", "page.js.j2"))
    return {"style": Markup(style), "script": Markup(script), "policy": policy(style, script)}


def parts(page: str) -> tuple[str, str]:
    """The style sheet and the script of a page, for one that is served in several files and looks the same."""
    own = _own_parts(page)
    return str(own["style"]), str(own["script"])


def policy(style: str, script: str) -> str:
    """The content security policy of a page with this style sheet and this script."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; script-src 'sha256-{hashes[1]}'; style-src 'sha256-{hashes[0]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
