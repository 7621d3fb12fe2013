"""The server of an application, on this machine's own address."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Callable
from typing import Any

from flow.errors import UserError
from flow.personal.model import PersonalModel

ADDRESS = "127.0.0.1"
PACKAGES = ("starlette", "uvicorn")


def check_packages(command: str = "serve") -> None:
    """Raise UserError where a package is missing.

    Args:
        command: of `flow`, which needs it.
    """
    for package in PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(f"{command} needs the package {package} ({error}); run: pip install 'flow-fl[serve]'") from error


def serve(model: PersonalModel, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page of one client's model until the process is interrupted; see :func:`serve_application`."""
    check_packages()
    from flow.serving.app import application

    serve_application(lambda bound: application(model, bound), port, ready)


def serve_application(made: Callable[[int], Any], port: int, ready: Callable[[str], None]) -> None:
    """Serve until the process is interrupted.

    Args:
        made: gives the ASGI application that is served on a port.
        port: 0 for a free one.
        ready: gets the page's address; requests wait from then on and are answered once it returns.

    Raises:
        UserError: the port is not free.
    """
    import uvicorn

    if not 0 <= port <= 65535:
        raise UserError(f"port={port} must be from 0 to 65535; leave it out for the default, or give 0 for a free one")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            own.bind((ADDRESS, port))
            own.listen()  # a taken port can be bound while nobody listens on it
        except OSError as error:
            raise UserError(f"port={port} cannot be had ({error}); give --port 0 for a free one, or another") from error
        bound = own.getsockname()[1]
        options = uvicorn.Config(
            made(bound),
            log_level="error",
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            limit_concurrency=32,
            timeout_keep_alive=5,
            h11_max_incomplete_event_size=16 * 1024,
        )
        ready(f"http://{ADDRESS}:{bound}/")
        uvicorn.Server(options).run(sockets=[own])
