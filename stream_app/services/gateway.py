"""The gateway process: builds its parts from the settings and runs them.

It closes them in reverse order.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

from stream_app import __version__
from stream_app.clock import Clock
from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of, kafka_ready
from stream_app.config.reload import FileWatch
from stream_app.gateway.receiver import GatewayMetrics, Receiver, build_asgi
from stream_app.gateway.tables import tables_of
from stream_app.kafka.producers import open_inbox
from stream_app.kafka.topics import watch_partitions
from stream_app.ops import logs as log
from stream_app.ops.http import process_registry, serve_http
from stream_app.services.process import serve_ops, waiting_for_kafka
from stream_app.tasks import cancel, run_until, stop_signal

_GRACE_S: Final = 10


async def run_gateway(settings: Settings, read: Callable[[], Settings]) -> None:
    """Run `stream-app gateway` until SIGTERM or SIGINT. Raises the error that ended it otherwise.

    `read` returns the settings that the files have now.
    """
    logger = log.get("gateway")
    gateway = settings.gateway
    http = settings.http
    names = settings.names
    registry = process_registry()
    metrics = GatewayMetrics(registry, logger)
    tables = tables_of(settings)
    # Before the signal handlers: a signal ends this wait at once.
    await kafka_ready(settings, "gateway", waiting_for_kafka(logger))
    with stop_signal() as stop:
        async with AsyncExitStack() as stack:
            callbacks = await stack.enter_async_context(open_inbox(connection_of(settings)))
            receiver = Receiver(
                tables,
                names.callbacks,
                callbacks.put,
                Clock().now_ms,
                gateway,
                metrics,
            )

            def adopt(now: Settings) -> None:
                receiver.tables = new = tables_of(now)
                metrics.adopted(new.digest)
                logger.info("tables_adopted", tables=len(new), digest=new.digest)

            metrics.adopted(tables.digest)
            watch = FileWatch(
                settings,
                read,
                adopt,
                lambda text: logger.warning("tables_not_adopted", text=text),
            )
            watching = asyncio.create_task(watch.run(), name="tables")
            stack.push_async_callback(cancel, [watching])
            app = build_asgi(receiver, metrics.responded)
            port = await stack.enter_async_context(
                serve_http(app, gateway.host, http.gateway_port, grace_s=_GRACE_S),
            )
            ops = await stack.enter_async_context(
                serve_ops(http.host, http.gateway_ops_port, registry, callbacks.not_ready),
            )
            logger.info(
                "gateway_started",
                version=__version__,
                port=port,
                metrics_port=ops,
                tables=len(tables),
            )
            watched = watch_partitions(
                connection_of(settings),
                [names.callbacks],
                settings.kafka.partitions,
            )
            await run_until(stop, watched)
        logger.info("gateway_stopped")
