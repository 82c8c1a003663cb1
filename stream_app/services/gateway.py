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
from stream_app.gateway.holding import Holding
from stream_app.gateway.receiver import (
    MOST_CONNECTIONS,
    GatewayMetrics,
    Receiver,
    build_asgi,
    refuse_more,
)
from stream_app.gateway.tables import tables_of
from stream_app.kafka.producers import open_inbox
from stream_app.kafka.topics import watch_partitions
from stream_app.ops import logs as log
from stream_app.ops.http import Limit, process_registry, serve_http
from stream_app.services.process import serve_ops, waiting_for_kafka
from stream_app.tasks import cancel, run_until, stop_signal, until_failure

_GRACE_S: Final = 10
_LAST_TRY_S: Final = 6.0


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
            holding = Holding(callbacks.put, gateway.hold_s, registry)
            receiver = Receiver(
                tables,
                names.callbacks,
                holding,
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

            async def not_ready() -> str | None:
                return holding.full()

            ops = await stack.enter_async_context(
                serve_ops(http.host, http.gateway_ops_port, registry, not_ready),
            )
            # After the last request and before the metrics end, which say what was lost.
            stack.push_async_callback(holding.write_rest, _LAST_TRY_S)
            app = build_asgi(receiver, metrics.responded)
            port = await stack.enter_async_context(
                serve_http(
                    app,
                    gateway.host,
                    http.gateway_port,
                    grace_s=_GRACE_S,
                    limit=Limit(MOST_CONNECTIONS, refuse_more(metrics)),
                    on_closed=holding.release,
                ),
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
            failed = await run_until(stop, until_failure(watched, holding.run()))
            if failed is not None:
                raise failed
        logger.info("gateway_stopped")
