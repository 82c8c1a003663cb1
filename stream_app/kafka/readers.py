"""Reads topics outside a consumer group.

It reads them to their end, from a position on, as they grow, or single records by id.
"""

import asyncio
import logging
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from itertools import chain
from typing import Any, Final, Self

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from stream_app.domain.model.errors import BrokerUnavailable, KafkaRefused, UnreadableBatch
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.records import ConsumedRecord, consumed_record, parse_record_id
from stream_app.domain.model.text import count
from stream_app.domain.model.untrusted import UNREADABLE
from stream_app.kafka.connection import KafkaConnection, repeated, stop_consumer
from stream_app.kafka.consumer import Consumer

log = logging.getLogger(__name__)

_MAX_RECORDS: Final = 5_000
_SILENT_S: Final = 30.0
_NEAR: Final = 500
_ARCHIVE_WITHIN_S: Final = 30.0
# Small, because most of the records are far apart and the rest of a fetch is discarded.
_ARCHIVE_BYTES: Final = 2**18
_RETRY_S: Final = 0.5
_events: Final = msgspec.json.Decoder(StatusEvent)
OffsetSpan = tuple[int, int]
"""The first offset and the end offset, which is excluded."""
Progress = Callable[[int, int], None]
"""Called with the offsets read so far and the offsets to read."""
Records = dict[TopicPartition, list[Any]]
"""PlainRecords by partition, each list in order and not empty."""


class Reader:
    """Reads committed records.

    An async context manager; one task at a time may scan, follow or fetch.

    `patience_s`: how long to try to connect. `options` are aiokafka's for the consumer, where they
    differ from those for a scan.

    Raises:
        BrokerUnavailable: Kafka does not answer. All methods raise it.
        KafkaRefused: Kafka does not allow the read. All methods raise it.
    """

    def __init__(self, connection: KafkaConnection, patience_s: float = 0, **options: Any) -> None:
        self._connection = connection
        self._patience_s = patience_s
        self._options = {"fetch_max_wait_ms": 50, **options}

    async def __aenter__(self) -> Self:
        self._consumer = Consumer(
            **self._connection.settings(),
            inputs=self._connection.inputs,
            **self._options,
        )
        try:
            with self._errors():
                await repeated(self._consumer.start, self._patience_s)
        except BaseException:
            await stop_consumer(self._consumer)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop_consumer(self._consumer)

    @property
    def client(self) -> Any:
        """The BoundedClient, for requests that are not reads."""
        return self._consumer._client

    @property
    def unreadable(self) -> Collection[UnreadableBatch]:
        """The batches that partitions have stopped before."""
        return self._consumer.unreadable.values()

    async def begins(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the first offset that Kafka keeps of each partition."""
        with self._errors():
            return dict(await self._consumer.beginning_offsets(list(partitions)))

    async def ends(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the offset after the last committed record of each partition."""
        with self._errors():
            return dict(await self._consumer.end_offsets(list(partitions)))

    async def spans(
        self,
        partitions: Collection[TopicPartition],
    ) -> dict[TopicPartition, OffsetSpan]:
        """Return the span of everything that Kafka keeps of each partition."""
        begins = await self.begins(partitions)
        ends = await self.ends(partitions)
        return {tp: (begins[tp], ends[tp]) for tp in partitions}

    async def committed(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the committed offsets of the reader's group. Partitions without one are absent."""
        with self._errors():
            committed = {tp: await self._consumer.committed(tp) for tp in partitions}
        return {tp: offset for tp, offset in committed.items() if offset is not None}

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit offsets for the reader's group, which must have no members."""
        with self._errors():
            await self._consumer.commit(dict(offsets))

    async def position(self, tp: TopicPartition) -> int:
        """Return the offset of the next record of a partition that is being read."""
        with self._errors():
            return int(await self._consumer.position(tp))

    async def scan(
        self,
        spans: Mapping[TopicPartition, OffsetSpan],
        *,
        max_records: int = _MAX_RECORDS,
        on_unreadable: Callable[[UnreadableBatch], object] | None = None,
        progress: Progress | None = None,
    ) -> AsyncIterator[Records]:
        """Read each span to its end, and yield the records in pieces.

        A span ends by the position and not by a record, because transaction markers take offsets
        too.

        Args:
            spans: What to read, between the first and the end offset of each partition.
            max_records: The largest number of records in a piece.
            on_unreadable: Called with each batch that cannot be read, which is then skipped. None:
                raise it.
            progress: Called before each piece is yielded.

        Raises:
            BrokerUnavailable: No partition has made progress for 30 s.
            UnreadableBatch: A batch cannot be read, and everything else in reach was yielded.
        """
        left = {tp: (begin, end) for tp, (begin, end) in spans.items() if begin < end}
        if not left:
            return
        total = sum(end - begin for begin, end in left.values())
        done = 0
        self._assign({tp: begin for tp, (begin, _) in left.items()})
        heard_s = time.monotonic()
        while left:
            batches: Records = {}
            try:
                polled = await self._poll(left, 500, max_records)
            except UnreadableBatch as batch:
                if on_unreadable is None:
                    raise
                on_unreadable(batch)
                self._consumer.skip(batch)
                polled = {}
            for tp, records in polled.items():
                end = left[tp][1]
                if records[-1].offset >= end:
                    records = [record for record in records if record.offset < end]
                if records:
                    batches[tp] = records
            before = done
            for tp, (position, end) in list(left.items()):
                now = min(await self.position(tp), end)
                done += now - position
                left[tp] = (now, end)
                if now >= end:
                    del left[tp]
                    self._consumer.pause(tp)
            if progress is not None:
                progress(done, total)
            if batches:
                yield batches
            if done > before:
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > _SILENT_S:
                tp, (position, end) = next(iter(left.items()))
                raise BrokerUnavailable(
                    f"{tp.topic}/{tp.partition} gave nothing for {_SILENT_S:.0f} s at offset "
                    f"{position} of "
                    f"{end}: is its broker up?",
                )

    async def follow(
        self,
        starts: Mapping[TopicPartition, int],
        *,
        wait_ms: int = 500,
        max_records: int = _MAX_RECORDS,
        pass_unreadable: bool = False,
    ) -> AsyncIterator[Records]:
        """Yield the records from these offsets on as they come. It does not end by itself.

        Args:
            starts: The first offset to read of each partition.
            wait_ms: Yield an empty piece when nothing came for this many milliseconds.
            max_records: The largest number of records in a piece.
            pass_unreadable: Keep a batch that cannot be read in `unreadable`, try it again now and
                then, and go on with the other partitions.

        Raises:
            UnreadableBatch: A batch cannot be read, unless `pass_unreadable`.
        """
        self._assign(starts)
        while True:
            try:
                records = await self._poll((), wait_ms, max_records)
            except UnreadableBatch:
                if not pass_unreadable:
                    raise
                records = {}
            yield records

    async def fetch(self, offsets: Mapping[TopicPartition, Iterable[int]]) -> list[Any]:
        """Return the records at these offsets.

        Those that are not committed, cannot be read or are no longer kept are left out.
        """
        with self._errors():
            topics = await self._consumer.topics()
        existing = [tp for tp in offsets if tp.topic in topics]  # a deleted topic has no records
        records: list[Any] = []
        for tp, (begin, end) in (await self.spans(existing)).items():
            wanted = {offset for offset in offsets[tp] if begin <= offset < end}
            for span in _runs(sorted(wanted)):
                async for polled in self.scan(
                    {tp: span},
                    max_records=_NEAR,
                    on_unreadable=lambda _: None,
                ):
                    records += [record for record in polled[tp] if record.offset in wanted]
        return records

    async def firsts(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Any]:
        """Return the first committed record that Kafka keeps of each partition.

        Partitions without one are absent.
        """
        spans = await self.spans(partitions)
        left = {tp: begin for tp, (begin, end) in spans.items() if begin < end}
        firsts: dict[TopicPartition, Any] = {}
        try:
            async with asyncio.timeout(_SILENT_S):
                while left:
                    self._assign(left)
                    for tp, records in (await self._poll((), 500, _MAX_RECORDS)).items():
                        firsts[tp] = records[0]
                    passed = {tp: await self.position(tp) for tp in left}
                    left = {
                        tp: at
                        for tp, at in passed.items()
                        if tp not in firsts and at < spans[tp][1]
                    }
        except TimeoutError:
            tp = next(iter(left))
            raise BrokerUnavailable(
                f"{tp.topic}/{tp.partition} gave nothing for {_SILENT_S:.0f} s: is its broker up?",
            ) from None
        return firsts

    def _assign(self, starts: Mapping[TopicPartition, int]) -> None:
        self._consumer.assign(list(starts))
        for tp, offset in starts.items():
            self._consumer.seek(tp, offset)

    async def _poll(
        self,
        partitions: Iterable[TopicPartition],
        wait_ms: int,
        max_records: int,
    ) -> Records:
        with self._errors():
            return await self._consumer.getmany(
                *partitions,
                timeout_ms=wait_ms,
                max_records=max_records,
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (KafkaError, OSError) as error:
            raise self._connection.lost(error) from error


class TopicReader(Reader):
    """Reads topics that all have the same number of partitions.

    `progress` reports on the topic that is being read.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        partitions: int,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(connection, fetch_max_wait_ms=100)
        self._partitions = partitions
        self._progress = progress

    async def bounds(self, topic: str) -> dict[int, OffsetSpan]:
        """Return the span of everything that Kafka keeps of a topic, by partition."""
        spans = await self.spans(
            [TopicPartition(topic, number) for number in range(self._partitions)],
        )
        return {tp.partition: span for tp, span in spans.items()}

    async def offsets_at(self, topic: str, time_ms: int) -> dict[int, int | None]:
        """Return the first offset appended at or after that time, by partition.

        None: there is none.
        """
        partitions = {TopicPartition(topic, number): time_ms for number in range(self._partitions)}
        with self._errors():
            offsets = await self._consumer.offsets_for_times(partitions)
        return {tp.partition: at.offset if at else None for tp, at in offsets.items()}

    async def read(
        self,
        topic: str,
        ranges: Mapping[int, OffsetSpan] | None = None,
    ) -> AsyncIterator[list[Any]]:
        """Scan a topic, and yield its PlainRecords, each partition in its order.

        `ranges`: what to read, by partition; None: everything that Kafka keeps.
        """
        bounds = await self.bounds(topic)
        spans = {
            TopicPartition(topic, number): (
                max(begin, bounds[number][0]),
                min(end, bounds[number][1]),
            )
            for number, (begin, end) in (bounds if ranges is None else ranges).items()
        }
        async for polled in self.scan(spans, progress=self._progress):
            for records in polled.values():
                yield records


def consumed(record: Any) -> ConsumedRecord:
    """Convert a record that was read."""
    return consumed_record(
        record.topic,
        record.partition,
        record.offset,
        record.key,
        record.value,
        record.headers,
        round(record.timestamp),
    )


def _runs(offsets: Sequence[int]) -> Iterator[OffsetSpan]:
    """Group sorted offsets into runs whose offsets are near each other."""
    run: list[int] = []
    for offset in offsets:
        if run and offset >= run[-1] + _NEAR:
            yield run[0], run[-1] + 1
            run = []
        run.append(offset)
    if run:
        yield run[0], run[-1] + 1


async def fetch(
    connection: KafkaConnection,
    record_ids: Sequence[str],
) -> dict[str, ConsumedRecord]:
    """Return records by their ids ("topic/partition/offset").

    Connects for each call: calls are rare.

    Those that are not committed, not readable or not kept are missing.

    Raises:
        BrokerUnavailable: Kafka did not answer in time.
    """
    wanted: dict[TopicPartition, list[int]] = {}
    for record_id in record_ids:
        if (at := parse_record_id(record_id)) is not None:
            wanted.setdefault(TopicPartition(*at[:2]), []).append(at[2])
    if not wanted:
        return {}
    try:
        async with (
            asyncio.timeout(_ARCHIVE_WITHIN_S),
            Reader(connection, max_partition_fetch_bytes=_ARCHIVE_BYTES) as reader,
        ):
            records = [consumed(record) for record in await reader.fetch(wanted)]
    except (BrokerUnavailable, KafkaRefused, TimeoutError) as error:
        raise BrokerUnavailable(
            f"Kafka at {connection.bootstrap} did not give "
            f"{count(len(record_ids), 'record')} again: "
            f"{str(error) or f'no answer within {_ARCHIVE_WITHIN_S:.0f} s'}",
        ) from error
    return {record.record_id: record for record in records}


async def waiting(
    connection: KafkaConnection,
    topic: str,
    partition: int,
    offset: int,
    max_records: int,
    within_s: float,
) -> list[ConsumedRecord]:
    """Read at most `max_records` from `offset` to the current end.

    Stops before a batch that cannot be read.

    Raises:
        BrokerUnavailable: Kafka did not answer within `within_s` seconds.
    """
    last: BaseException | None = None
    try:
        async with asyncio.timeout(within_s):
            while True:
                try:
                    return await _waiting(
                        connection,
                        TopicPartition(topic, partition),
                        offset,
                        max_records,
                    )
                except (BrokerUnavailable, KafkaRefused) as error:
                    last = error.__cause__ or error
                    await asyncio.sleep(_RETRY_S)
    except TimeoutError as late:
        raise BrokerUnavailable(
            f"{topic}/{partition} was not read to its end within {within_s:.0f} s (last: "
            f"{last or 'no answer'}): "
            f"is {connection.bootstrap} up, and does the topic exist?",
        ) from (last or late)


async def _waiting(
    connection: KafkaConnection,
    tp: TopicPartition,
    offset: int,
    max_records: int,
) -> list[ConsumedRecord]:
    records: list[ConsumedRecord] = []
    async with Reader(connection, fetch_max_wait_ms=20) as reader:
        end = (await reader.ends([tp]))[tp]
        # A topic that ends before `offset` was created again.
        begin = (await reader.begins([tp]))[tp] if offset > end else offset
        try:
            async for polled in reader.scan({tp: (begin, end)}, max_records=max_records):
                records += map(consumed, polled[tp])
                if len(records) >= max_records:
                    break
        except UnreadableBatch:  # the group stops there too, and reports it
            pass
    return records[:max_records]


class StatusFollower(Reader):
    """Read partitions of `leads.status`, committed events only. A context manager.

    It reads what is committed after its block began, or everything that Kafka keeps.

    Raises:
        BrokerUnavailable: Kafka does not answer.
        KafkaRefused: Kafka does not allow the read.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        topic: str,
        partitions: Collection[int],
        *,
        from_beginning: bool = False,
    ) -> None:
        start = "earliest" if from_beginning else "latest"
        super().__init__(connection, auto_offset_reset=start, fetch_max_wait_ms=500)
        self._partitions = [TopicPartition(topic, number) for number in partitions]
        self._from_beginning = from_beginning

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            self._starts = await (self.begins if self._from_beginning else self.ends)(
                self._partitions,
            )
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def events(
        self,
        lead_ids: Collection[str] | None = None,
        workspace: str | None = None,
        idle_timeout_s: float | None = None,
    ) -> AsyncGenerator[StatusEvent]:
        """Yield events of these leads and this workspace (None: all), each partition in its order.

        Ends after `idle_timeout_s` without an event to yield, half a second more at most; None:
        never.
        """
        keys = None if lead_ids is None else {lead_id.encode() for lead_id in lead_ids}
        last_s = time.monotonic()
        async for polled in self.follow(self._starts):
            for record in chain.from_iterable(polled.values()):
                if keys is not None and record.key not in keys:
                    continue
                event = _decoded(record)
                if event is not None and workspace in (None, event.workspace):
                    yield event
                    last_s = time.monotonic()
            if idle_timeout_s is not None and time.monotonic() - last_s >= idle_timeout_s:
                return

    async def batches(self) -> AsyncIterator[list[StatusEvent]]:
        """Yield all events for ever, each partition in its order.

        A batch is empty when none came for half a second.
        """
        async for polled in self.follow(self._starts):
            decoded = map(_decoded, chain.from_iterable(polled.values()))
            yield [event for event in decoded if event is not None]


def _decoded(record: Any) -> StatusEvent | None:
    """Return the event; None if it is none that this version can read, which the log says."""
    try:
        return _events.decode(record.value or b"")
    except UNREADABLE:
        place = f"{record.topic}/{record.partition}/{record.offset}"
        log.warning("%s is left out: it is not a status event that this version can read", place)
        return None
