"""The state of replays in memory."""

import asyncio
from collections.abc import Awaitable

from stream_app.domain.dead_letter.replay import Begin
from stream_app.domain.model.records import Record
from tests.support.partition.virtual import now_ms


class Memory:
    """What the replay process publishes, and its state, in memory."""

    def __init__(self, begin: Begin) -> None:
        self.published: list[tuple[int, Record]] = []
        self.moving = asyncio.Event()
        self.moving.set()
        self._begin = begin

    async def begin(self, partition: int) -> Begin:
        return self._begin

    async def publish(self, record: Record) -> Awaitable[object]:
        self.published.append((now_ms(), record))
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    @property
    def topics(self) -> list[str]:
        return [record.topic for _, record in self.published]
