"""Reads a consistent view of the topics for the books while workers may be running.

    groups' offsets -> a cut of every partition -> ends of the lead topics -> rows, events, records

Records that a group had committed at the first step have their events before the second, so the cut contains them.
Records that an event of the cut refers to were on their topics before the third. So leads in flight do not look lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition

from stream_app.domain.books.audit import audit
from stream_app.domain.books.histories import Books, Problem, Report
from stream_app.domain.errors import UnreadableBatch
from stream_app.domain.record import ConsumedRecord
from stream_app.domain.topics import TopicNames
from stream_app.kafka.connection import KafkaConnection, open_admin
from stream_app.kafka.groups import committed_offsets
from stream_app.kafka.readers import Progress, Reader

_FETCH_BYTES: Final = 4 * 2**20
_CUT_WITHIN_S: Final = 2.0


class _Named(msgspec.Struct, gc=False):
    origin: str
    lead_id: str


_named: Final = msgspec.json.Decoder(_Named)


class BooksReader:
    """Fills `Books` from Kafka. `tiers_s` are the delay tiers of the replay app, each with its topic."""

    def __init__(
        self,
        connection: KafkaConnection,
        names: TopicNames,
        partitions: int,
        tiers_s: Iterable[int],
        progress: Progress,
    ) -> None:
        self._connection = connection
        self._names = names
        self._partitions = range(partitions)
        self._lead_topics = (names.leads, names.retry, names.bulk)
        self._return_topics = (names.dlq, names.deferred, *(names.wait(tier_s) for tier_s in tiers_s))
        self._progress = progress
        self._read = 0
        self._to_read = 0

    async def read(self, books: Books, now_ms: Callable[[], int]) -> Report:
        """Read everything and close the books. Raises BrokerUnavailable."""
        passed = await self._passed()
        async with self._reader() as reader:
            exact, cut = await self._cut(reader)
            topics = (*self._lead_topics, *self._return_topics)
            ends = cut | await reader.ends(self._all(*topics))
            begins = await reader.begins(ends)
            self._to_read = sum(ends[tp] - begins[tp] for tp in ends)
            for number in self._partitions:
                await self._rows_and_events(reader, books, number, number in exact, begins, ends)
            for tp in self._all(*topics):
                await self._records(reader, books, tp, passed.get(tp, 0), begins[tp], ends[tp])
            # Retention may have removed records during the read, while their events are kept.
            for tp, begin in (await reader.begins(self._all(*self._lead_topics))).items():
                books.begins(tp.topic, tp.partition, begin)
            report = audit(books, now_ms())
            return await self._with_lead_ids(reader, report, begins, ends)

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
        rows = books.rows_of(number, exact=exact, kept=begins[status] == 0)
        async for record in self._each(reader, state, begins[state], ends[state]):
            rows.add(record.key, record.value)
        rows.close()
        async for record in self._each(reader, status, begins[status], ends[status]):
            books.event(number, record.value or b"", f"{status.topic}/{number}/{record.offset}")

    async def _records(
        self, reader: Reader, books: Books, tp: TopicPartition, passed: int, begin: int, end: int
    ) -> None:
        def unreadable(batch: UnreadableBatch) -> None:
            what = f"records up to offset {batch.last} cannot be read, and are not counted: {batch.cause}"
            books.problems.add(f"{batch.topic}/{batch.partition}/{batch.first}", what)

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

    async def _with_lead_ids(
        self, reader: Reader, report: Report, begins: dict[TopicPartition, int], ends: dict[TopicPartition, int]
    ) -> Report:
        """The problems with the ids of their leads, which only the events know: they are read again for that."""
        missing = {problem.where for problem in report.problems if not problem.lead_id}
        found: dict[str, str] = {}
        for tp in self._all(self._names.status) if missing else ():
            async for record in self._each(reader, tp, begins[tp], ends[tp]):
                try:
                    event = _named.decode(record.value or b"")
                except msgspec.DecodeError:
                    continue
                if event.origin in missing:
                    found[event.origin] = event.lead_id
        named = [Problem(each.where, each.what, each.lead_id or found.get(each.where, "")) for each in report.problems]
        return msgspec.structs.replace(report, problems=named)

    # -------------------------------------------------------------------------------------------------------- tools

    def _all(self, *topics: str) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for topic in topics for number in self._partitions]

    def _reader(self, **options: Any) -> Reader:
        return Reader(self._connection, max_partition_fetch_bytes=_FETCH_BYTES, **options)
