"""A package that a format needs, or one sentence on how to install it."""

from __future__ import annotations

import importlib
from typing import Any

from flow.errors import UserError


def package(name: str, extra: str, where: str, why: str) -> Any:
    """Import a package that is not installed with Flow itself.

    Args:
        name: of the module.
        extra: of this distribution, which brings it.
        where: the option and its value, for the message.
        why: what the data are, with the article.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        top = name.partition(".")[0]
        needed = {"google": "protobuf"}.get(top, top)
        raise UserError(
            f"{where} is {why}, which needs the package {needed} ({error}); run: pip install 'flow-fl[{extra}]'"
        ) from error
