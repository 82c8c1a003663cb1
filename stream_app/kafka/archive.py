"""Fetches single records by topic, partition and offset, outside a consumer group."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from stream_app.domain.dead_letter.headers import read_place
from stream_app.domain.errors import BrokerUnavailable, UnreadableBatch
from stream_app.domain.plural import count
from stream_app.domain.record import ConsumedRecord
from stream_app.kafka.closing import stop_consumer
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.consumer import Consumer

_WITHIN_S: Final = 30.0
_MOST_RECORDS: Final = 500
_FETCH_BYTES: Final = 2**18  # most of the records are far apart, so the rest of a fetch is discarded


class KafkaArchive:
    """`overdue.Archive`. A consumer lives for one call: it is asked now and then, for many records at once."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection

    async def fetch(self, places: Sequence[str]) -> dict[str, ConsumedRecord]:
        """Fetch records by their places ("topic/partition/offset").

        Returns:
            The records by place. Those that are not committed, not readable or removed by retention are missing.

        Raises:
            BrokerUnavailable: Kafka did not answer in time.
        """
        wanted: defaultdict[TopicPartition, set[int]] = defaultdict(set)
        for place in places:
            if (found := read_place(place)) is not None:
                wanted[TopicPartition(found[0], found[1])].add(found[2])
        if not wanted:
            return {}
        consumer = Consumer(
            **self._connection.settings(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=50,
            max_partition_fetch_bytes=_FETCH_BYTES,
        )
        try:
            async with asyncio.timeout(_WITHIN_S):
                await consumer.start()
                known = await consumer.topics()
                consumed: dict[str, ConsumedRecord] = {}
                for where, offsets in wanted.items():
                    if where.topic in known:  # a deleted topic has no records
                        await _read(consumer, where, sorted(offsets), consumed)
                return consumed
        except (KafkaError, TimeoutError) as error:
            raise BrokerUnavailable(
                f"Kafka at {self._connection.bootstrap} did not give {count(len(places), 'record')} again: {error!r}"
            ) from error
        finally:
            await stop_consumer(consumer)


async def _read(consumer: Any, where: TopicPartition, offsets: list[int], consumed: dict[str, ConsumedRecord]) -> None:
    consumer.assign([where])
    begin = (await consumer.beginning_offsets([where]))[where]
    end = (await consumer.end_offsets([where]))[where]
    left = [offset for offset in offsets if begin <= offset < end]
    position = -1
    while left:
        if not position <= left[0] < position + _MOST_RECORDS:
            consumer.seek(where, left[0])
        try:
            got = await consumer.getmany(where, timeout_ms=200, max_records=_MOST_RECORDS)
        except UnreadableBatch as batch:
            consumer.skip(batch)
            got = {}
        for records in got.values():
            for each in records:
                if left and each.offset == left[0]:
                    made = _taken(each)
                    consumed[made.place] = made
                while left and left[0] <= each.offset:
                    left.pop(0)
        position = await consumer.position(where)
        while left and left[0] < position:
            left.pop(0)


def _taken(record: Any) -> ConsumedRecord:
    headers = tuple((name, value or b"") for name, value in record.headers)
    return ConsumedRecord(
        record.topic, record.partition, record.offset, record.key, record.value, headers, round(record.timestamp)
    )
