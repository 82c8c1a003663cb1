"""The trace process: follows `leads.status` and sends spans, from the oldest one not sent yet."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import msgspec
from aiokafka import TopicPartition
from prometheus_client import Counter
from structlog.typing import FilteringBoundLogger

from stream_app import __version__
from stream_app.clock import Clock
from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of, kafka_ready
from stream_app.domain.model.errors import BrokerUnavailable, SettingsError
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.untrusted import UNREADABLE
from stream_app.domain.spans import clay_of
from stream_app.kafka.readers import Reader
from stream_app.kafka.topics import watch_partitions
from stream_app.ops import logs as log
from stream_app.ops.http import process_registry
from stream_app.services.process import serve_ops, waiting_for_kafka
from stream_app.tasks import run_until, stop_signal
from stream_app.trace import Exporter, OtlpClient, Placed

_PAUSE_S: Final = 5.0
_events: Final = msgspec.json.Decoder(StatusEvent)


async def run_trace(settings: Settings) -> None:
    """Run `stream-app trace` until SIGTERM or SIGINT.

    Raises:
        SettingsError: No receiver is configured.
    """
    trace = settings.trace
    logger = log.get("trace")
    if trace.endpoint is None:
        raise SettingsError(
            [
                (
                    "trace.endpoint is not set: name the OTLP receiver, e.g. "
                    "http://127.0.0.1:4318/v1/traces"
                ),
            ],
        )
    registry = process_registry()
    spans = Counter("stream_app_trace_spans", "Spans, by result.", ("result",), registry=registry)
    await kafka_ready(settings, "trace", waiting_for_kafka(logger))
    trouble = ""

    async def not_ready() -> str | None:
        return trouble or None

    def count(result: str, number: int) -> None:
        spans.labels(result).inc(number)

    async def follow() -> None:
        nonlocal trouble
        endpoint = trace.endpoint or ""
        headers = settings.trace_headers
        async with OtlpClient(endpoint, headers, __version__, socket.gethostname()) as client:
            while True:
                try:
                    await _export(settings, client, count, logger)
                except BrokerUnavailable as error:
                    trouble = str(error)
                    logger.warning("kafka_away", because=trouble)
                    await asyncio.sleep(_PAUSE_S)
                    trouble = ""

    async def both() -> None:
        watch = watch_partitions(
            connection_of(settings),
            [settings.names.status],
            settings.kafka.partitions,
        )
        await asyncio.gather(follow(), watch)

    with stop_signal() as stop:
        async with serve_ops(
            settings.http.host,
            settings.http.trace_port,
            registry,
            not_ready,
        ) as port:
            logger.info(
                "trace_started",
                version=__version__,
                metrics_port=port,
                endpoint=trace.endpoint,
            )
            await run_until(stop, both())
    logger.info("trace_stopped")


async def _export(
    settings: Settings,
    client: OtlpClient,
    count: Callable[[str, int], None],
    logger: FilteringBoundLogger,
) -> None:
    """Export until Kafka stops answering. It starts where the last exporter committed."""
    names = settings.names
    trace = settings.trace
    places = [TopicPartition(names.status, number) for number in range(settings.kafka.partitions)]
    async with Reader(
        connection_of(settings),
        group_id=names.trace_group,
        fetch_max_wait_ms=500,
    ) as reader:

        async def commit(done: dict[int, int]) -> None:
            await reader.commit(
                {TopicPartition(names.status, number): offset for number, offset in done.items()},
            )

        clay = {
            alias: clay_of(destination.allowed_hosts)
            for alias, destination in settings.destinations.items()
        }
        settle_ms = int(trace.settle_s * 1000)
        exporter = Exporter(
            trace,
            clay,
            settle_ms,
            client.send,
            commit,
            count,
            Clock().now_ms,
            logger,
        )
        starts = await reader.begins(places) | await reader.committed(places)
        await exporter.run(batches(reader, starts, logger))


async def batches(
    reader: Reader,
    starts: dict[TopicPartition, int],
    logger: FilteringBoundLogger,
) -> AsyncIterator[Sequence[Placed]]:
    """Yield the events that can be read, with their places. What cannot be read is logged."""
    async for polled in reader.follow(starts, pass_unreadable=True):
        batch: list[Placed] = []
        for place, records in polled.items():
            for record in records:
                try:
                    batch.append(
                        (place.partition, record.offset, _events.decode(record.value or b"")),
                    )
                except UNREADABLE as error:
                    at = {"partition": place.partition, "offset": record.offset}
                    logger.warning("event_unreadable", **at, because=str(error))
        yield batch
