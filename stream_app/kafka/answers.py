"""Waits for the answers to operators' commands."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, Self

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from stream_app.domain.messages import CommandAnswer
from stream_app.kafka.closing import stop_consumer
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.consumer import Consumer

_decoder: Final = msgspec.json.Decoder(CommandAnswer)


class Answers:
    """A context manager that collects the answers written to these partitions after it was entered."""

    def __init__(self, connection: KafkaConnection, topic: str, partitions: Iterable[int]) -> None:
        self._connection = connection
        self._places = [TopicPartition(topic, number) for number in partitions]

    async def __aenter__(self) -> Self:
        self._consumer = Consumer(
            **self._connection.settings(),
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
            fetch_max_wait_ms=50,
        )
        try:
            await self._consumer.start()
            self._consumer.assign(self._places)
            for place, end in (await self._consumer.end_offsets(self._places)).items():
                self._consumer.seek(place, end)
        except (KafkaError, OSError) as error:
            await stop_consumer(self._consumer)
            raise self._connection.lost(error) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop_consumer(self._consumer)

    async def hear(self, wanted: set[tuple[int, str]], within_s: float) -> dict[tuple[int, str], CommandAnswer]:
        """Return the answers to these commands (partition, id) that arrive within `within_s` seconds."""
        found: dict[tuple[int, str], CommandAnswer] = {}
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while len(found) < len(wanted) and (left_s := deadline - loop.time()) > 0:
            got = await self._consumer.getmany(timeout_ms=max(1, int(min(left_s, 0.5) * 1000)))
            for place, records in got.items():
                for record in records:
                    answer = _decoder.decode(record.value)
                    if (place.partition, answer.id) in wanted:
                        found.setdefault((place.partition, answer.id), answer)
        return found
