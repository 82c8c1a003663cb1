"""The replay app: brings dead letters and deferred leads back to `leads.retry` when they are due.

    leads.dlq, leads.deferred  ->  leads.wait.<tier>  ->  leads.retry

It only copies bytes and counts: the line decides what becomes of a lead, and knows a copy from its successor, so that
a record published twice after a crash of this app is harmless. Nothing is held in memory but the head of each tier.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from stream_app.core.envelope import Envelope, read_envelope
from stream_app.core.record import Record, Taken
from stream_app.core.replay import ReplayPolicy, returning, tier_s
from stream_app.core.topics import TopicNames
from stream_app.line import Clock
from stream_app.partition.ports import Inlet

_ON_THEIR_WAY = 500  # records published and not acknowledged yet, for each topic-partition


class Publisher(Protocol):
    """Publishes to the partition that a record came from."""

    async def publish(self, record: Record) -> Awaitable[object]:
        """Hand it over; what comes back is done when Kafka has it."""


class Replay:
    """The handlers of the replay app. `moved` is told of each record that goes on, by the topic it came from."""

    def __init__(
        self,
        topics: TopicNames,
        policy: ReplayPolicy,
        publisher: Publisher,
        clock: Clock,
        moved: Callable[[str, Envelope], None],
    ) -> None:
        self._topics = topics
        self._policy = policy
        self._publisher = publisher
        self._clock = clock
        self._moved = moved

    async def come_back(self, inlet: Inlet) -> None:
        """`leads.dlq` and `leads.deferred`: into the tier of its due time; what waits for a human is passed over."""
        async with _Onward(inlet, self._publisher) as onward:
            async for taken in inlet:
                envelope = returning(read_envelope(taken))
                if envelope is None:
                    await onward.skip(taken)
                else:
                    await self._forward(onward, taken, envelope)

    def wait(self, tier: int) -> Callable[[Inlet], Awaitable[None]]:
        """The handler of a delay tier: its head is always the next one due."""

        async def serve(inlet: Inlet) -> None:
            async with _Onward(inlet, self._publisher) as onward:
                async for taken in inlet:
                    due_ms = taken.timestamp_ms + tier * 1000
                    if not await self._until(due_ms, inlet.suspended):
                        inlet.give_up(taken)
                        return
                    await self._forward(onward, taken, read_envelope(taken))

        return serve

    async def _forward(self, onward: _Onward, taken: Taken, envelope: Envelope) -> None:
        """To `leads.retry` if it is due, else into (another) tier."""
        delay_ms = envelope.not_before_ms - self._clock.now_ms()
        tier = tier_s(self._policy, delay_ms)
        # What is left after the tier is less than the shortest tier's worth: good enough, and never early.
        topic = self._topics.retry if tier is None else self._topics.wait(tier)
        await onward.send(taken, Record(topic, taken.key, taken.value, envelope.to_headers(), taken.partition))
        self._moved(taken.topic, envelope)

    async def _until(self, due_ms: int, suspended: asyncio.Event) -> bool:
        """False when the flow was suspended before."""
        while (delay_ms := due_ms - self._clock.now_ms()) > 0:
            try:
                # In pieces: the wall clock may step while the loop's does not.
                await asyncio.wait_for(suspended.wait(), min(delay_ms / 1000, 60.0))
            except TimeoutError:
                continue
            return False
        return not suspended.is_set()


class _Onward:
    """Publishes in order and acks in order, each once Kafka has what was published for it."""

    def __init__(self, inlet: Inlet, publisher: Publisher) -> None:
        self._inlet = inlet
        self._publisher = publisher
        self._sent: asyncio.Queue[tuple[Taken, Awaitable[object] | None]] = asyncio.Queue(_ON_THEIR_WAY)
        self._acks = asyncio.TaskGroup()
        self._acking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> _Onward:
        await self._acks.__aenter__()
        self._acking = self._acks.create_task(self._ack())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            await self._sent.join()
        if self._acking is not None:
            self._acking.cancel()
        await self._acks.__aexit__(kind, error, None)

    async def send(self, taken: Taken, record: Record) -> None:
        await self._sent.put((taken, await self._publisher.publish(record)))

    async def skip(self, taken: Taken) -> None:
        await self._sent.put((taken, None))

    async def _ack(self) -> None:
        while True:
            taken, published = await self._sent.get()
            if published is not None:
                await published
            await self._inlet.ack(taken)
            self._sent.task_done()
