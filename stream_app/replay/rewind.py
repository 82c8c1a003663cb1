"""Reset the replay group's offsets on leads.dlq, as Kafka's `kafka-consumer-groups --reset-offsets` does.

The group must be empty: Kafka refuses to reset the offsets of an active group. The replay process detects the reset at
its next start, and starts a new epoch.
"""

from __future__ import annotations

import msgspec
from aiokafka import TopicPartition

from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of, topic_reader
from stream_app.domain.model.errors import SettingsError
from stream_app.kafka.groups import look_at, move_group, offsets_of_stopped
from stream_app.kafka.readers import Progress


class To(msgspec.Struct, frozen=True):
    """The target of a rewind: a time or an offset, else the earliest offset.

    Attributes:
        partition: Only this partition; None for all.
    """

    time_ms: int | None = None
    offset: int | None = None
    partition: int | None = None


class Move(msgspec.Struct, frozen=True):
    """The rewind of one partition.

    Attributes:
        target: The offset after the rewind.
        expired: The requested offset or time is older than the first dead letter kept: some may be deleted.
    """

    partition: int
    committed: int
    target: int
    expired: bool = False


def check_partition(settings: Settings, to: To) -> None:
    """Raise SettingsError if the partition does not exist."""
    partitions = settings.kafka.partitions
    if to.partition is not None and not 0 <= to.partition < partitions:
        raise SettingsError([f"--partition {to.partition}: the partitions are 0 to {partitions - 1}"])


async def moves(settings: Settings, to: To, progress: Progress) -> list[Move]:
    """Plan the rewind. Partitions that are already there, or before, are left out.

    Raises:
        SettingsError: The partition does not exist.
        BrokerUnavailable: Kafka does not answer.
    """
    check_partition(settings, to)
    dlq = settings.names.dlq
    name = settings.names.replay_app
    _, committed = (await look_at(connection_of(settings), [name]))[name]
    async with topic_reader(settings, progress) as reader:
        bounds = await reader.bounds(dlq)
        at_time = await reader.offsets_at(dlq, to.time_ms) if to.time_ms is not None else {}
    found = []
    for (topic, partition), offset in sorted(committed.items()):
        if topic != dlq or to.partition not in (None, partition):
            continue
        begin, end = bounds[partition]
        target: int | None = begin if to.offset is None else min(max(to.offset, begin), end)
        if to.time_ms is not None:
            target = at_time[partition]
        if target is not None and target < offset:
            asked_before = to.time_ms is not None or (to.offset is not None and to.offset < begin)
            found.append(Move(partition, offset, target, expired=asked_before and target == begin > 0))
    return found


async def rewind(settings: Settings, planned: list[Move]) -> None:
    """Reset the group's offsets. Raises StreamAppError if a replay process runs, and BrokerUnavailable."""
    await check_stopped(settings)
    offsets = {TopicPartition(settings.names.dlq, move.partition): move.target for move in planned}
    await move_group(connection_of(settings), settings.names.replay_app, offsets, "replay")


async def check_stopped(settings: Settings) -> None:
    """Raise StreamAppError if a replay process runs. Raises BrokerUnavailable, too."""
    await offsets_of_stopped(connection_of(settings), settings.names.replay_app, "replay")
