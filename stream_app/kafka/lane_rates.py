"""Follows the current rate of each lane on `leads.lanes`, with the changes of operators."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
from aiokafka import TopicPartition

from stream_app.domain.errors import BrokerUnavailable, KafkaRefused
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.readers import Reader

_PAUSE_S: Final = 5.0


class _View(msgspec.Struct):
    rate_per_s: float


_view: Final = msgspec.json.Decoder(_View)


class LaneRates:
    """The rates by workspace, in leads per second: `per_s`. A lane without a view has its configured rate."""

    def __init__(
        self, connection: KafkaConnection, topic: str, partitions: int, configured_per_s: dict[str, float]
    ) -> None:
        self.per_s = dict(configured_per_s)
        self._connection = connection
        self._partitions = [TopicPartition(topic, number) for number in range(partitions)]

    async def follow(self) -> None:
        """Follow the topic from its beginning until cancelled. While a broker is away, try again."""
        while True:
            try:
                async with Reader(self._connection, fetch_max_wait_ms=500) as reader:
                    starts = await reader.begins(self._partitions)
                    async for got in reader.follow(starts, pass_unreadable=True):
                        for records in got.values():
                            for key, value in {record.key: record.value for record in records}.items():
                                self.apply(key, value)
            except (BrokerUnavailable, KafkaRefused):
                await asyncio.sleep(_PAUSE_S)

    def apply(self, key: bytes | None, value: bytes | None) -> None:
        """Apply a record of the topic. Records of other programs are ignored."""
        workspace = (key or b"").decode("utf-8", "replace")
        if workspace not in self.per_s or not value:
            return
        try:
            rate_per_s = _view.decode(value).rate_per_s
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if rate_per_s > 0:
            self.per_s[workspace] = rate_per_s
