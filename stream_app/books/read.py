"""Reads a consistent view of the topics for the books while workers may be running.

    groups' offsets -> a cut of every partition -> ends of the lead topics -> rows, events, records

Records that a group had committed at the first step have their events before the second, so the cut contains them.
Records that an event of the cut refers to were on their topics before the third. So leads in flight do not look lost.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from aiokafka import TopicPartition

from stream_app.books.collect import Books, BooksTerms
from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of, kafka_ready
from stream_app.domain.books.report import Report
from stream_app.domain.errors import StreamAppError, UnreadableBatch
from stream_app.domain.record import ConsumedRecord
from stream_app.kafka.connection import open_admin
from stream_app.kafka.groups import committed_offsets
from stream_app.kafka.readers import Progress, Reader
from stream_app.ops.clock import SystemClock

_FETCH_BYTES: Final = 4 * 2**20
_CUT_WITHIN_S: Final = 2.0
_DAY_MS: Final = 86_400_000


async def read_books(settings: Settings, *, limit: int, progress: Progress, say: Callable[[str], None]) -> Report:
    """Read all topics and close the books.

    At most `limit` problems are named; all are counted. `say` gets a line while this waits for Kafka.

    Raises:
        TopicsError, KafkaRefused, BrokerUnavailable: Kafka is not ready.
        StreamAppError: The temporary file cannot be written.
    """
    await kafka_ready(settings, "books", say)
    try:
        return await _BooksReader(settings, progress).read(Books(terms_of(settings), limit=limit), SystemClock().now_ms)
    except sqlite3.OperationalError as error:
        raise StreamAppError(
            f"the temporary file of the books cannot be written ({error}): set TMPDIR to a directory with 300 MB free "
            "for each million leads"
        ) from error


def terms_of(settings: Settings) -> BooksTerms:
    """Return the part of the configuration that the books need. It holds no webhook or token."""
    return BooksTerms(
        workspaces={name: here.budget for name, here in settings.workspaces.items()},
        final=settings.without_callbacks,
        freshness_ms=settings.delivery.freshness_days * _DAY_MS,
        topics=settings.names,
    )


class _BooksReader:
    """Fills `Books` from Kafka."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._connection = connection_of(settings)
        self._names = names = settings.names
        self._partitions = range(settings.kafka.partitions)
        self._return_topics = (names.dlq, names.deferred, *(names.wait(tier_s) for tier_s in settings.replay.tiers_s))
        self._progress = progress
        self._read = 0
        self._to_read = 0

    async def read(self, books: Books, now_ms: Callable[[], int]) -> Report:
        """Read everything and close the books. Raises BrokerUnavailable."""
        passed = await self._passed()
        async with self._reader() as reader:
            exact, cut = await self._cut(reader)
            topics = (*self._names.lead_topics, *self._return_topics)
            ends = cut | await reader.ends(self._all(*topics))
            begins = await reader.begins(ends)
            self._to_read = sum(ends[tp] - begins[tp] for tp in ends)
            for number in self._partitions:
                await self._rows_and_events(reader, books, number, number in exact, begins, ends)
            for tp in self._all(*topics):
                await self._records(reader, books, tp, passed.get(tp, 0), begins[tp], ends[tp])
            # Retention may have removed records during the read, while their events are kept.
            for tp, begin in (await reader.begins(self._all(*self._names.lead_topics))).items():
                books.begins(tp.topic, tp.partition, begin)
        return books.close(now_ms())

    # ------------------------------------------------------------------------------------------------- the moment

    async def _passed(self) -> dict[TopicPartition, int]:
        """Return the committed offsets of both groups."""
        found: dict[TopicPartition, int] = {}
        async with open_admin(self._connection) as admin:
            for group in (self._names.worker_app, self._names.replay_app):
                found |= await committed_offsets(admin, group)
        return found

    async def _cut(self, reader: Reader) -> tuple[set[int], dict[TopicPartition, int]]:
        """Ends of state and status, and the partitions in which both are of the same moment.

        They are when, after the last stable offsets were read, both logs still end there: then there was a moment in
        between without an open transaction, so every step is in both of them or in none.
        """
        exact: set[int] = set()
        cut: dict[TopicPartition, int] = {}
        async with self._reader(isolation_level="read_uncommitted") as outside:
            deadline = time.monotonic() + _CUT_WITHIN_S
            for number in self._partitions:
                both = [TopicPartition(self._names.state, number), TopicPartition(self._names.status, number)]
                while number not in exact:
                    stable = await reader.ends(both)
                    if stable == await outside.ends(both):
                        exact.add(number)
                    elif time.monotonic() > deadline:
                        break
                    else:
                        await asyncio.sleep(0.003)
                cut |= stable
        return exact, cut

    # --------------------------------------------------------------------------------------------------- the reading

    async def _rows_and_events(
        self,
        reader: Reader,
        books: Books,
        number: int,
        exact: bool,
        begins: dict[TopicPartition, int],
        ends: dict[TopicPartition, int],
    ) -> None:
        state, status = TopicPartition(self._names.state, number), TopicPartition(self._names.status, number)
        books.partition(number, exact=exact, kept=begins[status] == 0)
        async for record in self._each(reader, state, begins[state], ends[state]):
            books.row(number, record.key, record.value)
        async for record in self._each(reader, status, begins[status], ends[status]):
            books.event(number, record.value or b"", f"{status.topic}/{number}/{record.offset}")

    async def _records(
        self, reader: Reader, books: Books, tp: TopicPartition, passed: int, begin: int, end: int
    ) -> None:
        def unreadable(batch: UnreadableBatch) -> None:
            what = f"records up to offset {batch.last} cannot be read, and are not counted: {batch.cause}"
            books.problem(f"{batch.topic}/{batch.partition}/{batch.first}", what)

        async for record in self._each(reader, tp, begin, end, unreadable):
            consumed = ConsumedRecord(tp.topic, tp.partition, record.offset, None, None, record.headers)
            books.record(consumed, passed=record.offset < passed)

    async def _each(
        self,
        reader: Reader,
        tp: TopicPartition,
        begin: int,
        end: int,
        unreadable: Callable[[UnreadableBatch], None] | None = None,
    ) -> AsyncIterator[Any]:
        """Yield the committed records of a partition from `begin` to before `end`."""

        def progress(done: int, _: int) -> None:
            self._progress(before + done, self._to_read)

        before = self._read
        async for got in reader.scan({tp: (begin, end)}, on_unreadable=unreadable, progress=progress):
            for record in got[tp]:
                yield record
        self._read = before + max(0, end - begin)

    # -------------------------------------------------------------------------------------------------------- tools

    def _all(self, *topics: str) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for topic in topics for number in self._partitions]

    def _reader(self, **options: Any) -> Reader:
        return Reader(self._connection, max_partition_fetch_bytes=_FETCH_BYTES, **options)
