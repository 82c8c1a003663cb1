"""Each lane's rate as it is now, with what an operator has changed live, followed on `leads.lanes`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from stream_app.domain.errors import UnreadableBatch
from stream_app.kafka.closing import stop_consumer
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.consumer import Consumer

_PAUSE_S: Final = 5.0


class _View(msgspec.Struct):
    rate_per_s: float


_view: Final = msgspec.json.Decoder(_View)


class LaneRates:
    """`per_s` by workspace: what the configuration says until its lane says something else."""

    def __init__(
        self, connection: KafkaConnection, topic: str, partitions: int, configured_per_s: dict[str, float]
    ) -> None:
        self.per_s = dict(configured_per_s)
        self._connection = connection
        self._places = [TopicPartition(topic, number) for number in range(partitions)]

    async def follow(self) -> None:
        """From the first view that is kept on, until cancelled. A broker that is away is waited for."""
        while True:
            consumer = Consumer(
                **self._connection.settings(),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
            )
            try:
                await consumer.start()
                consumer.assign(self._places)
                while True:
                    with suppress(UnreadableBatch):  # the other partitions go on
                        for records in (await consumer.getmany(timeout_ms=1_000)).values():
                            for key, value in {record.key: record.value for record in records}.items():
                                self.hear(key, value)
            except (KafkaError, OSError):
                await asyncio.sleep(_PAUSE_S)
            finally:
                await stop_consumer(consumer)

    def hear(self, key: bytes | None, value: bytes | None) -> None:
        """A record of the topic, whoever wrote it."""
        workspace = (key or b"").decode("utf-8", "replace")
        if workspace not in self.per_s or not value:
            return
        try:
            rate_per_s = _view.decode(value).rate_per_s
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if rate_per_s > 0:
            self.per_s[workspace] = rate_per_s
