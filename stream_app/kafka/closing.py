"""Closes aiokafka clients safely: their own `stop` and `close` swallow and raise wrong cancellations."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any


async def stop_consumer(consumer: Any) -> None:
    """Stop a consumer and close its connections."""
    await _closed(consumer.stop(), consumer._client)


async def stop_producer(producer: Any) -> None:
    """Send the records that a producer still holds, stop it and close its connections."""
    await _closed(producer.stop(), producer.client)


async def close_admin(admin: Any) -> None:
    """Close an AIOKafkaAdminClient and its connections."""
    await _closed(admin.close(), admin._client)


async def close_client(client: Any) -> None:
    """Close an AIOKafkaClient and its connections."""
    await _closed(client.close(), client)


def forget_dead(client: Any) -> None:
    """Drop the client's metadata task if it failed. Otherwise `close` raises its error (uvloop closed its
    connection)."""
    task = client._sync_task
    if task is not None and task.done():
        if not task.cancelled():
            task.exception()
        client._sync_task = None


async def _closed(closing: Awaitable[None], client: Any) -> None:
    """Await `closing`, and raise CancelledError only if this task was cancelled (aiokafka 0.14).

    `AIOKafkaClient.close` swallows a cancellation while it waits for its own task, so the canceller waits forever. If
    the broker is away, `Fetcher.close` raises the CancelledError of its own fetch, and the connections stay open.
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
