"""Counts the records of the lead topics that the worker's group has not committed yet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from stream_app.kafka.clients import kafka_admin
from stream_app.kafka.closing import close_admin, stop_consumer
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.consumer import Consumer
from stream_app.kafka.counting import count_records

_FRESH_S: Final = 5.0
_WITHIN_S: Final = 5.0


class Backlog:
    """Counts waiting records, and asks Kafka at most every five seconds."""

    def __init__(self, connection: KafkaConnection, group: str, topics: Sequence[str], partitions: int) -> None:
        self._connection = connection
        self._group = group
        self._topics = topics
        self._logs = [TopicPartition(topic, number) for topic in topics for number in range(partitions)]
        self._turn = asyncio.Lock()
        self._known: dict[str, int] | None = None
        self._known_s = -_FRESH_S

    async def read(self) -> dict[str, int] | None:
        """Return the waiting records by topic, an upper bound if many wait. None if Kafka does not answer."""
        async with self._turn:
            if time.monotonic() - self._known_s >= _FRESH_S:
                try:
                    async with asyncio.timeout(_WITHIN_S):
                        self._known = await self._ask()
                except (KafkaError, TimeoutError):
                    self._known = None
                self._known_s = time.monotonic()
            return self._known

    async def _ask(self) -> dict[str, int]:
        settings = self._connection.settings()
        admin = kafka_admin(**settings)
        consumer = Consumer(**settings, group_id=None, isolation_level="read_committed")
        try:
            await admin.start()
            await consumer.start()
            passed = {log: at.offset for log, at in (await admin.list_consumer_group_offsets(self._group)).items()}
            begins = await consumer.beginning_offsets(self._logs)
            ends = await consumer.end_offsets(self._logs)
            spans = {log: (max(begins[log], passed.get(log, 0)), ends[log]) for log in self._logs}
            waiting = await count_records(consumer, spans)
        finally:
            await stop_consumer(consumer)
            await close_admin(admin)
        left = dict.fromkeys(self._topics, 0)
        for log, records in waiting.items():
            left[log.topic] += records
        return left
