"""Consumer groups as Kafka's coordinator has them: who is in, and how far they have come."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, for_code

from stream_app.domain.lane.explain import Group
from stream_app.kafka.clients import kafka_admin, repeated
from stream_app.kafka.closing import close_admin
from stream_app.kafka.connection import KafkaConnection

_PATIENCE_S: Final = 20.0
"""Longer than a broker that hangs counts as alive: only then does its group get another coordinator."""

Offsets = dict[tuple[str, int], int]
"""Topic and partition -> the committed offset."""


async def look_at(connection: KafkaConnection, groups: Iterable[str]) -> dict[str, tuple[Group, Offsets]]:
    """Each group with its offsets; one that never was has none. Raises BrokerUnavailable."""
    admin = kafka_admin(**connection.settings())
    try:
        await admin.start()
        return {name: await repeated(partial(_look_at, admin, name), _PATIENCE_S) for name in groups}
    except KafkaError as error:
        raise connection.lost(error) from error
    finally:
        await close_admin(admin)


async def _look_at(admin: Any, name: str) -> tuple[Group, Offsets]:
    (described,) = await admin.describe_consumer_groups([name])
    code, _, state, _, _, members, *_ = described.groups[0]
    if code:
        raise for_code(code)(f"{name} cannot be described")
    offsets: dict[TopicPartition, Any] = await admin.list_consumer_group_offsets(name)
    committed = {(place.topic, place.partition): at.offset for place, at in offsets.items() if at.offset >= 0}
    return Group(state, len(members)), committed
