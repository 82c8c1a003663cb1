"""Consumer groups as Kafka's coordinator has them: who is in, and how far they have come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from stream_app.adapters.closing import close_admin
from stream_app.adapters.connection import KafkaConnection
from stream_app.core.explain import Group

_PATIENCE_S: Final = 10.0
_RETRY_S: Final = 0.2

Offsets = dict[tuple[str, int], int]
"""Topic and partition -> the committed offset."""


async def look_at(connection: KafkaConnection, groups: Iterable[str]) -> dict[str, tuple[Group, Offsets]]:
    """Each group with its offsets; one that never was has none. Raises BrokerUnavailable."""
    admin = AIOKafkaAdminClient(**connection.settings())
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE_S
    try:
        await admin.start()
        while True:
            try:
                return {name: await _look_at(admin, name) for name in groups}
            except KafkaError as error:  # a new broker has no coordinator at first
                if not error.retriable or loop.time() > deadline:
                    raise
            await asyncio.sleep(_RETRY_S)
    except KafkaError as error:
        raise connection.lost(error) from error
    finally:
        await close_admin(admin)


async def _look_at(admin: Any, name: str) -> tuple[Group, Offsets]:
    (described,) = await admin.describe_consumer_groups([name])
    _, _, state, _, _, members, *_ = described.groups[0]
    offsets: dict[TopicPartition, Any] = await admin.list_consumer_group_offsets(name)
    committed = {(place.topic, place.partition): at.offset for place, at in offsets.items() if at.offset >= 0}
    return Group(state, len(members)), committed
