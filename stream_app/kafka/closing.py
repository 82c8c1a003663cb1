"""Closing aiokafka's consumers, producers and admin clients, whose `stop` and `close` lose and invent cancellations."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any


async def stop_consumer(consumer: Any) -> None:
    """Stop it and close its connections."""
    await _closed(consumer.stop(), consumer._client)


async def stop_producer(producer: Any) -> None:
    """The same, once it has sent what it still holds."""
    await _closed(producer.stop(), producer.client)


async def close_admin(admin: Any) -> None:
    """The same of an AIOKafkaAdminClient."""
    await _closed(admin.close(), admin._client)


async def close_client(client: Any) -> None:
    """The same of an AIOKafkaClient."""
    await _closed(client.close(), client)


def forget_dead(client: Any) -> None:
    """The task that reads metadata dies of a connection that uvloop has closed under it, and `close` raises that."""
    task = client._sync_task
    if task is not None and task.done():
        if not task.cancelled():
            task.exception()
        client._sync_task = None


async def _closed(closing: Awaitable[None], client: Any) -> None:
    """Cancelled when whoever closes is cancelled meanwhile, and only then (aiokafka 0.14).

    `AIOKafkaClient.close` swallows a cancellation that comes while it waits for its own task: a partition's recovery
    waited for ever for a task that it had cancelled. And while the broker is away `Fetcher.close` lets out the
    CancelledError of a fetch of its own: whoever stopped it ended in silence, and the connections stayed.
    """
    task = asyncio.current_task()
    assert task is not None
    asked = task.cancelling()
    forget_dead(client)
    try:
        await closing
    except asyncio.CancelledError:
        await client.close()
    if task.cancelling() > asked:
        raise asyncio.CancelledError
