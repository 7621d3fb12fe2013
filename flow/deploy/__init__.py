"""Rounds on real devices: those of `flow.simulate`, carried by Flower between a server and the nodes that hold the data.

`flow deploy` writes a Flower app. Its two files call :func:`server_app` and :func:`client_app`, which need the extra `flower`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from flow.errors import UserError

__all__ = ["client_app", "server_app"]


def server_app(folder: Path) -> Any:
    """The ServerApp of a Flower app that `flow deploy` wrote.

    Args:
        folder: of the app.

    Raises:
        UserError: Flower is not installed.
    """
    _need_flower()
    from flow.deploy import superlink

    return superlink.server_app(folder)


def client_app(folder: Path) -> Any:
    """The ClientApp of such an app, as :func:`server_app`."""
    _need_flower()
    from flow.deploy import flower

    return flower.client_app(folder)


def _need_flower() -> None:
    if importlib.util.find_spec("flwr") is None:
        raise UserError("a deployment needs Flower, which is not installed; install it with `pip install 'flow-fl[flower]'`")
