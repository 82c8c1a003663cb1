"""Follows partitions of `leads.status` from now on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Any, Final, Self

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from stream_app.domain.messages import StatusEvent
from stream_app.kafka.closing import stop_consumer
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.consumer import Consumer

_MOST_RECORDS: Final = 5_000

_events = msgspec.json.Decoder(StatusEvent)


class StatusFollower:
    """A context manager. It reads events that are committed after its block began.

    Everything raises BrokerUnavailable when Kafka does not answer.
    """

    def __init__(self, connection: KafkaConnection, topic: str, partitions: Collection[int]) -> None:
        self._connection = connection
        self._places = [TopicPartition(topic, partition) for partition in partitions]
        self._consumer = Consumer(
            **connection.settings(), group_id=None, enable_auto_commit=False, isolation_level="read_committed"
        )

    async def __aenter__(self) -> Self:
        try:
            await self._consumer.start()
            self._consumer.assign(self._places)
            for place, end in (await self._consumer.end_offsets(self._places)).items():
                self._consumer.seek(place, end)
        except KafkaError as error:
            await stop_consumer(self._consumer)
            raise self._connection.lost(error) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop_consumer(self._consumer)

    async def events(self, lead_id: str) -> AsyncIterator[StatusEvent]:
        """Yield the events of one lead, in order. It does not end by itself."""
        key = lead_id.encode()
        async for records in self._batches():
            for record in records:
                if record.key == key:
                    yield _events.decode(record.value)

    async def batches(self) -> AsyncIterator[list[StatusEvent]]:
        """Yield all events, in the order of each partition. A batch is empty when none came for half a second.

        It does not end by itself.
        """
        async for records in self._batches():
            yield [_events.decode(record.value) for record in records]

    async def _batches(self) -> AsyncIterator[list[Any]]:
        while True:
            try:
                got = await self._consumer.getmany(*self._places, timeout_ms=500, max_records=_MOST_RECORDS)
            except KafkaError as error:
                raise self._connection.lost(error) from error
            yield [record for records in got.values() for record in records]
