"""The gateway's public ASGI app: callbacks, and whether it lives.

It reveals no customer's name, nor anything about a lead: metrics and /readyz are on the operations port.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream_app.gateway.callback_answers import CRASHED, UNPROXIED, UNPROXIED_HEADER
from stream_app.gateway.tables import PREFIX


def build_asgi(receiver: ASGIApp, on_response: Callable[[int], None]) -> ASGIApp:
    """Build the app. `on_response` is called with the status of each response."""

    async def healthz(request: Request) -> Response:
        options = {option.strip() for option in request.headers.get("connection", "").split(",")}
        return PlainTextResponse("ok\n", headers={UNPROXIED_HEADER: "1"} if UNPROXIED in options else None)

    async def crashed(_: Request, __: Exception) -> Response:
        return PlainTextResponse(f"{CRASHED.text}\n", CRASHED.status, CRASHED.headers)

    app = Starlette(
        routes=[Route(f"{PREFIX}{{address:path}}", receiver), Route("/healthz", healthz)],
        exception_handlers={Exception: crashed},
    )
    app.router.redirect_slashes = False

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        async def seen(message: Message) -> None:
            if message["type"] == "http.response.start":
                on_response(message["status"])
            await send(message)

        await app(scope, receive, seen)

    return counted
