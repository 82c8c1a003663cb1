"""What operations ask of a process over HTTP: /metrics, /healthz (it runs) and /readyz (it does its work)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from stream_app.domain.errors import StreamAppError


@asynccontextmanager
async def serve_ops(
    host: str, port: int, registry: CollectorRegistry, not_ready: Callable[[], Awaitable[str | None]]
) -> AsyncIterator[int]:
    """Serve until the block ends; yields the port. `not_ready` gives the reason, or None when all is well."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        reason = await not_ready()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise StreamAppError(
                f"cannot serve /metrics on {host}:{port} ({error.strerror}): set another port under [http], "
                "or 0 for any free one"
            ) from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
