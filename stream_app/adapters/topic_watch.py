"""Notices under a running process that a topic was deleted, or created anew: its offsets then mean other records.

Rows name records by topic, partition and offset, so a worker that went on would take new leads for old ones, and with
a new state topic it would have forgotten what was paid. A log that ends before where it ended is such a topic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stream_app.adapters.closing import stop_consumer
from stream_app.adapters.connection import KafkaConnection
from stream_app.core.errors import TopicsError

_EVERY_S = 5.0
_MISSING = 2  # times in a row: a broker that has just started may know no topics yet
_WHAT_NOW = (
    "Rows and group offsets speak of its old records: stop all processes, set a new kafka.namespace, create its topics "
    "with: stream-app topics; leads sent before are not known as duplicates there"
)


class TopicWatch:
    """The logs of `topics`, each with `partitions`; they are looked at every `every_s`."""

    def __init__(
        self, connection: KafkaConnection, topics: Sequence[str], partitions: int, every_s: float = _EVERY_S
    ) -> None:
        self._connection = connection
        self._topics = topics
        self._logs = [TopicPartition(topic, number) for topic in topics for number in range(partitions)]
        self._every_s = every_s
        self._ends: dict[TopicPartition, int] = {}
        self._missing = 0

    async def run(self) -> None:
        """Look until cancelled. Raises TopicsError with one line; a broker that is away is waited for."""
        while True:
            consumer = AIOKafkaConsumer(**self._connection.settings(), group_id=None, enable_auto_commit=False)
            try:
                await consumer.start()
                while True:
                    await self._look(consumer)
                    await asyncio.sleep(self._every_s)
            except (KafkaError, OSError):
                await asyncio.sleep(self._every_s)
            finally:
                await stop_consumer(consumer)

    async def _look(self, consumer: AIOKafkaConsumer) -> None:
        gone = set(self._topics) - await consumer.topics()
        self._missing = self._missing + 1 if gone else 0
        if self._missing >= _MISSING:
            raise TopicsError([f"{min(gone)}: the topic was deleted under this process. {_WHAT_NOW}"])
        if gone:
            return
        for log, end in (await consumer.end_offsets(self._logs)).items():
            if end < self._ends.get(log, 0):
                fell = f"partition {log.partition} was at offset {self._ends[log]} and ends at {end}"
                why = "the topic was deleted and created anew, or Kafka lost records"
                raise TopicsError([f"{log.topic}: {fell}: {why}. {_WHAT_NOW}"])
            self._ends[log] = end
