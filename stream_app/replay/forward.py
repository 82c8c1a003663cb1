"""What the replay process does by itself: it forwards dead letters and deferred leads when due.

    leads.dlq, leads.deferred  ->  leads.wait.<tier>  ->  ... a shorter tier  ->  leads.retry

It copies bytes and counts replays. The lead pipeline decides what happens to a lead, and drops
duplicate copies, so a record that is published twice after a crash is harmless. However many
records wait, the process holds few of them in memory: the first ones of each topic and partition
(`services.replay`), and those whose copies Kafka has yet to store.

Resetting the group's offsets on `leads.dlq` is a way to replay: if the group starts below its
earlier offset, a new epoch starts (`domain.dead_letter.replay.begin`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import msgspec
from attrs import define, field

from stream_app.clock import Clock
from stream_app.domain.dead_letter.replay import Begin, Pace, Turns, returning, tier_s
from stream_app.domain.delivery.envelope import Envelope, read_envelope
from stream_app.domain.model.records import ConsumedRecord, Record
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.plan import ReplayPolicy
from stream_app.faust_app.app import App
from stream_app.faust_app.stream import Generations
from stream_app.kafka.producers import Publish
from stream_app.partition.ports import RecordStream
from stream_app.tasks import run_until

_MAX_UNACKED: Final = 500  # records of a topic-partition that are published and not acked yet


@define(eq=False, repr=False)
class Replay:
    """The handlers of the replay process.

    `rates_per_s` are the configured rates of the lanes by workspace. `moved` is called with the
    source topic and the envelope of each forwarded record. `begin` returns where to start in a
    newly assigned partition of the dead letters, and `began` is called with both. `moving` is
    cleared while an operator has paused all replays (`ReplayState`).
    """

    _topics: TopicNames
    _policy: ReplayPolicy
    _rates_per_s: Mapping[str, float]
    _publish: Publish
    _begin: Callable[[int], Awaitable[Begin]]
    _moving: asyncio.Event
    _clock: Clock
    _turns: Turns
    _moved: Callable[[str, Envelope], None]
    _began: Callable[[int, Begin], None]
    _pace: Pace = field(init=False)
    _positions: dict[tuple[str, int], _Position] = field(
        init=False,
        factory=lambda: defaultdict(_Position),
    )

    def __attrs_post_init__(self) -> None:
        self._pace = Pace(self._rates_per_s, self._policy.rate_share)

    def under_way(self, assigned: Mapping[tuple[str, int], bool]) -> dict[str, Hashable]:
        """Return the progress markers that the watchdog expects to change.

        A head that is not due, a pause and the rate of a workspace are reasons to wait. An
        unavailable broker is none. `assigned` says for each topic and partition whether records
        wait there.
        """
        return {
            f"the records of {topic}/{number} do not move": position.acked
            for (topic, number), records_wait in assigned.items()
            if records_wait
            and (
                not (position := self._positions[topic, number]).waits
                or position.sent > position.acked
            )
        }

    async def dead_letters(self, stream: RecordStream) -> None:
        """Forward `leads.dlq` to the tiers by due time, without what waits for an operator."""
        begin = await self._begin(stream.partition)
        self._began(stream.partition, begin)

        def read(consumed: ConsumedRecord) -> Envelope | None:
            envelope = returning(read_envelope(consumed), consumed.record_id, begin.epoch)
            from_input = envelope is not None and not envelope.origin
            seen = consumed.offset < begin.skip_to or (
                from_input and consumed.offset < begin.seen_to
            )
            return None if seen else envelope

        await self._serve(stream, read)

    async def deferred(self, stream: RecordStream) -> None:
        """Forward `leads.deferred` to the tiers by due time."""
        await self._serve(
            stream,
            lambda consumed: returning(read_envelope(consumed), consumed.record_id),
        )

    async def wait(self, stream: RecordStream, tier: int) -> None:
        """Forward the records of a delay tier (in seconds). Its head is always due first."""
        await self._serve(stream, read_envelope, tier * 1000)

    async def _serve(
        self,
        stream: RecordStream,
        read: Callable[[ConsumedRecord], Envelope | None],
        delay_ms: int = 0,
    ) -> None:
        """Forward the records of a stream until it is suspended.

        `read` returns None for a record that is skipped. `delay_ms` is how long after its append a
        record is due.
        """
        position = self._positions[stream.topic, stream.partition]
        # What an earlier stream left unacked is read again, and counts when it is sent again.
        position.sent = position.acked
        async with _Forwarder(stream, self._publish, position) as forwarder:
            async for consumed in stream:
                if delay_ms and not await self._until(consumed.timestamp_ms + delay_ms, stream):
                    stream.give_up(consumed)
                    return
                envelope = read(consumed)
                if envelope is None:
                    await forwarder.send(consumed, None)
                elif not await self._forward(forwarder, stream, consumed, envelope):
                    stream.give_up(consumed)
                    return

    async def _forward(
        self,
        forwarder: _Forwarder,
        stream: RecordStream,
        consumed: ConsumedRecord,
        envelope: Envelope,
    ) -> bool:
        """Forward to `leads.retry` if due, or else to the next tier.

        Returns:
            False if the stream was suspended first.
        """
        # Before the tier is chosen: a pause may last for hours, in which the record becomes due.
        if not self._moving.is_set():
            with self._waiting(stream):
                await run_until(stream.suspended, self._moving.wait())
            if stream.suspended.is_set():
                return False
        workspace = (consumed.key or b"").decode("utf-8", "replace")
        now_ms = self._clock.now_ms()
        tier = tier_s(self._policy, envelope.not_before_ms - now_ms)
        if tier is None and envelope.way == "deferred":
            turn_ms = self._turns.turn_ms(workspace, envelope, now_ms)
            if turn_ms > now_ms:
                envelope = msgspec.structs.replace(envelope, not_before_ms=turn_ms)
                tier = tier_s(self._policy, turn_ms - now_ms)
        if tier is None and not await self._until(
            self._pace.turn_ms(workspace, self._clock.now_ms()),
            stream,
        ):
            return False
        topic = self._topics.retry if tier is None else self._topics.wait(tier)
        # Kafka takes no record with neither key nor value.
        key = consumed.key if consumed.value is not None else consumed.key or b""
        await forwarder.send(
            consumed,
            Record(topic, key, consumed.value, envelope.to_headers(), consumed.partition),
        )
        self._moved(consumed.topic, envelope)
        return True

    async def _until(self, due_ms: int, stream: RecordStream) -> bool:
        """Wait until a time (epoch ms); False if the stream was suspended first."""
        with self._waiting(stream):
            while (delay_ms := due_ms - self._clock.now_ms()) > 0:
                try:
                    # In steps, because the wall clock may jump while the loop's clock does not.
                    await asyncio.wait_for(stream.suspended.wait(), min(delay_ms / 1000, 60.0))
                except TimeoutError:
                    continue
                return False
        return not stream.suspended.is_set()

    @contextmanager
    def _waiting(self, stream: RecordStream) -> Iterator[None]:
        """Mark the partition as waiting for a good reason inside the block."""
        position = self._positions[stream.topic, stream.partition]
        position.waits = True
        try:
            yield
        finally:
            position.waits = False


@define(eq=False, repr=False)
class _Position:
    """How far the replay of one topic-partition has come.

    Attributes:
        sent: How many records were sent on.
        acked: How many records were acked.
        waits: True while the next record has a reason to wait.
    """

    sent: int = 0
    acked: int = 0
    waits: bool = False


class _Forwarder:
    """Publishes in order, and acks in order once Kafka has acknowledged what was published."""

    def __init__(self, stream: RecordStream, publish: Publish, position: _Position) -> None:
        self._stream = stream
        self._publish = publish
        self._position = position
        self._sent: asyncio.Queue[tuple[ConsumedRecord, Awaitable[object] | None]] = asyncio.Queue(
            _MAX_UNACKED,
        )
        self._acks = asyncio.TaskGroup()

    async def __aenter__(self) -> _Forwarder:
        await self._acks.__aenter__()
        self._acking = self._acks.create_task(self._ack())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: object,
    ) -> None:
        # What was published is acked first, because the next process would publish it again.
        if error is None:
            await self._sent.join()
        self._acking.cancel()
        try:
            await self._acks.__aexit__(kind, error, None)
        except BaseExceptionGroup as group:
            if group.exceptions != (error,):
                raise
            # The only error is that of the block. It is raised as it is, so that the process ends
            # with its one line.

    async def send(self, consumed: ConsumedRecord, record: Record | None) -> None:
        """Publish a record, or skip the consumed one if there is none."""
        self._position.sent += 1
        await self._sent.put((consumed, None if record is None else await self._publish(record)))

    async def _ack(self) -> None:
        while True:
            consumed, published = await self._sent.get()
            # Write-ahead: the record is acked once Kafka has the copy. After a crash in between,
            # the next process publishes a second copy, which the lead pipeline drops.
            if published is not None:
                await published
            await self._stream.ack(consumed)
            self._position.acked += 1
            self._sent.task_done()


def define_agents(app: App, topics: TopicNames, tiers_s: Iterable[int], replay: Replay) -> None:
    """Add the replay app's agents to the app.

    There is one for dead letters, one for deferred leads, and one for each delay tier.
    """

    def add(topic: str, serve: Callable[..., Awaitable[None]], *how: int) -> None:
        @app.agent(topic)
        async def agent(generations: Generations) -> None:
            async for records in generations:
                await serve(records, *how)

    add(topics.dlq, replay.dead_letters)
    add(topics.deferred, replay.deferred)
    for tier in tiers_s:
        add(topics.wait(tier), replay.wait, tier)
