"""Reads the books from Kafka, even while workers are running.

What is read is consistent:

    groups' offsets -> a cut of every partition -> ends of the lead topics -> rows, events, records

Records that a group had committed at the first step have their events before the second, so the cut
contains them. Records that an event of the cut refers to were on their topics before the third.
Leads in flight therefore do not look lost.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from typing import Any, Final

from aiokafka import TopicPartition

from stream_app.client.books.compare import Books
from stream_app.clock import Clock
from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of, kafka_ready
from stream_app.domain.books.money import BooksReport
from stream_app.domain.model.errors import StreamAppError, UnreadableBatch
from stream_app.domain.model.records import consumed_record
from stream_app.kafka.groups import look_at
from stream_app.kafka.readers import Progress, Reader

_FETCH_BYTES: Final = 4 * 2**20
_CUT_WITHIN_S: Final = 2.0


async def read_books(
    settings: Settings,
    *,
    limit: int,
    progress: Progress,
    say: Callable[[str], None],
) -> BooksReport:
    """Read all topics and close the books.

    At most `limit` problems are named; all are counted. `say` gets a line while this waits for
    Kafka.

    Raises:
        TopicsError, KafkaRefused, BrokerUnavailable: Kafka is not ready.
        StreamAppError: The temporary file cannot be written.
    """
    await kafka_ready(settings, "books", say)
    books = Books(settings.plan, limit=limit)
    try:
        await _BooksReader(settings, books, progress).read()
        return books.close(Clock().now_ms())
    except sqlite3.OperationalError as error:
        raise StreamAppError(
            f"the temporary file of the books cannot be written ({error}): "
            "set TMPDIR to a directory with 300 MB free for each million leads",
        ) from error


class _BooksReader:
    """Fills `Books` from Kafka."""

    def __init__(self, settings: Settings, books: Books, progress: Progress) -> None:
        self._settings = settings
        self._connection = connection_of(settings)
        self._names = settings.names
        self._partitions = range(settings.kafka.partitions)
        self._books = books
        self._progress = progress

    async def read(self) -> None:
        """Read everything. Raises BrokerUnavailable."""
        names = self._names
        books = self._books
        groups = await look_at(self._connection, (names.worker_app, names.replay_app))
        passed = {
            place: offset for _, committed in groups.values() for place, offset in committed.items()
        }
        waits = [names.wait(tier_s) for tier_s in self._settings.replay.tiers_s]
        async with self._reader() as reader:
            exact, cut = await self._cut(reader)
            ends = cut | await reader.ends(
                self._all(*names.lead_topics, names.dlq, names.deferred, *waits),
            )
            begins = await reader.begins(ends)
            for number in self._partitions:
                kept = begins[TopicPartition(names.status, number)] == 0
                books.partition(number, exact=number in exact, kept=kept)
            # Retention may have deleted more meanwhile than there was before an end.
            sizes = {tp: max(0, ends[tp] - begin) for tp, begin in begins.items()}
            to_read = sum(sizes.values())
            before = 0

            def progress(done: int, _: int) -> None:
                self._progress(before + done, to_read)

            for tp, end in ends.items():
                span = {tp: (begins[tp], end)}
                async for polled in reader.scan(
                    span,
                    on_unreadable=self._unreadable,
                    progress=progress,
                ):
                    for record in polled[tp]:
                        self._add(tp, record, passed.get((tp.topic, tp.partition), 0))
                before += sizes[tp]
            # Retention may have removed records during the read, while their events are kept.
            for tp, begin in (await reader.begins(self._all(*names.lead_topics))).items():
                books.begins(tp.topic, tp.partition, begin)

    async def _cut(self, reader: Reader) -> tuple[set[int], dict[TopicPartition, int]]:
        """Ends of state and status, and the partitions in which both are of the same moment.

        They are when, after the last stable offsets were read, both logs still end there: then
        there was a moment in between without an open transaction, so every step is in both of them
        or in none.
        """
        exact: set[int] = set()
        cut: dict[TopicPartition, int] = {}
        async with self._reader(isolation_level="read_uncommitted") as outside:
            deadline = time.monotonic() + _CUT_WITHIN_S
            for number in self._partitions:
                both = [
                    TopicPartition(self._names.state, number),
                    TopicPartition(self._names.status, number),
                ]
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

    def _add(self, tp: TopicPartition, record: Any, passed: int) -> None:
        """Add a committed record of any topic.

        `passed` is the committed offset of the group that reads it.
        """
        if tp.topic == self._names.state:
            self._books.row(tp.partition, record.key, record.value)
        elif tp.topic == self._names.status:
            self._books.event(
                tp.partition,
                record.value or b"",
                f"{tp.topic}/{tp.partition}/{record.offset}",
            )
        else:
            key = None  # nothing here needs it
            consumed = consumed_record(
                tp.topic,
                tp.partition,
                record.offset,
                key,
                record.value,
                record.headers,
                record.timestamp,
            )
            self._books.record(consumed, passed=record.offset < passed)

    def _unreadable(self, batch: UnreadableBatch) -> None:
        """Report a batch of records that cannot be read.

        Without all rows and events the books cannot be closed.
        """
        if batch.topic in (self._names.state, self._names.status):
            raise batch
        what = (
            f"records up to offset {batch.last} cannot be read, and are not counted: {batch.cause}"
        )
        self._books.problem(f"{batch.topic}/{batch.partition}/{batch.first}", what)

    def _all(self, *topics: str) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for topic in topics for number in self._partitions]

    def _reader(self, **options: Any) -> Reader:
        return Reader(self._connection, max_partition_fetch_bytes=_FETCH_BYTES, **options)
