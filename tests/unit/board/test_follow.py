"""How the read model follows a Kafka in memory: where it begins, what it proves, and when it is
complete.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar
from unittest.mock import Mock

import msgspec
import pytest
from aiokafka import TopicPartition

from stream_app.board.read_model import follow
from stream_app.board.read_model.follow import (
    STALE_MS,
    Projection,
    ProjectionLag,
    _Reading,
    _Replaced,
)
from stream_app.board.read_model.query import Queries
from stream_app.board.read_model.store import LogPosition, ReadModel, mark
from stream_app.domain.model.errors import BrokerUnavailable, KafkaRefused, StreamAppError
from stream_app.kafka.connection import KafkaConnection
from stream_app.ops import logs
from tests.board.model_records import NOW_MS, Made, event, person, sources
from tests.support.kafka import until

A = TopicPartition("a", 0)
B = TopicPartition("b", 1)
LOGS = [A, B]


class FakeReader:
    """Logs in memory; a record that is None is a transaction's marker."""

    logs: ClassVar[dict[TopicPartition, list[Made | None]]] = {}
    first: ClassVar[dict[TopicPartition, int]] = {}
    error: ClassVar[Exception | None] = None
    unreadable: tuple[str, ...] = ()

    def __init__(self, *_: object, **__: object) -> None:
        self.starts: dict[TopicPartition, int] = {}
        self._next: dict[TopicPartition, int] = {}

    async def __aenter__(self) -> "FakeReader":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def begins(self, logs: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        if self.error is not None:
            raise self.error
        return {log: self.first.get(log, 0) for log in logs}

    async def ends(self, logs: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {log: len(self.logs.get(log, ())) for log in logs}

    async def position(self, log: TopicPartition) -> int:
        return self._next[log]

    def follow(
        self,
        starts: dict[TopicPartition, int],
        *,
        max_records: int,
        **_: object,
    ) -> AsyncIterator[dict[TopicPartition, list[Made]]]:
        self.starts = dict(starts)
        self._next = dict(starts)
        return self._follow(max_records)

    async def _follow(self, max_records: int) -> AsyncIterator[dict[TopicPartition, list[Made]]]:
        while True:
            got: dict[TopicPartition, list[Made]] = {}
            for log, begin in self._next.items():
                entries = self.logs.get(log, [])[begin : begin + max_records]
                self._next[log] = begin + len(entries)
                got[log] = [record for record in entries if record is not None]
            yield got
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def kafka(monkeypatch: pytest.MonkeyPatch) -> type[FakeReader]:
    for name, empty in (("logs", {}), ("first", {}), ("error", None)):
        monkeypatch.setattr(FakeReader, name, empty)
    return FakeReader


def made(log: TopicPartition, *values: str) -> list[Made | None]:
    return [
        Made(log.topic, b"k", value.encode(), log.partition, offset) if value else None
        for offset, value in enumerate(values)
    ]


def reading(
    positions: dict[TopicPartition, LogPosition],
    as_of_ms: int | None = None,
) -> tuple[_Reading, FakeReader]:
    reader = FakeReader()
    return _Reading(reader, LOGS, positions, as_of_ms), reader  # type: ignore[arg-type]  # in memory


async def test_it_is_complete_once_it_has_read_what_was_there_when_it_asked(
    kafka: type[FakeReader],
) -> None:
    kafka.logs = {A: made(A, "0", "1", "", "3", ""), B: made(B, "0")}
    kafka.first = {A: 1}
    at, reader = reading({}, as_of_ms=5)
    await at.begin(1_000)
    assert reader.starts == {A: 1, B: 0}
    assert at.lag == 4 + 1
    assert at.as_of_ms == 5
    assert at.trouble == ""
    batch, moved = await at.more()
    assert {topic: [record.offset for record in records] for topic, records in batch.items()} == {
        "a": [1, 3],
        "b": [0],
    }
    last = kafka.logs[A][3]
    assert isinstance(last, Made)
    assert moved[A] == LogPosition(5, 3, mark(last)), "the marker at the end is passed, too"
    at.done({A: moved[A]})
    assert at.as_of_ms == 5, "one log is not read yet"
    assert at.lag == 1, "one log is not read yet"
    kafka.logs[B] += made(B, "", "1")[1:]
    at.done(moved)
    assert at.as_of_ms == 1_000
    assert at.lag == 0
    await at.look(2_000)
    assert at.as_of_ms == 1_000
    assert at.lag == 1
    _, moved = await at.more()
    await at.look(3_000)
    at.done(moved)
    assert at.as_of_ms == 2_000, "what it was asked for first"


async def test_full_pieces_make_one_batch_of_a_bounded_size(
    kafka: type[FakeReader],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follow, "_MAX_RECORDS", 2)
    kafka.logs = {A: made(A, *"0123456789"), B: []}
    at, _ = reading({})
    await at.begin(1)
    sizes = []
    for _ in range(3):
        batch, moved = await at.more()
        sizes.append(len(batch["a"]))
        at.done(moved)
    assert sizes == [8, 2, 0]
    assert at.lag == 0


@pytest.mark.parametrize(
    ("at", "first", "starts", "read"),
    [
        (LogPosition(2, 1, 0), 0, 1, [2]),
        (LogPosition(3, 1, 0), 0, 1, [2]),
        (LogPosition(2, 1, 0), 1, 1, [2]),
        (LogPosition(2, 1, 0), 2, 2, [2]),
        (LogPosition(1, 0, 0), 2, 2, [2]),
        (LogPosition(2, -1, 0), 0, 2, [2]),
        (LogPosition(0, -1, 0), 0, 0, [0, 1, 2]),
    ],
)
async def test_it_goes_on_behind_the_last_record_which_it_reads_again(
    kafka: type[FakeReader],
    at: LogPosition,
    first: int,
    starts: int,
    read: list[int],
) -> None:
    kafka.logs = {A: made(A, "0", "1", "2")}
    kafka.first = {A: first}
    last = kafka.logs[A][max(0, at.last)]
    assert isinstance(last, Made)
    follower, reader = reading({A: msgspec.structs.replace(at, mark=mark(last))})
    await follower.begin(1)
    assert reader.starts[A] == starts
    batch, _ = await follower.more()
    assert [record.offset for record in batch["a"]] == read
    batch, moved = await follower.more()
    assert batch["a"] == []
    assert moved == moved


@pytest.mark.parametrize("field", ["key", "value", "timestamp"])
async def test_another_record_at_its_place_shows_that_the_topic_was_created_again(
    kafka: type[FakeReader],
    field: str,
) -> None:
    kafka.logs = {A: made(A, "0", "1")}
    other = msgspec.structs.replace(
        made(A, "0", "1")[1],
        **{field: 7 if field == "timestamp" else b"other"},
    )  # type: ignore[type-var]  # a record
    follower, _ = reading({A: LogPosition(2, 1, mark(other))})  # type: ignore[arg-type]  # a record
    await follower.begin(1)
    with pytest.raises(_Replaced, match="a/0 has another record at 1: the topic was created again"):
        await follower.more()


async def test_a_log_that_ends_before_its_place_was_created_again(kafka: type[FakeReader]) -> None:
    kafka.logs = {A: made(A, "0", "1")}
    for next_, replaced in ((2, False), (3, True)):
        follower, _ = reading({A: LogPosition(next_)})
        with (
            pytest.raises(_Replaced, match="a/0 was at 3 and ends at 2")
            if replaced
            else nullcontext()
        ):
            await follower.begin(1)
    follower, _ = reading({})
    await follower.begin(1)
    kafka.logs[A] = []
    with pytest.raises(_Replaced, match="a/0 was at 2 and ends at 0"):
        await follower.look(2)


def test_a_model_is_read_for_half_a_minute() -> None:
    assert [ProjectionLag(1_000).is_read(1_000 + STALE_MS + late) for late in (0, 1)] == [
        True,
        False,
    ]
    assert not ProjectionLag().is_read(0)


class Clocks:
    def now_ms(self) -> int:
        return 1_790_000_000_000


@pytest.fixture
async def feed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Projection]:
    monkeypatch.setattr(follow, "Reader", FakeReader)
    monkeypatch.setattr(follow, "Clock", Clocks)
    monkeypatch.setattr(follow, "_RETRY_AFTER_S", 0.01)
    monkeypatch.setattr(follow, "_LOOK_EVERY_S", 0.0)
    feed = Projection(
        KafkaConnection("kafka:9092"),
        sources(),
        tmp_path / "model.sqlite",
        logs.get("test"),
    )
    assert feed.lag.trouble == "has not started to read Kafka yet"
    task = asyncio.create_task(feed.run())
    yield feed
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def reports(feed: Projection, *, trouble: str = "") -> None:
    """Wait until the feed is in this trouble, or complete."""

    def is_so() -> bool:
        complete = feed.lag.as_of_ms == Clocks().now_ms() and not feed.lag.lag
        return feed.lag.trouble.endswith(trouble) if trouble else complete and not feed.lag.trouble

    await until(is_so, 20, trouble or "the model's being complete")


async def test_the_model_has_what_is_on_kafka_also_after_a_topic_was_created_again(
    kafka: type[FakeReader],
    feed: Projection,
    tmp_path: Path,
) -> None:
    status = TopicPartition(sources().names.status, 0)
    await reports(feed)
    kafka.logs[TopicPartition(sources().names.state, 0)] = [
        person(sources().names, "hash", "crm-3"),
    ]
    first = event(sources().names, "crm-1", "received", 1)
    other = event(sources().names, "crm-2", "received", 1)
    kafka.logs[status] = [first, msgspec.structs.replace(first, offset=1)]
    ask = Queries(tmp_path / "model.sqlite", final=set())

    def knows(lead_id: str) -> bool:
        return ask.lead(lead_id, NOW_MS) is not None

    await until(lambda: knows("crm-1"), 20, "the first lead")
    kafka.logs[status] = [other]
    await until(lambda: knows("crm-2"), 20, "the other lead")
    assert not knows("crm-1"), "it was rebuilt"
    assert ask.leads_of("hash") == ["crm-3", "p-hash"], "complete"
    await reports(feed)
    (tmp_path / "model.sqlite").unlink()
    await reports(feed, trouble="the file was removed")
    await reports(feed)
    await until(lambda: knows("crm-2"), 20, "the lead in a new file")


@pytest.fixture
def stopped_at_the_end(kafka: type[FakeReader], tmp_path: Path) -> None:
    """A model that has read all records, but was stopped before it could know that."""
    record = person(sources().names, "hash", "crm-3")
    kafka.logs[TopicPartition(record.topic, 0)] = [record]
    model = ReadModel(tmp_path / "model.sqlite", sources())
    model.apply(
        {record.topic: [record]},
        {(record.topic, 0): LogPosition(1, 0, mark(record))},
        None,
    )
    model.close()


@pytest.mark.usefixtures("stopped_at_the_end")
async def test_a_model_becomes_complete_without_another_record(
    tmp_path: Path,
    feed: Projection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writes = Mock(wraps=ReadModel.apply)
    monkeypatch.setattr(ReadModel, "apply", lambda *args: writes(*args))
    await reports(feed)
    await asyncio.sleep(0.2)
    assert writes.call_count == 1, "what is complete is not written again while nothing comes"
    assert Queries(tmp_path / "model.sqlite", final=set()).leads_of("hash") == ["crm-3", "p-hash"]


async def test_a_batch_that_cannot_be_read_is_said_while_the_model_goes_on(
    kafka: type[FakeReader],
    feed: Projection,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    await reports(feed)
    assert "projection_stalled" not in "".join(capfd.readouterr())
    monkeypatch.setattr(kafka, "unreadable", ("a/0 cannot be read at offset 7",))
    await reports(feed, trouble="a/0 cannot be read at offset 7")
    assert "a/0 cannot be read at offset 7" in "".join(capfd.readouterr())
    assert feed.lag.as_of_ms is not None


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (BrokerUnavailable("no broker answers"), "no broker answers"),
        (TimeoutError(), "Kafka at kafka:9092 did not answer within 10 s"),
        (StreamAppError("the file is locked"), "the file is locked"),
        (sqlite3.OperationalError("disk full"), "model.sqlite: cannot be written: disk full"),
        (sqlite3.DatabaseError("malformed"), "model.sqlite: is rebuilt: malformed"),
        (ValueError("oops"), "a bug in the read model: ValueError('oops')"),
    ],
)
async def test_an_error_is_said_and_tried_again(
    kafka: type[FakeReader],
    feed: Projection,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    trouble: str,
) -> None:
    answers = False

    async def why(connection: KafkaConnection) -> None:
        if answers:
            raise KafkaRefused("wrong password")

    monkeypatch.setattr(follow, "refusal_or_silence", why)
    kafka.error = error
    await reports(feed, trouble=trouble)
    answers = True
    if isinstance(error, BrokerUnavailable | TimeoutError):
        await reports(feed, trouble="wrong password")
    kafka.error = None
    await reports(feed)
