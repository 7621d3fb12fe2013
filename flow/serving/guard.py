"""What every page on this machine is served with: it answers browsers of this machine alone, and lets nothing else in.

Requests with another host or origin are refused, so that no other page reaches what is served by a name that leads here (DNS
rebinding) or from a browser that has both open.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Refuses what does not come from a page of this address, and sets the headers of every answer."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *(pair for pair in own if pair[0] not in given)]}
            await send(message)

        request = Request(scope)
        hosts, origins = request.headers.getlist("host"), request.headers.getlist("origin")
        refusal = None
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            refusal = f"this server answers as {' or '.join(sorted(self._hosts))} alone"
        elif any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
            refusal = "a page of another origin asks"
        if refusal is not None:
            await PlainTextResponse(refusal, 403)(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)
