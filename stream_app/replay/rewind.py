"""Reset the replay group's offsets on leads.dlq, as Kafka's `kafka-consumer-groups --reset-offsets` does.

The group must be empty: Kafka refuses to reset the offsets of an active group. The replay process detects the reset at
its next start, and starts a new epoch.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of
from stream_app.domain.errors import SettingsError, StreamAppError
from stream_app.kafka.clients import kafka_admin, repeated
from stream_app.kafka.closing import close_admin, stop_consumer
from stream_app.kafka.consumer import Consumer
from stream_app.kafka.readers import Progress
from stream_app.replay.plan import reader_of

_PATIENCE_S: Final = 20.0


class To(msgspec.Struct, frozen=True):
    """The target of a rewind: a time or an offset, else the earliest offset.

    Attributes:
        time_ms: Epoch ms, or None.
        offset: An offset, or None.
        partition: Only this partition; None for all.
    """

    time_ms: int | None = None
    offset: int | None = None
    partition: int | None = None


class Move(msgspec.Struct, frozen=True):
    """The rewind of one partition.

    Attributes:
        partition: The partition.
        committed: The group's committed offset.
        target: The offset after the rewind.
        expired: The requested place is older than the first dead letter kept: some may be deleted.
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
    committed = await _committed(settings)
    async with reader_of(settings, progress) as reader:
        bounds = await reader.bounds(dlq)
        at_time = await reader.offsets_at(dlq, to.time_ms) if to.time_ms is not None else {}
    found = []
    for partition, stands in sorted(committed.items()):
        if to.partition not in (None, partition):
            continue
        begin, end = bounds[partition]
        target: int | None = begin if to.offset is None else min(max(to.offset, begin), end)
        if to.time_ms is not None:
            target = at_time[partition]
        if target is not None and target < stands:
            asked_before = to.time_ms is not None or (to.offset is not None and to.offset < begin)
            found.append(Move(partition, stands, target, expired=asked_before and target == begin > 0))
    return found


async def rewind(settings: Settings, planned: list[Move]) -> None:
    """Reset the group's offsets.

    Raises:
        StreamAppError: A replay process runs.
        BrokerUnavailable: Kafka does not answer.
    """
    await check_stopped(settings)
    connection, names = connection_of(settings), settings.names
    consumer = Consumer(**connection.settings(), group_id=names.replay_app, enable_auto_commit=False)
    try:
        await consumer.start()
        places = {TopicPartition(names.dlq, move.partition): move.target for move in planned}
        consumer.assign(list(places))
        async with asyncio.timeout(_PATIENCE_S):
            await consumer.commit(places)
    except TimeoutError as error:
        raise connection.lost(error) from error
    except KafkaError as error:
        raise StreamAppError(
            f"Kafka refused to set {names.replay_app} back ({type(error).__name__}): {_STOP_FIRST}"
        ) from error
    finally:
        await stop_consumer(consumer)


_STOP_FIRST = "stop every `stream-app replay` first (a killed one counts until its session times out)"


async def check_stopped(settings: Settings) -> None:
    """Check that no replay process runs.

    Raises:
        StreamAppError: A replay process runs.
        BrokerUnavailable: Kafka does not answer.
    """
    group = settings.names.replay_app
    described = await _ask(settings, lambda admin: admin.describe_consumer_groups([group]))
    state = described[0].groups[0][2]
    if state not in ("Empty", "Dead"):
        raise StreamAppError(f"the group {group} is active ({state}), so Kafka would refuse: {_STOP_FIRST}")


async def _committed(settings: Settings) -> dict[int, int]:
    names = settings.names
    places = [TopicPartition(names.dlq, number) for number in range(settings.kafka.partitions)]
    found = await _ask(settings, lambda admin: admin.list_consumer_group_offsets(names.replay_app, partitions=places))
    return {place.partition: at.offset for place, at in found.items() if at.offset >= 0}


async def _ask(settings: Settings, question: Any) -> Any:
    connection = connection_of(settings)
    admin = kafka_admin(**connection.settings())
    try:
        await admin.start()
        return await repeated(partial(question, admin), _PATIENCE_S)
    except KafkaError as error:
        raise connection.lost(error) from error
    finally:
        await close_admin(admin)
