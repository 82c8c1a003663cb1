"""Reads records again outside the worker's stream: single ones by their ids, and those after an offset."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from aiokafka import TopicPartition

from stream_app.domain.model.errors import BrokerUnavailable, KafkaRefused, UnreadableBatch
from stream_app.domain.model.records import ConsumedRecord, parse_record_id
from stream_app.domain.model.text import count
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.readers import Reader, consumed

_ARCHIVE_WITHIN_S: Final = 30.0
_ARCHIVE_BYTES: Final = 2**18  # most of the records are far apart, so the rest of a fetch is discarded
_RETRY_S: Final = 0.5


async def fetch(connection: KafkaConnection, record_ids: Sequence[str]) -> dict[str, ConsumedRecord]:
    """Fetch records by their ids ("topic/partition/offset"). Connects for each call: calls are rare.

    Returns:
        The records by id. Those that are not committed, not readable or not kept are missing.

    Raises:
        BrokerUnavailable: Kafka did not answer in time.
    """
    wanted: dict[TopicPartition, list[int]] = {}
    for record_id in record_ids:
        if (at := parse_record_id(record_id)) is not None:
            wanted.setdefault(TopicPartition(*at[:2]), []).append(at[2])
    if not wanted:
        return {}
    try:
        async with (
            asyncio.timeout(_ARCHIVE_WITHIN_S),
            Reader(connection, max_partition_fetch_bytes=_ARCHIVE_BYTES) as reader,
        ):
            found = [consumed(record) for record in await reader.fetch(wanted)]
    except (BrokerUnavailable, KafkaRefused, TimeoutError) as error:
        raise BrokerUnavailable(
            f"Kafka at {connection.bootstrap} did not give {count(len(record_ids), 'record')} again: "
            f"{str(error) or f'no answer within {_ARCHIVE_WITHIN_S:.0f} s'}"
        ) from error
    return {record.record_id: record for record in found}


async def waiting(
    connection: KafkaConnection, topic: str, partition: int, offset: int, most: int, within_s: float
) -> list[ConsumedRecord]:
    """Read at most `most` records from `offset` to the current end. Stops before a batch that cannot be read.

    Raises:
        BrokerUnavailable: Kafka did not answer within `within_s` seconds.
    """
    last: BaseException | None = None
    try:
        async with asyncio.timeout(within_s):
            while True:
                try:
                    return await _waiting(connection, TopicPartition(topic, partition), offset, most)
                except (BrokerUnavailable, KafkaRefused) as error:
                    last = error.__cause__ or error
                    await asyncio.sleep(_RETRY_S)
    except TimeoutError as late:
        raise BrokerUnavailable(
            f"{topic}/{partition} was not read to its end within {within_s:.0f} s (last: {last or 'no answer'}): "
            f"is {connection.bootstrap} up, and does the topic exist?"
        ) from (last or late)


async def _waiting(connection: KafkaConnection, tp: TopicPartition, offset: int, most: int) -> list[ConsumedRecord]:
    found: list[ConsumedRecord] = []
    async with Reader(connection, fetch_max_wait_ms=20) as reader:
        end = (await reader.ends([tp]))[tp]
        # A topic that ends before `offset` was created again.
        begin = (await reader.begins([tp]))[tp] if offset > end else offset
        try:
            async for got in reader.scan({tp: (begin, end)}, most=most):
                found += map(consumed, got[tp])
                if len(found) >= most:
                    break
        except UnreadableBatch:  # the group stops there too, and reports it
            pass
    return found[:most]
