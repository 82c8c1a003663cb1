"""An idempotent producer that publishes records to the partition that they name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Final

from aiokafka import AIOKafkaProducer

from stream_app.domain.record import Record
from stream_app.kafka.clients import kafka_producer, repeated
from stream_app.kafka.clock import KafkaClock
from stream_app.kafka.closing import stop_producer
from stream_app.kafka.connection import KafkaConnection

_START_WITHIN_S: Final = 30.0


class KafkaPublisher:
    """Implements `replay.agent.Publisher` with aiokafka."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer

    async def publish(self, record: Record) -> Awaitable[object]:
        """Queue a record, in order. The returned future is done when all in-sync replicas have the record."""
        sent: Awaitable[object] = await self._producer.send(
            record.topic, record.value, record.key, partition=record.partition, headers=list(record.headers)
        )
        return sent


@asynccontextmanager
async def kafka_publisher(
    connection: KafkaConnection, max_request_bytes: int, clock: KafkaClock | None = None
) -> AsyncIterator[KafkaPublisher]:
    """A publisher for the time of the block. `clock` compares Kafka's clock with ours at each request.

    Raises KafkaError when no broker answers.
    """
    producer = kafka_producer(
        **connection.settings(), enable_idempotence=True, linger_ms=2, max_request_size=max_request_bytes
    )
    if clock is not None:
        clock.watch(producer.client)
    try:
        await repeated(producer.start, _START_WITHIN_S)
        yield KafkaPublisher(producer)
    finally:
        await stop_producer(producer)
