"""Counts what waits for a worker, for its metric."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from aiokafka import TopicPartition
from attrs import define, field

from stream_app.domain.model.errors import BrokerUnavailable, KafkaRefused
from stream_app.domain.views.backlog import Place
from stream_app.domain.views.lane import Position
from stream_app.kafka.backlog import Backlog, Waiting
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.readers import Reader

_EVERY_S: Final = 5.0


@define(eq=False, repr=False)
class BacklogCount:
    """Counts every 5 s the records in the partitions of this process that no worker has taken.

    It counts as every other place does, and not by the end offsets that fetches bring, because
    these include the markers of transactions, and are old while a buffer is full.

    `committed` returns the committed offset of each partition that is consumed now, and `positions`
    returns how far these partitions were read.
    """

    _connection: KafkaConnection
    _committed: Callable[[], Mapping[Place, int]]
    _positions: Callable[[], Mapping[Place, Position]]
    _counts: Mapping[Place, Waiting] = field(init=False, factory=dict)

    def counts(self) -> dict[Place, int]:
        """Return what was counted last, for the partitions that are still consumed.

        While Kafka is away, these numbers are old.
        """
        consumed = self._committed()
        return {
            place: waiting.records for place, waiting in self._counts.items() if place in consumed
        }

    async def run(self) -> None:
        """Count until cancelled. The process reports that Kafka is away."""
        backlog = Backlog()
        while True:
            try:
                async with Reader(self._connection) as reader:
                    while True:
                        committed = self._committed()
                        places = [TopicPartition(topic, number) for topic, number in committed]
                        self._counts = await backlog.count(
                            reader,
                            places,
                            committed,
                            self._positions(),
                        )
                        await asyncio.sleep(_EVERY_S)
            except (BrokerUnavailable, KafkaRefused):
                await asyncio.sleep(_EVERY_S)
