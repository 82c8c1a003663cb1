"""Consumer groups as their coordinator knows them: members, offsets, and the records left over.

The records left over are those behind the group's committed offsets.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, for_code

from stream_app.domain.model.errors import StreamAppError
from stream_app.domain.views.backlog import Place
from stream_app.domain.views.explain import ConsumerGroup
from stream_app.domain.views.lane import Position
from stream_app.kafka.backlog import Backlog, Waiting
from stream_app.kafka.connection import (
    Background,
    KafkaConnection,
    open_admin,
    repeated,
    stop_consumer,
)
from stream_app.kafka.consumer import Consumer
from stream_app.kafka.readers import Reader

_PATIENCE_S: Final = 20.0
"""Longer than a broker that hangs counts as alive. Only then does its group get another
coordinator.
"""
_FRESH_S: Final = 5.0

Offsets = dict[Place, int]
"""The committed offset by topic and partition."""


async def look_at(
    connection: KafkaConnection,
    groups: Iterable[str],
) -> dict[str, tuple[ConsumerGroup, Offsets]]:
    """Return each group with its committed offsets.

    A group that never existed has none. Raises BrokerUnavailable.
    """
    async with open_admin(connection) as admin:
        return {
            name: await repeated(partial(_look_at, admin, name), _PATIENCE_S) for name in groups
        }


async def committed_offsets(
    admin: Any,
    group: str,
    partitions: Sequence[TopicPartition] | None = None,
) -> dict[TopicPartition, int]:
    """Return the committed offsets of a group, of these partitions or of all. Raises KafkaError."""
    committed = await repeated(
        partial(admin.list_consumer_group_offsets, group, partitions=partitions),
        _PATIENCE_S,
    )
    return {tp: at.offset for tp, at in committed.items() if at.offset >= 0}


async def move_group(
    connection: KafkaConnection,
    group: str,
    offsets: Mapping[TopicPartition, int],
    process: str,
) -> None:
    """Commit offsets for a group that has no members.

    `process`: what its members run, for the error.

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
        stop = (
            f"stop every `stream-app {process}` first (a killed one counts until its session "
            "times out)"
        )
        raise StreamAppError(
            f"Kafka refused to move the group {group} ({type(error).__name__}): {stop}",
        ) from error
    finally:
        await stop_consumer(consumer)


class Consumption(msgspec.Struct, frozen=True):
    """The groups, and by topic and partition the records that no worker has taken."""

    worker: ConsumerGroup
    replay: ConsumerGroup
    waiting: dict[Place, Waiting]


def consumption_of(
    connection: KafkaConnection,
    worker: str,
    replay: str,
    places: Collection[TopicPartition],
    positions: Callable[[], Awaitable[Mapping[Place, Position]]],
) -> Background[Consumption]:
    """Look at the groups, and count what waits in the lead topics. Asks Kafka every 5 s at most.

    `positions` returns what the owners said in the views of their lanes.
    """
    backlog = Backlog()

    async def ask() -> Consumption:
        async with open_admin(connection) as admin, Reader(connection) as reader:
            workers, committed = await _look_at(admin, worker)
            replays, _ = await _look_at(admin, replay)
            waiting = await backlog.count(reader, places, committed, await positions())
            return Consumption(workers, replays, waiting)

    return Background(ask, _FRESH_S)


async def _look_at(admin: Any, name: str) -> tuple[ConsumerGroup, Offsets]:
    (described,) = await admin.describe_consumer_groups([name])
    code, _, state, _, _, members, *_ = described.groups[0]
    if code:
        raise for_code(code)(f"{name} cannot be described")
    offsets = await committed_offsets(admin, name)
    return ConsumerGroup(state, len(members)), {
        (tp.topic, tp.partition): at for tp, at in offsets.items()
    }
