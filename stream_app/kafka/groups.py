"""Consumer groups as their coordinator has them: members, committed offsets, and the records after those."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, for_code

from stream_app.domain.lane.explain import Group
from stream_app.domain.model.errors import StreamAppError
from stream_app.kafka.connection import Background, KafkaConnection, open_admin, repeated, stop_consumer
from stream_app.kafka.consumer import Consumer
from stream_app.kafka.readers import TopicReader

_PATIENCE_S: Final = 20.0
"""Longer than a broker that hangs counts as alive. Only then does its group get another coordinator."""
_FRESH_S: Final = 5.0

Offsets = dict[tuple[str, int], int]
"""The committed offset by topic and partition."""


async def look_at(connection: KafkaConnection, groups: Iterable[str]) -> dict[str, tuple[Group, Offsets]]:
    """Return each group with its committed offsets. A group that never existed has none. Raises BrokerUnavailable."""
    async with open_admin(connection) as admin:
        return {name: await repeated(partial(_look_at, admin, name), _PATIENCE_S) for name in groups}


async def committed_offsets(
    admin: Any, group: str, partitions: Sequence[TopicPartition] | None = None
) -> dict[TopicPartition, int]:
    """Return the committed offsets of a group, of these partitions or of all. Raises KafkaError."""
    committed = await repeated(partial(admin.list_consumer_group_offsets, group, partitions=partitions), _PATIENCE_S)
    return {tp: at.offset for tp, at in committed.items() if at.offset >= 0}


async def move_group(
    connection: KafkaConnection, group: str, offsets: Mapping[TopicPartition, int], process: str
) -> None:
    """Commit offsets for a group that has no members. `process`: what its members run, for the error.

    Raises:
        StreamAppError: Kafka refuses.
        BrokerUnavailable: Kafka does not answer.
    """
    consumer = Consumer(**connection.settings(), group_id=group)
    try:
        await consumer.start()
        consumer.assign(list(offsets))
        async with asyncio.timeout(_PATIENCE_S):
            await consumer.commit(dict(offsets))
    except TimeoutError as error:
        raise connection.lost(error) from error
    except KafkaError as error:
        stop = f"stop every `stream-app {process}` first (a killed one counts until its session times out)"
        raise StreamAppError(f"Kafka refused to move the group {group} ({type(error).__name__}): {stop}") from error
    finally:
        await stop_consumer(consumer)


class Consumption(msgspec.Struct, frozen=True):
    """The groups, and by topic and partition what the workers' group has committed, and the records after that."""

    worker: Group
    replay: Group
    waiting: dict[tuple[str, int], int]
    committed: Offsets = {}


def backlog_of(
    connection: KafkaConnection, worker: str, replay: str, topics: Sequence[str], partitions: int
) -> Background[Consumption]:
    """Count the records of the lead topics that no worker has committed yet. Asks Kafka every 5 s at most."""

    async def ask() -> Consumption:
        async with open_admin(connection) as admin, TopicReader(connection, partitions) as reader:
            workers, committed = await _look_at(admin, worker)
            replays, _ = await _look_at(admin, replay)
            return Consumption(workers, replays, await reader.count(topics, committed), committed)

    return Background(ask, _FRESH_S)


async def _look_at(admin: Any, name: str) -> tuple[Group, Offsets]:
    (described,) = await admin.describe_consumer_groups([name])
    code, _, state, _, _, members, *_ = described.groups[0]
    if code:
        raise for_code(code)(f"{name} cannot be described")
    offsets = await committed_offsets(admin, name)
    return Group(state, len(members)), {(tp.topic, tp.partition): at for tp, at in offsets.items()}
