"""Reads the committed records of one topic-partition from an offset to the current end, outside a consumer group."""

from __future__ import annotations

import asyncio
from typing import Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from stream_app.domain.errors import BrokerUnavailable, UnreadableBatch
from stream_app.domain.record import ConsumedRecord
from stream_app.kafka.closing import stop_consumer
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.consumer import Consumer

_RETRY_S: Final = 0.5


async def waiting(
    connection: KafkaConnection, topic: str, partition: int, offset: int, most: int, within_s: float
) -> list[ConsumedRecord]:
    """Read at most `most` records from `offset` on. Stops before a batch that cannot be read.

    Raises:
        BrokerUnavailable: Kafka did not answer within `within_s`.
    """
    last: BaseException | None = None
    try:
        async with asyncio.timeout(within_s):
            while True:
                try:
                    return await _read(connection, TopicPartition(topic, partition), offset, most)
                except (KafkaError, OSError) as error:
                    last = error
                    await asyncio.sleep(_RETRY_S)
    except TimeoutError as late:
        raise BrokerUnavailable(
            f"{topic}/{partition} was not read to its end within {within_s:.0f} s (last: {last or 'no answer'}): "
            f"is {connection.bootstrap} up, and does the topic exist?"
        ) from (last or late)


async def _read(connection: KafkaConnection, place: TopicPartition, offset: int, most: int) -> list[ConsumedRecord]:
    consumer = Consumer(
        **connection.settings(),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=20,
    )
    found: list[ConsumedRecord] = []
    try:
        await consumer.start()
        consumer.assign([place])
        end = (await consumer.end_offsets([place]))[place]
        # A topic that ends before `offset` was created anew.
        begin = (await consumer.beginning_offsets([place]))[place] if offset and offset > end else offset
        consumer.seek(place, begin)
        while len(found) < most and await consumer.position(place) < end:
            try:
                more = await consumer.getmany(place, timeout_ms=100, max_records=most - len(found))
            except UnreadableBatch:  # the group stops there too and reports it
                break
            for records in more.values():
                found += [
                    ConsumedRecord(
                        each.topic,
                        each.partition,
                        each.offset,
                        each.key,
                        each.value,
                        tuple(each.headers),
                        each.timestamp,
                    )
                    for each in records
                    if each.offset < end
                ]
    finally:
        await stop_consumer(consumer)
    return found
