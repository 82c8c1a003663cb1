"""The gateway process: builds its parts from the settings and runs them.

The parts are closed in reverse order.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

from aiokafka.errors import KafkaError
from attrs import define, field

from stream_app import __version__
from stream_app.clock import Clock
from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of, kafka_ready
from stream_app.config.reload import FileWatch
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.records import Record
from stream_app.gateway.holding import Holding
from stream_app.gateway.receiver import (
    MAX_CONNECTIONS,
    GatewayMetrics,
    Receiver,
    build_asgi,
    refuse_more,
)
from stream_app.gateway.tables import tables_of
from stream_app.kafka.producers import Inbox, open_inbox
from stream_app.kafka.topics import watch_partitions
from stream_app.ops import logs as log
from stream_app.ops.http import Limit, process_registry, serve_http
from stream_app.services.process import serve_ops, waiting_for_kafka
from stream_app.tasks import cancel, run_until, stop_signal, until_failure

_GRACE_S: Final = 10
_LAST_TRY_S: Final = 6.0
_ANSWERS_WITHIN_S: Final = 5.0


@define(eq=False, repr=False)
class _Kafka:
    """Kafka as a gateway knows it: it may be away when the gateway starts.

    `_stack` closes the inbox.
    """

    _settings: Settings
    _logger: log.Logger
    _stack: AsyncExitStack
    _inbox: Inbox | None = field(init=False, default=None)
    _is_away: asyncio.Event = field(init=False, factory=asyncio.Event)

    async def put(self, record: Record) -> None:
        """Store a record, as `Inbox.put` does."""
        if self._inbox is None:
            raise BrokerUnavailable("Kafka has not answered since this gateway started")
        await self._inbox.put(record)

    async def find(self) -> None:
        """Return when Kafka takes records, however long it is away.

        While Kafka is away, the process must not end, because that would lose what is held.

        Raises:
            StreamAppError: Kafka answers, and refuses this process or lacks its topics.
        """
        connection = connection_of(self._settings)
        while self._inbox is None:
            try:
                await kafka_ready(self._settings, "gateway", self._say)
                self._inbox = await self._stack.enter_async_context(open_inbox(connection))
            except BrokerUnavailable as error:
                self._say(str(error))
            except KafkaError as error:
                trouble = connection.lost(error)
                if not isinstance(trouble, BrokerUnavailable):
                    raise trouble from error
                self._say(str(trouble))

    async def answered_or_away(self, finding: asyncio.Task[None]) -> bool:
        """Return True when Kafka was found or does not answer. Raises the error if it refuses.

        A gateway that Kafka refuses must not listen, because a proxy would send it callbacks.
        """
        away = asyncio.create_task(self._is_away.wait())
        try:
            await asyncio.wait(
                (finding, away),
                timeout=_ANSWERS_WITHIN_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            away.cancel()
        if finding.done():
            finding.result()
        return True

    def _say(self, text: str) -> None:
        self._is_away.set()
        waiting_for_kafka(self._logger)(text)


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
    with stop_signal() as stop:
        async with AsyncExitStack() as stack:
            kafka = _Kafka(
                settings,
                logger,
                await stack.enter_async_context(AsyncExitStack()),
            )
            finding = asyncio.create_task(kafka.find(), name="kafka")
            # It runs after `write_rest`, which may still find Kafka, and before the inbox closes.
            stack.push_async_callback(cancel, [finding])
            if not await run_until(stop, kafka.answered_or_away(finding)):
                return
            holding = Holding(kafka.put, gateway.hold_s, registry)
            receiver = Receiver(
                tables,
                names.callbacks,
                holding,
                Clock().now_ms,
                gateway,
                metrics,
            )

            def adopt(now: Settings) -> None:
                new = tables_of(now)
                receiver.tables = new
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
            # It runs after the last request, and before the metrics end, which say what was lost.
            stack.push_async_callback(holding.write_rest, _LAST_TRY_S)
            app = build_asgi(receiver, metrics.responded)
            port = await stack.enter_async_context(
                serve_http(
                    app,
                    gateway.host,
                    http.gateway_port,
                    grace_s=_GRACE_S,
                    limit=Limit(MAX_CONNECTIONS, refuse_more(metrics)),
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

            async def until_found() -> None:
                await asyncio.wait([finding])  # A cancellation of this wait lets `finding` go on.
                finding.result()

            failed = await run_until(stop, until_failure(until_found(), watched, holding.run()))
            if failed is not None:
                raise failed
        logger.info("gateway_stopped")
