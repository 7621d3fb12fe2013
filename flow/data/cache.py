"""Where prepared data are kept: below $FLOW_CACHE, by default ~/.cache/flow."""

from __future__ import annotations

import os
from pathlib import Path

from flow.errors import UserError

REMEDY = (
    "set this variable of the environment to a folder that you may write to, or set it empty to prepare them anew every time"
)


def cache_folder() -> Path | None:
    """The folder of all prepared data; None where nothing is to be kept.

    Raises:
        UserError: the user has no home folder.
    """
    given = os.environ.get("FLOW_CACHE")
    if given is not None:
        return Path(given) if given else None
    parent = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if parent.startswith("~"):
        raise UserError(f"FLOW_CACHE is not set, and this user has no home folder to keep prepared data in; {REMEDY}")
    return Path(parent) / "flow"
