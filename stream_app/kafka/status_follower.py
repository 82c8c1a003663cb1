"""Follows one partition of `leads.status` from now on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Self

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from stream_app.domain.messages import StatusEvent
from stream_app.kafka.closing import stop_consumer
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.consumer import Consumer

_events = msgspec.json.Decoder(StatusEvent)


class StatusFollower:
    """A context manager: what is committed after its block began is followed. Raises BrokerUnavailable."""

    def __init__(self, connection: KafkaConnection, topic: str, partition: int) -> None:
        self._connection = connection
        self._place = TopicPartition(topic, partition)
        self._consumer = Consumer(
            **connection.settings(), group_id=None, enable_auto_commit=False, isolation_level="read_committed"
        )

    async def __aenter__(self) -> Self:
        try:
            await self._consumer.start()
            self._consumer.assign([self._place])
            ends = await self._consumer.end_offsets([self._place])
            self._consumer.seek(self._place, ends[self._place])
        except KafkaError as error:
            await stop_consumer(self._consumer)
            raise self._connection.lost(error) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop_consumer(self._consumer)

    async def events(self, lead_id: str) -> AsyncIterator[StatusEvent]:
        """Of that lead, in order; it does not end by itself."""
        key = lead_id.encode()
        while True:
            try:
                got = await self._consumer.getmany(self._place, timeout_ms=500)
            except KafkaError as error:
                raise self._connection.lost(error) from error
            for record in got.get(self._place, ()):
                if record.key == key:
                    yield _events.decode(record.value)
