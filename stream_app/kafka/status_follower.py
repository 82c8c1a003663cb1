"""Follow `leads.status` outside a consumer group."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from typing import Any, Final, Self

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from stream_app.domain.errors import StreamAppError
from stream_app.domain.messages import StatusEvent
from stream_app.kafka.closing import stop_consumer
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.consumer import Consumer

_MOST_RECORDS: Final = 5_000

_events: Final = msgspec.json.Decoder(StatusEvent)


class StatusFollower:
    """Read partitions of `leads.status`, committed events only. A context manager.

    It reads what is committed after its block began, or everything that Kafka keeps.

    Args:
        connection: How to reach Kafka.
        topic: The topic of the status events.
        partitions: The partitions to read.
        from_beginning: Start at the first event that Kafka keeps.

    Raises:
        BrokerUnavailable: Kafka does not answer.
        KafkaRefused: Kafka does not allow the read.
        StreamAppError: An event cannot be read by this version.
    """

    def __init__(
        self, connection: KafkaConnection, topic: str, partitions: Collection[int], *, from_beginning: bool = False
    ) -> None:
        self._connection = connection
        self._partitions = [TopicPartition(topic, number) for number in partitions]
        self._from_beginning = from_beginning
        self._consumer = Consumer(
            **connection.settings(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest" if from_beginning else "latest",
            isolation_level="read_committed",
        )

    async def __aenter__(self) -> Self:
        consumer, partitions = self._consumer, self._partitions
        try:
            await consumer.start()
            consumer.assign(partitions)
            find = consumer.beginning_offsets if self._from_beginning else consumer.end_offsets
            for partition, offset in (await find(partitions)).items():
                consumer.seek(partition, offset)
        except KafkaError as error:
            await stop_consumer(consumer)
            raise self._connection.lost(error) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop_consumer(self._consumer)

    async def events(
        self,
        lead_ids: Collection[str] | None = None,
        workspace: str | None = None,
        idle_timeout_s: float | None = None,
    ) -> AsyncGenerator[StatusEvent]:
        """Yield events, those of each partition in order.

        Args:
            lead_ids: Yield only the events of these leads.
            workspace: Yield only the events of this workspace.
            idle_timeout_s: End after so many seconds without an event to yield, half a second more at most; None: never
                end.
        """
        keys = None if lead_ids is None else {lead_id.encode() for lead_id in lead_ids}
        last_s = time.monotonic()
        async for records in self._batches():
            for record in records:
                if keys is not None and record.key not in keys:
                    continue
                event = _decoded(record)
                if workspace in (None, event.workspace):
                    yield event
                    last_s = time.monotonic()
            if idle_timeout_s is not None and time.monotonic() - last_s >= idle_timeout_s:
                return

    async def batches(self) -> AsyncIterator[list[StatusEvent]]:
        """Yield all events, in the order of each partition. A batch is empty when none came for half a second.

        It does not end by itself.
        """
        async for records in self._batches():
            yield [_decoded(record) for record in records]

    async def _batches(self) -> AsyncIterator[list[Any]]:
        while True:
            try:
                got = await self._consumer.getmany(*self._partitions, timeout_ms=500, max_records=_MOST_RECORDS)
            except KafkaError as error:
                raise self._connection.lost(error) from error
            yield [record for records in got.values() for record in records]


def _decoded(record: Any) -> StatusEvent:
    try:
        return _events.decode(record.value)
    except msgspec.DecodeError as error:
        raise StreamAppError(
            f"{record.topic}/{record.partition}/{record.offset} is not a status event that this version can read: "
            "update stream-app"
        ) from error
