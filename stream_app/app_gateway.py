"""The gateway's part of the composition root: builds the process from the settings, closes it in reverse order."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Final

from prometheus_client import CollectorRegistry

from stream_app import __version__
from stream_app.adapters import log
from stream_app.adapters.callback_inbox import callback_inbox
from stream_app.adapters.clock import SystemClock
from stream_app.adapters.gateway_metrics import GatewayMetrics
from stream_app.adapters.http_server import serve_http
from stream_app.app import check_kafka, connection_of
from stream_app.gateway.asgi import build_asgi
from stream_app.gateway.receiver import Limits, Receiver, Table
from stream_app.settings import Settings

_GRACE_S: Final = 10.0


def tables_of(settings: Settings) -> list[Table]:
    """The Clay tables that call back."""
    return [
        Table(
            workspace=there.workspace,
            destination=alias,
            partition=settings.home(there.workspace),
            secrets=tuple(settings.secrets[name].encode() for name in there.callback_secrets_env),
        )
        for alias, there in settings.destinations.items()
        if there.callbacks
    ]


async def run_gateway(settings: Settings) -> None:
    """`stream-app gateway`: until SIGTERM or SIGINT. Raises what ended it otherwise."""
    logger = log.get("gateway")
    connection, gateway = connection_of(settings), settings.gateway
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry, logger)
    with asked_to_stop() as stop:
        async with AsyncExitStack() as stack:
            await check_kafka(settings, connection, logger)
            inbox = await stack.enter_async_context(callback_inbox(connection))
            receiver = Receiver(
                tables_of(settings),
                settings.callback_keys if gateway.token_keys_env else None,
                settings.names.callbacks,
                inbox,
                SystemClock().now_ms,
                Limits(gateway.max_body_bytes, gateway.read_timeout_s),
                metrics,
            )
            app = build_asgi(receiver, registry, inbox.not_ready, metrics.responded)
            port = await stack.enter_async_context(
                serve_http(
                    app,
                    settings.http.host,
                    settings.http.gateway_port,
                    head_within_s=gateway.read_timeout_s,
                    grace_s=_GRACE_S,
                )
            )
            logger.info("gateway_started", version=__version__, port=port)
            await stop.wait()
        logger.info("gateway_stopped")


@contextmanager
def asked_to_stop() -> Iterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set, for the time of the block."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, event.set)
    try:
        yield event
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
