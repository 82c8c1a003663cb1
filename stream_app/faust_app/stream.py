"""The records of one topic-partition in one generation of the group, checked for gaps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import BrokerResponseError, KafkaError

from stream_app.domain.model.errors import StreamAppError, UnreadableBatch
from stream_app.domain.model.records import ConsumedRecord, consumed_record
from stream_app.kafka.connection import KafkaConnection, stop_consumer
from stream_app.kafka.consumer import Consumer

_BROKER_AWAY_S = 0.5


class LostRecords(StreamAppError):
    """Faust skipped records of the topic.

    The process must stop before an ack hides them; the next start reads them.
    """


class PartitionStream:
    """The records of one topic-partition from one rebalance to the next.

    Each step of `async for consumed in stream` waits for the next record. To hold back, do not take
    the next one. The iteration ends with the generation. `Generations` then has a new stream if the
    partition is still assigned.

    Attributes:
        suspended: set for good when the group rebalances or the worker stops. The agent must then
            give up records that only wait, and finish and ack those in flight: the rebalance waits
            for them.
        ended: True when the generation has ended.
    """

    def __init__(self, streams: Generations, first: Any) -> None:
        message = first.message
        self.topic: str = message.topic
        self.partition: int = message.partition
        self.suspended: asyncio.Event = streams.suspended
        self.ended = False
        self._streams = streams
        self._tp = message.tp
        self._generation = message.generation_id
        self._next_offset: int | None = streams.consumer.resume_at.get(message.tp)
        self._held: dict[int, Any] = {}

    def __aiter__(self) -> AsyncIterator[ConsumedRecord]:
        return self

    async def __anext__(self) -> ConsumedRecord:
        event = await self._streams.take(self._generation)
        if event is None:
            self.ended = True
            raise StopAsyncIteration
        message = event.message
        offset: int = message.offset
        self._streams.consumer.in_flight[self._tp][offset] = None
        if self._next_offset not in (None, offset) and not await self._verify_gap(offset):
            self._streams.consumer.give_up(message)
            raise StopAsyncIteration
        self._held[offset] = event
        self._next_offset = offset + 1
        return consumed_record(
            self.topic,
            self.partition,
            offset,
            message.key,
            message.value,
            message.headers,
            round(message.timestamp * 1000),
        )

    async def ack(self, consumed: ConsumedRecord) -> None:
        """Mark a record as finished.

        The committed offset passes the record when all before it are acked too (`ExactOffsets`),
        whatever the order of the acks. A record whose generation has ended is given up: another
        process may own the partition now, and a stop must not wait for an ack that no one takes.
        """
        event = self._held.pop(consumed.offset, None)
        if event is None:
            return
        if self._generation != self._streams.app.consumer_generation_id:
            self._streams.consumer.give_up(event.message)
            return
        self._streams.consumer.in_flight[self._tp].pop(consumed.offset, None)
        await self._streams.stream.ack(event)

    def give_up(self, consumed: ConsumedRecord) -> None:
        """Drop a record without an ack.

        It and all after it are delivered again after the next rebalance or start.
        """
        event = self._held.pop(consumed.offset, None)
        if event is not None:
            self._streams.consumer.give_up(event.message)

    def expect(self, offset: int) -> None:
        """Declare all records before `offset` concluded.

        Gaps are then checked even if nothing is committed.
        """
        if self._next_offset is None:
            self._next_offset = offset

    def committed(self) -> int | None:
        """Return the offset at which a successor would start now, None before the first commit."""
        offset: int | None = self._streams.consumer._committed_offset[self._tp]
        return offset

    async def _verify_gap(self, offset: int) -> bool:
        """Check that no record was skipped before `offset`.

        Returns:
            True if none was, False if the flow was suspended during the check.
        """
        checking = asyncio.create_task(
            self._streams.app.gaps.verify(self._tp, self._next_offset or 0, offset),
        )
        suspended = asyncio.create_task(self.suspended.wait())
        try:
            await asyncio.wait({checking, suspended}, return_when=asyncio.FIRST_COMPLETED)
            if checking.done():
                checking.result()
            return checking.done()
        finally:
            checking.cancel()
            suspended.cancel()


class Generations:
    """The streams of one topic-partition, one for each generation of the group.

    They end when the partition is revoked. A step of `async for records in generations` waits for
    the first record of the next generation. The stream before it must have ended by then. Faust
    counts a record that was taken for the next stream as in flight, so it is given up when the
    flow is suspended.

    Attributes:
        over: True if the partition was revoked, and its last stream has ended.
    """

    def __init__(self, app: Any, stream: Any) -> None:
        self.app = app
        self.stream = stream
        self.consumer = app.consumer
        self.suspended = asyncio.Event()
        self.over = False
        self._values = aiter(stream)
        self._ahead: Any = None
        self._latest: PartitionStream | None = None
        self.consumer.on_suspend.add(self._suspend)

    def __aiter__(self) -> AsyncIterator[PartitionStream]:
        return self

    async def __anext__(self) -> PartitionStream:
        latest = self._latest
        if latest is not None and not (latest.ended or latest.suspended.is_set()):
            raise RuntimeError(
                f"the agent left the records of {latest.topic}/{latest.partition} before their end",
            )
        if (first := await self._first()) is None:
            self.over = True
            raise StopAsyncIteration
        self._latest = PartitionStream(self, first)
        return self._latest

    async def take(self, generation: int) -> Any | None:
        """Return the next event of `generation`, None at its end."""
        event = await self._first()
        if event is None or event.message.generation_id != generation:
            return None
        self._ahead = None
        return event

    async def close(self) -> None:
        """Close the Faust stream.

        Without this, Faust counts its channel as subscribed until garbage collection.
        """
        self.consumer.on_suspend.discard(self._suspend)
        self._suspend()
        await self._values.aclose()

    async def _first(self) -> Any | None:
        """Return the first event that no stream has taken, None if the partition was revoked."""
        while self._ahead is None:
            try:
                await anext(self._values)
            except StopAsyncIteration:
                return None
            self._ahead = self.stream.current_event
        return self._ahead

    def _suspend(self) -> None:
        self.suspended.set()
        self.suspended = asyncio.Event()
        if self._ahead is not None:
            self.consumer.give_up(self._ahead.message)
            self._ahead = None


Agent = Callable[[Generations], Awaitable[None]]
"""Reads the records of one topic-partition: `async for records in generations`. It reads each
stream to its end.
"""


async def run_agent(app: Any, stream: Any, agent: Agent) -> None:
    """Run an agent on the Faust stream of one partition.

    An exception that it raises ends the app without an ack.
    """
    generations = Generations(app, stream.noack())
    try:
        await agent(generations)
        if not generations.over:
            await app.crash(
                RuntimeError(
                    f"the agent {agent.__name__} returned before its partition was revoked",
                ),
            )
    except asyncio.CancelledError:
        # Faust stops the actor. If this were raised, Faust would start another one for the
        # revoked partition.
        pass
    except Exception as error:  # noqa: BLE001  # any exception of an agent stops the app without an ack
        await app.crash(error)
    finally:
        await generations.close()


class GapCheck:
    """Distinguishes harmless gaps in offsets from records that Faust skipped.

    A gap is harmless if it has only transaction markers and aborted, expired or compacted records.
    The check reads the gap again with its own consumer, one fetch at a time, and remembers the
    offsets of that fetch. So a topic with a marker every few records is read twice and not more.

    Attributes:
        empty: the number of harmless gaps so far.
        on_expired: called with topic, partition, first offset and end offset of records that
            retention removed. Set it before the app starts, so that no loss goes unreported.
    """

    def __init__(self, connection: KafkaConnection) -> None:
        self.empty = 0
        self.on_expired: Callable[[str, int, int, int], None]
        self._connection = connection
        self._consumer: Consumer | None = None
        self._lock = asyncio.Lock()
        self._seen: dict[TopicPartition, tuple[int, int, frozenset[int]]] = {}

    async def verify(self, tp: Any, first: int, end: int) -> None:
        """Check that Kafka has no committed record in [first, end) of `tp`.

        Raises:
            LostRecords: it has one.
        """
        async with self._lock:
            start, stop, offsets = self._seen.get(tp, (0, 0, frozenset()))
            if not start <= first <= end <= stop:
                seen = await self._read_patiently(tp, first, end)
                self._seen[tp] = seen
                start, stop, offsets = seen
        lost = min((offset for offset in offsets if first <= offset < end), default=None)
        if lost is not None:
            raise LostRecords(
                f"{tp.topic}/{tp.partition}/{lost} was fetched but never delivered, and "
                "possibly more before offset "
                f"{end}: this process stops; start it again to read them",
            )
        self.empty += 1

    async def close(self) -> None:
        consumer = self._consumer
        self._consumer = None
        if consumer is not None:
            await stop_consumer(consumer)

    async def _read_patiently(
        self,
        tp: Any,
        first: int,
        end: int,
    ) -> tuple[int, int, frozenset[int]]:
        """Retry while the broker is away. The caller cancels this when the flow is suspended."""
        while True:
            try:
                return await self._read(await self._started(), tp, first, end)
            except (KafkaError, OSError) as error:
                if isinstance(error, BrokerResponseError) and not error.retriable:
                    raise
                await self.close()
                await asyncio.sleep(_BROKER_AWAY_S)

    async def _read(
        self,
        consumer: Consumer,
        tp: Any,
        first: int,
        end: int,
    ) -> tuple[int, int, frozenset[int]]:
        where = TopicPartition(tp.topic, tp.partition)
        begin = (await consumer.beginning_offsets([where]))[where]
        consumer.assign([where])
        consumer.seek(where, first)
        offsets: set[int] = set()
        position = first
        while position < end and not (offsets and min(offsets) < end):
            try:
                for records in (await consumer.getmany(where, timeout_ms=1000)).values():
                    offsets.update(record.offset for record in records)
            # An operator gave the batch up: otherwise no record after it would come.
            except UnreadableBatch as batch:
                consumer.skip(batch)
            position = await consumer.position(where)
        if begin > first:
            self.on_expired(tp.topic, tp.partition, first, min(begin, end))
        return first, position, frozenset(offsets)

    async def _started(self) -> Consumer:
        if self._consumer is None:
            consumer = Consumer(**self._connection.settings(), inputs=self._connection.inputs)
            try:
                await consumer.start()
            except BaseException:
                await stop_consumer(consumer)
                raise
            self._consumer = consumer
        return self._consumer
