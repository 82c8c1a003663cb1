"""Move a consumer group past an unreadable batch, whether its processes run or not.

Only that batch is skipped: the group's offset must be at the batch, with all records before it
finished. A group with members takes offsets only from them, so they are told by the offset of
another group (`skipped_group`).
"""

import asyncio
import time
from typing import Final

from aiokafka import TopicPartition

from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of
from stream_app.domain.model.errors import SettingsError, StreamAppError, UnreadableBatch
from stream_app.domain.model.records import parse_record_id
from stream_app.kafka.consumer import skipped_group
from stream_app.kafka.groups import look_at, move_group
from stream_app.kafka.readers import Reader

_PASSED_WITHIN_S: Final = 45.0


async def find_unreadable(settings: Settings, record_id: str) -> UnreadableBatch:
    """Find the unreadable batch that a consumer group has stopped at: `topic/partition/offset`.

    Raises:
        SettingsError: None of our groups reads that topic and partition.
        StreamAppError: The group is at another offset, or the records can be read.
        BrokerUnavailable: Kafka does not answer.
    """
    parsed = parse_record_id(record_id)
    if parsed is None:
        raise SettingsError([f"{record_id}: is not topic/partition/offset, such as leads/0/15"])
    topic, partition, offset = parsed
    if partition >= settings.kafka.partitions:
        raise SettingsError(
            [f"{record_id}: the partitions are 0 to {settings.kafka.partitions - 1}"],
        )
    name, process = _reader_of(settings, topic)
    connection = connection_of(settings)
    _, offsets = (await look_at(connection, [name]))[name]
    position = offsets.get((topic, partition), 0)
    place = TopicPartition(topic, partition)
    first: int | None = None
    try:
        async with Reader(connection) as reader:
            async for polled in reader.scan(
                {place: (position, (await reader.ends([place]))[place])},
                max_records=1,
            ):
                first = int(polled[place][0].offset)
                break
    except UnreadableBatch as batch:
        if batch.first == offset:
            return batch
        raise
    if first is None:
        raise StreamAppError(
            f"{topic}/{partition} can be read, so there is nothing to skip: the group {name} is at "
            f"{position}, its end",
        )
    if first < offset:
        raise StreamAppError(
            f"{topic}/{partition}: the record at offset {first} can be read, and is not finished: "
            f"start `stream-app {process}`, and wait until it is (stream-app "
            "explain shows what holds it)",
        )
    raise StreamAppError(
        f"{topic}/{partition} can be read, so there is nothing to skip: the group {name} is at "
        f"{position}",
    )


async def skip(settings: Settings, batch: UnreadableBatch) -> bool:
    """Move the group past the batch. Returns True if its processes run, and have passed it.

    Raises:
        StreamAppError: Kafka refuses, or the processes did not pass the batch in time.
        BrokerUnavailable: Kafka does not answer.
    """
    name, process = _reader_of(settings, batch.topic)
    place = TopicPartition(batch.topic, batch.partition)
    end = batch.last + 1
    connection = connection_of(settings)
    group, _ = (await look_at(connection, [name]))[name]
    if group.state in ("Empty", "Dead"):
        await move_group(connection, name, {place: end}, process)
        return False
    await move_group(connection, skipped_group(name), {place: end}, process)
    deadline_s = time.monotonic() + _PASSED_WITHIN_S
    while time.monotonic() < deadline_s:
        await asyncio.sleep(1)
        _, offsets = (await look_at(connection, [name]))[name]
        if offsets.get(place, 0) >= end:
            return True
    raise StreamAppError(
        f"no `stream-app {process}` has passed {batch.topic}/{batch.partition}/{batch.first} yet: "
        "it will, within a minute after it can read that partition; "
        "the log says that the offsets are skipped",
    )


def _reader_of(settings: Settings, topic: str) -> tuple[str, str]:
    """Return the group that reads a topic, and its process."""
    names = settings.names
    if topic in (*names.lead_topics, names.commands, names.callbacks):
        return names.worker_app, "worker"
    if topic in (
        names.dlq,
        names.deferred,
        *(names.wait(tier) for tier in settings.replay.tiers_s),
    ):
        return names.replay_app, "replay"
    raise SettingsError(
        [f"{topic}: no worker and no replay process reads it, so there is nothing to skip"],
    )
