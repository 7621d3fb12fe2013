"""The application: a page, and one address that answers texts. It serves browsers of this machine alone.

Nothing is stored, logged or loaded from elsewhere.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from flow.errors import UserError
from flow.personal.model import PersonalModel
from flow.serving.answers import answer
from flow.serving.guard import Guard

STATIC = Path(__file__).parent / "static"
TYPES = {"page.html": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
MOST_CHARACTERS = 2000
"""Of a text."""
MOST_BYTES = 16 * 1024
"""Of a request's body."""
RATE, BURST = 20.0, 40.0
"""Texts a second that are answered, and how many at once after a pause."""


class Allowance:
    """How many texts may be answered now: RATE a second, and BURST after a pause."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._left, self._last = clock, BURST, clock()

    def take(self) -> bool:
        """Whether one more may be."""
        now = self._clock()
        self._left, self._last = min(BURST, self._left + RATE * (now - self._last)), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def application(model: PersonalModel, port: int, clock: Callable[[], float] = time.monotonic) -> Starlette:
    """The ASGI application of one client's model.

    Args:
        port: on which it is served, which the Host of every request must name.
        clock: in seconds.
    """
    contents = {name: (STATIC / name).read_bytes() for name in TYPES}
    about = {
        "client": model.report["client"],
        "algorithm": model.report["algorithm"],
        "private": model.report["private"],
        "routed": model.routed,
        "classes": bool(model.classes),
        "most_characters": MOST_CHARACTERS,
    }
    allowance, one_at_a_time = Allowance(clock), threading.Lock()

    def file(name: str) -> Callable[[Request], Any]:
        async def serve(request: Request) -> Response:
            return Response(contents[name], media_type=f"{TYPES[name]}; charset=utf-8")

        return serve

    async def nothing(request: Request) -> Response:
        return Response(status_code=204)

    async def describe(request: Request) -> Response:
        return JSONResponse(about)

    def answered(text: str) -> dict[str, Any]:
        with one_at_a_time:
            return answer(model, text)

    async def answers(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return PlainTextResponse("the body must be application/json", 415)
        body = await _body(request)
        if body is None:
            return PlainTextResponse(f"the body has more than {MOST_BYTES} bytes", 413)
        try:
            content = json.loads(body)
            text = content["text"]
            text.encode()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return PlainTextResponse('the body must be {"text": "..."}', 400)
        if len(text) > MOST_CHARACTERS:
            return PlainTextResponse(f"the text has more than {MOST_CHARACTERS} characters", 413)
        if not allowance.take():
            return PlainTextResponse("too many texts at a time; wait a second", 429, {"retry-after": "1"})
        try:
            return JSONResponse(await run_in_threadpool(answered, text))
        except UserError as error:
            return PlainTextResponse(str(error), 400)

    routes = [
        Route("/", file("page.html")),
        Route("/page.js", file("page.js")),
        Route("/page.css", file("page.css")),
        Route("/favicon.ico", nothing),
        Route("/about", describe),
        Route("/answer", answers, methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, port=port)])


async def _body(request: Request) -> bytes | None:
    """The body of a request; None where it is longer than MOST_BYTES, of which no more is read."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            return None
    return body
