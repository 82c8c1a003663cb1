"""The replay app: brings dead letters and deferred leads back to `leads.retry` when they are due.

    leads.dlq, leads.deferred  ->  leads.wait.<tier>  ->  ... a shorter one  ->  leads.retry

It only copies bytes and counts: the line decides what becomes of a lead, and knows a copy from its successor, so that
a record published twice after a crash of this app is harmless. Nothing is held in memory but the head of each tier.

Resetting the group's offsets on `leads.dlq` is a way to replay: where the group stands below what it had committed, a
new epoch begins (`core.replay.begin`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Protocol

from stream_app.domain.dead_letter.replay import Begin, Pace, ReplayPolicy, returning, tier_s
from stream_app.domain.delivery.envelope import Envelope, read_envelope
from stream_app.domain.record import ConsumedRecord, Record
from stream_app.domain.topics import TopicNames
from stream_app.partition.ports import PartitionStream
from stream_app.pipeline.ports import Clock

_ON_THEIR_WAY: Final = 500  # records published and not acknowledged yet, for each topic-partition

Place = tuple[str, int]
"""Topic and partition."""


class Publisher(Protocol):
    """Publishes to the partition that a record came from."""

    async def publish(self, record: Record) -> Awaitable[object]:
        """Hand it over; what comes back is done when Kafka has it."""


class State(Protocol):
    """What all replay processes know together. `moving` is set unless an operator has paused all replays."""

    moving: asyncio.Event

    async def begin(self, partition: int) -> Begin:
        """How to begin with a partition of the dead letters that has just become ours."""


class Replay:
    """The handlers of the replay app. `moved` is told of each record that goes on, by the topic it came from.

    rates_per_s  of the workspaces' lanes, as they are now: whoever follows them changes it.
    """

    def __init__(
        self,
        topics: TopicNames,
        policy: ReplayPolicy,
        rates_per_s: Mapping[str, float],
        publisher: Publisher,
        state: State,
        clock: Clock,
        moved: Callable[[str, Envelope], None],
        began: Callable[[int, Begin], None],
    ) -> None:
        self._topics = topics
        self._policy = policy
        self._pace = Pace(rates_per_s, policy.rate_share)
        self._publisher = publisher
        self._state = state
        self._clock = clock
        self._moved = moved
        self._began = began
        self._passages: defaultdict[Place, _Passage] = defaultdict(_Passage)

    def under_way(self, assigned: Mapping[Place, bool]) -> dict[str, Hashable]:
        """All that has to move by itself, for the watchdog. `assigned`: topic and partition -> records wait there.

        A head that is not due, a pause and a workspace's pace are reasons to wait; a broker that is silent is none.
        """
        moving = {place: self._passages[place] for place, records_wait in assigned.items() if records_wait}
        return {
            f"the records of {topic}/{number} do not move": passage.acked
            for (topic, number), passage in moving.items()
            if not passage.waits or passage.sent > passage.acked
        }

    async def dead_letters(self, stream: PartitionStream) -> None:
        """`leads.dlq`: into the tier of its due time; what waits for a human is passed over."""
        begin = await self._state.begin(stream.partition)
        self._began(stream.partition, begin)
        async with self._onward(stream) as onward:
            async for consumed in stream:
                envelope = returning(read_envelope(consumed), consumed.place, begin.epoch)
                anew = envelope is not None and not envelope.origin
                if consumed.offset < begin.skip_to or (anew and consumed.offset < begin.seen_to):
                    envelope = None
                if not await self._forward(onward, stream, consumed, envelope):
                    return

    async def deferred(self, stream: PartitionStream) -> None:
        """`leads.deferred`: into the tier of its due time."""
        async with self._onward(stream) as onward:
            async for consumed in stream:
                if not await self._forward(
                    onward, stream, consumed, returning(read_envelope(consumed), consumed.place)
                ):
                    return

    def wait(self, tier: int) -> Callable[[PartitionStream], Awaitable[None]]:
        """The handler of a delay tier: its head is always the next one due."""

        async def serve(stream: PartitionStream) -> None:
            async with self._onward(stream) as onward:
                async for consumed in stream:
                    due_ms = consumed.timestamp_ms + tier * 1000
                    if not await self._until(due_ms, stream):
                        stream.give_up(consumed)
                        return
                    if not await self._forward(onward, stream, consumed, read_envelope(consumed)):
                        return

        return serve

    async def _forward(
        self, onward: _Onward, stream: PartitionStream, consumed: ConsumedRecord, envelope: Envelope | None
    ) -> bool:
        """To `leads.retry` if it is due, else into the next tier; None is passed over. False: it was given up."""
        if envelope is None:
            await onward.skip(consumed)
            return True
        tier = tier_s(self._policy, envelope.not_before_ms - self._clock.now_ms())
        if not await self._free(consumed.key, stream, paced=tier is None):
            stream.give_up(consumed)
            return False
        topic = self._topics.retry if tier is None else self._topics.wait(tier)
        # Kafka takes no record with neither key nor value.
        key = consumed.key if consumed.value is not None else consumed.key or b""
        await onward.send(consumed, Record(topic, key, consumed.value, envelope.to_headers(), consumed.partition))
        self._moved(consumed.topic, envelope)
        return True

    async def _free(self, key: bytes | None, stream: PartitionStream, *, paced: bool) -> bool:
        """Wait while an operator's pause lasts, and for this workspace's turn. False when suspended before."""
        if not self._state.moving.is_set():
            stopped = asyncio.create_task(stream.suspended.wait())
            moving = asyncio.create_task(self._state.moving.wait())
            with self._waiting(stream):
                await asyncio.wait((stopped, moving), return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            moving.cancel()
            if stream.suspended.is_set():
                return False
        workspace = (key or b"").decode("utf-8", "replace")
        return not paced or await self._until(self._pace.turn_ms(workspace, self._clock.now_ms()), stream)

    async def _until(self, due_ms: int, stream: PartitionStream) -> bool:
        """False when the flow was suspended before."""
        with self._waiting(stream):
            while (delay_ms := due_ms - self._clock.now_ms()) > 0:
                try:
                    # In pieces: the wall clock may step while the loop's does not.
                    await asyncio.wait_for(stream.suspended.wait(), min(delay_ms / 1000, 60.0))
                except TimeoutError:
                    continue
                return False
        return not stream.suspended.is_set()

    @contextmanager
    def _waiting(self, stream: PartitionStream) -> Iterator[None]:
        """It has a reason to wait inside the block."""
        passage = self._passages[stream.topic, stream.partition]
        passage.waits = True
        try:
            yield
        finally:
            passage.waits = False

    def _onward(self, stream: PartitionStream) -> _Onward:
        passage = self._passages[stream.topic, stream.partition]
        passage.sent = passage.acked  # what an earlier inlet left comes again
        return _Onward(stream, self._publisher, passage)


class _Passage:
    """How many records of one topic-partition were sent on and acked, and whether its head has a reason to wait."""

    __slots__ = ("acked", "sent", "waits")

    def __init__(self) -> None:
        self.sent = self.acked = 0
        self.waits = False


class _Onward:
    """Publishes in order and acks in order, each once Kafka has what was published for it."""

    def __init__(self, stream: PartitionStream, publisher: Publisher, passage: _Passage) -> None:
        self._inlet = stream
        self._publisher = publisher
        self._passage = passage
        self._sent: asyncio.Queue[tuple[ConsumedRecord, Awaitable[object] | None]] = asyncio.Queue(_ON_THEIR_WAY)
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

    async def send(self, consumed: ConsumedRecord, record: Record) -> None:
        self._passage.sent += 1
        await self._sent.put((consumed, await self._publisher.publish(record)))

    async def skip(self, consumed: ConsumedRecord) -> None:
        self._passage.sent += 1
        await self._sent.put((consumed, None))

    async def _ack(self) -> None:
        while True:
            consumed, published = await self._sent.get()
            if published is not None:
                await published
            await self._inlet.ack(consumed)
            self._passage.acked += 1
            self._sent.task_done()
