"""Carries out ordered replays in a thread of the test, as a replay process does, without automatic replays."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of
from stream_app.domain.model.topics import MAX_CARRIED_BYTES
from stream_app.kafka.producers import kafka_publisher
from stream_app.replay.orders import OrderRunner
from stream_app.replay.state import ReplayState
from stream_app.tasks import cancel


@contextmanager
def replaying(settings: Settings) -> Iterator[None]:
    """Carry out ordered replays for the time of the block."""
    end, ready = threading.Event(), threading.Event()

    async def work() -> None:
        connection, partitions = connection_of(settings), settings.kafka.partitions
        async with (
            kafka_publisher(connection, MAX_CARRIED_BYTES) as publisher,
            ReplayState(connection, settings.names, partitions, publisher) as state,
        ):
            running = asyncio.create_task(OrderRunner(settings, state, lambda: True).run())
            ready.set()
            await asyncio.to_thread(end.wait)
            await cancel([running])

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    with patch("stream_app.replay.orders.log"):  # it would write into the output of the command under test
        thread.start()
        try:
            assert ready.wait(60)
            yield
        finally:
            end.set()
            thread.join(60)
