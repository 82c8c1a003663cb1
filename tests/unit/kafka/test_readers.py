"""The one way to read Kafka outside a group, on a consumer that the test scripts."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, TopicAuthorizationFailedError

from stream_app.domain.model.errors import BrokerUnavailable, KafkaRefused, UnreadableBatch
from stream_app.domain.model.records import LeftOut, Reduced
from stream_app.domain.views.lane import Position
from stream_app.kafka import readers
from stream_app.kafka.backlog import MAX_COUNTED_OFFSETS, Backlog, Waiting
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.readers import Reader

A = TopicPartition("leads", 0)
B = TopicPartition("leads", 1)
MARKER = "marker"
DAMAGED = "damaged"


class Log:
    """Partitions as lists: a value, a marker of a transaction, or a record that cannot be read.

    A number stands for so many records without a value, which come as one.
    """

    def __init__(self) -> None:
        self.entries: dict[TopicPartition, list[Any]] = {A: [], B: []}
        self.error: Exception | None = None


class ScriptedConsumer:
    """As much of `Consumer` as a reader uses."""

    def __init__(self, log: Log, **options: Any) -> None:
        self.log = log
        self.options = options
        self.at: dict[TopicPartition, int] = {}
        self.paused: set[TopicPartition] = set()
        self.unreadable: dict[TopicPartition, UnreadableBatch] = {}

    async def start(self) -> None:
        if self.log.error is not None:
            raise self.log.error

    async def topics(self) -> set[str]:
        return {place.topic for place in self.log.entries}

    async def beginning_offsets(
        self,
        partitions: list[TopicPartition],
    ) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {partition: len(self.log.entries[partition]) for partition in partitions}

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.at = dict.fromkeys(partitions, 0)
        self.paused = set()

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.at[partition] = offset

    def pause(self, partition: TopicPartition) -> None:
        self.paused.add(partition)

    def skip(self, batch: UnreadableBatch) -> None:
        self.at[TopicPartition(batch.topic, batch.partition)] = batch.last + 1

    async def position(self, partition: TopicPartition) -> int:
        return self.at[partition]

    async def getmany(
        self,
        *partitions: TopicPartition,
        timeout_ms: int,
        max_records: int,
    ) -> dict[Any, list[Any]]:
        if self.log.error is not None:
            raise self.log.error
        for place in partitions or tuple(self.at):
            entries = self.log.entries[place]
            records: list[Any] = []
            while self.at[place] < len(entries) and len(records) < max_records:
                offset = self.at[place]
                entry = entries[self.at[place]]
                if entry == DAMAGED:
                    break
                self.at[place] += 1
                if entry != MARKER:
                    headers = (
                        Reduced(LeftOut("no_value", records=entry))
                        if isinstance(entry, int)
                        else ()
                    )
                    records.append(
                        SimpleNamespace(
                            topic=place.topic,
                            partition=place.partition,
                            offset=offset,
                            v=entry,
                            headers=headers,
                        ),
                    )
            if records:
                return {place: records}
            if self.at[place] < len(entries):
                raise UnreadableBatch(
                    place.topic,
                    place.partition,
                    self.at[place],
                    self.at[place],
                    "damaged",
                )
        return {}


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    made = Log()
    monkeypatch.setattr(readers, "Consumer", lambda **options: ScriptedConsumer(made, **options))
    monkeypatch.setattr(readers, "stop_consumer", AsyncMock())
    return made


def reader() -> Reader:
    return Reader(KafkaConnection("nowhere:9092"))


async def values(scan: Any) -> list[Any]:
    return [record.v async for got in scan for records in got.values() for record in records]


async def test_a_scan_ends_behind_the_markers_and_at_the_end_that_it_was_given(log: Log) -> None:
    log.entries = {A: ["a0", MARKER, "a2", MARKER], B: ["b0", "b1", "b2"]}
    progress: list[tuple[int, int]] = []
    async with reader() as it:
        spans = {A: (0, 4), B: (1, 2)}
        assert await values(it.scan(spans, progress=lambda *so_far: progress.append(so_far))) == [
            "a0",
            "a2",
            "b1",
        ]
        assert await values(it.scan({A: (4, 4)})) == []
    assert progress[-1] == (5, 5)


async def test_a_batch_that_cannot_be_read_ends_a_scan_or_is_skipped(log: Log) -> None:
    log.entries[A] = ["a0", DAMAGED, "a2"]
    skipped: list[UnreadableBatch] = []
    async with reader() as it:
        assert await values(it.scan({A: (0, 3)}, on_unreadable=skipped.append)) == ["a0", "a2"]
        assert [batch.first for batch in skipped] == [1]
        with pytest.raises(UnreadableBatch, match="leads/0 cannot be read at offset 1"):
            await values(it.scan({A: (0, 3)}))


async def test_following_goes_on_with_the_other_partitions(log: Log) -> None:
    log.entries = {A: [DAMAGED], B: []}
    async with reader() as it:
        following = it.follow({A: 0, B: 0}, pass_unreadable=True)
        assert await anext(following) == {}
        log.entries = {A: ["repaired"], B: []}
        assert [record.v for record in (await anext(following))[A]] == ["repaired"]
        assert await anext(following) == {}, "nothing new"
        log.entries[B].append("new")
        assert [record.v for record in (await anext(following))[B]] == ["new"]


async def test_records_are_fetched_by_their_offsets_and_those_that_are_gone_are_left_out(
    log: Log,
) -> None:
    log.entries[A] = ["a0", MARKER, DAMAGED, "a3", *["x"] * 2_000]
    wanted = {A: [0, 1, 2, 3, 2_003, 2_004], TopicPartition("deleted", 0): [7]}
    async with reader() as it:
        assert [record.offset for record in await it.fetch(wanted)] == [0, 3, 2_003]
    log.error = KafkaConnectionError("x")
    with pytest.raises(
        BrokerUnavailable,
        match=r"Kafka at nowhere:9092 did not give 1 record again: Kafka at nowhere",
    ):
        await readers.fetch(KafkaConnection("nowhere:9092"), ["leads/0/1"])


async def test_markers_are_not_counted_and_unreadable_spans_count_as_an_upper_bound(
    log: Log,
) -> None:
    log.entries = {A: ["a0", MARKER, "a2", MARKER], B: ["b0", DAMAGED, MARKER]}
    backlog = Backlog()
    async with reader() as it:
        counts = await backlog.count(it, [A, B], {("leads", 0): 1}, {})
        assert counts == {("leads", 0): Waiting(1), ("leads", 1): Waiting(3, at_most=True)}
        log.entries[A] = ["a", MARKER] * (MAX_COUNTED_OFFSETS // 2)
        counts = await backlog.count(it, [A, B], {("leads", 1): 3}, {})
        assert counts == {("leads", 0): Waiting(MAX_COUNTED_OFFSETS // 2), ("leads", 1): Waiting(0)}
        log.entries[A] = ["a0", 20, MARKER, "a3"]
        assert await Backlog().count(it, [A], {}, {}) == {("leads", 0): Waiting(22)}
        log.entries[A] = ["a", MARKER] * (MAX_COUNTED_OFFSETS // 2 + 1)
        counts = await backlog.count(it, [A], {}, {("leads", 0): Position(1, 1)})
        assert counts == {("leads", 0): Waiting(MAX_COUNTED_OFFSETS + 2, at_most=True)}


async def test_a_count_that_takes_too_long_goes_on_where_it_stopped(
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log.entries = {A: ["a0", MARKER, "a2", "a3"]}
    backlog = Backlog()
    scan = Reader.scan
    begins: list[int] = []

    async def slow(self: Reader, spans: Any, **options: Any) -> Any:
        begins.extend(begin for begin, _ in spans.values())
        async for polled in scan(self, spans, max_records=1, **options):
            yield polled
            await asyncio.sleep(0.3)

    monkeypatch.setattr(Reader, "scan", slow)
    monkeypatch.setattr("stream_app.kafka.backlog._WITHIN_S", 0.2)
    async with reader() as it:
        counts = [(await backlog.count(it, [A], {}, {}))["leads", 0] for _ in range(4)]
    assert begins == [0, 1, 3], "each record is read once"
    assert counts == [Waiting(4, at_most=True), Waiting(3, at_most=True), Waiting(3), Waiting(3)]


@pytest.mark.parametrize(
    ("error", "raised", "text"),
    [
        (
            KafkaConnectionError("x"),
            BrokerUnavailable,
            "Kafka at nowhere:9092 does not answer. Is it running",
        ),
        (
            TopicAuthorizationFailedError("leads"),
            KafkaRefused,
            "Kafka at nowhere:9092 does not allow it",
        ),
    ],
)
async def test_errors_of_kafka_are_translated(
    log: Log,
    error: Exception,
    raised: type[Exception],
    text: str,
) -> None:
    log.entries[A] = ["a0"]
    async with reader() as it:
        log.error = error
        with pytest.raises(raised, match=text):
            await values(it.scan({A: (0, 1)}))
    with pytest.raises(raised, match=text):
        await reader().__aenter__()
