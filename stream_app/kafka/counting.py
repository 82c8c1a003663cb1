"""Counts the records between two offsets. Their difference is too large, because transaction markers take offsets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from aiokafka import TopicPartition

from stream_app.domain.errors import UnreadableBatch

_EXACT: Final = 100
_WITHIN_S: Final = 5.0

Span = tuple[int, int]
"""The first offset and the end offset, which is excluded."""


async def count_records(consumer: Any, spans: Mapping[TopicPartition, Span]) -> dict[TopicPartition, int]:
    """Count the committed records in each span.

    A span of more than 100 offsets, or with a batch that cannot be read, is not read: its number of offsets is at most
    a little more.

    Args:
        consumer: A started `kafka.consumer.Consumer` in no group, with `isolation_level="read_committed"`. Its
            assignment is replaced.
        spans: By partition.

    Raises:
        KafkaError: Kafka went away.
    """
    found = {place: max(0, end - begin) for place, (begin, end) in spans.items()}
    left = {place: spans[place] for place, offsets in found.items() if 0 < offsets <= _EXACT}
    if not left:
        return found
    consumer.assign(list(left))
    for place, (begin, _) in left.items():
        consumer.seek(place, begin)
    read = dict.fromkeys(left, 0)
    deadline = asyncio.get_running_loop().time() + _WITHIN_S
    while left and asyncio.get_running_loop().time() < deadline:
        try:
            got = await consumer.getmany(*left, timeout_ms=50)
        except UnreadableBatch as batch:
            del left[TopicPartition(batch.topic, batch.partition)]
            continue
        for place, records in got.items():
            read[place] += sum(record.offset < left[place][1] for record in records)
        for place, (_, end) in list(left.items()):
            if await consumer.position(place) >= end:
                found[place] = read[place]
                del left[place]
                consumer.pause(place)
    return found
