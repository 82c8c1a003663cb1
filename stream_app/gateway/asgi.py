"""The gateway's public ASGI app: callbacks, health, and further routes such as the look-up API.

It reveals no customer's name: metrics and the reasons of /readyz are on the operations port.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream_app.gateway.callback_answers import CRASHED
from stream_app.gateway.receiver import PREFIX

Why = Callable[[], Awaitable[str | None]]
"""Returns why the process cannot work now, or None."""


def build_asgi(
    receiver: ASGIApp,
    not_ready: Why,
    on_response: Callable[[int], None],
    routes: Sequence[BaseRoute] = (),
) -> ASGIApp:
    """Build the app. /readyz checks `not_ready`. `on_response` is called with the status of each response."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        return PlainTextResponse("not ready\n", 503) if await not_ready() else PlainTextResponse("ok\n")

    async def crashed(_: Request, __: Exception) -> Response:
        return PlainTextResponse(f"{CRASHED.text}\n", CRASHED.status, CRASHED.headers)

    app = Starlette(
        routes=[
            Route(f"{PREFIX}{{address:path}}", receiver),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            *routes,
        ],
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
