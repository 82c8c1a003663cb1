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
from stream_app.domain.record import Record, Taken
from stream_app.domain.topics import TopicNames
from stream_app.partition.ports import Inlet
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

    async def dead_letters(self, inlet: Inlet) -> None:
        """`leads.dlq`: into the tier of its due time; what waits for a human is passed over."""
        begin = await self._state.begin(inlet.partition)
        self._began(inlet.partition, begin)
        async with self._onward(inlet) as onward:
            async for taken in inlet:
                envelope = returning(read_envelope(taken), taken.place, begin.epoch)
                anew = envelope is not None and not envelope.origin
                if taken.offset < begin.skip_to or (anew and taken.offset < begin.seen_to):
                    envelope = None
                if not await self._forward(onward, inlet, taken, envelope):
                    return

    async def deferred(self, inlet: Inlet) -> None:
        """`leads.deferred`: into the tier of its due time."""
        async with self._onward(inlet) as onward:
            async for taken in inlet:
                if not await self._forward(onward, inlet, taken, returning(read_envelope(taken), taken.place)):
                    return

    def wait(self, tier: int) -> Callable[[Inlet], Awaitable[None]]:
        """The handler of a delay tier: its head is always the next one due."""

        async def serve(inlet: Inlet) -> None:
            async with self._onward(inlet) as onward:
                async for taken in inlet:
                    due_ms = taken.timestamp_ms + tier * 1000
                    if not await self._until(due_ms, inlet):
                        inlet.give_up(taken)
                        return
                    if not await self._forward(onward, inlet, taken, read_envelope(taken)):
                        return

        return serve

    async def _forward(self, onward: _Onward, inlet: Inlet, taken: Taken, envelope: Envelope | None) -> bool:
        """To `leads.retry` if it is due, else into the next tier; None is passed over. False: it was given up."""
        if envelope is None:
            await onward.skip(taken)
            return True
        tier = tier_s(self._policy, envelope.not_before_ms - self._clock.now_ms())
        if not await self._free(taken.key, inlet, paced=tier is None):
            inlet.give_up(taken)
            return False
        topic = self._topics.retry if tier is None else self._topics.wait(tier)
        # Kafka takes no record with neither key nor value.
        key = taken.key if taken.value is not None else taken.key or b""
        await onward.send(taken, Record(topic, key, taken.value, envelope.to_headers(), taken.partition))
        self._moved(taken.topic, envelope)
        return True

    async def _free(self, key: bytes | None, inlet: Inlet, *, paced: bool) -> bool:
        """Wait while an operator's pause lasts, and for this workspace's turn. False when suspended before."""
        if not self._state.moving.is_set():
            stopped = asyncio.create_task(inlet.suspended.wait())
            moving = asyncio.create_task(self._state.moving.wait())
            with self._waiting(inlet):
                await asyncio.wait((stopped, moving), return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            moving.cancel()
            if inlet.suspended.is_set():
                return False
        workspace = (key or b"").decode("utf-8", "replace")
        return not paced or await self._until(self._pace.turn_ms(workspace, self._clock.now_ms()), inlet)

    async def _until(self, due_ms: int, inlet: Inlet) -> bool:
        """False when the flow was suspended before."""
        with self._waiting(inlet):
            while (delay_ms := due_ms - self._clock.now_ms()) > 0:
                try:
                    # In pieces: the wall clock may step while the loop's does not.
                    await asyncio.wait_for(inlet.suspended.wait(), min(delay_ms / 1000, 60.0))
                except TimeoutError:
                    continue
                return False
        return not inlet.suspended.is_set()

    @contextmanager
    def _waiting(self, inlet: Inlet) -> Iterator[None]:
        """It has a reason to wait inside the block."""
        passage = self._passages[inlet.topic, inlet.partition]
        passage.waits = True
        try:
            yield
        finally:
            passage.waits = False

    def _onward(self, inlet: Inlet) -> _Onward:
        passage = self._passages[inlet.topic, inlet.partition]
        passage.sent = passage.acked  # what an earlier inlet left comes again
        return _Onward(inlet, self._publisher, passage)


class _Passage:
    """How many records of one topic-partition were sent on and acked, and whether its head has a reason to wait."""

    __slots__ = ("acked", "sent", "waits")

    def __init__(self) -> None:
        self.sent = self.acked = 0
        self.waits = False


class _Onward:
    """Publishes in order and acks in order, each once Kafka has what was published for it."""

    def __init__(self, inlet: Inlet, publisher: Publisher, passage: _Passage) -> None:
        self._inlet = inlet
        self._publisher = publisher
        self._passage = passage
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
        self._passage.sent += 1
        await self._sent.put((taken, await self._publisher.publish(record)))

    async def skip(self, taken: Taken) -> None:
        self._passage.sent += 1
        await self._sent.put((taken, None))

    async def _ack(self) -> None:
        while True:
            taken, published = await self._sent.get()
            if published is not None:
                await published
            await self._inlet.ack(taken)
            self._passage.acked += 1
            self._sent.task_done()
