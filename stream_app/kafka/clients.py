"""aiokafka's producers and admin clients, each on a `BoundedClient`, and asking again.

All that speak to Kafka are made by these functions, or are a `Consumer`. They take aiokafka's own arguments.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, NodeNotReadyError

from stream_app.kafka.bounded_client import CREATE_S, bind
from stream_app.kafka.closing import close_admin
from stream_app.kafka.connection import KafkaConnection

T = TypeVar("T")

_AGAIN_S: Final = 0.2


def kafka_producer(**options: Any) -> AIOKafkaProducer:
    """An `AIOKafkaProducer`."""
    producer = AIOKafkaProducer(**options)
    bind(producer.client)
    return producer


def kafka_admin(**options: Any) -> AIOKafkaAdminClient:
    """An `AIOKafkaAdminClient`."""
    admin = _Admin(**options)
    bind(admin._client)
    return admin


@asynccontextmanager
async def open_admin(connection: KafkaConnection, patience_s: float = 0) -> AsyncIterator[AIOKafkaAdminClient]:
    """A started admin client for the time of the block. Errors of Kafka in the block are translated.

    Args:
        connection: How to reach Kafka.
        patience_s: How long to try to connect, in seconds.

    Raises:
        BrokerUnavailable: Kafka does not answer.
        KafkaRefused: Kafka does not allow it.
    """
    admin = kafka_admin(**connection.settings())
    try:
        await repeated(admin.start, patience_s)
        yield admin
    except KafkaError as error:
        raise connection.lost(error) from error
    finally:
        await close_admin(admin)


async def repeated(ask: Callable[[], Awaitable[T]], within_s: float) -> T:
    """The answer, asked for again while Kafka has no coordinator or leader for it. Raises KafkaError after that time.

    No try begins after `within_s`; each has the bounds of its own requests.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        try:
            return await ask()
        except KafkaError as error:
            if not error.retriable or loop.time() > deadline:
                raise
        await asyncio.sleep(_AGAIN_S)


class _Admin(AIOKafkaAdminClient):  # type: ignore[misc]  # aiokafka is not followed
    """Asks any broker where aiokafka asks one at random, and a controller that is gone no longer than others."""

    async def _send_request(self, request: Any, node_id: int | None = None) -> Any:
        if node_id is None:
            return await self._client.ask_any(request)
        return await self._client.send(node_id, request)

    async def _send_to_controller(self, request: Any) -> Any:
        async def ask() -> Any:
            await self._client.force_metadata_update()
            controller = self._client.cluster.controller
            if controller is None:
                raise NodeNotReadyError("no controller is known yet")
            return await self._client.send(controller.nodeId, request)

        return await repeated(ask, CREATE_S)
