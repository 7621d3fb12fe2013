"""Templates of the pages; all are one file without references, so what they share is included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jinja2

from flow.reports.format import capitalized


def template(name: str, **filters: Callable[..., Any]) -> jinja2.Template:
    """The template of this name, with filters of the page's own; whatever it names has to be given."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flow.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters | {"capitalize": capitalized})
    return environment.get_template(name)
