"""Closing an aiokafka consumer whose broker may be away."""

from __future__ import annotations

import asyncio
from typing import Any


async def stop_consumer(consumer: Any) -> None:
    """Stop it and close its connections.

    While the broker is away `stop` alone may raise the CancelledError of a fetch of its own (aiokafka 0.14,
    `Fetcher.close`): whoever stops it would end in silence, as if somebody had cancelled it, and the connections stay.
    """
    try:
        await consumer.stop()
    except asyncio.CancelledError:
        await consumer._client.close()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
