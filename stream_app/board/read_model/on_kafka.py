"""Reads from Kafka what the read model lacks: results, and leads that no worker has processed yet.

The read model stores positions only, no personal data. A search for a lead has a limit of records
and seconds.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition

from stream_app.board.read_model.query import FoundResultAt
from stream_app.client.results.answers import NO_ANSWER, FoundResult
from stream_app.domain.lead.identity import identify, is_made_id
from stream_app.domain.lead.read import Unreadable, read_lead
from stream_app.domain.model.errors import BrokerUnavailable, KafkaRefused, UnreadableBatch
from stream_app.domain.model.messages import Result
from stream_app.domain.model.untrusted import UNREADABLE
from stream_app.domain.views.explain import ConsumerGroup
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.groups import look_at
from stream_app.kafka.readers import Reader, TopicReader

_RESULT_WITHIN_S: Final = 5.0
_MOVED: Final = "a newer result has just replaced it: try again"

_result: Final = msgspec.json.Decoder(Result)


class ResultFetcher:
    """Reads one result at a time with one consumer, which opens at the first use."""

    def __init__(self, connection: KafkaConnection, topic: str, partitions: int) -> None:
        self._connection = connection
        self._topic = topic
        self._partitions = partitions
        self._reader: TopicReader | None = None
        self._turn = asyncio.Lock()

    async def close(self) -> None:
        reader = self._reader
        self._reader = None
        if reader is not None:
            await reader.__aexit__()

    async def fill(self, stored: FoundResultAt) -> FoundResult:
        """Return the result with its data, or with a problem text. Never raises."""
        problem = _MOVED
        raw = None
        try:
            async with asyncio.timeout(_RESULT_WITHIN_S), self._turn:
                raw = await self._value(stored.partition, stored.offset)
        except (BrokerUnavailable, TimeoutError):
            await self.close()
            problem = NO_ANSWER
        except UnreadableBatch as batch:
            problem = str(batch)
        if raw is None:
            return msgspec.structs.replace(stored.result, problem=problem)
        try:
            result = _result.decode(raw)
        except UNREADABLE:
            return msgspec.structs.replace(
                stored.result,
                problem="this version cannot read the result",
            )
        return msgspec.structs.replace(stored.result, age_s=result.age_s, fields=result.fields)

    async def _value(self, partition: int, offset: int) -> bytes | None:
        if self._reader is None:
            self._reader = await TopicReader(self._connection, self._partitions).__aenter__()
        value: bytes | None = None
        async for records in self._reader.read(self._topic, {partition: (offset, offset + 1)}):
            for record in records:
                value = record.value
        return value


_MAX_RECORDS: Final = 200_000
_MAX_RECORDS_AT_ONCE: Final = 1_000
_SEARCH_WITHIN_S: Final = 5.0
_BUSY_S: Final = 5.0


class FoundRecord(msgspec.Struct, frozen=True):
    """A waiting record of the lead.

    Attributes:
        blocked: The unreadable batch before it.
    """

    lead_id: str
    workspace: str
    topic: str
    partition: int
    offset: int
    since_ms: int
    ahead: int
    blocked: UnreadableBatch | None = None


class Search(msgspec.Struct):
    """The result of a search. `searched` records were looked at, and about `left` more were not."""

    matches: list[FoundRecord] = []
    worker: ConsumerGroup = ConsumerGroup("", 0)
    searched: int = 0
    left: int = 0
    problem: str = ""


class WaitingLeads:
    """Runs one search at a time. `group` is the workers' consumer group."""

    def __init__(
        self,
        connection: KafkaConnection,
        group: str,
        topics: Iterable[str],
        partitions: int,
    ) -> None:
        self._connection = connection
        self._group = group
        self._logs = [
            TopicPartition(topic, number) for topic in topics for number in range(partitions)
        ]
        self._turn = asyncio.Lock()

    async def find(self, lead_id: str, person: str, workspace: str) -> Search:
        """Search for a lead id or, if that is empty, for a person's hash. Never raises.

        `workspace` is '' for a search in all of them.
        """
        search = Search()
        try:
            async with asyncio.timeout(_BUSY_S):
                await self._turn.acquire()
        except TimeoutError:
            search.problem = "another search is running: try again"
            return search
        try:
            async with asyncio.timeout(2 * _SEARCH_WITHIN_S):
                await self._search(search, _matcher(lead_id, person, workspace))
        except (BrokerUnavailable, KafkaRefused, TimeoutError):
            search.problem = NO_ANSWER
        finally:
            self._turn.release()
        return search

    async def _search(self, search: Search, match: Callable[[Any], tuple[str, str] | None]) -> None:
        search.worker, offsets = (await look_at(self._connection, [self._group]))[self._group]
        async with Reader(self._connection) as reader:
            begins = await reader.begins(self._logs)
            ends = await reader.ends(self._logs)
            starts = {
                log: max(begins[log], offsets.get((log.topic, log.partition), 0))
                for log in self._logs
            }
            search.left = sum(max(0, ends[log] - at) for log, at in starts.items())
            blocked: dict[TopicPartition, UnreadableBatch] = {}

            def note(batch: UnreadableBatch) -> None:
                blocked.setdefault(TopicPartition(batch.topic, batch.partition), batch)
                search.problem = str(batch)

            def progress(done: int, total: int) -> None:
                search.left = total - done

            spans = {log: (starts[log], ends[log]) for log in self._logs}
            with suppress(TimeoutError):
                async with asyncio.timeout(_SEARCH_WITHIN_S):
                    async for polled in reader.scan(
                        spans,
                        max_records=_MAX_RECORDS_AT_ONCE,
                        on_unreadable=note,
                        progress=progress,
                    ):
                        for log, records in polled.items():
                            search.searched += len(records)
                            for record, (lead_id, workspace) in await asyncio.to_thread(
                                _matching,
                                records,
                                match,
                            ):
                                where = (log.topic, log.partition, record.offset, record.timestamp)
                                ahead = record.offset - starts[log]
                                search.matches.append(
                                    FoundRecord(
                                        lead_id,
                                        workspace,
                                        *where,
                                        ahead,
                                        blocked.get(log),
                                    ),
                                )
                        if search.matches or search.searched >= _MAX_RECORDS:
                            break


def _matching(
    records: list[Any],
    match: Callable[[Any], tuple[str, str] | None],
) -> list[tuple[Any, tuple[str, str]]]:
    return [(record, names) for record in records if (names := match(record)) is not None]


def _matcher(lead_id: str, person: str, workspace: str) -> Callable[[Any], tuple[str, str] | None]:
    """Build a function that returns the lead id and workspace of a matching record."""
    # Derived ids are not in the record's text, and JSON may write a producer's id with escapes.
    text = b"" if is_made_id(lead_id) else lead_id.encode()

    def match(record: Any) -> tuple[str, str] | None:
        value = record.value
        if not value or (text and text not in value and b"\\" not in value):
            return None
        lead = read_lead(value, record.key)
        who = None if isinstance(lead, Unreadable) else identify(lead, cleaned=True)
        if who is None or isinstance(lead, Unreadable):
            return None
        matches = who.lead_id == lead_id if lead_id else person in who.people
        return (
            (who.lead_id, lead.workspace or "")
            if matches and workspace in ("", lead.workspace)
            else None
        )

    return match
