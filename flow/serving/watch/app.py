"""The application: a page, and one address that tells what is new. It serves browsers of this machine alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from flow.reports.page import parts
from flow.serving.guard import Guard
from flow.serving.watch.folder import Watched

STATIC = Path(__file__).parents[1] / "static"
TYPES = {"watch.html": "text/html", "watch.js": "text/javascript", "watch.css": "text/css"}
REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of a report, which has its style and script within it and names them in a policy of its own; both policies hold. In its
sandbox it is of no origin, so it can ask this server for nothing."""


class Json(JSONResponse):
    """JSON in ASCII: the name of a folder need not be UTF-8, and a file may name an algorithm by what no encoding has."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def application(watched: Watched, port: int) -> Starlette:
    """The ASGI application of a folder that is watched.

    Args:
        port: on which it is served, which the Host of every request must name.
    """
    style, script = parts("report")
    contents: dict[str, tuple[str, str | bytes]] = {
        f"/{name}": (kind, (STATIC / name).read_bytes()) for name, kind in TYPES.items()
    }
    contents["/"] = contents.pop("/watch.html")
    contents |= {"/style.css": ("text/css", style), "/page.js": ("text/javascript", script)}

    def file(kind: str, content: str | bytes) -> Callable[[Request], Any]:
        async def serve(request: Request) -> Response:
            return Response(content, media_type=f"{kind}; charset=utf-8")

        return serve

    async def nothing(request: Request) -> Response:
        return Response(status_code=204)

    async def news(request: Request) -> Response:
        asked = request.query_params
        version = asked.get("version", "0")
        if not (version.isascii() and version.isdecimal() and len(version) < 16):
            return PlainTextResponse("version must be a whole number", 400)
        return Json(await run_in_threadpool(watched.news, asked.get("epoch", ""), int(version)))

    async def charts(request: Request) -> Response:
        return Json(await run_in_threadpool(watched.charts))

    async def report(request: Request) -> Response:
        path = await run_in_threadpool(watched.report, request.path_params["name"])
        try:
            content = None if path is None else await run_in_threadpool(path.read_bytes)
        except OSError:
            content = None
        if content is None:
            return PlainTextResponse("there is no report", 404)
        return Response(content, media_type="text/html; charset=utf-8", headers={"content-security-policy": REPORT_POLICY})

    routes = [
        *(Route(path, file(*content)) for path, content in contents.items()),
        Route("/favicon.ico", nothing),
        Route("/news", news),
        Route("/charts", charts),
        Route("/report/{name}", report),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, port=port)])
