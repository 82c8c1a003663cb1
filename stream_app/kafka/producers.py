"""Producers of records: an idempotent publisher, and an inbox that gives up in bounded time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.records import Record
from stream_app.domain.model.topics import MAX_INPUT_BYTES
from stream_app.kafka.clock import KafkaClock
from stream_app.kafka.connection import (
    KafkaConnection,
    end,
    kafka_producer,
    repeated,
    stop_producer,
)

_GIVEN_UP_S: Final = 4.0
_ANSWER_WITHIN_S: Final = 5.0
_READY_WITHIN_S: Final = 2.0
_START_WITHIN_S: Final = 30.0
_FLUSH_WITHIN_S: Final = 5.0
_CONFIRM_WITHIN_S: Final = 15.0
_CLOSE_WITHIN_S: Final = 1.5
_BATCH_BYTES: Final = MAX_INPUT_BYTES // 2
"""Each sent batch wakes all callers that wait for room. So thousands of callbacks must fit into a
few batches.
"""


Publish = Callable[[Record], Awaitable[Awaitable[object]]]
"""Queues a record, in order. The returned future is done when all in-sync replicas have the record.
"""


@asynccontextmanager
async def kafka_publisher(
    connection: KafkaConnection,
    max_request_bytes: int,
    clock: KafkaClock | None = None,
) -> AsyncIterator[Publish]:
    """A publisher for the time of the block. A record goes to its own partition.

    At the end of the block it waits a few seconds for records that are not confirmed, and then
    drops them: an idempotent producer would retry them forever.

    Raises:
        KafkaError: No broker answers.
    """
    producer = kafka_producer(
        **connection.settings(),
        enable_idempotence=True,
        linger_ms=2,
        max_request_size=max_request_bytes,
    )
    if clock is not None:
        clock.watch(producer.client)

    async def publish(record: Record) -> Awaitable[object]:
        sent: Awaitable[object] = await producer.send(
            record.topic,
            record.value,
            record.key,
            partition=record.partition,
            headers=list(record.headers),
        )
        return sent

    try:
        await repeated(producer.start, _START_WITHIN_S)
        yield publish
    finally:
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(_FLUSH_WITHIN_S):
                await producer.flush()
        await end(producer, None, _CLOSE_WITHIN_S)


async def send_command(connection: KafkaConnection, records: Sequence[Record], check: str) -> None:
    """Write an operator's command. `check` is the command line that shows whether it arrived.

    Raises:
        BrokerUnavailable: Kafka did not confirm it. It may have arrived nevertheless.
    """
    try:
        async with (
            kafka_publisher(connection, MAX_INPUT_BYTES) as publish,
            asyncio.timeout(_CONFIRM_WITHIN_S),
        ):
            for sent in [await publish(record) for record in records]:
                await sent
    except (KafkaError, TimeoutError) as error:
        why = (
            f": {error!r}"
            if isinstance(error, KafkaError)
            else f" within {_CONFIRM_WITHIN_S:.0f} s"
        )
        raise BrokerUnavailable(
            f"Kafka at {connection.bootstrap} did not confirm the command{why}. It may have "
            "arrived nevertheless: "
            f"check `{check}`",
        ) from error


class Inbox:
    """Writes callbacks to `leads.callbacks`. The board writes its commands with it."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer

    async def put(self, record: Record) -> None:
        """Return when all in-sync replicas have the record.

        Raises BrokerUnavailable if that is unknown.
        """
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                sent = await self._producer.send(
                    record.topic,
                    record.value,
                    record.key,
                    partition=record.partition,
                )
                await sent
        except (TimeoutError, KafkaError) as error:
            raise BrokerUnavailable(
                f"Kafka did not take a record of {record.topic} ({type(error).__name__})",
            ) from error

    async def not_ready(self) -> str | None:
        """Return why no record can be kept now, or None.

        Concurrent callers share one request to Kafka.
        """
        with suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(_READY_WITHIN_S):
                if await self._producer.client.force_metadata_update():
                    return None
        return "Kafka does not answer"


@asynccontextmanager
async def open_inbox(connection: KafkaConnection) -> AsyncIterator[Inbox]:
    """An inbox for the time of the block.

    Its producer is not idempotent. An idempotent one retries forever, keeps records whose callers
    have given up, and is unusable after one refusal. This one gives up; a callback that is then
    written twice has one id.
    """
    producer = kafka_producer(
        **connection.settings(),
        acks="all",
        linger_ms=2,
        max_batch_size=_BATCH_BYTES,
        request_timeout_ms=int(1000 * _GIVEN_UP_S),
        max_request_size=MAX_INPUT_BYTES,
    )
    try:
        await repeated(producer.start, _START_WITHIN_S)
        yield Inbox(producer)
    finally:
        await stop_producer(producer)
