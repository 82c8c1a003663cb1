"""The operations endpoints of a process: /metrics, /healthz (it runs) and /readyz (it can work)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route


def ops_app(registry: CollectorRegistry, not_ready: Callable[[], Awaitable[str | None]]) -> Starlette:
    """Build the ASGI app.

    Args:
        registry: The metrics.
        not_ready: Returns why the process cannot work now, or None.
    """

    async def metrics(request: Request) -> Response:
        # Exemplars exist only in OpenMetrics, which Prometheus asks for.
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        reason = await not_ready()
        return PlainTextResponse(f"{reason or 'ok'}\n", 503 if reason else 200)

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)])
